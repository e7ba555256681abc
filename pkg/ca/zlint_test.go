package ca

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// rfc5280 holds ZLint's checks of RFC 5280, without the CA/Browser Forum's
// rules for the public web.
func rfc5280(t *testing.T) lint.Registry {
	t.Helper()
	reg, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280}})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(reg.Names()); n < 50 {
		t.Fatalf("only %d lints", n)
	}
	return reg
}

func TestCertificatesPassZLint(t *testing.T) {
	a := openCA(t, newCA(t), func(c *Config) { c.CRL, c.OCSP = "http://pki.example/ca.crl", "http://pki.example/ocsp" })
	certs := map[string][]byte{
		"root": a.Roots()[0].Raw, "intermediate": a.Intermediates()[0].Raw,
	}
	responder, err := a.NewResponder(t.Context(), a.issuer(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certs["responder"] = responder.Certificate.Raw
	timekeeper, err := a.NewTimekeeper(t.Context(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certs["timekeeper"] = timekeeper.Certificate.Raw
	dir := newCA(t)
	b := openCA(t, dir)
	next, err := b.PrepareRotation(t.Context(), testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	for name, constrain := range map[string]bool{"rotated": false, "rotated and constrained": true} {
		c, err := SignIntermediate(b.Root(), testRootKey(t, dir), next, constrain, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		certs[name] = c.Raw
	}
	root, err := NewRoot(testDomain, testOrg, testPassphrase, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certs["new root"] = root.Certificate.Raw
	key, err := GenerateKey(RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := a.NewRecipient(t.Context(), key.Public().(*rsa.PublicKey), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certs["recipient"] = recipient.Raw
	for _, kind := range []KeyKind{P256, P384, Ed25519, RSA2048} {
		_, csr, err := NewKeyAndCSR(kind, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []Request{
			{Profile: Device, ID: "pump_1.a"}, {Profile: Operator, ID: "ada"},
			{Profile: Server, Names: []string{"gateway.hospital.example", "10.0.0.1", "2001:db8::1"}},
		} {
			r.CSR, r.TTL = csr, 365*24*time.Hour
			issued, err := a.Issue(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			certs[r.Profile.String()+"/"+string(kind)] = issued.Leaf.Raw
		}
	}
	passZLint(t, certs)
}

// passZLint reports whatever ZLint finds in certificates, warnings too.
func passZLint(t *testing.T, certs map[string][]byte) {
	t.Helper()
	reg := rfc5280(t)
	for name, der := range certs {
		cert, err := zx509.ParseCertificate(der)
		if err != nil {
			t.Fatal(name, err)
		}
		found(t, name, zlint.LintCertificateEx(cert, reg))
	}
}

func found(t *testing.T, name string, set *zlint.ResultSet) {
	t.Helper()
	for lintName, result := range set.Results {
		if result.Status >= lint.Warn {
			t.Errorf("%s: %s: %v %s", name, lintName, result.Status, result.Details)
		}
	}
}

// TestWhatOtherIntermediatesSignPassesZLint: one that is constrained to the trust
// domain, one after a rotation and below a new root; for an organisation of as many
// characters as there may be (RFC 5280 appendix A.1), none of them ASCII; and for keys
// without a signing request.
func TestWhatOtherIntermediatesSignPassesZLint(t *testing.T) {
	cfg := initConfig(filepath.Join(t.TempDir(), "ca"))
	cfg.ConstrainURIs, cfg.Organisation = true, strings.Repeat("é", maxOrganisation)
	if _, err := Init(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	a := openCA(t, cfg.Dir)
	certs := map[string][]byte{}
	issue := func(name string) {
		t.Helper()
		key, err := GenerateKey(P256)
		if err != nil {
			t.Fatal(err)
		}
		backdate := time.Duration(0)
		for _, r := range []Request{{Profile: Device, ID: "pump-1", Key: key.Public(), Backdate: &backdate}, {Profile: Operator, ID: "ada", Key: key.Public()}, {Profile: Server, Names: []string{"10.0.0.1"}, Key: key.Public()}} {
			r.TTL = time.Hour
			issued, err := a.Issue(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			certs[r.Profile.String()+", "+name], certs["intermediate, "+name] = issued.Leaf.Raw, issued.Chain[1].Raw
		}
		responder, err := a.NewResponder(t.Context(), a.issuer(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		certs["responder, "+name], certs["root, "+name] = responder.Certificate.Raw, a.Root().Raw
	}
	issue("constrained")
	root, err := NewRoot(testDomain, cfg.Organisation, testPassphrase, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddRoot(t.Context(), root.Certificate); err != nil {
		t.Fatal(err)
	}
	csr, err := a.PrepareRotation(t.Context(), testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ReadCAKey(writeFile(t, "root.key", root.KeyPEM), testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	next, err := SignIntermediate(root.Certificate, key, csr, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Rotate(t.Context(), next, testPassphrase, nil); err != nil {
		t.Fatal(err)
	}
	issue("below a new root")
	passZLint(t, certs)
}

// TestRevocationListsPassZLint, empty and with every reason there is.
func TestRevocationListsPassZLint(t *testing.T) {
	a := openCA(t, newCA(t))
	reg := rfc5280(t)
	for _, reason := range []string{"", "unspecified", "key compromise", "superseded", "retired", "affiliation changed", "privilege withdrawn"} {
		if reason != "" {
			issued, err := a.Issue(t.Context(), device1(t, P256))
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Revoke(t.Context(), issued.Leaf.SerialNumber.String(), reason); err != nil {
				t.Fatal(err)
			}
		}
		l, err := zx509.ParseRevocationList(list(t, a).Raw)
		if err != nil {
			t.Fatal(err)
		}
		found(t, "a list after "+reason, zlint.LintRevocationListEx(l, reg))
	}
}

// TestZLintFindsFaults shows that the test above can fail.
func TestZLintFindsFaults(t *testing.T) {
	faulty := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, faulty, faulty, nameKey().Public(), nameKey())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := zx509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if set := zlint.LintCertificateEx(cert, rfc5280(t)); !set.ErrorsPresent {
		t.Error("a certificate with faults passes")
	}
}
