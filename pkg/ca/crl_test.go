package ca

import (
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"
)

func list(t *testing.T, a *Authority) *x509.RevocationList {
	t.Helper()
	l, err := a.RevocationList(t.Context(), a.issuer(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseRevocationList(l.DER)
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.CheckSignatureFrom(a.issuer()); err != nil {
		t.Fatal(err)
	}
	if parsed.Number.Int64() != l.Number || len(parsed.RevokedCertificateEntries) != l.Entries || !parsed.NextUpdate.Equal(l.NextUpdate) {
		t.Errorf("the list says %v, %d, %v; its description %+v", parsed.Number, len(parsed.RevokedCertificateEntries), parsed.NextUpdate, l)
	}
	return parsed
}

func TestAListHasWhatWasRevokedUntilAfterItsEnd(t *testing.T) {
	now := time.Now()
	dir, clock := newCA(t), func(c *Config) { c.Clock = func() time.Time { return now } }
	a := openCA(t, dir, clock)
	issued, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(t.Context(), device1(t, P256)); err != nil {
		t.Fatal(err)
	}
	if l := list(t, a); len(l.RevokedCertificateEntries) != 0 {
		t.Errorf("nothing was revoked, and the list has %v", l.RevokedCertificateEntries)
	}
	before := a.Revocations()
	if err := a.Revoke(t.Context(), issued.Leaf.SerialNumber.String(), "Key Compromise"); err != nil {
		t.Fatal(err)
	}
	if a.Revocations() != before+1 {
		t.Error("the revocation was not counted")
	}
	for _, at := range []struct {
		time.Time
		listed int
	}{
		{now, 1},
		// A list that was made after the certificate's end has it still; once.
		{issued.Leaf.NotAfter.Add(time.Hour), 1},
		{issued.Leaf.NotAfter.Add(25 * time.Hour), 0},
	} {
		now = at.Time
		l := list(t, a)
		if len(l.RevokedCertificateEntries) != at.listed {
			t.Fatalf("at %v the list has %v", now, l.RevokedCertificateEntries)
		}
		if at.listed == 0 {
			continue
		}
		if e := l.RevokedCertificateEntries[0]; e.SerialNumber.Cmp(issued.Leaf.SerialNumber) != 0 || e.ReasonCode != 1 {
			t.Errorf("the entry is %+v", e)
		}
	}
}

// TestWhenSomethingWasRevokedIsTheSameOnEveryList, from the first on, over another
// revocation of it and a restart; and it is not after the list itself.
func TestWhenSomethingWasRevokedIsTheSameOnEveryList(t *testing.T) {
	now := time.Now()
	dir, clock := newCA(t), func(c *Config) { c.Clock = func() time.Time { return now } }
	a := openCA(t, dir, clock)
	issued, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	serial := issued.Leaf.SerialNumber.String()
	if err := a.Revoke(t.Context(), serial, "superseded"); err != nil {
		t.Fatal(err)
	}
	now = time.Now()
	s, err := a.Status(t.Context(), serial)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		l := list(t, a)
		if at := l.RevokedCertificateEntries[0].RevocationTime; !at.Equal(s.RevokedAt.Add(-listBackdate).Truncate(time.Second)) || at.After(l.ThisUpdate) {
			t.Errorf("list %d, of %v, says it was revoked at %v, and that was at %v", i, l.ThisUpdate, at, s.RevokedAt)
		}
		now = now.Add(2 * time.Minute)
		switch i {
		case 1:
			if err := a.Revoke(t.Context(), serial, "key compromise"); err != nil {
				t.Fatal(err)
			}
		case 2:
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			a = openCA(t, dir, clock)
		}
	}
}

// TestNumbersOfListsOnlyGrow, over a restart and with a clock that goes back.
func TestNumbersOfListsOnlyGrow(t *testing.T) {
	now := time.Now()
	dir, clock := newCA(t), func(c *Config) { c.Clock = func() time.Time { return now } }
	a := openCA(t, dir, clock)
	last := new(big.Int)
	for i := range 6 {
		l := list(t, a)
		if l.Number.Cmp(last) <= 0 {
			t.Fatalf("list %d has number %v after %v", i, l.Number, last)
		}
		last = l.Number
		switch i {
		case 2:
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			a = openCA(t, dir, clock)
		case 3:
			now = now.Add(-48 * time.Hour)
		}
	}
	if _, err := a.RevocationList(t.Context(), a.issuer(), time.Minute); err == nil {
		t.Error("a list for a minute was made")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.RevocationList(t.Context(), a.issuer(), time.Hour); err == nil {
		t.Error("a closed CA makes lists")
	}
}

func TestOpenSSLVerifiesAgainstTheList(t *testing.T) {
	a := openCA(t, newCA(t))
	var files []string
	for range 2 {
		issued, err := a.Issue(t.Context(), device1(t, P256))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, writeFile(t, "leaf.pem", certPEM(issued.Leaf)))
		if len(files) == 1 {
			if err := a.Revoke(t.Context(), issued.Leaf.SerialNumber.String(), "retired"); err != nil {
				t.Fatal(err)
			}
		}
	}
	l, err := a.RevocationList(t.Context(), a.issuer(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	crl := writeFile(t, "ca.crl", l.PEM())
	roots, inter := writeFile(t, "roots.pem", certPEM(a.Roots()...)), writeFile(t, "inter.pem", certPEM(a.Intermediates()...))
	if out, err := openssl(t, "crl", "-in", crl, "-noout", "-CAfile", inter, "-verify"); err != nil || !strings.Contains(out, "verify OK") {
		t.Errorf("openssl crl: %v %s", err, out)
	}
	for i, file := range files {
		out, err := openssl(t, "verify", "-crl_check", "-CAfile", roots, "-untrusted", inter, "-CRLfile", crl, file)
		if revoked := i == 0; (err != nil) != revoked || strings.Contains(out, "certificate revoked") != revoked {
			t.Errorf("certificate %d: %v %s", i, err, out)
		}
	}
}

func TestCertificatesNameWhereToAskOnlyIfItIsConfigured(t *testing.T) {
	dir := newCA(t)
	a := openCA(t, dir)
	issued, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	if c := issued.Leaf; len(c.CRLDistributionPoints)+len(c.OCSPServer) != 0 {
		t.Errorf("nothing was configured, and it names %v %v", c.CRLDistributionPoints, c.OCSPServer)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openCA(t, dir, func(c *Config) { c.CRL, c.OCSP = "http://pki.example/ca.crl", "http://pki.example/ocsp" })
	if issued, err = a.Issue(t.Context(), device1(t, P256)); err != nil {
		t.Fatal(err)
	}
	if c := issued.Leaf; len(c.CRLDistributionPoints) != 1 || c.CRLDistributionPoints[0] != a.crl || len(c.OCSPServer) != 1 || c.OCSPServer[0] != a.ocsp {
		t.Errorf("it names %v %v", c.CRLDistributionPoints, c.OCSPServer)
	}
}
