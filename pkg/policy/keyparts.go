package policy

import (
	"bytes"
	"hash/maphash"
	"sync/atomic"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A shape is an object's names in their order, and what of each is read. Adapters
// give the objects of one kind one shape or a few, and comparing it with the last
// takes a third of the time of looking each name up.
type shape struct {
	names []string
	want  []*paths // nil where nothing is read
}

const (
	// maxShapes is how many shapes of an object are known, by their number of
	// fields.
	maxShapes = 4
	// shapeLife is how many objects of other shapes there are before one of them
	// takes a shape's place.
	shapeLife = 64
	// maxShape is how many fields an object may have to be known.
	maxShape = 64
)

func (s *shape) is(fs []protocol.Field) bool {
	if len(s.names) != len(fs) {
		return false
	}
	for i := range fs {
		if s.names[i] != fs[i].Name {
			return false
		}
	}
	return true
}

// shaped returns the shape of an object, or nil if it is not known. A shape that
// comes often takes the place of one that does not.
func (p *paths) shaped(fs []protocol.Field) *shape {
	if p.all || len(fs) > maxShape {
		return nil
	}
	at := &p.shapes[len(fs)%maxShapes]
	s := at.shape.Load()
	if s != nil && s.is(fs) {
		return s
	}
	// A device can name things as it likes: making shapes of that would cost more
	// than it saves.
	if s != nil && at.others.Add(1)%shapeLife != 0 {
		return nil
	}
	s = &shape{names: make([]string, len(fs)), want: make([]*paths, len(fs))}
	for i := range fs {
		s.names[i], s.want[i] = fs[i].Name, p.at(fs[i].Name)
	}
	at.shape.Store(s)
	return s
}

// A shapeSlot is a place for a shape, and counts objects that are not of it.
type shapeSlot struct {
	shape  atomic.Pointer[shape]
	others atomic.Uint32
}

// deviceKeys keep what keys say of devices, as parts does for inputs.
type deviceKeys struct {
	seed  maphash.Seed
	slots [maxDeviceParts]deviceSlot[deviceKey]
}

// A deviceSlot is a place for what was made of one device's record.
type deviceSlot[P any] struct {
	seen atomic.Pointer[device.Record] // what was asked about last
	part atomic.Pointer[P]
}

// again reports whether a record is asked about twice in a row, and its part worth
// keeping: where more devices talk than there are slots, one use each would cost more
// than it saves, and thousands that ask one thing each and are then quiet would keep
// half a kilobyte each.
func (s *deviceSlot[P]) again(rec *device.Record) bool { return s.seen.Swap(rec) == rec }

type deviceKey struct {
	facts deviceFacts
	b     []byte
}

// device writes what is known of a device.
func (k *keyWriter) device(f facts, d *deviceFacts, want *paths) {
	slot := &k.devices.slots[maphash.Comparable(k.devices.seed, d.record)%maxDeviceParts]
	if part := slot.part.Load(); part != nil && part.facts == *d {
		k.b = append(k.b, part.b...)
		return
	}
	from := len(k.b)
	f.device(d, want)
	if slot.again(d.record) {
		slot.part.Store(&deviceKey{*d, bytes.Clone(k.b[from:])})
	}
}

// route writes what is known of a route, which is mostly the one of the question
// before.
func (k *keyWriter) route(f facts, r *protocol.Route, want *paths) {
	if k.last == r {
		k.b = append(k.b, k.lastRoute...)
		return
	}
	from := len(k.b)
	f.route(r, want)
	k.last, k.lastRoute = r, append(k.lastRoute[:0], k.b[from:]...)
}
