// Package store is where state rests. It knows tables of keys and bytes and
// nothing of what they mean. The embedded store is in package bolt below this
// one; the interface is small enough for a table in PostgreSQL.
package store

import (
	"context"
	"errors"
)

// ErrNotFound is returned by Get for a key that is not there.
var ErrNotFound = errors.New("not found")

// A Store keeps tables of key-value pairs durably.
//
// When Update returns nil its changes have reached stable storage and survive
// kill -9 and power loss (invariant 5); when it returns an error none of them
// has happened. Updates are serialised. Methods are safe for concurrent use.
type Store interface {
	// View calls f with a consistent snapshot. f must not wait for an Update,
	// which may be waiting for it.
	View(ctx context.Context, f func(Reader) error) error
	// Update calls f once and commits what it wrote if f returns nil. f must use
	// nothing but its Writer, and must not write while it is in Each.
	Update(ctx context.Context, f func(Writer) error) error
	// Close releases the store. It waits for calls under way.
	Close() error
}

// A Reader reads tables. A table that was never written is empty. Byte slices
// it hands out are valid until the function it was given to returns.
type Reader interface {
	Get(table, key string) ([]byte, error)
	// Each calls f for every pair whose key begins with prefix, in key order,
	// until f returns an error, which Each returns.
	Each(table, prefix string, f func(key string, value []byte) error) error
}

// A Writer reads and writes tables.
type Writer interface {
	Reader
	Put(table, key string, value []byte) error
	// Delete removes a key; removing one that is not there is no error.
	Delete(table, key string) error
}

// A Prefetcher is a Store that can be told that most of it is about to be read.
// Prefetch may take as long as a disk needs for some of that, and changes nothing
// but how long the reading takes.
type Prefetcher interface{ Prefetch() }
