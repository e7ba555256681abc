package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// An edit is what is done to the registry by one who asks: it happens or it does not.
//
// Edits that are asked for while others are being written share the next write. Each
// waits twice for the disk, and many devices enrol at the same time. There is no
// goroutine for it: whoever waited first makes the changes of all, one after the
// other, as if each had waited for its turn. Those of devices that do not meet are
// written together. Nobody goes on before theirs is on stable storage.
type edit struct {
	ctx context.Context
	ids []string // the devices whose records are looked at and changed
	// make returns what is to be changed, given the registry as it then is. It is
	// called once, while mu is held.
	make func() ([]change, error)
	also func(store.Writer) error // written exactly if the changes are; may be nil

	changes  []change // what make returned
	done     bool     // guarded by mu, as are err and panicked
	err      error
	panicked *panicked // what it panicked with, if it did
}

// A change is a record that takes another's place; old is nil for a new device.
type change struct{ old, new *Record }

// errCutOff is what is left of an edit whose maker did not come to its end.
var errCutOff = errors.New("the change was cut off")

// A panicked is what a function of an edit's panicked with, and where. Whoever makes
// the changes of all catches it, goes on with the others', and has it surface where
// the edit was asked for.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }

func (p *panicked) Unwrap() error { err, _ := p.value.(error); return err }

// call calls a function of the edit's.
func (s *edit) call(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.panicked, err = &panicked{v, debug.Stack()}, errCutOff
		}
	}()
	return f()
}

// one is an edit that changes one record.
func (g *Registry) one(ctx context.Context, id string, also func(store.Writer) error, f func() (old, new *Record, err error)) (*Record, error) {
	var out *Record
	err := g.do(ctx, &edit{ids: []string{id}, also: also, make: func() ([]change, error) {
		old, r, err := f()
		out = r
		return []change{{old, r}}, err
	}})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// do makes an edit durable, then visible, then known, and returns when it is all that.
func (g *Registry) do(ctx context.Context, s *edit) error {
	if err := g.Loaded(ctx); err != nil {
		return err
	}
	s.ctx = ctx
	g.queueing.Lock()
	g.queue = append(g.queue, s)
	g.queueing.Unlock()

	g.mu.Lock()
	defer g.mu.Unlock()
	if !s.done { // with somebody else's
		g.doAll()
	}
	if s.panicked != nil {
		panic(s.panicked)
	}
	return s.err
}

// doAll does everything that has been asked for. The caller holds mu.
func (g *Registry) doAll() {
	g.queueing.Lock()
	edits := g.queue
	g.queue = nil
	g.queueing.Unlock()
	defer func() {
		for _, s := range edits {
			if !s.done { // whoever made it has ended in the middle
				s.finish(errCutOff)
			}
		}
	}()
	g.makeAll(edits)
}

func (s *edit) finish(err error) { s.done, s.err = true, err }

// makeAll makes edits in their order. The caller holds mu.
func (g *Registry) makeAll(edits []*edit) {
	var ready []*edit
	taken := map[string]bool{} // by those that are ready: devices, certificates, keys
	write := func() {
		g.writeAll(ready)
		ready, taken = nil, map[string]bool{}
	}
	for _, s := range edits {
		if err := s.ctx.Err(); err != nil {
			s.finish(err)
			continue
		}
		// Who comes second to a device finds what the first has made of it.
		if meets(taken, s.ids) {
			write()
		}
		if err := s.call(func() (err error) { s.changes, err = s.make(); return err }); err != nil {
			s.finish(err)
			continue
		}
		var names []string
		if err := s.call(func() error { names = s.names(); return nil }); err != nil {
			s.finish(err)
			continue
		}
		if meets(taken, names) {
			write()
		}
		if err := s.call(func() error { return g.checkAll(s.changes) }); err != nil {
			s.finish(err)
			continue
		}
		for _, n := range append(names, s.ids...) {
			taken[n] = true
		}
		ready = append(ready, s)
	}
	write()
}

// meets reports whether one of the names was taken.
func meets(taken map[string]bool, names []string) bool {
	if len(taken) == 0 {
		return false
	}
	for _, n := range names {
		if taken[n] {
			return true
		}
	}
	return false
}

// names returns the certificates and keys that an edit's records have.
func (s *edit) names() (out []string) {
	for _, c := range s.changes {
		for _, f := range c.new.fingerprints() {
			out = append(out, "certificate "+f)
		}
		for _, k := range c.new.keys() {
			out = append(out, "key "+k)
		}
	}
	return out
}

// checkAll reports whether records are as they should be, and have what is no other
// device's.
func (g *Registry) checkAll(changes []change) error {
	for _, c := range changes {
		if err := c.new.validate(); err != nil {
			return err
		}
		if err := g.free(c.new); err != nil {
			return err
		}
	}
	return nil
}

// writeAll writes edits that do not meet, together if that can be done: one that is
// refused while it is written, or can not be, must not have the others fail.
func (g *Registry) writeAll(edits []*edit) {
	switch len(edits) {
	case 0:
	case 1:
		edits[0].finish(g.write(edits[0].ctx, edits))
	default:
		// One of them has gone away? The others have not.
		if err := g.write(context.WithoutCancel(edits[0].ctx), edits); err == nil {
			for _, s := range edits {
				s.finish(nil)
			}
			return
		}
		for _, s := range edits {
			s.finish(g.write(s.ctx, []*edit{s}))
		}
	}
}

// write writes edits, all of which happen or none, and has them known.
func (g *Registry) write(ctx context.Context, edits []*edit) error {
	revision, now := g.revision, g.now().UTC()
	var changes []change
	var values [][]byte
	for _, s := range edits {
		for _, c := range s.changes {
			revision++
			c.new.Revision, c.new.UpdatedAt = revision, now
			v, err := json.Marshal(c.new)
			if err != nil {
				return fmt.Errorf("record of %s: %w", c.new.ID, err)
			}
			changes, values = append(changes, c), append(values, v)
		}
	}
	rev, err := json.Marshal(revision)
	if err != nil {
		return err
	}
	var refused error
	err = g.st.Update(ctx, func(w store.Writer) error {
		for _, s := range edits {
			if s.also == nil {
				continue
			}
			s.panicked = nil // alone it may come to its end
			if refused = s.call(func() error { return s.also(w) }); refused != nil {
				return refused
			}
		}
		for i, c := range changes {
			if err := w.Put(table, c.new.ID, values[i]); err != nil {
				return err
			}
			if err := putPatients(w, c.old, c.new); err != nil {
				return err
			}
		}
		return w.Put(metaTable, revisionKey, rev)
	})
	if refused != nil {
		return refused
	}
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", changes[0].new.ID, err)
	}
	return g.show(edits, revision)
}

// show makes changes visible, which are durable, and has them known.
func (g *Registry) show(edits []*edit, revision uint64) error {
	txn := g.db.Txn(true)
	defer txn.Abort() // nothing after Commit; after a panic, those who come next must not wait for ever
	for _, s := range edits {
		for _, c := range s.changes {
			g.own(c.new)
			if err := txn.Insert(table, c.new); err != nil {
				return fmt.Errorf("record of %s: %w", c.new.ID, err)
			}
		}
	}
	txn.Commit()
	g.revision = revision
	for _, s := range edits {
		for _, c := range s.changes {
			if c.old != nil {
				g.disown(c.old, c.new)
			}
			g.known.tally.replace(c.old, c.new)
		}
	}
	for _, s := range edits {
		for _, c := range s.changes {
			for _, sub := range g.subs {
				// Nobody misses that a device was revoked because another's mistake
				// was met before.
				_ = s.call(func() error { sub.f(c.old, c.new); return nil })
			}
		}
	}
	return nil
}
