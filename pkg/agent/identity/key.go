package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"

	"github.com/anteroom-iomt/anteroom/pkg/agent/tpm"
)

// plainKey is the type in PEM of a key that is in the file itself.
const plainKey = "PRIVATE KEY"

// A pair is a private key with what rests of it in a file: the key itself, or what
// its TPM has it back from.
type pair struct {
	crypto.Signer
	pem []byte
}

// makeKey makes a key where the store has its keys.
func (s *Store) makeKey() (*pair, error) {
	if s.tpm != nil {
		key, err := s.tpm.New()
		if err != nil {
			return nil, err
		}
		text, err := key.PEM()
		return &pair{key, text}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return &pair{key, pem.EncodeToMemory(&pem.Block{Type: plainKey, Bytes: der})}, err
}

// openKey returns the key that a block of PEM stands for.
func (s *Store) openKey(block *pem.Block) (crypto.Signer, error) {
	if block.Type == tpm.BlockType {
		if s.tpm == nil {
			return nil, errors.New("the key is in a TPM, and the configuration's key names none: write key: tpm:/dev/tpmrm0")
		}
		return s.tpm.Open(block)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key is none to sign with")
	}
	return key, nil
}

// openPair reads a key and the certificates for it, in one file.
func (s *Store) openPair(data []byte) (out tls.Certificate, err error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != plainKey && block.Type != tpm.BlockType {
		return out, errors.New("the file does not begin with a key")
	}
	key, err := s.openKey(block)
	if err != nil {
		return out, err
	}
	certs, err := certificates(rest)
	if err != nil {
		return out, err
	}
	for _, c := range certs {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	out.Leaf, out.PrivateKey = certs[0], key
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(out.Leaf.PublicKey) {
		return out, errors.New("the certificate is for another key")
	}
	if block.Type == tpm.BlockType {
		// It was made for this and nothing else; what TLS 1.2 has beside it is not offered.
		out.SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}
	}
	return out, nil
}

// key returns the key that a certificate is asked for, made and on disk before
// anybody is told its public half.
func (s *Store) key(name string) (*pair, error) {
	data, err := readFile(s.path(name), true)
	if errors.Is(err, fs.ErrNotExist) {
		return s.newKey(name)
	}
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	// One that is somewhere else than keys are now is from before that was changed.
	block, _ := pem.Decode(data)
	if block == nil || (block.Type == tpm.BlockType) != (s.tpm != nil) {
		return s.newKey(name)
	}
	key, err := s.openKey(block)
	if err != nil {
		return s.newKey(name)
	}
	return &pair{key, data}, nil
}

func (s *Store) newKey(name string) (*pair, error) {
	key, err := s.makeKey()
	if err != nil {
		return nil, err
	}
	return key, writeFile(s.path(name), key.pem)
}

// InTPM reports whether the device's key is in a TPM.
func (i *Identity) InTPM() bool {
	_, ok := i.Pair.PrivateKey.(*tpm.Key)
	return ok
}

// with returns the key at rest and certificates for it, in one file.
func (p *pair) with(certs []byte) []byte {
	return append(append(bytes.TrimRight(bytes.Clone(p.pem), "\n"), '\n'), certs...)
}
