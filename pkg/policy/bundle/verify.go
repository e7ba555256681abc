package bundle

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	opa "github.com/open-policy-agent/opa/v1/bundle"

	"github.com/anteroom-iomt/anteroom/pkg/jws"
)

// ErrSignature is wrapped by every error of a signature that is missing or does
// not hold.
var ErrSignature = errors.New("bundle signature")

// A Key is what signatures are verified with.
type Key struct {
	Public crypto.PublicKey
	// ID must be the signature's key id; empty takes any.
	ID string
	// Scope must be the signature's.
	Scope string
}

// A Signature is what a verified signature says beside that it holds.
type Signature struct {
	KeyID    string
	Issuer   string
	IssuedAt time.Time // zero if it does not say
}

// ParseKey reads a PEM public key or certificate.
func ParseKey(data []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block with a public key")
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("more than one PEM block; one key is needed")
	}
	var pub crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		pub, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		pub, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			pub = c.PublicKey
		}
	default:
		return nil, fmt.Errorf("the PEM block is a %s, not a public key", block.Type)
	}
	if err != nil {
		return nil, err
	}
	_, err = jws.Algorithm(pub)
	return pub, err
}

// Verify checks that the signature holds, was made with the key and covers every
// file and nothing else.
//
// As OPA defines it, what is signed of data.json, data.yaml and the manifest is
// their value and not their spelling.
func (b *Bundle) Verify(k Key) (*Signature, error) {
	token, err := b.token()
	if err != nil {
		return nil, err
	}
	alg, err := jws.Algorithm(k.Public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	h, err := headOf(token)
	if err != nil {
		return nil, err
	}
	if h.Algorithm != alg {
		return nil, fmt.Errorf("%w: made with algorithm %q, and the key's is %s", ErrSignature, h.Algorithm, alg)
	}
	text, err := publicPEM(k.Public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	const id = "key"
	files, err := opa.VerifyBundleSignature(opa.SignaturesConfig{Signatures: []string{token}},
		opa.NewVerificationConfig(map[string]*opa.KeyConfig{id: {Key: text, Algorithm: alg}}, id, k.Scope, nil))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	var c struct {
		claims
		KeyID string `json:"keyid"`
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	out := &Signature{KeyID: h.KeyID, Issuer: c.Issuer}
	if out.KeyID == "" {
		out.KeyID = c.KeyID
	}
	if k.ID != "" && out.KeyID != k.ID {
		return nil, fmt.Errorf("%w: made with the key %q, not with %q", ErrSignature, out.KeyID, k.ID)
	}
	if c.IssuedAt != 0 {
		out.IssuedAt = time.Unix(c.IssuedAt, 0).UTC()
	}
	return out, b.verifyFiles(files)
}

func (b *Bundle) verifyFiles(files map[string]opa.FileInfo) error {
	for _, f := range b.covered() {
		// For data whose hash can be found twice the signature says nothing.
		if info, ok := files[f.Name]; ok {
			switch opa.HashingAlgorithm(info.Algorithm) {
			case opa.SHA256, opa.SHA384, opa.SHA512, opa.SHA512256:
			default:
				return fmt.Errorf("%w: %s is hashed with %q; SHA-256 or better is needed", ErrSignature, f.Name, info.Algorithm)
			}
		}
		if opa.IsStructuredDoc(f.Name) && strings.HasSuffix(f.Name, ".json") {
			if err := unique(f.Body); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
		}
		if err := opa.VerifyBundleFile(f.Name, *bytes.NewBuffer(f.Body), files); err != nil {
			return fmt.Errorf("%w: %w", ErrSignature, err)
		}
	}
	if len(files) > 0 {
		return fmt.Errorf("%w: covers files that are not there: %s", ErrSignature, strings.Join(slices.Sorted(maps.Keys(files)), ", "))
	}
	return nil
}

// Certificate returns the certificate that the signature carries. That the
// signature holds, and whose certificate it is, are the caller's to check.
func (b *Bundle) Certificate() (*x509.Certificate, error) {
	token, err := b.token()
	if err != nil {
		return nil, err
	}
	h, err := headOf(token)
	if err != nil {
		return nil, err
	}
	if len(h.Chain) != 1 {
		return nil, fmt.Errorf("%w: carries no certificate", ErrSignature)
	}
	c, err := x509.ParseCertificate(h.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("%w: its certificate: %w", ErrSignature, err)
	}
	if h.KeyID != Fingerprint(c) {
		return nil, fmt.Errorf("%w: its key id is not the fingerprint of its certificate", ErrSignature)
	}
	return c, nil
}

// token returns the one JWT.
func (b *Bundle) token() (string, error) {
	if b.signatures == nil {
		return "", fmt.Errorf("%w: there is none (%s)", ErrSignature, signaturesName)
	}
	if err := unique(b.signatures); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrSignature, signaturesName, err)
	}
	var sc opa.SignaturesConfig
	if err := json.Unmarshal(b.signatures, &sc); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrSignature, signaturesName, err)
	}
	// OPA writes the name of its own way of signing, or nothing.
	if sc.Plugin != "" && sc.Plugin != "_default" {
		return "", fmt.Errorf("%w: %s: the plugin %q is not known here", ErrSignature, signaturesName, sc.Plugin)
	}
	if len(sc.Signatures) != 1 {
		return "", fmt.Errorf("%w: %s: exactly one is needed, not %d", ErrSignature, signaturesName, len(sc.Signatures))
	}
	return sc.Signatures[0], nil
}

func headOf(token string) (*jws.Header, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%w: is not a JWS in compact form", ErrSignature)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrSignature, err)
	}
	if err := unique(raw); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrSignature, err)
	}
	h := &jws.Header{}
	if err := json.Unmarshal(raw, h); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrSignature, err)
	}
	return h, nil
}
