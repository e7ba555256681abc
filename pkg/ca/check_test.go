package ca

import (
	"crypto"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

// wrongs returns the errors and warnings of a check, each as one line.
func wrongs(t *testing.T, a *Authority) string {
	t.Helper()
	found, err := a.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range found {
		if f.Error != "" {
			out = append(out, "FAIL "+f.What+": "+f.Error)
		} else if f.Warn {
			out = append(out, "WARN "+f.What+": "+f.Note)
		}
	}
	return strings.Join(out, "\n")
}

func TestCheckFindsWhatIsWrongWithTheCA(t *testing.T) {
	dir := newCA(t)
	now := time.Now()
	a := openCA(t, dir, func(c *Config) { c.Clock = func() time.Time { return now } })
	rotated(t, a, dir)
	if got := wrongs(t, a); got != "" {
		t.Fatalf("nothing is wrong, and it finds %s", got)
	}
	good := a.trust.Load()
	_, other, err := NewKeyAndCSR(P256, "")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewRoot("clinic.example", testOrg, testPassphrase, now)
	if err != nil {
		t.Fatal(err)
	}
	strange, err := GenerateKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	constrained := *good.issuing()
	constrained.PermittedURIDomains = []string{"clinic.example"}
	unsigned, err := SignIntermediate(good.roots[0], testRootKey(t, dir), other.Raw, false, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, want string
		change     func(*trust)
	}{
		{"a key that is another's", "FAIL key of ", func(t *trust) { t.keys = []crypto.Signer{strange, t.keys[1]} }},
		{"no key", "it is not here", func(t *trust) { t.keys = []crypto.Signer{nil, t.keys[1]} }},
		{"no former key", "WARN key of ", func(t *trust) { t.keys = []crypto.Signer{t.keys[0], nil} }},
		{"another key in the certificate", "it is another certificate's", func(t *trust) { t.intermediates = []*x509.Certificate{unsigned, t.intermediates[1]} }},
		{"a foreign root alone", "does not chain to a root", func(t *trust) {
			t.roots, t.rootPool = []*x509.Certificate{foreign.Certificate}, pool([]*x509.Certificate{foreign.Certificate})
		}},
		{"a foreign root beside", "it is for the trust domain", func(t *trust) { t.roots = append(t.roots[:1:1], foreign.Certificate) }},
		{"a root that nobody signed", "its own key did not sign it", func(t *trust) { t.roots = append(t.roots[:1:1], t.intermediates[0]) }},
		{"another's constraint", "permits [clinic.example]", func(t *trust) { t.intermediates = []*x509.Certificate{&constrained, t.intermediates[1]} }},
	} {
		bad := *good
		c.change(&bad)
		a.trust.Store(&bad)
		if got := wrongs(t, a); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.what, got)
		}
		a.trust.Store(good)
	}
	now = good.issuing().NotAfter.Add(-30 * 24 * time.Hour)
	if got := wrongs(t, a); !strings.Contains(got, "WARN ") || !strings.Contains(got, "in 30 days") {
		t.Errorf("a month before the end: %s", got)
	}
	now = good.issuing().NotAfter.Add(time.Hour)
	if got := wrongs(t, a); !strings.Contains(got, "FAIL ") || !strings.Contains(got, "expired") {
		t.Errorf("after the end: %s", got)
	}
}
