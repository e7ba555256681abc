package ca

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// Signing requests that OpenSSL made with digests Go does not make any more.
const (
	sha1CSR = "sha1.csr"
	md5CSR  = "md5.csr"
)

func readPEM(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func csrPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func FuzzParseCSR(f *testing.F) {
	for _, kind := range []KeyKind{P256, P384, Ed25519, RSA2048} {
		raw := device1(f, kind).CSR.Raw
		f.Add(raw)
		f.Add(csrPEM(raw))
	}
	f.Add(readPEM(f, sha1CSR))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----"))
	f.Fuzz(func(t *testing.T, data []byte) {
		csr, err := ParseCSR(data)
		if (csr == nil) == (err == nil) {
			t.Fatal("neither a request nor an error, or both")
		}
		if err != nil {
			return
		}
		// What is accepted is accepted again, whatever was made of its fields.
		key := csr.PublicKey
		csr.PublicKey, csr.Signature = nil, nil
		own, err := ownCSR(csr)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(own.PublicKey, key) {
			t.Fatal("read again it has another key")
		}
	})
}
