package ca

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

func bundle(t testing.TB, a *Authority, kind KeyKind) *Bundle {
	t.Helper()
	key, csr, err := NewKeyAndCSR(kind, "pump-1")
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.Issue(t.Context(), Request{Profile: Device, ID: "pump-1", CSR: csr, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return &Bundle{Name: "pump-1", Key: key, Chain: issued.Chain, Roots: a.Roots()}
}

func TestWriteFiles(t *testing.T) {
	a := openCA(t, newCA(t))
	for _, kind := range KeyKinds() {
		for _, form := range []P12Form{P12Modern, P12Legacy} {
			if form == P12Legacy && kind == Ed25519 {
				continue // what reads the old form knows no Ed25519
			}
			t.Run(fmt.Sprint(kind, "/", form), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "out")
				b := bundle(t, a, kind)
				paths, err := b.WriteFiles(dir, &P12Options{Password: "import me", Form: form})
				if err != nil {
					t.Fatal(err)
				}
				checkFiles(t, b, dir, paths)
			})
		}
	}
}

func checkFiles(t *testing.T, b *Bundle, dir string, paths []string) {
	t.Helper()
	if len(paths) != 4 {
		t.Fatal(paths)
	}
	for _, name := range []string{"pump-1.key", "pump-1.p12"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o600 {
			t.Error(info.Mode(), err)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "pump-1.crt"), filepath.Join(dir, "pump-1.key"))
	if err != nil || len(pair.Certificate) != 2 {
		t.Fatal(err)
	}
	p12 := filepath.Join(dir, "pump-1.p12")
	data, err := os.ReadFile(p12)
	if err != nil {
		t.Fatal(err)
	}
	_, leaf, others, err := pkcs12.DecodeChain(data, "import me")
	if err != nil || !leaf.Equal(b.Chain[0]) || len(others) != 2 {
		t.Error(err, len(others))
	}
	text, err := openssl(t, "pkcs12", "-in", p12, "-passin", "pass:import me", "-nodes", "-info")
	if err != nil {
		t.Fatal(err, text)
	}
	if n := strings.Count(text, "BEGIN CERTIFICATE"); n != 3 || !strings.Contains(text, "BEGIN PRIVATE KEY") {
		t.Errorf("openssl finds %d certificates", n)
	}
	if _, err := openssl(t, "pkcs12", "-in", p12, "-passin", "pass:wrong", "-nodes"); err == nil {
		t.Error("openssl opens it with another password")
	}
	if out, err := openssl(t, "verify", "-CAfile", filepath.Join(dir, "ca.crt"),
		"-untrusted", filepath.Join(dir, "pump-1.crt"), filepath.Join(dir, "pump-1.crt")); err != nil {
		t.Error(out)
	}
}

func TestWriteFilesOverwritesNothing(t *testing.T) {
	a := openCA(t, newCA(t))
	b, dir := bundle(t, a, P256), t.TempDir()
	taken := filepath.Join(dir, "pump-1.crt")
	if err := os.WriteFile(taken, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if paths, err := b.WriteFiles(dir, nil); err == nil {
		t.Fatal(paths)
	}
	if all := snapshot(t, dir); len(all) != 2 || all[1] != taken+" precious" {
		t.Errorf("%q", all)
	}
	if err := os.Remove(taken); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WriteFiles(dir, nil); err != nil {
		t.Fatal(err)
	}
	// A second device of the same CA, whose key stayed in the device.
	second := &Bundle{Name: "pump-2", Chain: b.Chain, Roots: b.Roots}
	if paths, err := second.WriteFiles(dir, nil); err != nil || len(paths) != 2 {
		t.Error(paths, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("another CA"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := &Bundle{Name: "pump-3", Chain: b.Chain, Roots: b.Roots}
	if _, err := third.WriteFiles(dir, nil); err == nil {
		t.Error("another CA's roots are there")
	}
	if _, err := os.Stat(filepath.Join(dir, "pump-3.crt")); err == nil {
		t.Error("half a bundle was left")
	}
}

func TestBundleRefuses(t *testing.T) {
	a := openCA(t, newCA(t))
	b := bundle(t, a, P256)
	for name, change := range map[string]func(*Bundle) (string, P12Form){
		"no password": func(*Bundle) (string, P12Form) { return "", P12Modern },
		"no key":      func(b *Bundle) (string, P12Form) { b.Key = nil; return "x", P12Modern },
		"no chain":    func(b *Bundle) (string, P12Form) { b.Chain = nil; return "x", P12Modern },
		"odd form":    func(*Bundle) (string, P12Form) { return "x", "odd" },
	} {
		c := *b
		password, form := change(&c)
		if _, err := c.PKCS12(password, form); err == nil {
			t.Error(name)
		}
	}
	c := *b
	c.Name = "../escape"
	if _, err := c.WriteFiles(t.TempDir(), nil); err == nil {
		t.Error("a name left its directory")
	}
	if s := fmt.Sprintf("%v %+v %s", b, b, b); strings.Contains(s, "Curve") || !strings.Contains(s, "bundle of pump-1") {
		t.Errorf("prints its key: %s", s)
	}
}

func TestParseKeyKind(t *testing.T) {
	for name, want := range map[string]KeyKind{"": P256, "p256": P256, "RSA2048": RSA2048, "ed25519": Ed25519} {
		if got, err := ParseKeyKind(name); err != nil || got != want {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"rsa1024", "dsa", " p256"} {
		if _, err := ParseKeyKind(name); err == nil {
			t.Errorf("%q taken", name)
		}
	}
	if _, err := GenerateKey("dsa"); err == nil {
		t.Error("made a DSA key")
	}
}
