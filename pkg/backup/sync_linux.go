package backup

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncTree brings everything below a directory to stable storage: the whole file
// system, because the audit log of a year has a hundred thousand files.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}
