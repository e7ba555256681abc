package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxSecret bounds a secret.
const maxSecret = 4 << 10

// sources counts how many sources are named.
func (s Secret) sources() (n int) {
	for _, v := range [...]string{s.File, s.Env, s.Credential} {
		if v != "" {
			n++
		}
	}
	return n
}

// Set reports whether the secret has a source.
func (s Secret) Set() bool { return s.sources() > 0 }

// Read returns the secret, less one trailing line break. A file that others
// than its owner can read is refused: its secret is none any more.
func (s Secret) Read() ([]byte, error) {
	if s.sources() != 1 {
		return nil, errors.New("a secret needs exactly one of file, env and credential")
	}
	switch {
	case s.Env != "":
		v, ok := os.LookupEnv(s.Env)
		if !ok || v == "" {
			return nil, fmt.Errorf("the environment variable %s is not set", s.Env)
		}
		return []byte(v), nil
	case s.Credential != "":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, fmt.Errorf("credential %s: systemd set no CREDENTIALS_DIRECTORY; LoadCredential= in the unit does", s.Credential)
		}
		if s.Credential != filepath.Base(s.Credential) || strings.HasPrefix(s.Credential, ".") {
			return nil, fmt.Errorf("credential %q is not a plain name", s.Credential)
		}
		return readSecret(filepath.Join(dir, s.Credential), 0)
	}
	return readSecret(s.File, 0o077)
}

func readSecret(path string, forbidden os.FileMode) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	if st.Mode().Perm()&forbidden != 0 {
		return nil, fmt.Errorf("secret: %s can be read by others than its owner (mode %04o); chmod 600 it", path, st.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	if len(data) > maxSecret {
		return nil, fmt.Errorf("secret: %s is larger than %d bytes", path, maxSecret)
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 {
		return nil, fmt.Errorf("secret: %s is empty", path)
	}
	return data, nil
}
