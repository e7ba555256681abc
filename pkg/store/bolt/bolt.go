// Package bolt is the embedded store: one file, one process, every commit
// synced to disk before it is acknowledged.
package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// lockWait is how long Open waits for another process to let go of the file: a
// gateway that is just stopping does within it.
const lockWait = 2 * time.Second

// mapSize is how much address space is mapped at once. Within it a write never
// waits for readers, as it does when the map has to grow; 100,000 devices take
// about a third of it. It takes no memory and no disk.
const mapSize = 256 << 20

// ErrLocked is returned by Open when another process owns the file.
var ErrLocked = errors.New("the store is in use by another process")

// A Store is a [store.Store] in one bbolt file.
type Store struct{ db *bbolt.DB }

var (
	_ store.Store      = (*Store)(nil)
	_ store.Prefetcher = (*Store)(nil)
)

// Open opens the store in the file at path, making it (0600) if it is not
// there. The file is locked: a second Open, here or in another process, returns
// [ErrLocked] after a short wait.
func Open(path string) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mapSize})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// The file's name must last like what is in it (fsync(2)).
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	return &Store{db}, nil
}

// Close implements [store.Store].
func (s *Store) Close() error { return s.db.Close() }

// View implements [store.Store].
func (s *Store) View(ctx context.Context, f func(store.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.View(func(t *bbolt.Tx) error { return f(tx{t}) })
}

// Update implements [store.Store]. A context that ends while f runs undoes it.
func (s *Store) Update(ctx context.Context, f func(store.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.Update(func(t *bbolt.Tx) error {
		if err := f(tx{t}); err != nil {
			return err
		}
		return ctx.Err()
	})
}

// tx is one bbolt transaction; tables are its buckets.
type tx struct{ t *bbolt.Tx }

func (x tx) Get(table, key string) ([]byte, error) {
	b := x.t.Bucket([]byte(table))
	if b == nil {
		return nil, store.ErrNotFound
	}
	v := b.Get([]byte(key))
	if v == nil {
		return nil, store.ErrNotFound
	}
	return v, nil
}

func (x tx) Each(table, prefix string, f func(key string, value []byte) error) error {
	b := x.t.Bucket([]byte(table))
	if b == nil {
		return nil
	}
	c, p := b.Cursor(), []byte(prefix)
	for k, v := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, v = c.Next() {
		if err := f(string(k), v); err != nil {
			return err
		}
	}
	return nil
}

func (x tx) Put(table, key string, value []byte) error {
	b, err := x.t.CreateBucketIfNotExists([]byte(table))
	if err != nil {
		return fmt.Errorf("table %s: %w", table, err)
	}
	if value == nil {
		value = []byte{}
	}
	return b.Put([]byte(key), value)
}

func (x tx) Delete(table, key string) error {
	b := x.t.Bucket([]byte(table))
	if b == nil {
		return nil
	}
	return b.Delete([]byte(key))
}
