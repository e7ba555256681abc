package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"
	"time"
)

// TestIssueForAKeyWithoutASigningRequest: the certificate is for that key, and
// what it is otherwise comes from the profile as ever.
func TestIssueForAKeyWithoutASigningRequest(t *testing.T) {
	a := openCA(t, newCA(t))
	for _, kind := range []KeyKind{P256, Ed25519, RSA2048} {
		key, csr, err := NewKeyAndCSR(kind, "pump-1")
		if err != nil {
			t.Fatal(err)
		}
		by, err := a.Issue(t.Context(), Request{Profile: Device, ID: "pump-1", Key: key.Public(), TTL: time.Hour})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		want, err := a.Issue(t.Context(), Request{Profile: Device, ID: "pump-1", CSR: csr, TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(by.Leaf.RawSubjectPublicKeyInfo, want.Leaf.RawSubjectPublicKeyInfo) || !bytes.Equal(by.Leaf.SubjectKeyId, want.Leaf.SubjectKeyId) ||
			!bytes.Equal(by.Leaf.RawSubject, want.Leaf.RawSubject) || len(by.Leaf.Extensions) != len(want.Leaf.Extensions) || by.Leaf.KeyUsage != want.Leaf.KeyUsage {
			t.Errorf("%s: the certificate is another than from a signing request", kind)
		}
		if id, err := a.VerifyDevice(by.Leaf, time.Now()); err != nil || id != "pump-1" {
			t.Errorf("%s: %s %v", kind, id, err)
		}
	}
}

func TestIssueRefusesKeys(t *testing.T) {
	a := openCA(t, newCA(t))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	odd, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"a weak one": &weak.PublicKey, "one on another curve": &odd.PublicKey, "none": "key"} {
		if _, err := a.Issue(t.Context(), Request{Profile: Device, ID: "pump-1", Key: key, TTL: time.Hour}); !errors.Is(err, ErrCSR) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good, csr, err := NewKeyAndCSR(P256, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(t.Context(), Request{Profile: Device, ID: "pump-1", Key: good.Public(), CSR: csr, TTL: time.Hour}); err == nil {
		t.Error("issued for a key and a signing request")
	}
}
