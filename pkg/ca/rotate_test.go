package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testRootKey is the key of the CA's root, as whoever holds the ceremony has it.
func testRootKey(t *testing.T, dir string) crypto.Signer {
	t.Helper()
	key, err := ReadCAKey(filepath.Join(dir, rootKeyFile), testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rotated puts a new intermediate into use and returns its certificate.
func rotated(t *testing.T, a *Authority, dir string) *x509.Certificate {
	t.Helper()
	csr, err := a.PrepareRotation(t.Context(), testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	next, err := SignIntermediate(a.Root(), testRootKey(t, dir), csr, false, a.clock())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Rotate(t.Context(), next, testPassphrase, nil); err != nil {
		t.Fatal(err)
	}
	return next
}

func TestARotationKeepsWhatTheFormerIntermediateSigned(t *testing.T) {
	dir := newCA(t)
	withURL := func(c *Config) { c.CRL = "http://pki.example/ca.crl" }
	a := openCA(t, dir, withURL)
	first := a.Intermediates()[0]
	before, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	next := rotated(t, a, dir)
	if key := mustRead(t, filepath.Join(dir, keyFileOf(next))); !bytes.HasPrefix(key, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")) {
		t.Error("the new key does not rest encrypted")
	}
	for range 2 { // as it is, and after a restart
		after, err := a.Issue(t.Context(), device1(t, P256))
		if err != nil {
			t.Fatal(err)
		}
		if !after.Chain[1].Equal(next) || after.Leaf.CheckSignatureFrom(next) != nil || len(after.Chain) != 2 {
			t.Error("the new intermediate does not sign, or is not sent with what it signs")
		}
		if got := a.ChainOf(before.Leaf); len(got) != 2 || !got[1].Equal(first) {
			t.Error("the former one is not sent with what it signed")
		}
		for _, leaf := range []*x509.Certificate{before.Leaf, after.Leaf} {
			if id, err := a.VerifyDevice(leaf, time.Now()); err != nil || id != "pump-1" {
				t.Errorf("signed by %s: %q %v", leaf.Issuer.CommonName, id, err)
			}
		}
		if got := before.Leaf.CRLDistributionPoints; !slices.Equal(got, []string{"http://pki.example/ca.crl"}) {
			t.Errorf("before: %v", got)
		}
		if got := after.Leaf.CRLDistributionPoints; !slices.Equal(got, []string{"http://pki.example/ca-" + ListName(next) + ".crl"}) {
			t.Errorf("after: %v", got)
		}
		// Each is on the list of its own issuer, signed by it, and on no other.
		for _, c := range []struct {
			issuer *x509.Certificate
			leaf   *x509.Certificate
		}{{first, before.Leaf}, {next, after.Leaf}} {
			serial := c.leaf.SerialNumber.String()
			if err := a.Revoke(t.Context(), serial, "superseded"); err != nil {
				t.Fatal(err)
			}
			l, err := a.RevocationList(t.Context(), c.issuer, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			crl, err := x509.ParseRevocationList(l.DER)
			if err != nil || crl.CheckSignatureFrom(c.issuer) != nil {
				t.Fatalf("the list of %s: %v", c.issuer.Subject.CommonName, err)
			}
			other := map[bool]*x509.Certificate{true: after.Leaf, false: before.Leaf}[c.issuer == first]
			on := func(s *big.Int) bool {
				return slices.ContainsFunc(crl.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(s) == 0 })
			}
			if !on(c.leaf.SerialNumber) || on(other.SerialNumber) {
				t.Errorf("the list of %s: %v", c.issuer.Subject.CommonName, crl.RevokedCertificateEntries)
			}
			st, err := a.Status(t.Context(), serial)
			if err != nil || !st.Revoked || !st.Issuer.Equal(c.issuer) {
				t.Errorf("status: %+v %v", st, err)
			}
			r, err := a.NewResponder(t.Context(), c.issuer, time.Hour)
			if err != nil || r.Certificate.CheckSignatureFrom(c.issuer) != nil {
				t.Errorf("responder for %s: %v", c.issuer.Subject.CommonName, err)
			}
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		a = openCA(t, dir, withURL)
	}
	third := rotated(t, a, dir)
	if got := a.Intermediates(); len(got) != 3 || !got[0].Equal(third) || !got[2].Equal(first) || !a.Original().Equal(first) {
		t.Errorf("after a third: %v", got)
	}
}

// TestKilledAtAnyStepOfARotation: whichever step it is, the next process has the
// former intermediate or the new one, whole, and can rotate.
func TestKilledAtAnyStepOfARotation(t *testing.T) {
	t.Parallel() // it mostly waits
	steps := []string{"before the key", "the key is written", "before the certificates", "the certificates are written beside", "the certificates are in place"}
	all, err := childCommand(t, "rotate", newCA(t)).Output()
	if err != nil || strings.TrimSpace(string(all)) != strings.Join(steps, "\n") {
		t.Fatalf("a rotation has the steps %q, %v", all, err)
	}
	for i, step := range steps {
		dir := newCA(t)
		cmd := childCommand(t, "rotate", dir)
		cmd.Env = append(cmd.Env, childStep+"="+step)
		if out, err := cmd.Output(); err == nil || !strings.HasSuffix(strings.TrimSpace(string(out)), step) {
			t.Fatalf("it was not killed at %q: %s %v", step, out, err)
		}
		a := openCA(t, dir)
		want := 1
		if i == len(steps)-1 {
			want = 2
		}
		if got := len(a.Intermediates()); got != want {
			t.Errorf("killed at %q there are %d intermediates, want %d", step, got, want)
		}
		if _, err := a.Issue(t.Context(), device1(t, P256)); err != nil {
			t.Errorf("killed at %q: %v", step, err)
		}
		rotated(t, a, dir)
		if keys, err := filepath.Glob(filepath.Join(dir, "intermediate*.key")); err != nil || len(keys) != want+1 {
			t.Errorf("killed at %q and rotated then, there are the keys %v", step, keys)
		}
	}
}

func TestIssuingGoesOnDuringRotations(t *testing.T) {
	dir := newCA(t)
	a := openCA(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	signed := make(chan *x509.Certificate, 10_000)
	req := device1(t, P256)
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				iss, err := a.Issue(context.Background(), req)
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(iss.Leaf.AuthorityKeyId, iss.Chain[1].SubjectKeyId) {
					t.Error("a chain of one intermediate's leaf and another's certificate")
				}
				select {
				case signed <- iss.Leaf:
				default:
				}
			}
		})
	}
	for range 3 {
		rotated(t, a, dir)
	}
	stop()
	wg.Wait()
	close(signed)
	n := 0
	for leaf := range signed {
		n++
		if _, err := a.VerifyDevice(leaf, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if n < 10 {
		t.Errorf("only %d were issued", n)
	}
}

func TestWhatIsNoNextIntermediateIsRefused(t *testing.T) {
	dir := newCA(t)
	a := openCA(t, dir)
	key := testRootKey(t, dir)
	csr, err := a.PrepareRotation(t.Context(), testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	good, err := SignIntermediate(a.Root(), key, csr, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := NewKeyAndCSR(P256, "")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewRoot(testDomain, testOrg, testPassphrase, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreignKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// changed is the good certificate but for what f does, signed by the root.
	changed := func(f func(*x509.Certificate)) *x509.Certificate {
		c := *good
		c.RawSubject, c.ExtraExtensions = nil, nil
		f(&c)
		der, err := x509.CreateCertificate(rand.Reader, &c, a.Root(), good.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	leaf, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	strange, err := SignIntermediate(a.Root(), key, other.Raw, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]*x509.Certificate{
		"none":                        nil,
		"the one in use":              a.Intermediates()[0],
		"a device's":                  leaf.Leaf,
		"the root":                    a.Root(),
		"for a key that is not here":  strange,
		"for another trust domain":    changed(func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: scheme, Host: "clinic.example"}} }),
		"for no trust domain":         changed(func(c *x509.Certificate) { c.URIs = nil }),
		"of another organisation":     changed(func(c *x509.Certificate) { c.Subject = pkix.Name{Organization: []string{"Evil"}, CommonName: "x"} }),
		"one that may make CAs":       changed(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }),
		"one that may not sign lists": changed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }),
		"one of tomorrow":             changed(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(24 * time.Hour) }),
		"one that ends soon":          changed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(48 * time.Hour) }),
		"a foreign root's":            foreign.Certificate,
	} {
		if err := a.Rotate(t.Context(), c, testPassphrase, nil); !errors.Is(err, ErrRotation) {
			t.Errorf("%s: %v", what, err)
		}
		if len(a.Intermediates()) != 1 {
			t.Fatalf("%s: it is in use", what)
		}
	}
	if err := a.Rotate(t.Context(), good, []byte("another passphrase"), nil); !errors.Is(err, ErrPassphrase) {
		t.Errorf("with another passphrase: %v", err)
	}
	if _, err := a.PrepareRotation(t.Context(), []byte("another passphrase")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("preparing with another passphrase: %v", err)
	}
	if _, err := SignIntermediate(a.Root(), foreignKey, csr, false, time.Now()); err == nil {
		t.Error("signed with a key that is not the root's")
	}
	if err := a.Rotate(t.Context(), good, testPassphrase, nil); err != nil {
		t.Errorf("the good one: %v", err)
	}
	if err := a.Rotate(t.Context(), good, testPassphrase, nil); !errors.Is(err, ErrRotation) {
		t.Errorf("twice: %v", err)
	}
}

// TestANewRootWithOverlap is the ceremony: both roots are trusted, the next
// intermediate is the new one's, and the old root goes when it is needed no more.
func TestANewRootWithOverlap(t *testing.T) {
	dir := newCA(t)
	now := time.Now()
	a := openCA(t, dir, func(c *Config) { c.Clock = func() time.Time { return now } })
	old := a.Root()
	before, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	made, err := NewRoot(testDomain, testOrg, testPassphrase, now)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string]*x509.Certificate{"none": nil, "an intermediate": a.Intermediates()[0], "the same": old} {
		if err := a.AddRoot(t.Context(), bad); !errors.Is(err, ErrRotation) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if other, err := NewRoot("clinic.example", testOrg, testPassphrase, now); err != nil {
		t.Fatal(err)
	} else if err := a.AddRoot(t.Context(), other.Certificate); !errors.Is(err, ErrRotation) {
		t.Errorf("another trust domain's: %v", err)
	}
	if err := a.AddRoot(t.Context(), made.Certificate); err != nil {
		t.Fatal(err)
	}
	if !a.Root().Equal(old) || len(a.Roots()) != 2 {
		t.Error("the new root is not beside the old one")
	}
	csr, err := a.PrepareRotation(t.Context(), testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	newKey, err := ReadCAKey(writeFile(t, "root.key", made.KeyPEM), testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	next, err := SignIntermediate(made.Certificate, newKey, csr, false, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Rotate(t.Context(), next, testPassphrase, nil); err != nil {
		t.Fatal(err)
	}
	if !a.Root().Equal(made.Certificate) {
		t.Error("what is issued does not chain to the new root")
	}
	if err := a.RemoveRoot(t.Context(), old); !errors.Is(err, ErrRotation) || !strings.Contains(err.Error(), "chains to no other root") {
		t.Errorf("the old root is still needed: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openCA(t, dir, func(c *Config) { c.Clock = func() time.Time { return now } })
	after, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range []*x509.Certificate{before.Leaf, after.Leaf} {
		if _, err := a.VerifyDevice(leaf, now); err != nil {
			t.Error(err)
		}
	}
	now = old.NotAfter.Add(-24 * time.Hour) // the first intermediate has long ended
	if err := a.RemoveRoot(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if got := a.Intermediates(); len(got) != 1 || !got[0].Equal(next) || len(a.Roots()) != 1 {
		t.Errorf("%d intermediates and %d roots", len(got), len(a.Roots()))
	}
	if err := a.RemoveRoot(t.Context(), made.Certificate); err == nil {
		t.Error("the last root was removed")
	}
}

func TestOpenSSLVerifiesAcrossARotation(t *testing.T) {
	dir := newCA(t)
	a := openCA(t, dir)
	before, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	root := writeFile(t, "root.crt", a.RootsPEM())
	former := writeFile(t, "former.crt", certPEM(a.Intermediates()[0]))
	rotated(t, a, dir)
	after, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		iss   *Issued
		chain string
	}{{before, former}, {after, writeFile(t, "next.crt", certPEM(after.Chain[1]))}} {
		if out, err := openssl(t, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", root, "-untrusted", c.chain, writeFile(t, "leaf.crt", certPEM(c.iss.Leaf))); err != nil {
			t.Errorf("%v %s", err, out)
		}
	}
}

// TestANextIntermediateIsTrustedBeforeItSigns: whoever verifies with a copy of what the
// CA trusts, as listeners do, never meets a certificate that the copy does not know.
func TestANextIntermediateIsTrustedBeforeItSigns(t *testing.T) {
	dir := newCA(t)
	a := openCA(t, dir)
	var copied atomic.Pointer[x509.CertPool] // a listener's
	copied.Store(a.ClientCAs())
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				iss, err := a.Issue(t.Context(), device1(t, P256))
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := iss.Leaf.Verify(x509.VerifyOptions{Roots: copied.Load(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
					t.Errorf("signed by %s: %v", iss.Chain[1].Subject.CommonName, err)
				}
			}
		})
	}
	for range 3 {
		former, called := a.Intermediates()[0], 0
		csr, err := a.PrepareRotation(t.Context(), testPassphrase)
		if err != nil {
			t.Fatal(err)
		}
		next, err := SignIntermediate(a.Root(), testRootKey(t, dir), csr, false, a.clock())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Rotate(t.Context(), next, testPassphrase, func() {
			called++
			if all := a.Intermediates(); !all[0].Equal(former) || !slices.ContainsFunc(all, next.Equal) {
				t.Errorf("%d intermediates, and the first is %s", len(all), all[0].Subject.CommonName)
			}
			// Until the listeners have it, the former one signs.
			iss, err := a.Issue(t.Context(), device1(t, P256))
			if err != nil || !iss.Chain[1].Equal(former) {
				t.Errorf("signed by another, or not at all: %v", err)
			}
			copied.Store(a.ClientCAs())
		}); err != nil {
			t.Fatal(err)
		}
		if now := a.Intermediates(); called != 1 || !now[0].Equal(next) {
			t.Errorf("called %d times, and %s signs", called, now[0].Subject.CommonName)
		}
	}
	close(stop)
	wg.Wait()
}

// TestARotationThatFailsLeavesNothingTrusted: who was told of the next intermediate is
// told that it is none.
func TestARotationThatFailsLeavesNothingTrusted(t *testing.T) {
	dir := newCA(t)
	a := openCA(t, dir)
	former := a.Intermediates()
	csr, err := a.PrepareRotation(t.Context(), testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	next, err := SignIntermediate(a.Root(), testRootKey(t, dir), csr, false, a.clock())
	if err != nil {
		t.Fatal(err)
	}
	// A directory in the way of the file.
	if err := os.MkdirAll(filepath.Join(dir, "."+intermediateFile+".next", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	var told []int
	if err := a.Rotate(t.Context(), next, testPassphrase, func() { told = append(told, len(a.Intermediates())) }); err == nil {
		t.Fatal("rotated")
	}
	if !slices.Equal(told, []int{len(former) + 1, len(former)}) || len(a.Intermediates()) != len(former) {
		t.Errorf("told %v, then there are %d", told, len(a.Intermediates()))
	}
	iss, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil || !iss.Chain[1].Equal(former[0]) {
		t.Errorf("signed by another, or not at all: %v", err)
	}
}
