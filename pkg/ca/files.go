package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Files in a CA's directory.
const (
	rootFile            = "root.crt"         // PEM, one or more roots that are trusted
	intermediateFile    = "intermediate.crt" // PEM, the issuing one first, then former ones
	intermediateKeyFile = "intermediate.key" // encrypted PEM
	databaseFile        = "ca.db"            // bbolt
	rootKeyFile         = "root.key"         // encrypted PEM, unless InitConfig says elsewhere
)

// Only the owner has business in a CA's directory or with a key.
const (
	dirMode  fs.FileMode = 0o700
	keyMode  fs.FileMode = 0o600
	certMode fs.FileMode = 0o644
)

// absentOrEmpty returns an error unless path does not exist or is an empty
// directory.
func absentOrEmpty(path string) error {
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty, and nothing is overwritten", path)
	}
	return nil
}

// below reports whether path is inside dir, and where.
func below(dir, path string) (rel string, ok bool) {
	rel, err := filepath.Rel(dir, path)
	return rel, err == nil && filepath.IsLocal(rel) && rel != "."
}
