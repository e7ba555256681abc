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
	if err := s.advise(syscall.MADV_DONTNEED); err != nil {
		return fmt.Errorf("give the map back: %w", err)
	}
	return nil
}

// Prefetch implements [store.Prefetcher]. The file is mapped as one that is read
// here and there, a page at a time; a whole registry read like that, after a boot,
// took ten times as long as the disk needs for it.
func (s *Store) Prefetch() { _ = s.advise(syscall.MADV_WILLNEED) } // read or not, it is the same

// advise tells the system how the map is used (madvise(2)).
func (s *Store) advise(how uintptr) error {
	// Within a transaction the map stays where it is; outside, the address may be
	// something else's a moment later.
	return s.db.View(func(t *bbolt.Tx) error {
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, s.db.Info().Data, uintptr(t.Size()), how); errno != 0 {
			return errno
		}
		return nil
	})
}
