//go:build !linux

package backup

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// syncTree brings everything below a directory to stable storage.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// freeDisk is not known here.
func freeDisk(string) (int64, error) { return math.MaxInt64, nil }
