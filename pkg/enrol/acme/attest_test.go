package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// A maker is a manufacturer's attestation CA, simulated.
type maker struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newMaker(t testing.TB) *maker {
	t.Helper()
	m := &maker{t: t, key: newKey(t)}
	in := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Attestation Root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour)}
	m.cert = m.sign(in, in, m.key.Public())
	return m
}

func (m *maker) sign(in, parent *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	m.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, in, parent, pub, m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// root writes the root to a file and returns its path.
func (m *maker) root() string {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "roots.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw}), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func ext(t testing.TB, id asn1.ObjectIdentifier, v any) pkix.Extension {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: id, Value: der}
}

// about certifies a key as a PIV token of the maker's does.
func (m *maker) about(pub crypto.PublicKey, exts ...pkix.Extension) *x509.Certificate {
	m.t.Helper()
	return m.sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "PIV"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), ExtraExtensions: exts}, m.cert, pub)
}

func enc(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// stepStatement makes a statement in the step format.
func stepStatement(t testing.TB, key crypto.Signer, leaf *x509.Certificate, authorization string) map[string]any {
	t.Helper()
	alg, text, opt := int64(coseES256), []byte(authorization), crypto.SignerOpts(crypto.SHA256)
	sum := sha256.Sum256(text)
	text = sum[:]
	switch key.Public().(type) {
	case *rsa.PublicKey:
		alg = coseRS256
	case ed25519.PublicKey:
		alg, text, opt = coseEdDSA, []byte(authorization), crypto.Hash(0)
	}
	sig, err := key.Sign(rand.Reader, text, opt)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"alg": alg, "sig": enc(t, sig), "x5c": [][]byte{leaf.Raw}}
}

// phones is a hall for the devices of one maker, and the account of one of them.
func phones(t *testing.T) (*hall, *maker, *client) {
	t.Helper()
	m := newMaker(t)
	h := newHall(t, fmt.Sprintf(`{attestation: [{manufacturer: Example Devices, formats: [step, tpm], roots: %q}]}`, m.root()))
	return h, m, h.register(&device.Record{ID: "phone-1", Class: "phone", Manufacturer: "Example Devices", Serial: "88123"})
}

var hardware = ident{"type": "permanent-identifier", "value": "88123"}

// attest tries a statement for a new order.
func (c *client) attest(format string, make func(authorization string) map[string]any) (order, challenge *answer) {
	c.h.t.Helper()
	o, chs := c.order(hardware)
	if len(chs) != 1 || chs[deviceAttest] == nil {
		c.h.t.Fatalf("challenges: %v", chs)
	}
	obj := map[string]any{"fmt": format, "attStmt": make(c.authorization(chs[deviceAttest]))}
	return o, c.post(chs[deviceAttest]["url"].(string), map[string]string{"attObj": b64(enc(c.h.t, obj))})
}

// TestAKeyInHardwareBringsADevicesCertificate, in each kind of key, and for that
// key only; it is renewed by attesting again.
func TestAKeyInHardwareBringsADevicesCertificate(t *testing.T) {
	t.Parallel()
	h, m, c := phones(t)
	serial := ext(t, oidYubicoSerial, 88123)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{newKey(t), rsaKey, edKey} {
		leaf := m.about(key.Public(), serial)
		o, a := c.attest("step", func(auth string) map[string]any { return stepStatement(t, key, leaf, auth) })
		if a.text("status") != "valid" {
			t.Fatalf("%T: %s", key, a.body)
		}
		h.holds("another key", c.post(o.text("finalize"), csrFor(t, newKey(t), "88123")), http.StatusBadRequest, badCSR, "another key")
		h.holds("a name", c.post(o.text("finalize"), csrFor(t, key, "", lis)), http.StatusBadRequest, badCSR, "beside its hardware's")
		if a := c.post(o.text("finalize"), csrFor(t, key, "88123")); a.text("status") != "valid" {
			t.Fatalf("%T: %s", key, a.body)
		}
	}
	rec, _ := h.devices.Get("phone-1")
	if len(rec.Certificates) != 3 || !rec.Certificates[2].HardwareBacked || rec.Status != device.Active {
		t.Errorf("%+v", rec)
	}
}

// TestAStatementThatIsNotTheDevicesIsRefused: each way in which it can be wrong is
// told as the draft has it, and recorded with the device.
func TestAStatementThatIsNotTheDevicesIsRefused(t *testing.T) {
	t.Parallel()
	h, m, c := phones(t)
	key, serial := newKey(t), ext(t, oidYubicoSerial, 88123)
	leaf := m.about(key.Public(), serial)
	good := func(auth string) map[string]any { return stepStatement(t, key, leaf, auth) }
	with := func(name string, v any) func(string) map[string]any {
		return func(auth string) map[string]any { s := good(auth); s[name] = v; return s }
	}
	of := func(l *x509.Certificate) func(string) map[string]any {
		return func(auth string) map[string]any { return stepStatement(t, key, l, auth) }
	}
	other := newMaker(t)
	big, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for what, x := range map[string]struct {
		format string
		make   func(string) map[string]any
		text   string
	}{
		"another format":           {"apple", good, "format"},
		"no format":                {"", good, "format"},
		"another challenge":        {"step", func(string) map[string]any { return good("another") }, "signature"},
		"another algorithm":        {"step", with("alg", int64(coseRS256)), "signature"},
		"no certificate":           {"step", with("x5c", [][]byte{}), "no certificate"},
		"too many certificates":    {"step", with("x5c", slices.Repeat([][]byte{leaf.Raw}, mostCertificates+1)), "more than"},
		"no X.509":                 {"step", with("x5c", [][]byte{[]byte("hello")}), "malformed"},
		"a weak key":               {"step", of(m.about(big.Public(), serial)), "RSA key"},
		"another maker's root":     {"step", of(other.about(key.Public(), serial)), "does not chain"},
		"another device's":         {"step", of(m.about(key.Public(), ext(t, oidYubicoSerial, 88124))), "other hardware"},
		"no serial number":         {"step", of(m.about(key.Public())), "does not name"},
		"two serial numbers":       {"step", of(m.about(key.Public(), serial, ext(t, oidManagedDevice, struct{ ID string }{"88124"}))), "twice"},
		"a signature without CBOR": {"step", with("sig", []byte{0xff}), "CBOR"},
		"a field nobody knows":     {"step", with("note", "hello"), "plain form"},
	} {
		before := len(h.refusals())
		o, a := c.attest(x.format, x.make)
		p, _ := a.json["error"].(map[string]any)
		if a.text("status") != "invalid" || p["type"] != errorURN+badAttestationStatement || !strings.Contains(fmt.Sprint(p["detail"]), x.text) {
			t.Errorf("%s: %d %s, want %q", what, a.status, a.body, x.text)
		}
		if got := h.refusals()[before:]; len(got) != 1 || !strings.HasPrefix(got[0], "phone-1: badAttestationStatement: ") {
			t.Errorf("%s: %q", what, got)
		}
		h.holds(what, c.post(o.text("finalize"), csrFor(t, key, "")), http.StatusForbidden, orderNotReady, "invalid")
	}
	for what, payload := range map[string]any{"nothing": map[string]any{}, "no text": map[string]any{"attObj": 7}, "no base64": map[string]any{"attObj": "a+b="}, "no CBOR": map[string]any{"attObj": "AAAA"}} {
		_, chs := c.order(hardware)
		if a := c.post(chs[deviceAttest]["url"].(string), payload); a.text("status") != "invalid" {
			t.Errorf("%s: %s", what, a.body)
		}
	}
	// The key of a device that is in the registry already is nobody else's.
	if _, a := c.attest("step", good); a.text("status") != "valid" {
		t.Errorf("the right one: %s", a.body)
	}
	// A root that can not be read is ours to mend, and costs no order.
	h.cfg.Enrolment.ACME.Attestation[0].Roots = "/nowhere"
	_, a := c.attest("step", good)
	h.holds("no roots", a, http.StatusServiceUnavailable, serverInternal, "try again later")
}

// permanentSAN is the subjectAltName of a TPM's attestation key: what TPM it is of,
// and names by which the hardware is known.
func permanentSAN(t testing.TB, ids ...string) pkix.Extension {
	t.Helper()
	type attr struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	var rdns []asn1.RawValue
	for i, v := range []string{"id:53544D20", "ST33", "id:00010102"} {
		der, err := asn1.Marshal(attr{asn1.ObjectIdentifier{2, 23, 133, 2, i + 1}, v})
		if err != nil {
			t.Fatal(err)
		}
		rdns = append(rdns, asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true, Bytes: der})
	}
	must := func(v any, params string) []byte {
		t.Helper()
		der, err := asn1.MarshalWithParams(v, params)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	names := []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: must(rdns, "")}}
	for _, id := range ids {
		value := must(struct {
			ID string `asn1:"utf8"`
		}{id}, "")
		oid := must(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3}, "")
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true,
			Bytes: append(oid, must(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: value}, "")...)})
	}
	return pkix.Extension{Id: oidSubjectAltName, Critical: true, Value: must(names, "")}
}

// ak certifies an attestation key of a TPM.
func (m *maker) ak(pub crypto.PublicKey, san pkix.Extension) *x509.Certificate {
	m.t.Helper()
	return m.sign(&x509.Certificate{SerialNumber: big.NewInt(3), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidAKCertificate}, BasicConstraintsValid: true, ExtraExtensions: []pkix.Extension{san}}, m.cert, pub)
}

// A chip makes statements as a TPM does.
type chip struct {
	t          testing.TB
	ak         crypto.Signer
	key        *ecdsa.PrivateKey
	attributes tpm2.TPMAObject
	magic      tpm2.TPMGenerated
	named      []byte // the name it certifies, if not the key's
}

func newChip(t testing.TB, ak crypto.Signer) *chip {
	return &chip{t: t, ak: ak, key: newKey(t), magic: tpm2.TPMGeneratedValue,
		attributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true}}
}

func (p *chip) statement(cert *x509.Certificate, authorization string) map[string]any {
	p.t.Helper()
	point, err := p.key.PublicKey.Bytes()
	if err != nil {
		p.t.Fatal(err)
	}
	pub := tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: p.attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull},
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})}
	name, err := tpm2.ObjectName(&pub)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.named != nil {
		name.Buffer = p.named
	}
	sum := sha256.Sum256([]byte(authorization))
	info := tpm2.Marshal(tpm2.TPMSAttest{Magic: p.magic, Type: tpm2.TPMSTAttestCertify, ExtraData: tpm2.TPM2BData{Buffer: sum[:]},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: *name, QualifiedName: *name})})
	digest := sha256.Sum256(info)
	var sig tpm2.TPMTSignature
	alg := int64(coseRS256)
	switch k := p.ak.(type) {
	case *rsa.PrivateKey:
		raw, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest[:])
		if err != nil {
			p.t.Fatal(err)
		}
		sig = tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA,
			&tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: raw}})}
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			p.t.Fatal(err)
		}
		alg = coseES256
		sig = tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
			&tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: pad(r)}, SignatureS: tpm2.TPM2BECCParameter{Buffer: pad(s)}})}
	}
	return map[string]any{"ver": "2.0", "alg": alg, "x5c": [][]byte{cert.Raw}, "sig": tpm2.Marshal(sig), "certInfo": info, "pubArea": tpm2.Marshal(pub)}
}

func TestAKeyInATPMBringsADevicesCertificate(t *testing.T) {
	t.Parallel()
	h, m, c := phones(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, ak := range []crypto.Signer{rsaKey, newKey(t)} {
		p, cert := newChip(t, ak), m.ak(ak.Public(), permanentSAN(t, "88123"))
		o, a := c.attest("tpm", func(auth string) map[string]any { return p.statement(cert, auth) })
		if a.text("status") != "valid" {
			t.Fatalf("%T: %s", ak, a.body)
		}
		h.holds("the attestation key itself", c.post(o.text("finalize"), csrFor(t, ak, "")), http.StatusBadRequest, badCSR, "another key")
		if a := c.post(o.text("finalize"), csrFor(t, p.key, "phone-1")); a.text("status") != "valid" {
			t.Fatalf("%T: %s", ak, a.body)
		}
	}
}

func TestAStatementOfATPMThatProvesNothingIsRefused(t *testing.T) {
	t.Parallel()
	_, m, c := phones(t)
	ak := newKey(t)
	cert := m.ak(ak.Public(), permanentSAN(t, "88123"))
	for what, x := range map[string]struct {
		change func(p *chip)
		cert   *x509.Certificate
		edit   func(s map[string]any)
		text   string
	}{
		"another challenge":          {edit: func(s map[string]any) { s["certInfo"] = newChip(t, ak).statement(cert, "x")["certInfo"] }, text: "signature"},
		"another key":                {edit: func(s map[string]any) { s["pubArea"] = newChip(t, ak).statement(cert, "x")["pubArea"] }, text: "another key"},
		"another name":               {change: func(p *chip) { p.named = make([]byte, 34) }, text: "another key"},
		"an exportable key":          {change: func(p *chip) { p.attributes.FixedTPM = false }, text: "can leave the TPM"},
		"a key that was imported":    {change: func(p *chip) { p.attributes.SensitiveDataOrigin = false }, text: "was not made in it"},
		"a key that moves":           {change: func(p *chip) { p.attributes.FixedParent = false }, text: "can leave the TPM"},
		"another attestation key":    {edit: func(s map[string]any) { s["sig"] = newChip(t, newKey(t)).statement(cert, "x")["sig"] }, text: "signature"},
		"no TPM 2.0":                 {edit: func(s map[string]any) { s["ver"] = "1.2" }, text: "TPM 2.0"},
		"SHA-1":                      {edit: func(s map[string]any) { s["alg"] = int64(-65535) }, text: "signature"},
		"something behind":           {edit: func(s map[string]any) { s["certInfo"] = append(s["certInfo"].([]byte), 0) }, text: "can not be read"},
		"nothing":                    {edit: func(s map[string]any) { s["pubArea"] = []byte{} }, text: "can not be read"},
		"no permanent identifier":    {cert: m.ak(ak.Public(), permanentSAN(t)), text: "no permanent identifier"},
		"two permanent identifiers":  {cert: m.ak(ak.Public(), permanentSAN(t, "88123", "88124")), text: "several"},
		"another device's":           {cert: m.ak(ak.Public(), permanentSAN(t, "88124")), text: "other hardware"},
		"a certificate of a PIV key": {cert: m.about(ak.Public(), ext(t, oidYubicoSerial, 88123)), text: "attestation key"},
	} {
		p, use := newChip(t, ak), x.cert
		if use == nil {
			use = cert
		}
		if x.change != nil {
			x.change(p)
		}
		_, a := c.attest("tpm", func(auth string) map[string]any {
			s := p.statement(use, auth)
			if x.edit != nil {
				x.edit(s)
			}
			return s
		})
		if a.text("status") != "invalid" || !strings.Contains(string(a.body), badAttestationStatement) || !strings.Contains(string(a.body), x.text) {
			t.Errorf("%s: %s, want %q", what, a.body, x.text)
		}
	}
}

// TestNobodysAttestationVouchesForAnotherMakersDevices.
func TestNobodysAttestationVouchesForAnotherMakersDevices(t *testing.T) {
	t.Parallel()
	h, _, _ := phones(t)
	c := h.register(&device.Record{ID: "pump-1", Class: "infusion-pump", Manufacturer: "Other Devices", Serial: "88123"})
	h.holds("a device of another maker", c.post(newOrder, map[string]any{"identifiers": []ident{hardware}}), http.StatusForbidden, rejectedIdentifier, "manufacturer of pump-1")
}

func FuzzStatement(f *testing.F) {
	m := newMaker(f)
	key, ak := newKey(f), newKey(f)
	leaf := m.about(key.Public(), ext(f, oidYubicoSerial, 88123))
	f.Add(enc(f, map[string]any{"fmt": "step", "attStmt": stepStatement(f, key, leaf, "a.b")}))
	cert := m.ak(ak.Public(), permanentSAN(f, "88123"))
	f.Add(enc(f, map[string]any{"fmt": "tpm", "attStmt": newChip(f, ak).statement(cert, "a.b")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := readStatement(data)
		if err != nil {
			return
		}
		chain, err := st.chain()
		if err != nil {
			return
		}
		if k, _, err := st.step(chain[0], []byte("a.b")); err == nil && k == nil {
			t.Error("a statement about no key")
		}
		if k, hardware, err := st.tpm(chain[0], sha256.Sum256([]byte("a.b"))); err == nil && (k == nil || hardware == "") {
			t.Error("a TPM's statement about nothing")
		}
	})
}
