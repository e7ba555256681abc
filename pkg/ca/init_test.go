package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.step.sm/crypto/pemutil"
)

func initConfig(dir string) InitConfig {
	return InitConfig{Dir: dir, TrustDomain: testDomain, Organisation: testOrg, Passphrase: testPassphrase}
}

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "ca")
	if err := os.MkdirAll(dir, 0o755); err != nil { // empty is as good as absent
		t.Fatal(err)
	}
	cfg := initConfig(dir)
	cfg.RootKeyPath = filepath.Join(t.TempDir(), "stick", "root.key")
	cfg.RootPassphrase = []byte("of the safe, not of the host")
	made, err := Init(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{
		dir: 0o700 | os.ModeDir, cfg.RootKeyPath: 0o600,
		filepath.Join(dir, intermediateKeyFile): 0o600, filepath.Join(dir, databaseFile): 0o600,
		filepath.Join(dir, rootFile): 0o644, filepath.Join(dir, intermediateFile): 0o644,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 1 {
		t.Errorf("something is left beside the CA: %v", entries)
	}
	checkCA(t, made)

	if _, err := pemutil.Read(cfg.RootKeyPath, pemutil.WithPassword(testPassphrase)); err == nil {
		t.Error("the intermediate's passphrase opens the root's key")
	}
	key, err := pemutil.Read(cfg.RootKeyPath, pemutil.WithPassword(cfg.RootPassphrase))
	if err != nil {
		t.Fatal(err)
	}
	if !key.(*ecdsa.PrivateKey).PublicKey.Equal(made.Root.PublicKey) {
		t.Error("the root's key is another's")
	}
	// The running gateway needs no root key.
	if err := os.Remove(cfg.RootKeyPath); err != nil {
		t.Fatal(err)
	}
	a := openCA(t, dir)
	if _, err := a.Issue(t.Context(), device1(t, P256)); err != nil {
		t.Error(err)
	}
	if a.Organisation() != testOrg || a.TrustDomain() != testDomain {
		t.Errorf("%q %q", a.Organisation(), a.TrustDomain())
	}
}

func checkCA(t *testing.T, made *InitResult) {
	t.Helper()
	for _, c := range []*x509.Certificate{made.Root, made.Intermediate} {
		if !c.IsCA || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(c.ExtKeyUsage) != 0 {
			t.Errorf("%s: not a CA's certificate", c.Subject)
		}
		if len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://hospital.example" {
			t.Errorf("%s: URIs %v", c.Subject, c.URIs)
		}
		if age := time.Since(c.NotBefore); age < caBackdate || age > caBackdate+time.Hour {
			t.Errorf("%s: back-dated by %v", c.Subject, age)
		}
	}
	if made.Root.MaxPathLen != 1 || !made.Intermediate.MaxPathLenZero {
		t.Error("path lengths")
	}
	years := func(c *x509.Certificate) float64 { return c.NotAfter.Sub(c.NotBefore).Hours() / 24 / 365.25 }
	if y := years(made.Root); y < 10 || y > 20 {
		t.Errorf("root of %.1f years", y)
	}
	if y := years(made.Intermediate); y > 5.01 {
		t.Errorf("intermediate of %.1f years", y)
	}
	if err := made.Intermediate.CheckSignatureFrom(made.Root); err != nil {
		t.Error(err)
	}
}

func TestKeysAreEncrypted(t *testing.T) {
	from, err := made()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(from, "ca")
	openCA(t, dir)
	for _, name := range []string{intermediateKeyFile, rootKeyFile} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if block, _ := pem.Decode(data); block == nil || block.Type != "ENCRYPTED PRIVATE KEY" {
			t.Fatalf("%s: %.30s", name, data)
		}
	}
	path := filepath.Join(dir, intermediateKeyFile)
	out, err := openssl(t, "pkey", "-in", path, "-passin", "pass:"+string(testPassphrase), "-noout", "-text")
	if err != nil || !strings.Contains(out, "P-256") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = openssl(t, "asn1parse", "-in", path)
	if err != nil || !strings.Contains(out, "aes-256-cbc") || !strings.Contains(out, ":0927C0") { // 600,000 rounds
		t.Errorf("%v: %s", err, out)
	}
}

// snapshot lists every file below dir with its content.
func snapshot(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		line := path
		if !d.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + string(data)
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestInitOverwritesNothing(t *testing.T) {
	base := t.TempDir()
	full, stick := filepath.Join(base, "full"), filepath.Join(base, "root.key")
	if err := os.Mkdir(full, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(full, "precious"), stick} {
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := snapshot(t, base)
	for name, change := range map[string]func(*InitConfig){
		"directory not empty":     func(c *InitConfig) { c.Dir = full },
		"directory is a file":     func(c *InitConfig) { c.Dir = stick },
		"root key exists":         func(c *InitConfig) { c.RootKeyPath = stick },
		"no directory":            func(c *InitConfig) { c.Dir = "" },
		"bad trust domain":        func(c *InitConfig) { c.TrustDomain = "Hospital" },
		"no organisation":         func(c *InitConfig) { c.Organisation = "" },
		"long organisation":       func(c *InitConfig) { c.Organisation = strings.Repeat("x", 65) },
		"control character":       func(c *InitConfig) { c.Organisation = "a\nb" },
		"no passphrase":           func(c *InitConfig) { c.Passphrase = nil },
		"short passphrase":        func(c *InitConfig) { c.Passphrase = []byte("short") },
		"short root passphrase":   func(c *InitConfig) { c.RootPassphrase = []byte("short") },
		"root key below a file":   func(c *InitConfig) { c.RootKeyPath = filepath.Join(stick, "x") },
		"root key takes a name":   func(c *InitConfig) { c.RootKeyPath = filepath.Join(c.Dir, databaseFile) },
		"root key is a directory": func(c *InitConfig) { c.RootKeyPath = full },
	} {
		cfg := initConfig(filepath.Join(base, "new"))
		change(&cfg)
		if _, err := Init(t.Context(), cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
		if after := snapshot(t, base); !slices.Equal(before, after) {
			t.Fatalf("%s: something changed:\n%q", name, after)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Init(ctx, initConfig(filepath.Join(base, "new"))); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if after := snapshot(t, base); !slices.Equal(before, after) {
		t.Error("a cancelled init left something")
	}
}

func TestOpenRefuses(t *testing.T) {
	other := filepath.Join(t.TempDir(), "ca")
	if _, err := Init(t.Context(), initConfig(other)); err != nil {
		t.Fatal(err)
	}
	replace := func(name string) func(*testing.T, *Config) {
		return func(t *testing.T, c *Config) {
			data, err := os.ReadFile(filepath.Join(other, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(c.Dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(*testing.T, *Config) {
		return func(t *testing.T, c *Config) {
			if err := os.Remove(filepath.Join(c.Dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(name, content string) func(*testing.T, *Config) {
		return func(t *testing.T, c *Config) {
			if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		spoil func(*testing.T, *Config)
		want  string
	}{
		"no such directory":    {func(_ *testing.T, c *Config) { c.Dir = "nowhere" }, "no such file"},
		"wrong passphrase":     {func(_ *testing.T, c *Config) { c.Passphrase = []byte("another one") }, "wrong passphrase"},
		"no passphrase":        {func(_ *testing.T, c *Config) { c.Passphrase = nil }, "wrong passphrase"},
		"other trust domain":   {func(_ *testing.T, c *Config) { c.TrustDomain = "other.example" }, `made for trust domain "spiffe://hospital.example"`},
		"negative back-dating": {func(_ *testing.T, c *Config) { c.Backdate = -1 }, "negative"},
		"other root":           {replace(rootFile), "does not chain"},
		"other intermediate":   {replace(intermediateFile), "does not chain"},
		"other key":            {replace(intermediateKeyFile), "does not belong"},
		"no database":          {remove(databaseFile), "no such file"},
		"damaged database":     {write(databaseFile, "not a database at all"), "database"},
		"damaged certificate":  {write(rootFile, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), rootFile},
		"empty certificate":    {write(intermediateFile, ""), intermediateFile},
		"clear key":            {write(intermediateKeyFile, "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"), "not an encrypted"},
		"huge file":            {write(rootFile, strings.Repeat("x", maxFile+1)), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Dir: newCA(t), TrustDomain: testDomain, Passphrase: testPassphrase}
			test.spoil(t, &cfg)
			before := databaseExists(cfg.Dir)
			a, err := Open(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) || a != nil {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if databaseExists(cfg.Dir) != before {
				t.Error("a database was made")
			}
		})
	}
}

func databaseExists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, databaseFile))
	return err == nil
}

func TestOpenWarns(t *testing.T) {
	dir := newCA(t)
	if err := os.Chmod(filepath.Join(dir, intermediateKeyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	openCA(t, dir, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.Clock = func() time.Time { return time.Now().AddDate(4, 6, 0) }
	})
	for _, want := range []string{"can read the CA's key file", "ends soon"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %s", want, log.String())
		}
	}
}

func TestNameConstraints(t *testing.T) {
	cfg := initConfig(filepath.Join(t.TempDir(), "ca"))
	cfg.ConstrainURIs = true
	made, err := Init(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := openCA(t, cfg.Dir)
	issued, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	roots := writeFile(t, "root.crt", a.RootsPEM())
	chain := writeFile(t, "chain.crt", issued.ChainPEM)
	if out, err := openssl(t, "verify", "-x509_strict", "-CAfile", roots, "-untrusted", chain, chain); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	// The same CA, made to issue for another trust domain.
	a.trustDomain = "other.example"
	if _, err := a.Issue(t.Context(), device1(t, P256)); err == nil {
		t.Error("the engine issued outside the constraint")
	}
	key, err := pemutil.Read(filepath.Join(cfg.Dir, intermediateKeyFile), pemutil.WithPassword(testPassphrase))
	if err != nil {
		t.Fatal(err)
	}
	foreign := *issued.Leaf
	foreign.ExtraExtensions, foreign.URIs = nil, nil
	foreign.URIs = append(foreign.URIs, DeviceURI("other.example", "pump-1"))
	der, err := x509.CreateCertificate(nil, &foreign, made.Intermediate, issued.Leaf.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(a.VerifyOptions(time.Now())); err == nil {
		t.Error("Go accepts a leaf outside the constraint")
	}
	path := writeFile(t, "foreign.crt", certPEM(leaf, made.Intermediate))
	if out, err := openssl(t, "verify", "-CAfile", roots, "-untrusted", path, path); err == nil || !strings.Contains(out, "permitted subtree violation") {
		t.Errorf("openssl accepts a leaf outside the constraint: %s", out)
	}
}

func TestGeneratePassphrase(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		p := GeneratePassphrase()
		if len(p) != 35 || checkPassphrase([]byte(p)) != nil || seen[p] {
			t.Fatal(p)
		}
		seen[p] = true
	}
}
