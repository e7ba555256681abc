package ca

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.step.sm/crypto/pemutil"
)

const (
	testDomain = "hospital.example"
	testOrg    = "Example Hospital"
)

var testPassphrase = []byte("correct horse battery")

// made is a directory with a CA that tests copy: as Init made it in "ca", and
// in "quick" with its intermediate's key encrypted anew in one round. The
// 600,000 rounds that protect a key take seconds under the race detector, and
// most tests open a CA.
var made = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "anteroom-ca-test-")
	if err != nil {
		return "", err
	}
	madeIn = dir
	ca, quick := filepath.Join(dir, "ca"), filepath.Join(dir, "quick")
	if _, err = Init(context.Background(), initConfig(ca)); err != nil {
		return "", err
	}
	if err := os.CopyFS(quick, os.DirFS(ca)); err != nil {
		return "", err
	}
	return dir, errors.Join(reencrypt(filepath.Join(quick, intermediateKeyFile)), reencrypt(filepath.Join(quick, rootKeyFile)))
})

// madeIn is made's directory, or "" if no test of this process asked for it, as in
// the processes of a fuzz target.
var madeIn string

// newCA returns the directory of a CA of the test's own.
func newCA(t testing.TB) string {
	t.Helper()
	from, err := made()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "ca")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(from, "quick"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// reencrypt encrypts a key file again, with one round of PBKDF2 (RFC 8018).
func reencrypt(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	plain, err := pemutil.DecryptPKCS8PrivateKey(block.Bytes, testPassphrase)
	if err != nil {
		return err
	}
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	key, err := pbkdf2.Key(sha256.New, string(testPassphrase), salt, 1, 32)
	if err != nil {
		return err
	}
	aesBlock, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	plain = append(plain, bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(aesBlock, iv).CryptBlocks(plain, plain)

	type algorithm struct {
		ID     asn1.ObjectIdentifier
		Params any
	}
	type kdf struct {
		Salt   []byte
		Rounds int
		PRF    algorithm
	}
	type pbes2 struct{ KDF, Cipher algorithm }
	der, err := asn1.Marshal(struct {
		Algorithm algorithm
		Data      []byte
	}{
		algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}, pbes2{
			algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}, kdf{
				salt, 1, algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}, asn1.NullRawValue},
			}},
			algorithm{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, iv},
		}},
		plain,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}), 0o600)
}

func openCA(t testing.TB, dir string, change ...func(*Config)) *Authority {
	t.Helper()
	cfg := Config{Dir: dir, TrustDomain: testDomain, Passphrase: testPassphrase, Backdate: 24 * time.Hour}
	for _, f := range change {
		f(&cfg)
	}
	a, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// openssl runs openssl and returns what it printed. Without openssl the test
// is skipped, or fails if peers are required.
func openssl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("ANTEROOM_REQUIRE_PEERS") == "1" {
			t.Fatal("the peer program openssl is not installed")
		}
		t.Skip("the peer program openssl is not installed")
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	return string(out), err
}

func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func device1(t testing.TB, kind KeyKind) Request {
	t.Helper()
	_, csr, err := NewKeyAndCSR(kind, "pump-1")
	if err != nil {
		t.Fatal(err)
	}
	return Request{Profile: Device, ID: "pump-1", CSR: csr, TTL: 24 * time.Hour}
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func overwrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
