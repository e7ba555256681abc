package acme

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
)

// algorithms are those that account keys sign with, one for each kind of key
// (RFC 8555 §6.2).
var algorithms = []string{"ES256", "ES384", "ES512", "RS256", "EdDSA"}

// mostMembers bounds the members of a JSON object, maxDepth how deep it goes.
const (
	mostMembers = 32
	maxDepth    = 8
)

// object reads one JSON object and nothing behind it. A name that is there twice,
// which two readers would take differently, is an error, in what is inside too.
func object(data []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := once(d, 0, true); err != nil {
		return nil, errObject // what the decoder says would quote the client
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errObject
	}
	var out map[string]json.RawMessage
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, errObject
	}
	return out, nil
}

var errObject = fmt.Errorf("it is no JSON object with each name once, at most %d of them and %d deep", mostMembers, maxDepth)

// once walks over a value and finds names that are there twice.
func once(d *json.Decoder, depth int, wantObject bool) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	delim, ok := t.(json.Delim)
	if wantObject && delim != '{' {
		return errObject
	}
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return errObject
	}
	seen := map[string]bool{}
	for d.More() {
		if delim == '{' {
			k, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := k.(string)
			if seen[name] || len(seen) == mostMembers {
				return errObject
			}
			seen[name] = true
		}
		if err := once(d, depth+1, false); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// text reads a member that is a string; an absent one is "".
func text(o map[string]json.RawMessage, name string) (string, error) {
	raw, ok := o[name]
	if !ok {
		return "", nil
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", fmt.Errorf("%s is no text", name)
	}
	return *s, nil
}

// decode64 reads base64url in its one spelling (RFC 8555 §6.1).
func decode64(s string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(s) }

// A jwk is a public key that was read from its JSON form (RFC 7517).
type jwk struct {
	key   crypto.PublicKey
	canon []byte // RFC 7638 §3: the form whose hash names the key
}

// thumbprint names the key.
func (k *jwk) thumbprint() string {
	sum := sha256.Sum256(k.canon)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// authorization is the answer to a challenge (RFC 8555 §8.1).
func (k *jwk) authorization(token string) string { return token + "." + k.thumbprint() }

var errKey = errors.New("it is not a public key of RSA with 2048 to 8192 bits and the exponent 65537, ECDSA or Ed25519")

// readJWK reads a public key. Members beside those of the key, such as its use,
// count for nothing.
func readJWK(data []byte) (*jwk, error) {
	o, err := object(data)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for _, name := range []string{"kty", "crv", "x", "y", "n", "e"} {
		if m[name], err = text(o, name); err != nil {
			return nil, err
		}
	}
	if _, private := o["d"]; private {
		return nil, errors.New("it holds a private key, which is nobody's but its owner's")
	}
	switch m["kty"] {
	case "EC":
		return readEC(m)
	case "RSA":
		return readRSA(m)
	case "OKP":
		x, err := decode64(m["x"])
		if err != nil || m["crv"] != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return nil, errKey
		}
		return &jwk{ed25519.PublicKey(x), fmt.Appendf(nil, `{"crv":"Ed25519","kty":"OKP","x":%q}`, m["x"])}, nil
	}
	return nil, errKey
}

func readEC(m map[string]string) (*jwk, error) {
	curve, size := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[m["crv"]], 0
	if curve == nil {
		return nil, errKey
	}
	size = (curve.Params().BitSize + 7) / 8
	x, errX := decode64(m["x"])
	y, errY := decode64(m["y"])
	if errX != nil || errY != nil || len(x) != size || len(y) != size {
		return nil, errKey
	}
	// The point has to be on the curve.
	key, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, errKey
	}
	return &jwk{key, fmt.Appendf(nil, `{"crv":%q,"kty":"EC","x":%q,"y":%q}`, m["crv"], m["x"], m["y"])}, nil
}

// exponent is the one public exponent of RSA, 65537, as a JWK has it.
const exponent = "AQAB"

func readRSA(m map[string]string) (*jwk, error) {
	raw, err := decode64(m["n"])
	if err != nil || len(raw) == 0 || raw[0] == 0 || m["e"] != exponent {
		return nil, errKey
	}
	n := new(big.Int).SetBytes(raw)
	if n.BitLen() < ca.MinRSA || n.BitLen() > ca.MaxRSA || n.Bit(0) == 0 {
		return nil, errKey
	}
	return &jwk{&rsa.PublicKey{N: n, E: 65537}, fmt.Appendf(nil, `{"e":%q,"kty":"RSA","n":%q}`, exponent, m["n"])}, nil
}
