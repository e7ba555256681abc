package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// A place is where a rule was written, which tells rules apart in their parsed
// and their compiled form alike.
type place struct {
	file     string
	row, col int
}

func placeOf(r *ast.Rule) place { return place{r.Location.File, r.Location.Row, r.Location.Col} }

// maxClasses bounds for how many classes what can be read is told apart. A set
// with more is asked as if every device were of every class.
const maxClasses = 1024

// classRef is what names the device's class.
var classRef = ast.MustParseRef("input.device.class")

// A possible knows of each rule of a set whether it can hold under the data, for
// devices of a class or for any.
type possible struct {
	c       *ast.Compiler
	doc     ast.Object
	names   map[string]map[ast.Var]bool // of the rules, by package
	replace bool                        // some rule replaces input or data, so that nothing is known
	// class is that of the device, if it is looked at; classes are those that make
	// a difference, as far as they were met.
	class   ast.Value
	classes map[string]bool
}

func newPossible(c *ast.Compiler, modules map[string]*ast.Module, doc ast.Object) *possible {
	p := &possible{c: c, doc: doc, names: map[string]map[ast.Var]bool{}, classes: map[string]bool{}}
	for _, m := range modules {
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			p.replace = p.replace || len(e.With) > 0
			return p.replace
		})
		pkg := m.Package.Path.String()
		if p.names[pkg] == nil {
			p.names[pkg] = map[ast.Var]bool{}
		}
		for _, r := range m.Rules {
			p.names[pkg][r.Head.Ref()[0].Value.(ast.Var)] = true
		}
	}
	return p
}

// isSetRule reports whether r adds to a set, so that one that can not hold can
// be left out.
func isSetRule(r *ast.Rule) bool {
	return r.Head.RuleKind() == ast.MultiValue && !r.Default && r.Else == nil && len(r.Head.Args) == 0 && isConstant(r.Head.Ref())
}

// never reports whether r can not hold. An expression behind one that may fail is
// not looked at: the failure must not be lost.
func (p *possible) never(m *ast.Module, r *ast.Rule) bool {
	if p.replace || !isSetRule(r) {
		return false
	}
	for _, e := range r.Body {
		if !e.Negated && p.fails(e) {
			return true
		}
		if !p.quiet(m, e) {
			return false
		}
	}
	return false
}

// dead returns the rules that can not hold for devices of a class; nil stands for
// whatever class.
func (p *possible) dead(modules map[string]*ast.Module, class ast.Value) map[place]bool {
	p.class = class
	defer func() { p.class = nil }()
	out := map[place]bool{}
	for _, m := range modules {
		for _, r := range m.Rules {
			if p.never(m, r) {
				out[placeOf(r)] = true
			}
		}
	}
	return out
}

// fails reports whether e, which is not negated, has no answer.
func (p *possible) fails(e *ast.Expr) bool {
	switch terms := e.Terms.(type) {
	case *ast.SomeDecl:
		coll := collection(terms)
		return coll != nil && !p.may(coll, hasElements)
	case *ast.Term:
		ref, ok := terms.Value.(ast.Ref)
		return ok && !p.may(ref, func(v ast.Value) bool { return v.Compare(ast.Boolean(false)) != 0 })
	case []*ast.Term:
		return p.failsCall(terms)
	}
	return false
}

// failsCall does so for a call: one that compares with, looks into, or names what
// is nowhere in the data has no answer.
func (p *possible) failsCall(terms []*ast.Term) bool {
	op, ok := terms[0].Value.(ast.Ref)
	if !ok || len(terms) < 3 || !compares[op.String()] && !op.Equal(ast.Assign.Ref()) {
		return false
	}
	args := terms[1:]
	if p.otherClass(op, args) {
		return true
	}
	for i, t := range args {
		ref, ok := t.Value.(ast.Ref)
		if !ok {
			continue
		}
		fits := func(ast.Value) bool { return true }
		switch {
		case op.Equal(ast.Member.Ref()) && i == 1:
			fits = hasElements
			if ast.IsScalar(args[0].Value) {
				fits = func(v ast.Value) bool { return holds(v, args[0]) }
			}
		case op.Equal(ast.MemberWithKey.Ref()) && i == 2:
			fits = hasElements
		case isEquality(op) && len(args) == 2 && ast.IsScalar(args[1-i].Value):
			fits = func(v ast.Value) bool { return v.Compare(args[1-i].Value) == 0 }
		}
		if !p.may(ref, fits) {
			return true
		}
	}
	return false
}

func isEquality(op ast.Ref) bool { return op.Equal(ast.Equality.Ref()) || op.Equal(ast.Equal.Ref()) }

// otherClass reports whether a call asks for a class that is not the one looked
// at.
func (p *possible) otherClass(op ast.Ref, args []*ast.Term) bool {
	if !isEquality(op) || len(args) != 2 {
		return false
	}
	for i, t := range args {
		ref, is := t.Value.(ast.Ref)
		if name, ok := args[1-i].Value.(ast.String); is && ok && ref.Equal(classRef) {
			p.classes[string(name)] = true
			return p.class != nil && p.class.Compare(name) != 0
		}
	}
	return false
}

// holds reports whether a collection has an element.
func holds(v ast.Value, t *ast.Term) bool {
	found := false
	same := func(e *ast.Term) { found = found || e.Equal(t) }
	switch v := v.(type) {
	case *ast.Array:
		v.Foreach(same)
	case ast.Set:
		v.Foreach(same)
	case ast.Object:
		v.Foreach(func(_, e *ast.Term) { same(e) })
	}
	return found
}

// may reports whether ref may refer to something that fits: not if only data is
// there, and nothing in the data does, whatever the parts of ref are that the
// question names. A part that a rule names is another matter: that rule may fail.
func (p *possible) may(ref ast.Ref, fits func(ast.Value) bool) bool {
	if len(ref) < 2 || !ref[0].Equal(ast.DefaultRootDocument) ||
		len(p.c.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true})) > 0 {
		return true
	}
	for _, t := range ref[1:] {
		named, ok := t.Value.(ast.Ref)
		if !ast.IsScalar(t.Value) && (!ok || !named[0].Equal(ast.InputRootDocument) || !isConstant(named)) {
			return true
		}
	}
	return p.some(p.doc, ref[1:], fits)
}

// some reports whether something fits at a path below v.
func (p *possible) some(v ast.Value, path ast.Ref, fits func(ast.Value) bool) bool {
	if len(path) == 0 {
		return fits(v)
	}
	key := path[0]
	if ref, ok := key.Value.(ast.Ref); ok && ref.Equal(classRef) {
		if o, ok := v.(ast.Object); ok {
			o.Foreach(func(k, _ *ast.Term) {
				if name, ok := k.Value.(ast.String); ok {
					p.classes[string(name)] = true
				}
			})
		}
		if p.class != nil {
			key = ast.NewTerm(p.class)
		}
	}
	if ast.IsScalar(key.Value) {
		below, err := v.Find(ast.Ref{key})
		return err == nil && p.some(below, path[1:], fits)
	}
	found := false
	each := func(e *ast.Term) { found = found || p.some(e.Value, path[1:], fits) }
	switch v := v.(type) {
	case *ast.Array:
		v.Foreach(each)
	case ast.Set:
		v.Foreach(each)
	case ast.Object:
		v.Foreach(func(_, e *ast.Term) { each(e) })
	}
	return found
}

// A byClass says what can be read for devices of each class.
type byClass struct {
	named map[string]*paths
	other *paths // of classes that make no difference by themselves
}

// of returns what can be read for a device; nil stands for none.
func (b *byClass) of(rec *device.Record, any *paths) *paths {
	if rec == nil || b.other == nil {
		return any
	}
	if p := b.named[rec.Class]; p != nil {
		return p
	}
	return b.other
}

// noClass is no device's class: none has such a character.
const noClass = "\x00"

// byClassOf finds out what can be read for devices of each class.
func (p *possible) byClassOf(modules map[string]*ast.Module, entry ast.Ref) byClass {
	p.classes = map[string]bool{}
	p.dead(modules, nil) // finds out which classes make a difference
	if p.replace || len(p.classes) > maxClasses {
		return byClass{}
	}
	known := map[string]*paths{} // by which rules can not hold
	reach := func(class string) *paths {
		dead := p.dead(modules, ast.String(class))
		sign := signature(dead)
		if known[sign] == nil {
			known[sign] = reachWithout(p.c, entry, dead).input
		}
		return known[sign]
	}
	b := byClass{named: map[string]*paths{}}
	for _, class := range slices.Sorted(maps.Keys(p.classes)) {
		b.named[class] = reach(class)
	}
	b.other = reach(noClass)
	return b
}

// signature is the same for the same places only.
func signature(places map[place]bool) string {
	var out []string
	for at := range places {
		out = append(out, fmt.Sprintf("%q:%d:%d", at.file, at.row, at.col))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
