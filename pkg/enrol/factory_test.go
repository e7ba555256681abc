package enrol

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

// forever is the end of a device's certificate that is to have none (RFC 5280
// §4.1.2.5).
var forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// A factory is a manufacturer's CA, or one of its devices.
type factory struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
}

var serials atomic.Int64

// makes has a factory, or nobody, sign a certificate.
func (by *factory) makes(t *testing.T, in *x509.Certificate, keys ...crypto.Signer) *factory {
	t.Helper()
	out := &factory{t: t}
	if len(keys) > 0 {
		out.key = keys[0]
	} else {
		out.key = newKey(t, ca.P256)
	}
	in.SerialNumber = big.NewInt(serials.Add(1))
	if in.NotBefore.IsZero() {
		in.NotBefore = time.Now().Add(-time.Hour)
	}
	if in.NotAfter.IsZero() {
		in.NotAfter = forever
	}
	if by == nil {
		by = &factory{cert: in, key: out.key}
	}
	der, err := x509.CreateCertificate(rand.Reader, in, by.cert, out.key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	if out.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return out
}

func authority(name string, pathLen int) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{Organization: []string{name}, CommonName: name + " CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0}
}

// newFactory makes a manufacturer's root CA.
func newFactory(t *testing.T, name string) *factory {
	t.Helper()
	return (*factory)(nil).makes(t, authority(name, 1))
}

func idevid(serial string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{Organization: []string{"Acme"}, SerialNumber: serial, CommonName: "pump"}, KeyUsage: x509.KeyUsageDigitalSignature}
}

// hardwareModule is the alternative name of RFC 4108 §5.
func hardwareModule(t *testing.T, number []byte, critical bool) pkix.Extension {
	t.Helper()
	type otherName struct {
		Kind  asn1.ObjectIdentifier
		Value struct {
			HWType asn1.ObjectIdentifier
			Number []byte
		} `asn1:"explicit,tag:0"`
	}
	n := otherName{Kind: oidHardwareModuleName}
	n.Value.HWType, n.Value.Number = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, number
	name, err := asn1.MarshalWithParams(n, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	value, err := asn1.Marshal([]asn1.RawValue{{FullBytes: name}})
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oidSubjectAltName, Critical: critical, Value: value}
}

// anchors writes certificates into a file.
func anchors(t *testing.T, list ...*factory) string {
	t.Helper()
	var text []byte
	for _, f := range list {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.cert.Raw})...)
	}
	path := filepath.Join(t.TempDir(), "anchors.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// made registers a device that a manufacturer made.
func (d *desk) made(id, by, model, serial string) {
	d.t.Helper()
	_, err := d.Registrar.cfg.Devices.Create(d.t.Context(), &device.Record{ID: id, Class: "infusion-pump", Manufacturer: by, Model: model, Serial: serial})
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) makers(list ...config.Manufacturer) *Makers {
	d.t.Helper()
	m, err := LoadMakers(list, d.Authorities)
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

func (d *desk) approve(id string, newBoard bool) {
	d.t.Helper()
	if _, _, err := d.Registrar.cfg.Newcomers.Approve(d.t.Context(), d.record(id), "jane", newBoard); err != nil {
		d.t.Fatal(err)
	}
}

// with has a device ask with its manufacturer's certificate.
func (d *desk) with(m *Makers, dev *factory, csr []byte, chain ...*factory) (*Issued, error) {
	var certs []*x509.Certificate
	for _, c := range chain {
		certs = append(certs, c.cert)
	}
	return d.Enrol(d.t.Context(), &Request{Way: EST, CSR: csr, Proof: d.ProofOf(m, dev.cert, certs), Remote: netip.MustParseAddrPort("192.0.2.7:4711"), Listener: "enrolment"})
}

// waits holds that a device is told to wait.
func waits(t *testing.T, what string, err error) {
	t.Helper()
	if r := refused(t, what, err, Waiting); r.Code == Waiting && !strings.Contains(r.Told(), "waits for an operator's approval") {
		t.Errorf("%s: %s", what, r.Told())
	}
}

func TestADeviceOfAManufacturerWaitsAndIsGivenOneCertificate(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	root := newFactory(t, "Acme")
	issuing := root.makes(t, authority("Acme issuing", 0))
	m := d.makers(config.Manufacturer{Name: "acme", Anchors: anchors(t, root), RegisteredAs: []string{"ACME Inc."}, Models: []string{"P1", "P2"}})
	d.made("pump-1", "Acme Inc.", "p1", "88123")
	dev := issuing.makes(t, idevid("88123"))
	csr := request(t, newKey(t, ca.P256), "")

	for range 3 {
		_, err := d.with(m, dev, csr, issuing)
		waits(t, "not approved", err)
	}
	if n := d.count("enrolment.waiting"); n != 1 {
		t.Errorf("%d records of the waiting, want one", n)
	}
	if rec := d.record("pump-1"); rec.Status != device.Pending || len(rec.Certificates) != 0 {
		t.Errorf("while it waits: %+v", rec)
	}
	list, err := d.Registrar.cfg.Newcomers.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Device != "pump-1" || list[0].Serial != "88123" || list[0].FactoryKey != keyOf(dev.cert.RawSubjectPublicKeyInfo) || list[0].Remote != "192.0.2.7:4711" {
		t.Errorf("who waits: %+v %v", list, err)
	}

	d.approve("pump-1", false)
	iss, err := d.with(m, dev, csr, issuing)
	if err != nil {
		t.Fatal(err)
	}
	if rec := d.record("pump-1"); rec.Status != device.Active || len(rec.Certificates) != 1 || rec.Certificates[0].Way != "est" {
		t.Errorf("%+v", rec)
	}
	// The answer was lost, and the gateway was killed.
	again := d.killed()
	if got, err := again.with(m, dev, csr, issuing); err != nil || !got.Repeated || !got.Chain[0].Equal(iss.Chain[0]) {
		t.Errorf("the same again: %+v %v", got, err)
	}
	// The approval is used up: another key waits for another.
	_, err = again.with(m, dev, request(t, newKey(t, ca.P256), ""), issuing)
	waits(t, "another key", err)
	again.ahead = repeatTime + time.Minute
	_, err = again.with(m, dev, csr, issuing)
	waits(t, "the same after a day", err)
	again.approve("pump-1", false)
	if _, err := again.with(m, dev, request(t, newKey(t, ca.P256), ""), issuing); err != nil {
		t.Errorf("approved once more: %v", err)
	}
	if got := strings.Join(again.events("pump-1"), " "); got != "enrolment.waiting enrolment.request device.enrolled enrolment.repeated enrolment.waiting enrolment.request device.enrolled" {
		t.Errorf("records: %s", got)
	}
}

func TestAManufacturerVouchesForItsOwnDevicesOnly(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	a, b := newFactory(t, "Acme"), newFactory(t, "Bolt")
	cross := b.makes(t, authority("Acme", 1), a.key) // Bolt's signature on Acme's own key
	m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a), Models: []string{"P1"}}, config.Manufacturer{Name: "Bolt", Anchors: anchors(t, b)})
	d.made("pump-1", "Acme", "P1", "1")
	d.made("pump-2", "Bolt", "P1", "2")
	d.made("scanner-1", "Acme", "S1", "3")
	d.made("twin-1", "Acme", "P1", "4")
	d.made("twin-2", "Acme", "P1", "4")
	d.made("pump-5", "Acme", "P1", "5")
	d.made("pump-5b", "Bolt", "P1", "5")
	csr := request(t, newKey(t, ca.P256), "")
	device5 := a.makes(t, idevid("5"))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ext := func(in *x509.Certificate, ext ...pkix.Extension) *x509.Certificate {
		in.ExtraExtensions = ext
		return in
	}
	with := func(f func(*x509.Certificate)) *x509.Certificate { c := idevid("1"); f(c); return c }
	stranger := newFactory(t, "Acme") // the same names, another key
	leafAsCA := a.makes(t, idevid("9"))
	inter := a.makes(t, authority("Acme issuing", 0))
	tooDeep := inter.makes(t, authority("Acme deeper", 0))
	noSign := authority("Acme", 0)
	noSign.KeyUsage = x509.KeyUsageCRLSign
	mute := a.makes(t, noSign)
	old := authority("Acme old", 0)
	old.NotAfter = time.Now().Add(-time.Minute)
	ended := a.makes(t, old)
	for what, c := range map[string]struct {
		dev   *factory
		chain []*factory
		code  Code
		why   string
	}{
		"a serial number that is not on the list": {a.makes(t, idevid("77")), nil, NoRecord, `a device of Acme with the serial number "77" is not in the registry`},
		"B's CA signs A's subject":                {b.makes(t, idevid("1")), nil, NoRecord, `of Bolt with the serial number "1"`},
		"A's CA signs the serial number of B's":   {a.makes(t, idevid("2")), nil, NoRecord, `of Acme with the serial number "2"`},
		"a model that A's anchors do not enrol":   {a.makes(t, idevid("3")), nil, NoRecord, "not in the registry"},
		"two records with the serial number":      {a.makes(t, idevid("4")), nil, NoRecord, "both twin-1 and twin-2"},
		"A and B vouch for it":                    {device5, []*factory{cross}, BadProof, "both Acme and Bolt vouch for it"},
		"a stranger with A's names":               {stranger.makes(t, idevid("1")), nil, BadProof, "vouches for it"},
		"a stranger's chain":                      {stranger.makes(t, idevid("1")), []*factory{stranger, a}, BadProof, "vouches for it"},
		"signed by itself":                        {(*factory)(nil).makes(t, idevid("1")), nil, BadProof, "vouches for it"},
		"a device signs a device":                 {leafAsCA.makes(t, idevid("1")), []*factory{leafAsCA}, BadProof, "vouches for it"},
		"longer than the path may be":             {tooDeep.makes(t, idevid("1")), []*factory{tooDeep, inter}, BadProof, "vouches for it"},
		"a CA that may not sign certificates":     {mute.makes(t, idevid("1")), []*factory{mute}, BadProof, "vouches for it"},
		"a CA that has ended":                     {ended.makes(t, idevid("1")), []*factory{ended}, BadProof, "expired"},
		"more certificates than are looked at":    {a.makes(t, idevid("1")), []*factory{a, a, a, a, a}, BadProof, "more than 4"},
		"the anchor itself":                       {a, nil, BadProof, "a CA's certificate"},
		"it has ended":                            {a.makes(t, with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), nil, BadProof, "expired"},
		"it has not begun":                        {a.makes(t, with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })), nil, BadProof, "expired or is not yet valid"},
		"for servers only":                        {a.makes(t, with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), nil, BadProof, "vouches for it"},
		"a key for encryption":                    {a.makes(t, with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })), nil, BadProof, "not for signatures"},
		"a weak key":                              {a.makes(t, idevid("1"), weak), nil, BadProof, "1024 bits"},
		"no serial number":                        {a.makes(t, idevid("")), nil, BadProof, "no serial number"},
		"two serial numbers": {a.makes(t, with(func(c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oidSerialNumber, Value: "1"}, {Type: oidSerialNumber, Value: "2"}}
		})), nil, BadProof, "one serialNumber"},
		"a serial number with a line break":  {a.makes(t, with(func(c *x509.Certificate) { c.Subject.SerialNumber = "1\n2" })), nil, BadProof, "one serialNumber"},
		"subject and hardware module differ": {a.makes(t, ext(idevid("1"), hardwareModule(t, []byte("2"), false))), nil, BadProof, "different serial numbers"},
		"a hardware module that is none": {a.makes(t, ext(idevid("1"), pkix.Extension{Id: oidSubjectAltName,
			Value: []byte{0x30, 16, 0xa0, 14, 6, 8, 0x2b, 6, 1, 5, 5, 7, 8, 4, 0xa0, 2, 5, 0}})), nil, BadProof, "hardwareModuleName is malformed"},
		"a critical extension nobody knows": {a.makes(t, ext(idevid("1"), pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})), nil, BadProof, "unhandled critical extension"},
	} {
		_, err := d.with(m, c.dev, csr, c.chain...)
		if r := refused(t, what, err, c.code); !strings.Contains(r.Why, c.why) || strings.Contains(r.Told(), "Bolt") {
			t.Errorf("%s: %q, and it is told %q", what, r.Why, r.Told())
		}
	}
	// The same serial number of two makers is two devices.
	_, err = d.with(m, device5, csr)
	waits(t, "A's", err)
	_, err = d.with(m, b.makes(t, idevid("5")), csr)
	waits(t, "B's", err)
	if n := d.count("enrolment.refused"); n != 26 {
		t.Errorf("%d refusals are recorded", n)
	}
	// And with no manufacturers, or another registrar's certificate, there is no such proof.
	_, err = d.with(nil, device5, csr)
	refused(t, "no manufacturers", err, BadProof)
}

func TestTheSerialNumberIsFoundWhereManufacturersPutIt(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	a := newFactory(t, "Acme")
	m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a), ModelIn: "ou"})
	d.made("pump-1", "acme", "P1", "1")
	d.made("pump-2", "acme", "P2", "1") // the serial number is unique within a model only
	d.made("pump-3", "acme", "P1", "00ff10")
	csr := request(t, newKey(t, ca.P256), "")
	named := func(model, serial string) *x509.Certificate {
		c := idevid(serial)
		c.Subject.OrganizationalUnit = []string{model}
		return c
	}
	bare := &x509.Certificate{Subject: pkix.Name{OrganizationalUnit: []string{"P1"}}, ExtraExtensions: []pkix.Extension{hardwareModule(t, []byte("1"), true)}}
	binary := &x509.Certificate{Subject: pkix.Name{OrganizationalUnit: []string{"P1"}}, ExtraExtensions: []pkix.Extension{hardwareModule(t, []byte{0, 0xff, 0x10}, false)}}
	for what, c := range map[string]struct {
		in *x509.Certificate
		id string
	}{
		"of one model":                     {named("P1", "1"), "pump-1"},
		"of another":                       {named("p2", "1"), "pump-2"},
		"a critical hardware module":       {bare, "pump-1"},
		"a hardware module that is binary": {binary, "pump-3"},
	} {
		st, err := d.ProofOf(m, a.makes(t, c.in).cert, nil).stand(t.Context(), d.Registrar, &Request{})
		if err != nil || st.id != c.id {
			t.Errorf("%s: %+v %v", what, st, err)
		}
	}
	_, err := d.with(m, a.makes(t, idevid("1")), csr)
	refused(t, "no model", err, BadProof)
	_, err = d.with(m, a.makes(t, named("P9", "1")), csr)
	refused(t, "another model", err, NoRecord)
}

func TestASecondFactoryKeyIsNotTheSameDevice(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	a := newFactory(t, "Acme")
	m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a)})
	d.made("pump-1", "Acme", "P1", "1")
	first, second := a.makes(t, idevid("1")), a.makes(t, idevid("1"))
	csr, other := request(t, newKey(t, ca.P256), ""), request(t, newKey(t, ca.P256), "")

	_, err := d.with(m, first, csr)
	waits(t, "the first", err)
	_, err = d.with(m, second, other)
	if r := refused(t, "the second", err, BadKey); !strings.Contains(r.Why, "two devices have its serial number") {
		t.Error(r.Why)
	}
	d.approve("pump-1", false)
	_, err = d.with(m, second, other)
	refused(t, "the second has no use of the first's approval", err, BadKey)
	if _, err := d.with(m, first, csr); err != nil {
		t.Fatal(err)
	}
	// A new board, and the former one is not the device any more.
	d.approve("pump-1", true)
	if _, err := d.with(m, second, other); err != nil {
		t.Fatal(err)
	}
	_, err = d.with(m, first, request(t, newKey(t, ca.P256), ""))
	refused(t, "the former board", err, BadKey)
	// The key of another device's certificate is not given again.
	d.made("pump-2", "Acme", "P1", "2")
	d.approve("pump-2", false)
	_, err = d.with(m, a.makes(t, idevid("2")), csr)
	refused(t, "one key for two devices", err, BadKey)
	// Whoever is approved without having come is known by the key that comes first.
	if _, err := d.with(m, a.makes(t, idevid("2")), request(t, newKey(t, ca.P256), "")); err != nil {
		t.Error(err)
	}
}

func TestApprovalIsOfADeviceInGoodStanding(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	a := newFactory(t, "Acme")
	m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a)})
	csr := request(t, newKey(t, ca.P256), "")
	for id, status := range map[string]device.Status{"pump-1": device.Quarantined, "pump-2": device.Revoked, "pump-3": device.Retired} {
		d.made(id, "Acme", "P1", id)
		d.approve(id, false)
		if _, err := d.Registrar.cfg.Devices.SetStatus(t.Context(), id, status, ""); err != nil {
			t.Fatal(err)
		}
		code := BadStatus
		if status == device.Retired {
			code = NoRecord
		}
		_, err := d.with(m, a.makes(t, idevid(id)), csr)
		refused(t, string(status), err, code)
	}
	// A record that took the place of a revoked one is the device's.
	d.made("pump-9", "Acme", "P1", "pump-2")
	d.approve("pump-9", false)
	if iss, err := d.with(m, a.makes(t, idevid("pump-2")), csr); err != nil || iss.Device.ID != "pump-9" {
		t.Errorf("replaced: %+v %v", iss, err)
	}
	csr = request(t, newKey(t, ca.P256), "")
	d.made("pump-4", "Acme", "P1", "4")
	d.approve("pump-4", false)
	for range 2 {
		if _, err := d.Registrar.cfg.Newcomers.Withdraw(t.Context(), "pump-4"); err != nil {
			t.Fatal(err)
		}
		_, err := d.with(m, a.makes(t, idevid("4")), csr)
		if r, ok := err.(*Refusal); !ok || r.Code != Waiting && r.Code != BadKey {
			t.Errorf("the approval was withdrawn: %v", err)
		}
	}
	// It renews by our certificate alone.
	d.made("pump-5", "Acme", "P1", "5")
	_, err := d.Enrol(t.Context(), &Request{Way: EST, CSR: csr, Proof: Certificate{a.makes(t, idevid("5")).cert}})
	refused(t, "a manufacturer's certificate renews nothing", err, BadProof)
}

func TestWhoNeedsNoApprovalIsForRulesToSay(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	a := newFactory(t, "Acme")
	m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a)})
	d.made("pump-1", "Acme", "P1", "1")
	dev, csr := a.makes(t, idevid("1")), request(t, newKey(t, ca.P256), "")
	load := func(rules string) {
		t.Helper()
		dir := t.TempDir()
		for name, text := range map[string]string{"authz.rego": "package anteroom.authz\n\ndecision := {\"allow\": false, \"reasons\": [], \"denials\": [\"no\"], \"obligations\": []}\n\nallow contains \"x\" if false\n", "enrolment.rego": rules} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if d.set, err = policy.Load(t.Context(), dir, policy.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	// A set that says nothing of enrolment narrows nothing, and approves nobody.
	load("")
	_, err := d.with(m, dev, csr)
	waits(t, "no rules", err)
	// Who would be refused all the same is told so, and does not wait.
	load("package anteroom.enrolment\n\ndecision := {\"allow\": false, \"reasons\": [], \"denials\": [\"closed\"]}\n")
	_, err = d.with(m, dev, csr)
	refused(t, "denied with approval too", err, Denied)
	load("# METADATA\n# scope: package\n# schemas:\n#   - input: schema.enrolment.input\npackage anteroom.enrolment\n\ndecision := {\"allow\": true, \"reasons\": [\"pumps of Acme\"], \"denials\": []} if input.enrolment.manufacturer == \"Acme\"\n")
	if _, err := d.with(m, dev, csr); err != nil {
		t.Fatal(err)
	}
	_, err = d.with(m, a.makes(t, idevid("1")), request(t, newKey(t, ca.P256), ""))
	refused(t, "another factory key", err, BadKey)
}

func TestAnchorsThatAreNone(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	a := newFactory(t, "Acme")
	noSign := authority("Mute", 0)
	noSign.KeyUsage = x509.KeyUsageCRLSign
	ours := &factory{cert: d.Authorities()[0]}
	leaf, err := d.operator("pump-9", request(t, newKey(t, ca.P256), ""))
	if err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "a.pem")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for what, c := range map[string]struct{ path, why string }{
		"a device's certificate":      {anchors(t, a.makes(t, idevid("1"))), "is not a CA's certificate"},
		"a device's of ours":          {anchors(t, &factory{cert: leaf.Chain[0]}), "is not a CA's certificate"},
		"our own CA":                  {anchors(t, a, ours), "is that of the CA here"},
		"a CA that may not sign":      {anchors(t, (*factory)(nil).makes(t, noSign)), "may not sign certificates"},
		"nothing":                     {file(""), "holds no certificate"},
		"a key":                       {file("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), "no certificate in PEM form"},
		"text behind the certificate": {file("hello"), "no certificate in PEM form"},
		"no file":                     {filepath.Join(t.TempDir(), "absent.pem"), "no such file"},
		"a large file":                {file(strings.Repeat(" ", maxAnchors+1)), "larger than"},
	} {
		_, err := LoadMakers([]config.Manufacturer{{Name: "Acme", Anchors: c.path}}, d.Authorities)
		if err == nil || !strings.Contains(err.Error(), c.why) || !strings.HasPrefix(err.Error(), "manufacturer Acme: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = LoadMakers([]config.Manufacturer{{Name: "Acme", Anchors: anchors(t, a)}, {Name: "Bolt", Anchors: anchors(t, a)}}, d.Authorities)
	if err == nil || !strings.Contains(err.Error(), "an anchor vouches for one manufacturer's devices") {
		t.Errorf("one anchor for two: %v", err)
	}
	m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a)})
	if got := m.Ended(time.Now()); len(got) != 0 {
		t.Error(got)
	}
	if got := m.Ended(time.Now().AddDate(-1, 0, 0)); len(got) != 1 {
		t.Error(got)
	}
}

// TestAMakersKeyThatBecomesOursVouchesForNobody, without a restart: what our CA signed
// is enrolled already, and whoever signs for it from now on is no manufacturer.
func TestAMakersKeyThatBecomesOursVouchesForNobody(t *testing.T) {
	a := newFactory(t, "Acme")
	line := a.makes(t, authority("Line 1", 0))
	for what, becomes := range map[string]*factory{"its anchor": a, "a CA between": line} {
		d := newDesk(t)
		ours := d.Authorities()
		m, err := LoadMakers([]config.Manufacturer{{Name: "Acme", Anchors: anchors(t, a)}}, func() []*x509.Certificate { return ours })
		if err != nil {
			t.Fatal(err)
		}
		d.made("pump-1", "Acme", "P1", "1")
		dev := line.makes(t, idevid("1"))
		csr := request(t, newKey(t, ca.P256), "")
		_, err = d.with(m, dev, csr, line)
		waits(t, what+" is another's", err)
		ours = append(ours, becomes.cert)
		_, err = d.with(m, dev, csr, line)
		if r := refused(t, what+" is ours", err, BadProof); r != nil && !strings.Contains(r.Why, "of the CA here") {
			t.Errorf("%s: %s", what, r.Why)
		}
	}
}
