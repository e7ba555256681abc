package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.step.sm/crypto/x509util"
)

// holdsPrivateKey reports whether a file's content is, or contains, a private
// key in one of the forms keys are kept in.
func holdsPrivateKey(b []byte) bool {
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return true
		}
	}
	// A damaged or indented PEM block is a leaked key all the same.
	if bytes.Contains(b, []byte("PRIVATE KEY-----")) {
		return true
	}
	if _, err := x509.ParsePKCS8PrivateKey(b); err == nil {
		return true
	}
	if _, err := x509.ParsePKCS1PrivateKey(b); err == nil {
		return true
	}
	_, err := x509.ParseECPrivateKey(b)
	return err == nil
}

func TestNoPrivateKeyInThisDirectory(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		seen++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if holdsPrivateKey(b) {
			t.Errorf("%s holds a private key", path)
		}
		switch filepath.Ext(path) {
		case ".p12", ".pfx", ".key", ".jks":
			t.Errorf("%s is a kind of file that holds private keys", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 5 {
		t.Fatalf("only %d files seen", seen)
	}
}

func TestPrivateKeysAreRecognised(t *testing.T) {
	for _, s := range []string{
		"-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n",
		"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMC4CAQ==\n-----END ENCRYPTED PRIVATE KEY-----\n",
		"  -----BEGIN EC PRIVATE KEY-----\n  damaged",
	} {
		if !holdsPrivateKey([]byte(s)) {
			t.Errorf("not recognised: %q", s)
		}
	}
	if holdsPrivateKey([]byte("no private key here")) {
		t.Error("prose taken for a key")
	}
}

// TestTemplates holds the promise the README makes about what a template may
// look at.
func TestTemplates(t *testing.T) {
	for _, name := range []string{Device, Operator, Server} {
		b, err := FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := x509util.ValidateTemplate(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, word := range []string{"Insecure", "Token", "Webhooks", "AuthorizationCrt"} {
			if bytes.Contains(b, []byte(word)) {
				t.Errorf("%s uses .%s: a profile must not depend on what was asked for", name, word)
			}
		}
	}
}
