package ca

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// Inspect checks the files of a CA that nobody has open, without its passphrase:
// that the certificates belong together and are for a trust domain. It returns the
// roots.
func Inspect(dir, trustDomain string) (roots []*x509.Certificate, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("CA in %s: %w", dir, err)
		}
	}()
	t, err := readTrust(dir)
	if err != nil {
		return nil, err
	}
	if _, err := t.check(trustDomain); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, databaseFile)); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return t.roots, nil
}

// Fingerprint is the SHA-256 of a certificate's DER, in lower-case hex.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
