package ca

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const (
	testDomain = "hospital.example"
	testOrg    = "Example Hospital"
)

var testPassphrase = []byte("correct horse battery")

// made is a CA that tests copy: making one takes half a second, most of it in
// the key derivation that protects its keys.
var made = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "anteroom-ca-test-")
	if err != nil {
		return "", err
	}
	_, err = Init(context.Background(), InitConfig{
		Dir: filepath.Join(dir, "ca"), TrustDomain: testDomain, Organisation: testOrg, Passphrase: testPassphrase,
	})
	return dir, err
})

// newCA returns the directory of a CA of the test's own.
func newCA(t testing.TB) string {
	t.Helper()
	from, err := made()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "ca")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(from, "ca"))); err != nil {
		t.Fatal(err)
	}
	return dir
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
