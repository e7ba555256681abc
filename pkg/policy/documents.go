package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// A documents remembers, during one evaluation, what rules were found to give.
// It does what OPA's own cache of that does, for the few documents that one
// decision takes: along a list, which needs nothing from the heap. What goes
// past its length is left to OPA's.
//
// It must not be used by two evaluations at a time.
type documents struct {
	frames []frame
}

// A frame is what is remembered while input and data are what they are.
type frame struct {
	// terms are the references, one after the other: OPA uses the slices it
	// hands over for something else later.
	terms []*ast.Term
	docs  []document
	more  topdown.VirtualCache
}

// A document is what is at one reference.
type document struct {
	from, to int       // where the reference stands in terms
	value    *ast.Term // nil is undefined
}

// maxDocuments is how many a frame keeps itself.
const maxDocuments = 32

var _ topdown.VirtualCache = (*documents)(nil)

func newDocuments() *documents {
	d := &documents{}
	d.Push()
	return d
}

// reset forgets everything, for the next evaluation.
func (d *documents) reset() {
	for len(d.frames) > 0 {
		d.Pop()
	}
	d.Push()
}

// Push begins a new frame.
func (d *documents) Push() {
	if n := len(d.frames); n < cap(d.frames) {
		d.frames = d.frames[:n+1] // with the room that its frame had
		return
	}
	d.frames = append(d.frames, frame{})
}

// Pop forgets the last frame.
func (d *documents) Pop() {
	f := &d.frames[len(d.frames)-1]
	clear(f.terms)
	clear(f.docs)
	f.terms, f.docs, f.more = f.terms[:0], f.docs[:0], nil
	d.frames = d.frames[:len(d.frames)-1]
}

// Get returns what ref was found to be, or whether to be undefined.
func (d *documents) Get(ref ast.Ref) (v *ast.Term, undefined bool) {
	f := &d.frames[len(d.frames)-1]
	if have := f.find(ref); have != nil {
		return have.value, have.value == nil
	}
	if f.more != nil {
		return f.more.Get(ref)
	}
	return nil, false
}

// Put remembers what ref is; nil is undefined.
func (d *documents) Put(ref ast.Ref, v *ast.Term) {
	f := &d.frames[len(d.frames)-1]
	have := f.find(ref)
	switch {
	case have != nil:
		have.value = v
	case len(f.docs) < maxDocuments:
		from := len(f.terms)
		f.terms = append(f.terms, ref...)
		f.docs = append(f.docs, document{from, len(f.terms), v})
	default:
		if f.more == nil {
			f.more = topdown.NewVirtualCache()
		}
		f.more.Put(ref, v)
	}
}

// Keys returns the references of the last frame that are defined.
func (d *documents) Keys() []ast.Ref {
	f := &d.frames[len(d.frames)-1]
	var keys []ast.Ref
	for _, have := range f.docs {
		if have.value != nil {
			keys = append(keys, slices.Clone(ast.Ref(f.terms[have.from:have.to])))
		}
	}
	if f.more != nil {
		keys = append(keys, f.more.Keys()...)
	}
	return keys
}

// find returns what is at ref, or nil. It compares from the end of the
// references, where they differ most.
func (f *frame) find(ref ast.Ref) *document {
next:
	for i := range f.docs {
		have := f.terms[f.docs[i].from:f.docs[i].to]
		if len(have) != len(ref) {
			continue
		}
		for j := len(ref) - 1; j >= 0; j-- {
			if have[j] != ref[j] && !have[j].Equal(ref[j]) {
				continue next
			}
		}
		return &f.docs[i]
	}
	return nil
}
