package ca

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// A Copier takes the files of a CA, one at a time.
type Copier func(name string, size int64, r io.Reader) error

// CopyTo hands over every file of the CA's directory as it is at one moment: keys
// are encrypted as they rest. Until it returns nothing is issued, revoked or
// signed, so what takes the files should be a disk. At calls something at that
// moment first.
func (a *Authority) CopyTo(ctx context.Context, at func() error, to Copier) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Whoever writes to the database holds mu for reading: while it is held here,
	// the file is whole.
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return ErrClosed
	}
	if err := at(); err != nil {
		return err
	}
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return fmt.Errorf("copy the CA: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := copyFile(filepath.Join(a.dir, e.Name()), e.Name(), to); err != nil {
			return fmt.Errorf("copy the CA: %w", err)
		}
	}
	return nil
}

func copyFile(path, name string, to Copier) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return to(name, st.Size(), f)
}

// Size returns how many bytes the CA's files have.
func (a *Authority) Size() (sum int64, err error) {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return 0, err
		}
		sum += st.Size()
	}
	return sum, nil
}
