//go:build !linux

package bolt

// Release does nothing: the system takes the memory when it needs it.
func (s *Store) Release() error { return nil }

// Prefetch implements [store.Prefetcher] by doing nothing.
func (s *Store) Prefetch() {}
