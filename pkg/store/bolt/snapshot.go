package bolt

import (
	"io"

	"go.etcd.io/bbolt"
)

// A Snapshot is the whole store as it was at one moment. While it is open the file
// keeps the pages it needs, so it is for copying to disk and not for a slow reader.
type Snapshot struct{ tx *bbolt.Tx }

// Snapshot returns the store as it is now.
func (s *Store) Snapshot() (*Snapshot, error) {
	tx, err := s.db.Begin(false)
	if err != nil {
		return nil, err
	}
	return &Snapshot{tx}, nil
}

// Size returns how many bytes WriteTo writes.
func (s *Snapshot) Size() int64 { return s.tx.Size() }

// WriteTo writes a file that [Open] opens.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { return s.tx.WriteTo(w) }

// Close lets go of it.
func (s *Snapshot) Close() error { return s.tx.Rollback() }
