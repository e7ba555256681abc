package enrol

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// opening asks for an account with the binding that a new token of a device has.
func (d *desk) opening(id string, again bool) (*Opening, string) {
	d.t.Helper()
	text, tok, err := d.Registrar.cfg.Tokens.Create(d.t.Context(), id, "jane", time.Hour, again)
	if err != nil {
		d.t.Fatal(err)
	}
	name, key := d.Registrar.cfg.Tokens.Binding(tok)
	return &Opening{
		Binding: name, Key: "a key", Holds: func(k []byte) bool { return bytes.Equal(k, key) },
		Keep: func(w store.Writer, id string, opened time.Time, again bool) error {
			return w.Put("test-accounts", id, []byte(opened.Format(time.RFC3339Nano)))
		},
	}, text
}

func (d *desk) open(o *Opening) (string, error) {
	return d.Open(d.t.Context(), &Request{Way: ACME, Listener: "enrolment"}, o)
}

// named makes a signing request for DNS names.
func named(t *testing.T, key crypto.Signer, cn string, names ...string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (d *desk) byAccount(a Account, csr []byte) (*Issued, error) {
	if a.Opened.IsZero() {
		a.Opened = d.Registrar.cfg.Clock()
	}
	if a.Spend == nil {
		a.Spend = func(store.Writer, *x509.Certificate) error { return nil }
	}
	return d.Enrol(d.t.Context(), &Request{Way: ACME, CSR: csr, Proof: a, Listener: "enrolment"})
}

func TestAnAccountIsOpenedWithATokenAndUsesItUp(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("lis-1", device.Pending)
	o, text := d.opening("lis-1", false)
	wrong := *o
	wrong.Holds = func([]byte) bool { return false }
	refused(t, "another key", second(d.open(&wrong)), BadProof)
	unknown := *o
	unknown.Binding, unknown.Holds = "AAAAAAA", func([]byte) bool { return true }
	refused(t, "a binding that was never made", second(d.open(&unknown)), BadProof)
	d.ahead = 2 * time.Hour
	refused(t, "an expired token", second(d.open(o)), BadProof)
	d.ahead = 0
	failing := *o
	failing.Keep = func(store.Writer, string, time.Time, bool) error { return errors.New("the disk is full") }
	refused(t, "an account that can not be kept", second(d.open(&failing)), Busy)
	// The token is as good as before.
	if id, err := d.open(o); err != nil || id != "lis-1" {
		t.Fatalf("%s, %v", id, err)
	}
	refused(t, "a second account", second(d.open(o)), BadProof)
	refused(t, "the token itself afterwards", second(d.by(text, request(t, newKey(t, ca.P256), "lis-1"))), BadProof)
	if rec := d.record("lis-1"); rec.Status != device.Pending || len(rec.Certificates) != 0 {
		t.Errorf("an account alone changed the record: %+v", rec)
	}
	if n := d.count("enrolment.account"); n != 2 {
		t.Errorf("%d records of accounts, want one of each that was tried with the right key", n)
	}
	// A copy of the store without the key says nothing of bindings.
	other := newDesk(t)
	tok := &Token{Handle: o.Binding, MAC: "00"}
	_, mine := d.Registrar.cfg.Tokens.Binding(tok)
	_, theirs := other.Registrar.cfg.Tokens.Binding(tok)
	if bytes.Equal(mine, theirs) {
		t.Error("two installations make the same key")
	}
}

// TestAServersCertificateIsNoDevicesIdentity: an account that answered for names
// gets a certificate with the names and no identity, which is in its device's
// record and ends with it.
func TestAServersCertificateIsNoDevicesIdentity(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("lis-1", device.Pending)
	names := []string{"lis.hospital.example", "lis2.hospital.example"}
	key := newKey(t, ca.P256)
	for what, c := range map[string]struct {
		csr  []byte
		code Code
	}{
		"a name more":           {named(t, key, "", append(names, "ehr.hospital.example")...), BadNames},
		"a name less":           {named(t, key, "", names[0]), BadNames},
		"another common name":   {named(t, key, "ehr.hospital.example", names...), BadNames},
		"a device's identity":   {request(t, key, "", "spiffe://hospital.example/device/lis-1"), BadNames},
		"another's identity":    {request(t, key, "", "spiffe://hospital.example/device/pump-1"), BadNames},
		"no signing request":    {nil, BadRequest},
		"a request too large":   {make([]byte, 3*ca.MaxCSR), BadRequest},
		"nothing that is asked": {request(t, key, ""), BadNames},
	} {
		_, err := d.byAccount(Account{Device: "lis-1", Names: names}, c.csr)
		refused(t, what, err, c.code)
	}
	iss, err := d.byAccount(Account{Device: "lis-1", Names: names}, named(t, key, names[1], names[1], names[0]))
	if err != nil {
		t.Fatal(err)
	}
	leaf := iss.Chain[0]
	if len(leaf.URIs) != 0 || strings.Join(leaf.DNSNames, " ") != strings.Join(names, " ") || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("the certificate is for %v %v %v", leaf.URIs, leaf.DNSNames, leaf.ExtKeyUsage)
	}
	if _, err := d.identify(leaf); err == nil {
		t.Error("it identifies a device")
	}
	_, err = d.Enrol(t.Context(), &Request{Way: EST, CSR: request(t, key, ""), Proof: Certificate{leaf}})
	refused(t, "renewal with it as a device", err, BadProof)
	rec := d.record("lis-1")
	if c := rec.Certificate(fingerprint(leaf)); c == nil || c.Way != "acme" || c.HardwareBacked || rec.Status != device.Active {
		t.Errorf("the record: %+v", rec)
	}
	// It is renewed by the account, until the record says otherwise.
	opened := d.Registrar.cfg.Clock()
	if _, err := d.byAccount(Account{Device: "lis-1", Names: names, Opened: opened}, named(t, newKey(t, ca.P256), "", names...)); err != nil {
		t.Error(err)
	}
	devices := d.Registrar.cfg.Devices
	if _, err := devices.SetStatus(t.Context(), "lis-1", device.Quarantined, ""); err != nil {
		t.Fatal(err)
	}
	_, err = d.byAccount(Account{Device: "lis-1", Names: names, Opened: opened}, named(t, key, "", names...))
	refused(t, "in quarantine", err, BadStatus)
	if _, err := devices.SetStatus(t.Context(), "lis-1", device.Revoked, ""); err != nil {
		t.Fatal(err)
	}
	_, err = d.byAccount(Account{Device: "lis-1", Names: names, Opened: opened, Again: true}, named(t, newKey(t, ca.P256), "", names...))
	refused(t, "after its revocation, with an account from before", err, BadProof)
}

func TestAnAttestedKeyIsTheOnlyOne(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if _, err := d.Registrar.cfg.Devices.Create(t.Context(), &device.Record{ID: "phone-1", Class: "phone", Serial: "88123"}); err != nil {
		t.Fatal(err)
	}
	key := newKey(t, ca.P256)
	csr := request(t, key, "88123")
	parsed, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	good := Account{Device: "phone-1", Attested: keyOf(parsed.RawSubjectPublicKeyInfo), Hardware: "88123"}
	_, err = d.byAccount(good, request(t, newKey(t, ca.P256), ""))
	refused(t, "another key", err, BadKey)
	_, err = d.byAccount(good, named(t, key, "", "lis.hospital.example"))
	refused(t, "a name", err, BadNames)
	other := good
	other.Hardware = "88124"
	_, err = d.byAccount(other, request(t, key, ""))
	refused(t, "hardware of another serial number", err, BadProof)
	_, err = d.byAccount(Account{Device: "phone-1"}, csr)
	refused(t, "an account that shows nothing", err, Busy)
	iss, err := d.byAccount(good, csr)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := d.identify(iss.Chain[0]); err != nil || id != "phone-1" {
		t.Errorf("%s, %v", id, err)
	}
	if c := d.record("phone-1").Certificates[0]; !c.HardwareBacked {
		t.Errorf("%+v", c)
	}
}

// TestAnOrderThatWasCutOffBringsTheSameCertificate: what an order was given is
// given again to the same key, and to no other.
func TestAnOrderThatWasCutOffBringsTheSameCertificate(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("lis-1", device.Pending)
	key := newKey(t, ca.P256)
	a := Account{Device: "lis-1", Names: []string{"lis.hospital.example"}, Opened: d.Registrar.cfg.Clock()}
	a.Spend = func(_ store.Writer, leaf *x509.Certificate) error { return errors.New("not now") }
	_, err := d.byAccount(a, named(t, key, "", a.Names...))
	refused(t, "an order that can not be kept", err, Busy)
	if n := len(d.record("lis-1").Certificates); n != 0 {
		t.Fatalf("%d certificates", n)
	}
	a.Spend = func(_ store.Writer, leaf *x509.Certificate) error { a.Issued = leaf; return nil }
	first, err := d.byAccount(a, named(t, key, "", a.Names...))
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.byAccount(a, named(t, key, "", a.Names...))
	if err != nil || !again.Repeated || !again.Chain[0].Equal(first.Chain[0]) {
		t.Errorf("%+v, %v", again, err)
	}
	_, err = d.byAccount(a, named(t, newKey(t, ca.P256), "", a.Names...))
	refused(t, "another key", err, BadProof)
	if n := len(d.record("lis-1").Certificates); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

func TestWhatCanNotBeRecordedOpensNoAccount(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("lis-1", device.Pending)
	o, _ := d.opening("lis-1", false)
	d.Registrar.cfg.Audit = &flaky{d.log, 0}
	refused(t, "with a log that takes nothing", second(d.open(o)), Busy)
	d.Registrar.cfg.Audit = d.log
	if _, err := d.open(o); err != nil {
		t.Error(err)
	}
}
