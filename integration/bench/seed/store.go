package seed

import (
	"context"
	"errors"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// A blindStore is a store in which the records that are there are not seen, and
// what is written waits for flush. Single values, such as the registry's
// revision, are seen as they were last flushed.
type blindStore struct {
	store.Store
	puts []put
}

type put struct {
	table, key string
	value      []byte
}

// View implements [store.Store].
func (b *blindStore) View(ctx context.Context, f func(store.Reader) error) error {
	return b.Store.View(ctx, func(r store.Reader) error { return f(blindReader{r}) })
}

// blindReader is a reader that lists nothing.
type blindReader struct{ store.Reader }

// Each implements [store.Reader].
func (blindReader) Each(string, string, func(string, []byte) error) error { return nil }

// Update implements [store.Store].
func (b *blindStore) Update(_ context.Context, f func(store.Writer) error) error {
	return f(collector{b})
}

// flush writes what was put, in one piece.
func (b *blindStore) flush(ctx context.Context) error {
	return b.Store.Update(ctx, func(w store.Writer) error {
		for _, p := range b.puts {
			if err := w.Put(p.table, p.key, p.value); err != nil {
				return err
			}
		}
		b.puts = nil
		return nil
	})
}

// collector is a writer that only puts.
type collector struct{ b *blindStore }

func (c collector) Put(table, key string, value []byte) error {
	c.b.puts = append(c.b.puts, put{table, key, value})
	return nil
}

func (collector) Get(string, string) ([]byte, error) { return nil, errors.ErrUnsupported }
func (collector) Each(string, string, func(string, []byte) error) error {
	return errors.ErrUnsupported
}
func (collector) Delete(string, string) error { return errors.ErrUnsupported }
