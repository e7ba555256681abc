package policy

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A parts keeps the parts of inputs that stay as they are from one question to
// the next, so that they are built once: what is known of a device, and of a
// route. Records and routes never change; one that replaces another is another.
//
// It is safe for concurrent use.
type parts struct {
	seed    maphash.Seed
	devices [maxDeviceParts]deviceSlot[devicePart]
	routes  [maxRouteParts]atomic.Pointer[routePart]
	// ungranted is input.break_glass where no grant is open.
	ungranted atomic.Pointer[ast.Term]
}

// How many parts are kept. A device's takes about two kilobytes, with the record
// that it keeps from being collected; a part that falls out is built anew.
const (
	maxDeviceParts = 4096
	maxRouteParts  = 256
)

type devicePart struct {
	facts deviceFacts
	term  *ast.Term
}

type routePart struct {
	route *protocol.Route
	term  *ast.Term
}

func newParts() *parts { return &parts{seed: maphash.MakeSeed()} }

// device returns what is known of a device, if it was built before, and where it is
// kept.
func (p *parts) device(d *deviceFacts) (*ast.Term, *deviceSlot[devicePart]) {
	at := &p.devices[maphash.Comparable(p.seed, d.record)%maxDeviceParts]
	if have := at.part.Load(); have != nil && have.facts == *d {
		return have.term, at
	}
	return nil, at
}

// route returns the same of a route.
func (p *parts) route(r *protocol.Route) (*ast.Term, *atomic.Pointer[routePart]) {
	at := &p.routes[maphash.Comparable(p.seed, r)%maxRouteParts]
	if have := at.Load(); have != nil && have.route == r {
		return have.term, at
	}
	return nil, at
}

// deviceAgain adds what is known of a device, if it was built before. If not, it
// has it kept when it is built twice in a row.
func (w *inputWriter) deviceAgain(d *deviceFacts, want *paths) bool {
	if w.parts == nil {
		return false
	}
	t, at := w.parts.device(d)
	if t != nil {
		w.add("device", want, t)
		return true
	}
	if !at.again(d.record) {
		return false
	}
	part := &devicePart{facts: *d}
	w.keep = func(t *ast.Term) {
		part.term = t
		at.part.Store(part)
	}
	return false
}

// routeAgain does the same for a route.
func (w *inputWriter) routeAgain(r *protocol.Route, want *paths) bool {
	if w.parts == nil {
		return false
	}
	t, at := w.parts.route(r)
	if t != nil {
		w.add("route", want, t)
		return true
	}
	w.keep = func(t *ast.Term) { at.Store(&routePart{r, t}) }
	return false
}
