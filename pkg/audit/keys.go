package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// Origin returns the name of the log of a trust domain: the first line of its
// checkpoints and the name of its key.
func Origin(trustDomain string) string { return trustDomain + "/anteroom/audit" }

// signingKey reads the directory's signing key, or makes one if the log does
// not exist yet. It returns the verifier key too, as note.NewVerifier takes it.
func signingKey(dir, origin string, random io.Reader) (note.Signer, string, error) {
	path := filepath.Join(dir, keyName)
	private, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, logName, "checkpoint")); err == nil {
			return nil, "", fmt.Errorf("%s is missing, but the log it signs exists: restore it", path)
		}
		key, public, err := note.GenerateKey(random, origin)
		if err != nil {
			return nil, "", fmt.Errorf("make the audit log's key: %w", err)
		}
		// The public half first: a directory that has the private one has both.
		if err := durable.Replace(filepath.Join(dir, publicName), []byte(public+"\n"), 0o644); err != nil {
			return nil, "", err
		}
		if err := create(path, []byte(key+"\n")); err != nil {
			return nil, "", fmt.Errorf("store the audit log's key: %w", err)
		}
		private = []byte(key)
	} else if err != nil {
		return nil, "", err
	}
	signer, err := note.NewSigner(strings.TrimSpace(string(private)))
	if err != nil {
		return nil, "", fmt.Errorf("%s: not a signing key", path) // the error may not show the key
	}
	if signer.Name() != origin {
		return nil, "", fmt.Errorf("%s is the key of %q, not of %q: the trust domain cannot change", path, signer.Name(), origin)
	}
	public, err := PublicKey(dir)
	if err != nil {
		return nil, "", err
	}
	return signer, public, nil
}

// PublicKey returns the verifier key that lies beside the log in dir. Whoever
// can change the log can change it too: to verify is worth more with a key that
// was kept elsewhere.
func PublicKey(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, publicName))
	if err != nil {
		return "", fmt.Errorf("read the audit log's public key: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// PseudonymKey returns the key of the pseudonyms in dir, for [Pseudonym].
func PseudonymKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, pseudonymName)
	key, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	if len(key) != pseudonymKeySize {
		return nil, fmt.Errorf("%s: want %d bytes, found %d", path, pseudonymKeySize, len(key))
	}
	return key, nil
}

// pseudonymKey is PseudonymKey, but makes one if there is none.
func pseudonymKey(dir string) ([]byte, error) {
	key, err := PseudonymKey(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, pseudonymKeySize)
	_, _ = rand.Read(key) // never fails
	return key, create(filepath.Join(dir, pseudonymName), key)
}

// create writes a secret to a file that must not be there, whole or not at all.
func create(path string, data []byte) error {
	return durable.CreateWhole(path, fileMode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// readSecret reads a file that nobody but its owner may read.
func readSecret(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, st.Mode().Perm())
	}
	return os.ReadFile(path)
}
