package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"strings"
)

// A KeyKind is a kind of private key that can be generated for a device that
// cannot do so itself.
type KeyKind string

// The kinds of keys. P256 is the default: every TLS 1.2 stack with ECDHE knows it,
// and its handshakes are the cheapest. RSA is for devices that know nothing else.
const (
	P256    KeyKind = "p256"
	P384    KeyKind = "p384"
	Ed25519 KeyKind = "ed25519"
	RSA2048 KeyKind = "rsa2048"
	RSA3072 KeyKind = "rsa3072"
	RSA4096 KeyKind = "rsa4096"
)

// KeyKinds lists the kinds of keys, the default first.
func KeyKinds() []KeyKind { return []KeyKind{P256, P384, Ed25519, RSA2048, RSA3072, RSA4096} }

// ParseKeyKind returns the kind of key with a name; "" is P256.
func ParseKeyKind(name string) (KeyKind, error) {
	if name == "" {
		return P256, nil
	}
	for _, k := range KeyKinds() {
		if strings.EqualFold(name, string(k)) {
			return k, nil
		}
	}
	return "", fmt.Errorf("no such kind of key: %q (there are %v)", name, KeyKinds())
}

// GenerateKey makes a private key.
func GenerateKey(kind KeyKind) (crypto.Signer, error) {
	switch kind {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("no such kind of key: %q (there are %v)", kind, KeyKinds())
}

// NewCSR makes a signing request for a key. The name is for people who look at
// the request; the certificate's comes from the [Request].
func NewCSR(key crypto.Signer, name string) (*x509.CertificateRequest, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	return x509.ParseCertificateRequest(der)
}

// NewKeyAndCSR makes a private key and a signing request for it. The key
// belongs to a device: it goes to the device's files and nowhere else
// (invariant 6).
func NewKeyAndCSR(kind KeyKind, name string) (crypto.Signer, *x509.CertificateRequest, error) {
	key, err := GenerateKey(kind)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	csr, err := NewCSR(key, name)
	if err != nil {
		return nil, nil, err
	}
	return key, csr, nil
}

// KeyPEM returns a private key as unencrypted PKCS#8 in PEM form.
func KeyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
