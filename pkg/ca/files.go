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

// writeNew writes a file that must not exist yet, and returns once its content
// is on stable storage. If it fails it leaves no file of its own.
func writeNew(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir puts a directory's entries on stable storage.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

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
