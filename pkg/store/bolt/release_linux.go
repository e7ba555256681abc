package bolt

import (
	"fmt"
	"syscall"

	"go.etcd.io/bbolt"
)

// Release has the system take back the memory that holds what was read of the
// file. The file is mapped (mmap(2)), so that a registry that was read once, at
// the start, would stay in the process a second time. Nothing is lost: what is
// asked for again is read again, mostly from the system's own cache.
func (s *Store) Release() error {
	// Within a transaction the map stays where it is; outside, the address may be
	// something else's a moment later.
	return s.db.View(func(t *bbolt.Tx) error {
		_, _, errno := syscall.Syscall(syscall.SYS_MADVISE, s.db.Info().Data, uintptr(t.Size()), syscall.MADV_DONTNEED)
		if errno != 0 {
			return fmt.Errorf("give the map back: %w", errno)
		}
		return nil
	})
}
