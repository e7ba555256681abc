package enrol

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/policies"
)

// TestBadRequestsAreRefusedAndRecorded: each kind of bad input has its reason and
// its record, and leaves everything as it was, the token included.
func TestBadRequestsAreRefusedAndRecorded(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	theirs := newKey(t, ca.P256)
	if _, err := d.operator("pump-2", request(t, theirs, "pump-2")); err != nil {
		t.Fatal(err)
	}
	token, good := d.token("pump-1"), newKey(t, ca.P256)
	sha1, err := os.ReadFile("../ca/testdata/sha1.csr")
	if err != nil {
		t.Fatal(err)
	}
	forged := request(t, good, "pump-1")
	forged[len(forged)-1] ^= 1
	for what, c := range map[string]struct {
		csr  []byte
		code Code
		text string
	}{
		"no request":             {nil, BadRequest, "malformed"},
		"an oversized request":   {make([]byte, 3*ca.MaxCSR), BadRequest, "larger than"},
		"a signature by SHA-1":   {sha1, BadRequest, "not secure"},
		"another's signature":    {forged, BadRequest, "does not verify"},
		"another's identity":     {request(t, good, "", "spiffe://hospital.example/device/pump-2"), BadNames, "identity that is not"},
		"an operator's identity": {request(t, good, "", "spiffe://hospital.example/operator/jane"), BadNames, "identity that is not"},
		"a foreign identity":     {request(t, good, "", "SPIFFE://other.example/device/pump-1"), BadNames, "identity that is not"},
		"another's name":         {request(t, good, "pump-2"), BadNames, "made out to pump-2"},
		"another's key":          {request(t, theirs, "pump-1"), BadKey, "another device's"},
	} {
		_, err := d.by(token, c.csr)
		r := refused(t, what, err, c.code)
		if !strings.Contains(r.Told(), c.text) {
			t.Errorf("%s: it is told %q", what, r.Told())
		}
	}
	if rec := d.record("pump-1"); rec.Status != device.Pending || len(rec.Certificates) != 0 {
		t.Errorf("%+v", rec)
	}
	// What the request asks for besides is not what it gets.
	iss, err := d.by(token, request(t, good, "8812-A", "spiffe://hospital.example/device/pump-1", "https://example.org"))
	if err != nil {
		t.Fatal(err)
	}
	leaf := iss.Chain[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://hospital.example/device/pump-1" || leaf.Subject.CommonName != "pump-1" ||
		len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("the certificate is %v %v %v", leaf.Subject, leaf.URIs, leaf.ExtKeyUsage)
	}
	got := d.events("pump-1")
	if n := len(slices.DeleteFunc(got, func(e string) bool { return e != "enrolment.refused" })); n != 9 {
		t.Errorf("%d refusals recorded with the device", n)
	}
	if n := d.count("enrolment.refused"); n != 9 {
		t.Errorf("%d refusals recorded", n)
	}
}

func TestACertificateRenewsItsDevice(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	key := newKey(t, ca.P256)
	first, err := d.operator("pump-1", request(t, key, "pump-1"))
	if err != nil {
		t.Fatal(err)
	}
	renew := func(leaf *x509.Certificate, csr []byte) (*Issued, error) {
		return d.Enrol(t.Context(), &Request{Way: EST, CSR: csr, Proof: Certificate{leaf}})
	}
	second, err := renew(first.Chain[0], request(t, newKey(t, ca.P256), "pump-1", "spiffe://hospital.example/device/pump-1"))
	if err != nil || len(second.Device.Certificates) != 2 {
		t.Fatalf("%+v, %v", second, err)
	}
	if _, err := renew(second.Chain[0], request(t, key, "")); err != nil {
		t.Errorf("with the key it had before: %v", err)
	}
	leaf := second.Chain[0]
	_, err = renew(leaf, request(t, newKey(t, ca.P256), "pump-9"))
	refused(t, "another name", err, BadNames)
	_, err = renew(leaf, request(t, newKey(t, ca.P256), "", "https://example.org", "spiffe://hospital.example/device/pump-1"))
	refused(t, "more names", err, BadNames)
	// Our CA's word is not enough: the registry has to know the certificate.
	other := newDesk(t)
	other.register("pump-1", device.Active)
	_, err = other.Enrol(t.Context(), &Request{Way: EST, CSR: request(t, key, ""), Proof: Certificate{leaf}})
	refused(t, "a certificate that the registry does not have", err, BadProof)
	d.ahead = 2 * 365 * 24 * time.Hour
	_, err = renew(leaf, request(t, newKey(t, ca.P256), ""))
	refused(t, "an expired certificate", err, BadProof)
	d.ahead = 0
	devices := d.Registrar.cfg.Devices
	if _, err := devices.SetStatus(t.Context(), "pump-1", device.Quarantined, ""); err != nil {
		t.Fatal(err)
	}
	_, err = renew(leaf, request(t, newKey(t, ca.P256), ""))
	refused(t, "in quarantine", err, BadStatus)
	if _, err := devices.SetStatus(t.Context(), "pump-1", device.Revoked, ""); err != nil {
		t.Fatal(err)
	}
	_, err = renew(leaf, request(t, newKey(t, ca.P256), ""))
	refused(t, "revoked", err, BadProof)
	// The key of a certificate that was revoked does not come back either.
	_, err = d.Enrol(t.Context(), &Request{Way: CLI, ID: "pump-1", CSR: request(t, key, ""), Proof: Operator{"jane"}, Again: true, New: &device.Record{Class: "infusion-pump"}})
	refused(t, "a withdrawn key", err, BadKey)
}

func TestADeviceSaysNothingOfItself(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	token := d.token("pump-1")
	for what, q := range map[string]*Request{
		"what it is":      {New: &device.Record{Class: "ct-scanner"}},
		"how long":        {TTL: time.Hour},
		"that it is back": {Again: true},
	} {
		q.Way, q.Proof, q.CSR = ByToken, Secret{token}, request(t, newKey(t, ca.P256), "")
		_, err := d.Enrol(t.Context(), q)
		refused(t, what, err, BadRequest)
	}
}

func TestTheQuotaIsPerDeviceAndWay(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.cfg.Enrolment.Quota.Certificates = 2
	iss, err := d.operator("pump-1", request(t, newKey(t, ca.P256), ""))
	if err != nil {
		t.Fatal(err)
	}
	renew := func(way Way) error {
		return second(d.Enrol(t.Context(), &Request{Way: way, CSR: request(t, newKey(t, ca.P256), ""), Proof: Certificate{iss.Chain[0]}}))
	}
	for i := range 2 {
		if err := renew(EST); err != nil {
			t.Fatalf("renewal %d: %v", i+1, err)
		}
	}
	refused(t, "a third", renew(EST), OverQuota)
	if err := renew(Smallstep); err != nil {
		t.Errorf("by another way: %v", err)
	}
	if _, err := d.operator("pump-2", request(t, newKey(t, ca.P256), "")); err != nil {
		t.Errorf("another device: %v", err)
	}
	d.ahead = 25 * time.Hour
	if err := renew(EST); err != nil {
		t.Errorf("a day later: %v", err)
	}
}

// TestWhatTheRegistryHasNoRoomForIsNotIssued: a device that collects certificates
// would have one more issued and revoked with every request, which no quota counts.
func TestWhatTheRegistryHasNoRoomForIsNotIssued(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	rec := &device.Record{ID: "pump-1", Class: "infusion-pump", Status: device.Active}
	for i := range 64 {
		rec.Certificates = append(rec.Certificates, device.Certificate{Serial: "1", Fingerprint: fmt.Sprintf("%064x", i), NotAfter: time.Now().Add(time.Hour)})
	}
	if _, err := d.Registrar.cfg.Devices.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	token := d.token("pump-1")
	refused(t, "a 65th", second(d.by(token, request(t, newKey(t, ca.P256), ""))), OverQuota)
	if n := d.count("enrolment.request"); n != 0 {
		t.Errorf("%d certificates were issued for it", n)
	}
	d.ahead = 2 * time.Hour
	if _, err := d.by(d.token("pump-1"), request(t, newKey(t, ca.P256), "")); err != nil {
		t.Errorf("when they have ended: %v", err)
	}
}

// ruled returns the shipped set with further rules on enrolment.
func ruled(t *testing.T, rules string) *policy.Set {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "set")
	if err := policies.Write(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "enrolment", "own.rego"), []byte("package anteroom.enrolment\n\n"+rules+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := policy.Load(t.Context(), dir, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestThePolicySetHasTheLastWord(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	token := d.token("pump-1")
	csr := func() []byte { return request(t, newKey(t, ca.P256), "") }
	shipped := d.set
	d.set = ruled(t, `deny contains "no pumps before noon" if {
	input.device.class == "infusion-pump"
	input.device.status == "pending"
	input.enrolment.way == "token"
	input.enrolment.proof == "token"
	input.enrolment.renewal == false
	input.enrolment.remote_ip == "192.0.2.7"
	input.enrolment.csr.key == {"type": "ecdsa", "bits": 256, "again": false}
	input.enrolment.csr.signature == "ECDSA-SHA256"
	input.enrolment.csr.sans == {"dns": [], "ip": [], "email": [], "uri": []}
}`)
	r := refused(t, "denied", second(d.by(token, csr())), Denied)
	if !strings.Contains(r.Why, "no pumps before noon") || strings.Contains(r.Told(), "noon") {
		t.Errorf("the record says %q, the device hears %q", r.Why, r.Told())
	}
	d.set = ruled(t, `deny contains sprintf("%d", [1 / to_number(input.enrolment.operator)])`)
	r = refused(t, "a rule that fails", second(d.by(token, csr())), Denied)
	if !strings.Contains(r.Why, "could not be evaluated") {
		t.Errorf("the record says %q", r.Why)
	}
	d.Registrar.cfg.Policy = func(context.Context) (*policy.Set, error) { return nil, errors.New("it does not load") }
	refused(t, "no policy set", second(d.by(token, csr())), Busy)
	d.Registrar.cfg.Policy = func(context.Context) (*policy.Set, error) { return shipped, nil }
	if _, err := d.by(token, csr()); err != nil {
		t.Errorf("under the shipped set: %v", err)
	}
}

// TestWhatCanNotBeRecordedIsNotIssued, and not handed out.
func TestWhatCanNotBeRecordedIsNotIssued(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	token, key := d.token("pump-1"), newKey(t, ca.P256)
	if err := d.log.Close(); err != nil {
		t.Fatal(err)
	}
	r := refused(t, "a closed log", second(d.by(token, request(t, key, ""))), Busy)
	if rec := d.record("pump-1"); len(rec.Certificates) != 0 || strings.Contains(r.Told(), "log") {
		t.Errorf("%+v, told %q", rec, r.Told())
	}
}

// undurable is an audit log that takes records and can not keep them, for some time.
type undurable struct {
	Recorder
	left atomic.Int64
}

func (u *undurable) Flush(ctx context.Context) error {
	if u.left.Add(-1) >= 0 {
		return audit.ErrUnavailable
	}
	return u.Recorder.Flush(ctx)
}

// TestNothingIsGrantedBeforeItsRequestIsDurable, though the CA may have signed by then;
// the token is as good as before.
func TestNothingIsGrantedBeforeItsRequestIsDurable(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	token, key := d.token("pump-1"), newKey(t, ca.P256)
	log := &undurable{Recorder: d.log}
	log.left.Store(1)
	d.Registrar.cfg.Audit = log
	refused(t, "a log that keeps nothing", second(d.by(token, request(t, key, ""))), Busy)
	if rec := d.record("pump-1"); len(rec.Certificates) != 0 || rec.Status != device.Pending {
		t.Errorf("%+v", rec)
	}
	if _, err := d.by(token, request(t, key, "")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// flaky is an audit log that stops taking records after some.
type flaky struct {
	Recorder
	left int
}

func (f *flaky) Append(ctx context.Context, r *audit.Record) error {
	if f.left--; f.left < 0 {
		return audit.ErrUnavailable
	}
	return f.Recorder.Append(ctx, r)
}

// TestWhatWasGrantedAndNotRecordedIsNotHandedOut, until it can be.
func TestWhatWasGrantedAndNotRecordedIsNotHandedOut(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	token, key := d.token("pump-1"), newKey(t, ca.P256)
	log := &flaky{d.log, 1}
	d.Registrar.cfg.Audit = log
	refused(t, "a log that is full by then", second(d.by(token, request(t, key, ""))), Busy)
	if rec := d.record("pump-1"); len(rec.Certificates) != 1 {
		t.Errorf("%+v", rec)
	}
	log.left = 10
	iss, err := d.by(token, request(t, key, ""))
	if err != nil || !iss.Repeated {
		t.Errorf("once the log takes records: %+v, %v", iss, err)
	}
}

// TestNotBeforeLiesInThePastAsTheClassWantsIt, and no other certificate's does.
func TestNotBeforeLiesInThePastAsTheClassWantsIt(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.cfg.CA.ClassBackdate = map[string]config.Duration{"infusion-pump": config.Duration(72 * time.Hour), "ct-scanner": 0}
	for class, want := range map[string]time.Duration{"infusion-pump": 72 * time.Hour, "ct-scanner": 0, "ventilator": time.Hour} {
		before := time.Now().Truncate(time.Second)
		iss, err := d.Enrol(t.Context(), &Request{Way: CLI, ID: class + "-1", CSR: request(t, newKey(t, ca.P256), ""), Proof: Operator{"jane"}, New: &device.Record{Class: class}})
		if err != nil {
			t.Fatal(err)
		}
		if nb := iss.Chain[0].NotBefore; nb.Before(before.Add(-want)) || nb.After(time.Now().Add(-want)) {
			t.Errorf("%s: not before %v", class, nb)
		}
	}
}
