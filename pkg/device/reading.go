package device

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// reading is how far the registry has been read. A million devices take seconds,
// in which those that come, after a power cut all of them, need not wait: the
// record of one is in the store already.
type reading struct {
	whole atomic.Bool   // all records are in memory
	done  chan struct{} // closed when they are, or can not be
	err   error         // why not, once done is closed
	stop  context.CancelFunc
}

// read begins to read all records.
func (g *Registry) read(ctx context.Context) {
	ctx, g.reading.stop = context.WithCancel(context.WithoutCancel(ctx))
	g.reading.done = make(chan struct{})
	go func() {
		defer close(g.reading.done)
		if err := g.readInto(ctx); err != nil {
			g.reading.err = fmt.Errorf("read the registry: %w", err)
			return
		}
		g.reading.whole.Store(true)
	}()
}

func (g *Registry) readInto(ctx context.Context) error {
	if p, ok := g.st.(store.Prefetcher); ok {
		p.Prefetch()
	}
	txn := g.db.Txn(true)
	defer txn.Abort()
	if err := g.st.View(ctx, func(r store.Reader) error { return g.load(ctx, r, txn) }); err != nil {
		return err
	}
	txn.Commit()
	return nil
}

// Loaded waits until all records are in memory, and returns why they can not be if
// that is so: what was opened is no registry then, and changes nothing. Changes
// wait for it, and so does what is asked of all devices; [Registry.Get] does not.
func (g *Registry) Loaded(ctx context.Context) error {
	select {
	case <-g.reading.done:
		return g.reading.err
	default:
	}
	select {
	case <-g.reading.done:
		return g.reading.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Whole reports whether all records are in memory, without waiting for it.
func (g *Registry) Whole() bool { return g.reading.whole.Load() }

// Close ends the reading of records, if they are still being read, and waits. A
// registry that is loaded stays as it is.
func (g *Registry) Close() {
	g.reading.stop()
	<-g.reading.done
}

// early returns a device's record from the store. What can not be read is nobody's.
func (g *Registry) early(id string) (rec *Record, ok bool) {
	err := g.st.View(context.Background(), func(r store.Reader) error {
		value, err := r.Get(table, id)
		if err != nil {
			return err
		}
		if rec, err = newDecoder().record(id, value); err != nil {
			return err
		}
		if value, err = r.Get(patientsTable, id); errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return rec.readPatients(value)
	})
	if err != nil {
		return nil, false
	}
	return rec, true
}
