package policy

import (
	"fmt"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// A paths is a set of paths below input, as a tree. A nil *paths is the empty
// set: nothing there is read, not even whether it exists.
type paths struct {
	// all: everything from here down is read.
	all  bool
	kids map[string]*paths

	// The rest is set by seal.
	name  string    // the last name of the path
	key   *ast.Term // the name, as OPA wants it in an object
	id    uint64    // tells the paths of the tree apart; from 1
	order []*paths  // the kids, by name
	// shapes of objects whose members the kids are; they come in use.
	shapes [maxShapes]shapeSlot
	// sized are the kids by length of name, and those of length n the ones from
	// start[n] up to start[n+1].
	sized []*paths
	start [longName + 2]int32
}

// longName is the longest name that is found by its length. Longer ones, which
// are nothing of ours, are looked for in the map.
const longName = 24

// everything is the set of all paths below any point.
var everything = &paths{all: true}

// touch adds that the value at path is asked for, if only whether it exists.
func (p *paths) touch(path []string) *paths {
	for _, name := range path {
		if p.all {
			return p
		}
		next := p.kids[name]
		if next == nil {
			next = &paths{}
			if p.kids == nil {
				p.kids = map[string]*paths{}
			}
			p.kids[name] = next
		}
		p = next
	}
	return p
}

// add adds the value at path and all below it.
func (p *paths) add(path []string) {
	p = p.touch(path)
	p.all, p.kids = true, nil
}

// seal makes the tree ready for use; nothing is added after that. It returns
// the last id it gave.
func (p *paths) seal(last uint64) uint64 {
	for _, name := range slices.Sorted(maps.Keys(p.kids)) {
		k := p.kids[name]
		last++
		k.name, k.key, k.id = name, ast.StringTerm(name), last
		p.order = append(p.order, k)
		last = k.seal(last)
	}
	for n := range longName + 1 {
		p.start[n] = int32(len(p.sized))
		for _, k := range p.order {
			if len(k.name) == n {
				p.sized = append(p.sized, k)
			}
		}
	}
	p.start[longName+1] = int32(len(p.sized))
	return last
}

// at returns what of the member name is read, or nil if nothing is. The tree is
// sealed.
func (p *paths) at(name string) *paths {
	switch {
	case p == nil:
		return nil
	case p.all:
		return everything
	}
	// Few names have one length: looking along those takes a quarter of the time
	// of the map.
	if n := len(name); n <= longName {
		for _, k := range p.sized[p.start[n]:p.start[n+1]] {
			if k.name == name {
				return k
			}
		}
		return nil
	}
	return p.kids[name]
}

// reaches reports whether anything at path, or below it, is read, or whether
// path exists.
func (p *paths) reaches(path []string) bool {
	for _, name := range path {
		if p = p.at(name); p == nil {
			return false
		}
	}
	return p != nil
}

// list appends the paths as texts such as "input.device.class". A path that is
// only asked whether it exists ends in "?".
func (p *paths) list(prefix string, out *[]string) {
	switch {
	case p.all:
		*out = append(*out, prefix)
	case len(p.kids) == 0:
		*out = append(*out, prefix+"?")
	}
	for _, k := range p.order {
		k.list(prefix+"."+k.name, out)
	}
}

// joined is a path as a map key; no two paths share one.
func joined(path []string) string { return fmt.Sprintf("%q", path) }
