package jws

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// An algorithm is one of RFC 7518 §3.1 or RFC 8037.
type algorithm struct {
	name string
	hash crypto.Hash // 0 if the key hashes
	size int         // of each half of an ECDSA signature
}

// minRSA is the shortest RSA modulus, in bytes, whose signatures count.
const minRSA = 256

// Algorithm returns the name of the algorithm that goes with a key.
func Algorithm(pub crypto.PublicKey) (string, error) {
	a, err := algorithmOf(pub)
	return a.name, err
}

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
		if k.Size() < minRSA {
			return algorithm{}, errors.New("an RSA key needs at least 2048 bits")
		}
		return algorithm{name: "RS256", hash: crypto.SHA256}, nil
	case ed25519.PublicKey:
		return algorithm{name: "EdDSA"}, nil
	}
	return algorithm{}, fmt.Errorf("a key of type %T can not sign; ECDSA, RSA and Ed25519 can", pub)
}

func (a algorithm) digest(text []byte) []byte {
	if a.hash == 0 {
		return text
	}
	h := a.hash.New()
	h.Write(text)
	return h.Sum(nil)
}

func (a algorithm) sign(key crypto.Signer, text []byte) ([]byte, error) {
	sig, err := key.Sign(rand.Reader, a.digest(text), a.hash)
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

func (a algorithm) verify(pub crypto.PublicKey, text, sig []byte) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if len(sig) != 2*a.size {
			return false
		}
		r, s := new(big.Int).SetBytes(sig[:a.size]), new(big.Int).SetBytes(sig[a.size:])
		return ecdsa.Verify(k, a.digest(text), r, s)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, a.hash, a.digest(text), sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, text, sig)
	}
	return false
}

// Verify reports whether a signature over a text was made with a key. The
// algorithm has to be the one that goes with the key.
func Verify(pub crypto.PublicKey, algorithm string, text, sig []byte) error {
	alg, err := algorithmOf(pub)
	if err != nil {
		return err
	}
	if algorithm != alg.name {
		return fmt.Errorf("it is made with algorithm %.20q, and the key's is %s", algorithm, alg.name)
	}
	if !alg.verify(pub, text, sig) {
		return errors.New("it does not hold")
	}
	return nil
}
