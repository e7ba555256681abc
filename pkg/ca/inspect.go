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
	a := &Authority{dir: dir, trustDomain: trustDomain}
	if a.rootCerts, err = readCerts(filepath.Join(dir, rootFile)); err != nil {
		return nil, err
	}
	if a.intermediateCerts, err = readCerts(filepath.Join(dir, intermediateFile)); err != nil {
		return nil, err
	}
	a.rootPool, a.intermediatePool = pool(a.rootCerts), pool(a.intermediateCerts)
	if err := a.checkChain(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, databaseFile)); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return a.rootCerts, nil
}

// Fingerprint is the SHA-256 of a certificate's DER, in lower-case hex.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
