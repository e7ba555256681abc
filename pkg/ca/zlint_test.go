package ca

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
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
	reg := rfc5280(t)
	for name, der := range certs {
		cert, err := zx509.ParseCertificate(der)
		if err != nil {
			t.Fatal(name, err)
		}
		for lintName, result := range zlint.LintCertificateEx(cert, reg).Results {
			if result.Status >= lint.Warn {
				t.Errorf("%s: %s: %v %s", name, lintName, result.Status, result.Details)
			}
		}
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
