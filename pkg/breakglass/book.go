package breakglass

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// Errors of a Book's methods.
var (
	// ErrNotFound: there is no grant of that id.
	ErrNotFound = errors.New("there is no such grant")
	// ErrState: the grant is not one to which this can be done now.
	ErrState = errors.New("not now")
)

const (
	// table is the grants' table in the store.
	table = "break_glass"
	// maxOpen bounds the grants that are pending or active: each costs every
	// decision a look.
	maxOpen = 64
)

// A Book holds all grants. Those that are over and reviewed rest in the store only.
type Book struct {
	store store.Store
	clock func() time.Time

	mu      sync.Mutex // over changes
	entries map[string]*entry
	closed  bool
	// active is nil while no grant is, which is nearly always.
	active  atomic.Pointer[[]*Grant]
	changed chan struct{}
}

// An entry is a grant that is not done with.
type entry struct {
	*Grant
	// timer ends it. It runs on the monotonic clock: setting the clock back does not
	// prolong a grant, and setting it forward is seen at the next decision.
	timer *time.Timer
	over  bool // the timer has run
}

// Open returns the book of a store, with what is in there.
func Open(ctx context.Context, st store.Store, clock func() time.Time) (*Book, error) {
	b := &Book{store: st, clock: clock, entries: map[string]*entry{}, changed: make(chan struct{}, 1)}
	gs, err := b.read(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range gs {
		b.put(g)
	}
	return b, nil
}

// Close stops the book's timers.
func (b *Book) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, e := range b.entries {
		e.stop()
	}
}

func (e *entry) stop() {
	if e.timer != nil {
		e.timer.Stop()
	}
}

func (b *Book) read(ctx context.Context) (out []*Grant, err error) {
	err = b.store.View(ctx, func(r store.Reader) error {
		return r.Each(table, "", func(id string, value []byte) error {
			g := &Grant{}
			if err := json.Unmarshal(value, g); err != nil {
				return fmt.Errorf("grant %s: %w", id, err)
			}
			out = append(out, g)
			return nil
		})
	})
	return out, err
}

// put makes a grant visible. b.mu is held.
func (b *Book) put(g *Grant) {
	if old := b.entries[g.ID]; old != nil {
		old.stop()
		delete(b.entries, g.ID)
	}
	if !b.closed && g.ReviewedAt.IsZero() && (g.EndedAt.IsZero() || !g.ApprovedAt.IsZero()) {
		e := &entry{Grant: g}
		b.entries[g.ID] = e
		if g.EndedAt.IsZero() {
			e.timer = time.AfterFunc(g.ends().Sub(b.clock()), func() { b.expire(e) })
		}
	}
	b.publish()
}

// publish makes the snapshot that decisions ask. b.mu is held.
func (b *Book) publish() {
	var gs []*Grant
	now := b.clock()
	for _, e := range b.entries {
		if !e.over && e.ActiveAt(now) {
			gs = append(gs, e.Grant)
		}
	}
	if gs == nil {
		b.active.Store(nil)
	} else {
		// The one that lasts longest speaks for a device that has several.
		slices.SortFunc(gs, func(x, y *Grant) int { return cmp.Or(y.Until.Compare(x.Until), strings.Compare(x.ID, y.ID)) })
		b.active.Store(&gs)
	}
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// expire takes what is over by itself out of force. It is recorded by whoever asks
// for what is Due.
func (b *Book) expire(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.entries[e.ID] != e {
		return
	}
	e.over = true
	b.publish()
}

// Changed is sent to when a grant changes or is over.
func (b *Book) Changed() <-chan struct{} { return b.changed }

// For returns the grant that covers what a device asks for on a route now, or nil.
func (b *Book) For(rec *device.Record, route string) *Grant {
	gs := b.active.Load()
	if gs == nil {
		return nil
	}
	now := b.clock()
	for _, g := range *gs {
		if g.ActiveAt(now) && g.Terms.covers(rec, route) {
			return g
		}
	}
	return nil
}

// Get returns a grant.
func (b *Book) Get(ctx context.Context, id string) (g *Grant, err error) {
	err = b.store.View(ctx, func(r store.Reader) error {
		g, err = get(r, id)
		return err
	})
	return g, err
}

func get(r store.Reader, id string) (*Grant, error) {
	value, err := r.Get(table, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %.20q", ErrNotFound, id)
	}
	if err != nil {
		return nil, err
	}
	g := &Grant{}
	if err := json.Unmarshal(value, g); err != nil {
		return nil, fmt.Errorf("grant %s: %w", id, err)
	}
	return g, nil
}

// List returns the grants that are not done with, or all there ever were, the oldest
// first.
func (b *Book) List(ctx context.Context, all bool) (out []*Grant, err error) {
	if all {
		out, err = b.read(ctx)
	} else {
		b.mu.Lock()
		for _, e := range b.entries {
			out = append(out, e.Grant)
		}
		b.mu.Unlock()
	}
	slices.SortFunc(out, func(x, y *Grant) int { return cmp.Or(x.OpenedAt.Compare(y.OpenedAt), strings.Compare(x.ID, y.ID)) })
	return out, err
}

// Count returns how many grants are active, and how many are to be reviewed.
func (b *Book) Count() (active, unreviewed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock()
	for _, e := range b.entries {
		switch {
		case !e.over && e.ActiveAt(now):
			active++
		case !e.ApprovedAt.IsZero():
			unreviewed++
		}
	}
	return active, unreviewed
}
