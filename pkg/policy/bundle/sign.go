package bundle

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/anteroom-iomt/anteroom/pkg/jws"
)

// A Signer is what [Bundle.Sign] signs with.
type Signer struct {
	Key crypto.Signer
	// Certificate, if it is there, is carried in the signature, and its
	// fingerprint is the key id. Its key must be Key's.
	Certificate *x509.Certificate
	KeyID       string // without a certificate
	// Scope says what the signature is for; a verifier that expects another
	// refuses it.
	Scope  string
	Issuer string
	// Now becomes the time of issue.
	Now time.Time
}

// claims is the payload of the JWT (OPA's "Signature Format").
type claims struct {
	Files    []opa.FileInfo `json:"files"`
	IssuedAt int64          `json:"iat,omitempty"`
	Issuer   string         `json:"iss,omitempty"`
	Scope    string         `json:"scope,omitempty"`
}

// Sign signs every file of the bundle and its manifest, in place of any former
// signature.
func (b *Bundle) Sign(s Signer) error {
	h := jws.Header{KeyID: s.KeyID, Type: "JWT"}
	if s.Certificate != nil {
		if pub, ok := s.Certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(s.Key.Public()) {
			return errors.New("sign bundle: the key is not the certificate's")
		}
		h.KeyID, h.Chain = Fingerprint(s.Certificate), [][]byte{s.Certificate.Raw}
	}
	c := claims{Issuer: s.Issuer, Scope: s.Scope, Files: []opa.FileInfo{}}
	if !s.Now.IsZero() {
		c.IssuedAt = s.Now.Unix()
	}
	hasher, err := opa.NewSignatureHasher(opa.SHA256)
	if err != nil {
		return err
	}
	for _, f := range b.covered() {
		var value any = f.Body
		if opa.IsStructuredDoc(f.Name) {
			if err := util.Unmarshal(f.Body, &value); err != nil {
				return fmt.Errorf("sign bundle: %s: %w", f.Name, err)
			}
		}
		sum, err := hasher.HashFile(value)
		if err != nil {
			return fmt.Errorf("sign bundle: %s: %w", f.Name, err)
		}
		c.Files = append(c.Files, opa.NewFile(f.Name, hex.EncodeToString(sum), string(opa.SHA256)))
	}
	token, err := jws.Compact(h, c, s.Key)
	if err != nil {
		return fmt.Errorf("sign bundle: %w", err)
	}
	b.signatures, err = json.Marshal(opa.SignaturesConfig{Signatures: []string{token}})
	return err
}

// covered returns the files a signature is about.
func (b *Bundle) covered() []File {
	out := b.Files[:len(b.Files):len(b.Files)]
	if b.manifest != nil {
		out = append(out, File{manifestName, b.manifest})
	}
	return out
}

// Fingerprint returns the SHA-256 of a certificate's DER form in lower-case hex.
func Fingerprint(c *x509.Certificate) string { return jws.Fingerprint(c) }

// publicPEM returns a public key in the form OPA reads.
func publicPEM(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}
