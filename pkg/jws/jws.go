package jws

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// MaxToken bounds what [Read] takes, in bytes.
const MaxToken = 64 << 10

// A Header is the header of a signature (RFC 7515 §4).
type Header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid,omitempty"`
	// Type says what the signature is for, and is signed with it: one of another
	// type is good for nothing here.
	Type  string   `json:"typ,omitempty"`
	Chain [][]byte `json:"x5c,omitempty"` // §4.1.6: standard base64 of DER, as Go writes []byte
}

// Compact signs a payload with the algorithm that goes with the key, which it
// puts into the header.
func Compact(h Header, payload any, key crypto.Signer) (string, error) {
	alg, err := algorithmOf(key.Public())
	if err != nil {
		return "", err
	}
	h.Algorithm = alg.name
	hj, err := json.Marshal(h)
	if err != nil {
		return "", err
	}
	pj, err := json.Marshal(payload)
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString(hj) + "." + enc.EncodeToString(pj)
	sig, err := alg.sign(key, []byte(text))
	if err != nil {
		return "", err
	}
	return text + "." + enc.EncodeToString(sig), nil
}

// Sign signs a payload, for one purpose, with the key of a certificate.
func Sign(typ string, payload any, key crypto.Signer, cert *x509.Certificate) (string, error) {
	if pub, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return "", errors.New("the key is not the certificate's")
	}
	return Compact(Header{KeyID: Fingerprint(cert), Type: typ, Chain: [][]byte{cert.Raw}}, payload, key)
}

// Read returns the payload of a signature of the given type that holds, and the
// certificate it was made with.
func Read(typ, token string) (payload []byte, cert *x509.Certificate, err error) {
	if len(token) > MaxToken {
		return nil, nil, fmt.Errorf("it is larger than %d bytes", MaxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, nil, errors.New("it is not a JWS in compact form")
	}
	var raw [3][]byte
	for i, p := range parts {
		// Strict: no two texts are one signature.
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return nil, nil, fmt.Errorf("it is not a JWS in compact form: %w", err)
		}
	}
	var h Header
	if err := Decode(raw[0], &h); err != nil {
		return nil, nil, fmt.Errorf("its header: %w", err)
	}
	if h.Type != typ {
		return nil, nil, fmt.Errorf("it is of type %.40q, not %q", h.Type, typ)
	}
	if len(h.Chain) != 1 {
		return nil, nil, errors.New("it carries no certificate")
	}
	if cert, err = x509.ParseCertificate(h.Chain[0]); err != nil {
		return nil, nil, fmt.Errorf("its certificate: %w", err)
	}
	if h.KeyID != Fingerprint(cert) {
		return nil, nil, errors.New("its key id is not the fingerprint of its certificate")
	}
	alg, err := algorithmOf(cert.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	if h.Algorithm != alg.name {
		return nil, nil, fmt.Errorf("it is made with algorithm %.20q, and the key's is %s", h.Algorithm, alg.name)
	}
	if !alg.verify(cert.PublicKey, []byte(token[:len(parts[0])+1+len(parts[1])]), raw[2]) {
		return nil, nil, errors.New("it does not hold")
	}
	return raw[1], cert, nil
}

// Decode reads JSON that says one thing to everybody: exactly the bytes that v,
// once read, is written as. Another spelling, a name that is there twice or one
// that v does not know are errors.
func Decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	again, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return errors.New("it can be read in more than one way")
	}
	return nil
}

// Fingerprint returns the SHA-256 of a certificate's DER form in lower-case hex.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
