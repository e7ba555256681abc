//go:build cgo && pkcs11

package ca

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testPIN = "24680135"

// softHSM makes a token of SoftHSM's of the test's own and returns its URI.
func softHSM(t *testing.T) string {
	t.Helper()
	util, err := exec.LookPath("softhsm2-util")
	if err != nil {
		if os.Getenv("ANTEROOM_REQUIRE_PEERS") == "1" {
			t.Fatal("the peer program softhsm2-util is not installed")
		}
		t.Skip("the peer program softhsm2-util is not installed")
	}
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.CommandContext(t.Context(), util, "--init-token", "--free", "--label", "anteroom", "--so-pin", "135792468", "--pin", testPIN).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, module := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(module); err == nil {
			return "pkcs11:module-path=" + module + ";token=anteroom"
		}
	}
	t.Fatal("softhsm2-util is installed, and its module is not found")
	return ""
}

// TestTheIntermediatesKeyIsInAnHSM: made there, and never anywhere else; the former
// one, in its file, goes on being good for its list.
func TestTheIntermediatesKeyIsInAnHSM(t *testing.T) {
	uri, dir := softHSM(t), newCA(t)
	with := func(c *Config) { c.KMS, c.PIN = uri, []byte(testPIN) }
	a := openCA(t, dir, with)
	first := a.Intermediates()[0]
	next := rotated(t, a, dir)
	for range 2 { // as it is, and after a restart
		iss, err := a.Issue(t.Context(), device1(t, P256))
		if err != nil || iss.Leaf.CheckSignatureFrom(next) != nil {
			t.Fatalf("the module does not sign: %v", err)
		}
		if err := a.Revoke(t.Context(), iss.Leaf.SerialNumber.String(), "superseded"); err != nil {
			t.Fatal(err)
		}
		for _, c := range a.Intermediates() {
			if _, err := a.RevocationList(t.Context(), c, time.Hour); err != nil {
				t.Error(err)
			}
			if r, err := a.NewResponder(t.Context(), c, time.Hour); err != nil || r.Certificate.CheckSignatureFrom(c) != nil {
				t.Errorf("responder: %v", err)
			}
		}
		if got := wrongs(t, a); got != "" {
			t.Error(got)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		a = openCA(t, dir, with)
	}
	if !a.Original().Equal(first) {
		t.Error("the one that init made is forgotten")
	}
	keys, err := filepath.Glob(filepath.Join(dir, "intermediate*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		keys[i] = filepath.Base(keys[i])
	}
	if got := strings.Join(keys, " "); got != kmsFileOf(next)+" intermediate.crt intermediate.key" {
		t.Errorf("there are the files %s", got)
	}
	if b := mustRead(t, filepath.Join(dir, kmsFileOf(next))); strings.Contains(string(b), testPIN) || !strings.HasPrefix(string(b), "pkcs11:id=") {
		t.Errorf("the file says %q", b)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Config){
		"a wrong PIN": func(c *Config) { c.KMS, c.PIN = uri, []byte("1111") },
		"no module":   func(*Config) {},
		"another token": func(c *Config) {
			c.KMS, c.PIN = strings.Replace(uri, "token=anteroom", "token=other", 1), []byte(testPIN)
		},
		"a module not here": func(c *Config) { c.KMS, c.PIN = "pkcs11:module-path=/nowhere.so;token=anteroom", []byte(testPIN) },
	} {
		cfg := Config{Dir: dir, TrustDomain: testDomain, Passphrase: testPassphrase}
		change(&cfg)
		if a, err := Open(t.Context(), cfg); err == nil {
			a.Close()
			t.Errorf("%s: opened", what)
		} else if strings.Contains(err.Error(), testPIN) {
			t.Errorf("%s: the error has the PIN: %v", what, err)
		}
	}
}
