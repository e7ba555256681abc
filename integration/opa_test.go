package integration

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
	"github.com/anteroom-iomt/anteroom/policies"
)

// opa runs the stock OPA program and returns what it printed.
func opa(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := tryOPA(t, dir, args...)
	if err != nil {
		t.Fatalf("opa %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryOPA(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("opa")
	if err != nil {
		if os.Getenv("ANTEROOM_REQUIRE_PEERS") != "" {
			t.Fatal("the stock OPA program is missing: go install github.com/open-policy-agent/opa@ the version in go.mod")
		}
		t.Skip("the stock OPA program is missing: go install github.com/open-policy-agent/opa@ the version in go.mod")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// authorKeys writes a key pair as OPA's commands take it.
func authorKeys(t *testing.T) (dir string, public crypto.PublicKey) {
	t.Helper()
	dir = t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"author.key": {Type: "EC PRIVATE KEY", Bytes: private}, "author.pub": {Type: "PUBLIC KEY", Bytes: pub}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, key.Public()
}

// shipped copies the shipped policies, which stock OPA must not find among Go
// files.
func shipped(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "policies")
	if err := os.CopyFS(dir, policies.FS); err != nil {
		t.Fatal(err)
	}
	return dir
}

func anteroom(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), rig.Binary(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("anteroom %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// What `opa build` makes of a set is loaded here, and its signature verified.
func TestWhatStockOPABuildsLoadsHere(t *testing.T) {
	keys, public := authorKeys(t)
	dir := shipped(t)
	opa(t, keys, "build", "--ignore", "schemas", "-o", "plain.tar.gz", dir)
	if out := anteroom(t, "policy", "check", filepath.Join(keys, "plain.tar.gz")); !strings.Contains(out, "can be put in force") {
		t.Errorf("policy check says %s", out)
	}
	// As a bundle: only data.json is data to OPA.
	bundled := filepath.Join(t.TempDir(), "set")
	if err := os.CopyFS(bundled, os.DirFS(filepath.Join(dir, "authz"))); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"data.json": `{"classes": {"pump": {}}}`, "mine.rego": "package anteroom.lib.mine\n\nx := data.classes\n"} {
		if err := os.WriteFile(filepath.Join(bundled, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(bundled, "lib"), os.DirFS(filepath.Join(dir, "lib"))); err != nil {
		t.Fatal(err)
	}
	// The tests are of the whole set.
	tests, err := filepath.Glob(filepath.Join(bundled, "*", "*_test.rego"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(bundled, "*_test.rego"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(tests, more...) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	opa(t, keys, "build", "-b", bundled, "--revision", "42", "--signing-key", "author.key", "--signing-alg", "ES256", "-o", "signed.tar.gz")
	file, err := os.Open(filepath.Join(keys, "signed.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b, err := bundle.Read(file, bundle.Limits{Bytes: 1 << 20, Files: 100})
	if err != nil {
		t.Fatal(err)
	}
	if b.Manifest.Revision != "42" {
		t.Errorf("revision %q", b.Manifest.Revision)
	}
	if _, err := b.Verify(bundle.Key{Public: public}); err != nil {
		t.Error(err)
	}
	if out := anteroom(t, "policy", "check", filepath.Join(keys, "signed.tar.gz")); !strings.Contains(out, "can be put in force") {
		t.Errorf("policy check says %s", out)
	}
	opa(t, keys, "build", "-t", "wasm", "-e", "anteroom/authz/decision", "--ignore", "schemas", "-o", "wasm.tar.gz", dir)
	out, err := exec.CommandContext(t.Context(), rig.Binary(t), "policy", "check", filepath.Join(keys, "wasm.tar.gz")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "build it with -t rego") {
		t.Errorf("a bundle of WebAssembly: %v: %s", err, out)
	}
}

// What `anteroom policy build` writes is loaded by stock OPA, which decides as
// the gateway does and verifies the signature.
func TestWhatIsBuiltHereLoadsInStockOPA(t *testing.T) {
	keys, _ := authorKeys(t)
	dir := shipped(t)
	anteroom(t, "policy", "build", dir, "-o", filepath.Join(keys, "ours.tar.gz"), "--key", filepath.Join(keys, "author.key"), "--key-id", "author")
	const input = `{"device": {"id": "pump-1", "class": "infusion-pump", "status": "active"}}`
	if err := os.WriteFile(filepath.Join(keys, "input.json"), []byte(input), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"data.anteroom.authz.decision", "data.classes"} {
		ours := opa(t, keys, "eval", "--strict", "-f", "values", "-b", "ours.tar.gz", "-i", "input.json", query)
		theirs := opa(t, keys, "eval", "--strict", "-f", "values", "--ignore", "schemas", "-d", dir, "-i", "input.json", query)
		if ours != theirs || strings.Contains(ours, "[]") && query == "data.classes" {
			t.Errorf("%s of the bundle: %s\nof the directory: %s", query, ours, theirs)
		}
	}
	verify := []string{"build", "-b", "--verification-key", "author.pub", "--verification-key-id", "author", "--signing-alg", "ES256", "-o", "again.tar.gz"}
	opa(t, keys, append(verify, "ours.tar.gz")...)
	other, _ := authorKeys(t)
	anteroom(t, "policy", "build", dir, "-o", filepath.Join(keys, "foreign.tar.gz"), "--key", filepath.Join(other, "author.key"), "--key-id", "author")
	if out, err := tryOPA(t, keys, append(verify, "foreign.tar.gz")...); err == nil || !strings.Contains(out, "verif") {
		t.Errorf("stock OPA took a bundle of another's key: %v: %s", err, out)
	}
}

// A pushed revision is a bundle whose author stock OPA can verify, years later
// and without the gateway.
func TestStockOPAVerifiesWhoPushed(t *testing.T) {
	if _, err := tryOPA(t, "", "version"); err != nil {
		t.Fatal(err)
	}
	h, push := pushing(t)
	push("as shipped")
	out := h.Must("policy", "pull", "-o", "one.tar.gz")
	_, fingerprint, ok := strings.Cut(strings.TrimSpace(out), "signed with ")
	if !ok {
		t.Fatalf("policy pull says %s", out)
	}
	verify := func(scope, cert string) (string, error) {
		return tryOPA(t, h.Dir, "build", "-b", "--verification-key", cert, "--verification-key-id", fingerprint,
			"--signing-alg", "ES256", "--scope", scope, "-o", "again.tar.gz", "one.tar.gz")
	}
	if out, err := verify("anteroom-push", "jane/jane.crt"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := verify("write", "jane/jane.crt"); err == nil {
		t.Errorf("for another purpose it holds too: %s", out)
	}
	if out, err := verify("anteroom-push", "root-ca.crt"); err == nil {
		t.Errorf("with another key it holds too: %s", out)
	}
}
