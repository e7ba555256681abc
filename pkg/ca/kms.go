package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.step.sm/crypto/kms/apiv1"
)

// ErrNoKMS is wrapped by errors that say that a key is in a hardware security
// module, or shall be, and this program can not speak to one.
var ErrNoKMS = errors.New("this build has no PKCS#11: it needs cgo and the build tag pkcs11 (CGO_ENABLED=1 go build -tags pkcs11 ./cmd/anteroom)")

// kmsEnding ends the name of the file that says where in the module a key is. It
// is in place of the key's own file.
const kmsEnding = ".kms"

func kmsFileOf(c *x509.Certificate) string {
	return strings.TrimSuffix(keyFileOf(c), ".key") + kmsEnding
}

// openModule opens the module that the configuration names, if it names one.
func (a *Authority) openModule(ctx context.Context, cfg *Config) (err error) {
	if cfg.KMS == "" {
		return nil
	}
	if a.module, err = openKMS(ctx, cfg.KMS, string(cfg.PIN)); err != nil {
		return fmt.Errorf("key module: %w", err)
	}
	return nil
}

// moduleKey returns the key of an intermediate that is in the module. The error
// wraps fs.ErrNotExist if it is not said to be there. Looking a key up is slow in
// most modules; signing with one that was found is not.
func (a *Authority) moduleKey(c *x509.Certificate) (crypto.Signer, error) {
	name, err := readLimited(filepath.Join(a.dir, kmsFileOf(c)))
	if err != nil {
		return nil, err
	}
	if a.module == nil {
		return nil, fmt.Errorf("the key of %s is in a module, and ca.kms names none", c.Subject.CommonName)
	}
	key, err := a.module.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: strings.TrimSpace(string(name))})
	if err != nil {
		return nil, fmt.Errorf("the key of %s in the module: %w", c.Subject.CommonName, err)
	}
	return key, nil
}

// newModuleKey makes a key that never leaves the module.
func (a *Authority) newModuleKey() (key crypto.Signer, name string, err error) {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	name = fmt.Sprintf("pkcs11:id=%[1]s;object=anteroom-%[1]s", hex.EncodeToString(id))
	made, err := a.module.CreateKey(&apiv1.CreateKeyRequest{Name: name, SignatureAlgorithm: apiv1.ECDSAWithSHA256})
	if err != nil {
		return nil, "", fmt.Errorf("make a key in the module: %w", err)
	}
	key, err = a.module.CreateSigner(&made.CreateSignerRequest)
	return key, name, err
}

// keyOf returns the key of an intermediate, from the module or its encrypted file.
// original says that the file is the one that Init made.
func (a *Authority) keyOf(c *x509.Certificate, passphrase []byte) (key crypto.Signer, original bool, err error) {
	key, err = a.moduleKey(c)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	path := filepath.Join(a.dir, keyFileOf(c))
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		path, original = filepath.Join(a.dir, intermediateKeyFile), true
	}
	key, err = a.readKey(path, passphrase)
	return key, original, err
}
