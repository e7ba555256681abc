//go:build !cgo || !pkcs11

package ca

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestABuildWithoutPKCS11SaysSo(t *testing.T) {
	dir := newCA(t)
	cfg := Config{Dir: dir, TrustDomain: testDomain, Passphrase: testPassphrase, KMS: "pkcs11:token=anteroom", PIN: []byte("24680135")}
	if a, err := Open(t.Context(), cfg); !errors.Is(err, ErrNoKMS) || !strings.Contains(err.Error(), "-tags pkcs11") {
		if err == nil {
			a.Close()
		}
		t.Errorf("with a module configured: %v", err)
	}
	// A state directory whose key is in a module, without the module.
	a := openCA(t, dir)
	next := rotated(t, a, dir)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	overwrite(t, filepath.Join(dir, kmsFileOf(next)), []byte("pkcs11:id=00;object=x\n"))
	cfg.KMS = ""
	if a, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "is in a module, and ca.kms names none") {
		if err == nil {
			a.Close()
		}
		t.Errorf("with a key in a module: %v", err)
	}
}
