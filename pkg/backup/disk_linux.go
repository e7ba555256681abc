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

// freeDisk returns how many bytes the file system of a directory has left: none if
// it has no room for another file.
func freeDisk(dir string) (int64, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return 0, err
	}
	if disk.Files > 0 && disk.Ffree == 0 {
		return 0, nil
	}
	return int64(disk.Bavail) * int64(disk.Bsize), nil
}
