package bundle

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"
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

// head is the header of the JWS (RFC 7515 §4).
type head struct {
	Algorithm string   `json:"alg"`
	KeyID     string   `json:"kid,omitempty"`
	Type      string   `json:"typ,omitempty"`
	Chain     [][]byte `json:"x5c,omitempty"` // §4.1.6: standard base64 of DER, as Go writes []byte
}

// Sign signs every file of the bundle and its manifest, in place of any former
// signature.
func (b *Bundle) Sign(s Signer) error {
	alg, err := algorithmOf(s.Key.Public())
	if err != nil {
		return fmt.Errorf("sign bundle: %w", err)
	}
	h := head{Algorithm: alg.name, KeyID: s.KeyID, Type: "JWT"}
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
	token, err := compact(h, c, s.Key, alg)
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

// compact makes the JWS in its compact form (RFC 7515 §7.1).
func compact(h head, c claims, key crypto.Signer, alg algorithm) (string, error) {
	hj, err := json.Marshal(h)
	if err != nil {
		return "", err
	}
	cj, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString(hj) + "." + enc.EncodeToString(cj)
	sig, err := alg.sign(key, []byte(text))
	if err != nil {
		return "", err
	}
	return text + "." + enc.EncodeToString(sig), nil
}

// An algorithm is one of RFC 7518 §3.1 or RFC 8037.
type algorithm struct {
	name string
	hash crypto.Hash // 0 if the key hashes
	size int         // of each half of an ECDSA signature
}

// algorithmOf returns the algorithm that goes with a key. There is one for each
// kind of key, so that no signature can choose.
func algorithmOf(pub crypto.PublicKey) (algorithm, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return algorithm{"ES256", crypto.SHA256, 32}, nil
		case elliptic.P384():
			return algorithm{"ES384", crypto.SHA384, 48}, nil
		case elliptic.P521():
			return algorithm{"ES512", crypto.SHA512, 66}, nil
		}
	case *rsa.PublicKey:
		if k.Size() < 256 {
			return algorithm{}, errors.New("an RSA key needs at least 2048 bits")
		}
		return algorithm{name: "RS256", hash: crypto.SHA256}, nil
	case ed25519.PublicKey:
		return algorithm{name: "EdDSA"}, nil
	}
	return algorithm{}, fmt.Errorf("a key of type %T can not sign bundles; ECDSA, RSA and Ed25519 can", pub)
}

func (a algorithm) sign(key crypto.Signer, text []byte) ([]byte, error) {
	digest := text
	if a.hash != 0 {
		h := a.hash.New()
		h.Write(text)
		digest = h.Sum(nil)
	}
	sig, err := key.Sign(rand.Reader, digest, a.hash)
	if err != nil || a.size == 0 {
		return sig, err
	}
	// RFC 7518 §3.4: the two numbers at their full length.
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(sig, &rs); err != nil || len(rest) > 0 {
		return nil, errors.New("the key made no ECDSA signature")
	}
	out := make([]byte, 2*a.size)
	rs.R.FillBytes(out[:a.size])
	rs.S.FillBytes(out[a.size:])
	return out, nil
}

// Fingerprint returns the SHA-256 of a certificate's DER form in lower-case hex.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// publicPEM returns a public key in the form OPA reads.
func publicPEM(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}
