package jws

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
	"time"
)

func certOf(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "jane"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ecKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type words struct {
	A string `json:"a"`
	B int    `json:"b,omitempty"`
}

func TestASignatureHoldsForEveryKindOfKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), ecKey(t, elliptic.P521()), rsaKey, edKey} {
		cert := certOf(t, key)
		token, err := Sign("test", words{"x", 1}, key, cert)
		if err != nil {
			t.Fatal(err)
		}
		payload, with, err := Read("test", token)
		if err != nil || !with.Equal(cert) {
			t.Fatalf("%T: %v", key, err)
		}
		var w words
		if err := Decode(payload, &w); err != nil || w != (words{"x", 1}) {
			t.Errorf("%T: %+v, %v", key, w, err)
		}
	}
	if _, err := Sign("test", words{}, edKey, certOf(t, rsaKey)); err == nil {
		t.Error("signed with another key than the certificate's")
	}
}

func TestASignatureIsRefused(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	cert := certOf(t, key)
	good, err := Sign("test", words{A: "x"}, key, cert)
	if err != nil {
		t.Fatal(err)
	}
	part := strings.Split(good, ".")
	enc := base64.RawURLEncoding
	other := ecKey(t, elliptic.P256())
	made := func(h Header, k crypto.Signer) string {
		s, err := Compact(h, words{A: "x"}, k)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	chain := [][]byte{cert.Raw}
	head, err := enc.DecodeString(part[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ token, want string }{
		"two parts":             {part[0] + "." + part[1], "compact form"},
		"too large":             {strings.Repeat("a", MaxToken+1), "larger"},
		"no base64":             {"*." + part[1] + "." + part[2], "compact form"},
		"another purpose":       {made(Header{KeyID: Fingerprint(cert), Type: "other", Chain: chain}, key), "of type"},
		"no certificate":        {made(Header{Type: "test"}, key), "no certificate"},
		"two certificates":      {made(Header{KeyID: Fingerprint(cert), Type: "test", Chain: [][]byte{cert.Raw, cert.Raw}}, key), "no certificate"},
		"another key id":        {made(Header{KeyID: "x", Type: "test", Chain: chain}, key), "fingerprint"},
		"another's certificate": {made(Header{KeyID: Fingerprint(cert), Type: "test", Chain: chain}, other), "does not hold"},
		"another algorithm":     {enc.EncodeToString([]byte(strings.Replace(string(head), "ES256", "none", 1))) + "." + part[1] + "." + part[2], "algorithm"},
		"another payload":       {part[0] + "." + enc.EncodeToString([]byte(`{"a":"y"}`)) + "." + part[2], "does not hold"},
		"no signature":          {part[0] + "." + part[1] + ".", "does not hold"},
		"more in the header":    {enc.EncodeToString([]byte(strings.Replace(string(head), "{", `{"crit":["b64"],`, 1))) + "." + part[1] + "." + part[2], "header"},
		"twice in the header":   {enc.EncodeToString([]byte(strings.Replace(string(head), "{", `{"typ":"other",`, 1))) + "." + part[1] + "." + part[2], "more than one way"},
	} {
		if _, _, err := Read("test", c.token); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, _, err := Read("test", good); err != nil {
		t.Error(err)
	}
}

func TestWhatCanBeReadTwoWaysIsRefused(t *testing.T) {
	for _, b := range []string{`{"a":"x","a":"y"}`, `{"A":"x"}`, `{"a":"x","c":1}`, ` {"a":"x"}`, `{"a":"x"}{}`, `{"a":"x","b":0}`, `{"a":"\u0078"}`, ``} {
		var w words
		if Decode([]byte(b), &w) == nil {
			t.Errorf("%s was read as %+v", b, w)
		}
	}
}

func FuzzRead(f *testing.F) {
	key := ecKey(f, elliptic.P256())
	cert := certOf(f, key)
	good, err := Sign("test", words{A: "x"}, key, cert)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		payload, with, err := Read("test", token)
		if err == nil && with.Equal(cert) && string(payload) != `{"a":"x"}` {
			t.Fatalf("nobody signed %q", payload)
		}
	})
}
