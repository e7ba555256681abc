package device

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-memdb"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// Errors callers decide on.
var (
	ErrNotFound = errors.New("no such device")
	ErrExists   = errors.New("the device exists already")
	// ErrTaken says that a certificate belongs to another device.
	ErrTaken = errors.New("the certificate belongs to another device")
	// ErrKeyTaken says that a key is another device's: one key in two devices is
	// one device that can pass for the other.
	ErrKeyTaken = errors.New("the key belongs to another device")
)

// Tables and keys in the store.
const (
	table       = "devices"
	metaTable   = "devices-meta"
	revisionKey = "revision"
)

// Options are a registry's options; the zero value is good.
type Options struct {
	Clock func() time.Time // default time.Now
	// Background has Open return at once, while the records are still being read:
	// see [Registry.Loaded].
	Background bool
}

// A Registry is the set of all devices. Its methods are safe for concurrent use.
type Registry struct {
	st  store.Store
	db  *memdb.MemDB
	now func() time.Time

	known   known // of all of them, found out when it is asked for
	reading reading

	mu       sync.Mutex // held over changes, so that they have an order
	revision uint64
	subs     []*subscriber

	queueing sync.Mutex
	queue    []*edit // asked for while others are being made
}

type subscriber struct{ f func(old, new *Record) }

// Open reads all records from the store. The store stays the caller's to close,
// after the last use of the registry and after Close.
func Open(ctx context.Context, st store.Store, opt Options) (*Registry, error) {
	db, err := memdb.NewMemDB(schema())
	if err != nil {
		return nil, fmt.Errorf("registry schema: %w", err)
	}
	g := &Registry{st: st, db: db, now: opt.Clock}
	if g.now == nil {
		g.now = time.Now
	}
	g.read(ctx)
	if opt.Background {
		return g, nil
	}
	if err := g.Loaded(ctx); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// A Filter narrows a list; empty fields match everything.
type Filter struct {
	Class  string
	Status Status
	// Location and Serial match exactly.
	Location string
	Serial   string
	// ExpiresBefore keeps active devices whose newest certificate ends before
	// it; the zero time keeps all.
	ExpiresBefore time.Time
}

// List returns matching records in order of id. It waits until the registry is
// loaded.
func (g *Registry) List(f Filter) []*Record {
	var out []*Record
	g.each(func(rec *Record) {
		if f.matches(rec) {
			out = append(out, rec)
		}
	})
	return out
}

// each calls f with every record, in order of id, when all are there. Of a registry
// that can not be read there are none.
func (g *Registry) each(f func(*Record)) {
	<-g.reading.done
	it, err := g.db.Txn(false).Get(table, "id")
	if err != nil {
		return // an index of the schema above never fails
	}
	for obj := it.Next(); obj != nil; obj = it.Next() {
		if rec, ok := obj.(*Record); ok {
			f(rec)
		}
	}
}

func (f *Filter) matches(r *Record) bool {
	if f.Class != "" && r.Class != f.Class || f.Status != "" && r.Status != f.Status || f.Location != "" && r.Location != f.Location ||
		f.Serial != "" && r.Serial != f.Serial {
		return false
	}
	if f.ExpiresBefore.IsZero() {
		return true
	}
	return r.Status == Active && r.Expires().Before(f.ExpiresBefore)
}

// Expires returns when the device's last valid certificate ends, or the zero
// time if it has none.
func (r *Record) Expires() (t time.Time) {
	for _, c := range r.Certificates {
		if c.RevokedAt.IsZero() && c.NotAfter.After(t) {
			t = c.NotAfter
		}
	}
	return t
}

// Create adds a device. The record's times and revision are set here; an empty
// status means pending. The registry keeps a copy.
func (g *Registry) Create(ctx context.Context, rec *Record) (*Record, error) {
	r := rec.clone()
	if r.Status == "" {
		r.Status = Pending
	}
	if !r.Status.Known() {
		return nil, fmt.Errorf("%w status %q", ErrInvalid, r.Status)
	}
	return g.one(ctx, r.ID, nil, func() (old, new *Record, err error) {
		if _, ok := g.Get(r.ID); ok {
			return nil, nil, fmt.Errorf("%s: %w", r.ID, ErrExists)
		}
		now := g.now().UTC()
		r.CreatedAt, r.StatusAt = now, now
		return nil, r, nil
	})
}

// Update changes a device: f is given a copy to change, and an error of f
// changes nothing and is returned. Id, status, times and revision are not f's
// to change, nor can it give a withdrawn certificate back. A retired device does
// not change. f runs while other changes wait, and must not use the registry to
// make one.
func (g *Registry) Update(ctx context.Context, id string, f func(*Record) error) (*Record, error) {
	return g.change(ctx, id, func(r *Record) error {
		was, created, revoked := r.Status, r.CreatedAt, r.RevokedAt
		if err := f(r); err != nil {
			return err
		}
		if r.ID != id || r.Status != was || !r.CreatedAt.Equal(created) || !r.RevokedAt.Equal(revoked) {
			return fmt.Errorf("%w change of %s: id, status and times are the registry's", ErrInvalid, id)
		}
		return nil
	})
}

// change is every change of an existing record.
func (g *Registry) change(ctx context.Context, id string, f func(*Record) error) (*Record, error) {
	return g.one(ctx, id, nil, func() (old, new *Record, err error) {
		old, ok := g.Get(id)
		if !ok {
			return nil, nil, fmt.Errorf("%s: %w", id, ErrNotFound)
		}
		if old.Status == Retired {
			return nil, nil, fmt.Errorf("%s: %w: it is retired", id, ErrTransition)
		}
		r := old.clone()
		if err := f(r); err != nil {
			return nil, nil, err
		}
		return old, r, r.keepsWithdrawn(old, g.now())
	})
}

// free reports whether a record's certificates and keys are no other device's.
func (g *Registry) free(r *Record) error {
	for _, c := range r.Certificates {
		if other, ok := g.ByFingerprint(c.Fingerprint); ok && other.ID != r.ID {
			return fmt.Errorf("%s: %w, %s", r.ID, ErrTaken, other.ID)
		}
		if other, ok := g.ByKey(c.Key); ok && c.Key != "" && other.ID != r.ID {
			return fmt.Errorf("%s: %w, %s", r.ID, ErrKeyTaken, other.ID)
		}
	}
	return nil
}

// Subscribe has f called for every change from now on, in their order and
// before the change's caller returns; old is nil for a new device. f must be
// quick and must not change the registry.
func (g *Registry) Subscribe(f func(old, new *Record)) (cancel func()) {
	s := &subscriber{f}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.subs = append(slices.Clip(g.subs), s)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.subs = slices.DeleteFunc(slices.Clone(g.subs), func(o *subscriber) bool { return o == s })
	}
}

// clone returns a deep copy.
func (r *Record) clone() *Record {
	c := *r
	c.Tags = maps.Clone(r.Tags)
	c.Certificates = slices.Clone(r.Certificates)
	c.Patients = slices.Clone(r.Patients)
	if r.Loan != nil {
		loan := *r.Loan
		c.Loan = &loan
	}
	return &c
}
