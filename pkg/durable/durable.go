package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// TempPrefix begins the names of files that are being written. What a crash left
// of them may be removed by whoever owns the directory.
const TempPrefix = ".new-"

// tempMode is the mode that os.CreateTemp gives a file.
const tempMode fs.FileMode = 0o600

// Replace puts a file with this content and mode at path, in the place of one that
// may be there. After a crash it is the one or the other, as a whole.
func Replace(path string, data []byte, mode fs.FileMode) error {
	tmp, err := beside(path, mode, content(data))
	if err != nil {
		return err
	}
	defer os.Remove(tmp) // gone already if all went well
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// CreateWhole makes the file at path with this mode and what write writes. It
// fails with fs.ErrExist if there is one. The file system must know hard links.
func CreateWhole(path string, mode fs.FileMode, write func(io.Writer) error) error {
	tmp, err := beside(path, mode, write)
	if err != nil {
		return err
	}
	defer os.Remove(tmp) // the link remains
	// Unlike a rename, a link takes nobody's place.
	if err := os.Link(tmp, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Create makes the file at path with this content and mode. It fails with
// fs.ErrExist if there is one. Its content is durable when Create returns; its name
// is when the directory is synced, which is left to the caller.
func Create(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	return fill(f, content(data))
}

// SyncDir makes the names in a directory durable: fsync of a file says nothing of
// the name it is found by (fsync(2)).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// beside writes a file in the directory of path, and returns its name.
func beside(path string, mode fs.FileMode, write func(io.Writer) error) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix)
	if err != nil {
		return "", err
	}
	if mode != tempMode {
		if err := f.Chmod(mode); err != nil {
			return "", errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}
	return f.Name(), fill(f, write)
}

// fill writes a new file, syncs and closes it, and removes it if that fails.
func fill(f *os.File, write func(io.Writer) error) error {
	err := write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name()) // half a file; why is what the caller wants to know
	}
	return err
}

func content(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}
