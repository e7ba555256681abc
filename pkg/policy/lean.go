package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// A lean is a set's rules made cheaper to ask, for decisions only: what is said
// to people comes from the rules as they were written. Two things are done,
// neither of which changes any answer:
//
//   - A rule of a partial set that can not hold, whatever the input, is left
//     out: it goes through a part of the data that is empty, or wants another
//     value there than there is.
//   - A rule that goes through a list of the input is only looked at if the list
//     has something in it. The gateway adds to the input which lists do, and
//     OPA's index of rules does the rest.
//
// Rules that replace input or data with something else (the keyword "with")
// could see the difference, so that a set that has one is left as it is.
type lean struct {
	modules map[string]*ast.Module
	pruned  bool // they are not what they were
	// none names the partial sets of the decision's package that are always
	// empty.
	none map[ast.Var]bool
	// filled are the lists of the input that rules go through.
	filled []filledPath
}

// A filledPath is the path of a list in the input, without "input".
type filledPath []*ast.Term

// maxFilled bounds how many lists are told apart: there is a ready-made term for
// each combination.
const maxFilled = 6

// filledName is the member that is added to the input. No fact has this name.
const filledName = "$filled"

// leanOf returns what is left of the modules, which have been compiled. Rules are
// guarded only if asked for.
func leanOf(can *possible, modules map[string]*ast.Module, guards bool) *lean {
	l := &lean{modules: map[string]*ast.Module{}, none: map[ast.Var]bool{}}
	if can.replace {
		return l
	}
	p := pruner{possible: can, lean: l, guards: guards}
	alive := map[string]bool{}
	var dead []deadRule
	for name, m := range modules {
		m = m.Copy()
		l.modules[name] = m
		keep := m.Rules[:0]
		for _, r := range m.Rules {
			ref := r.Ref().String()
			if p.prune(m, r) {
				dead = append(dead, deadRule{m, r, ref})
				continue
			}
			alive[ref] = true
			keep = append(keep, r)
		}
		m.Rules = keep
	}
	l.pruned = len(dead) > 0 || len(l.filled) > 0
	// A set none of whose rules is left would be undefined and not empty.
	for _, d := range dead {
		if alive[d.ref] {
			continue
		}
		alive[d.ref] = true
		d.module.Rules = append(d.module.Rules, d.rule)
		if d.module.Package.Path.Equal(entryRef[:len(entryRef)-1]) {
			l.none[d.rule.Head.Name] = true
		}
	}
	return l
}

type deadRule struct {
	module *ast.Module
	rule   *ast.Rule
	ref    string
}

// A pruner looks at the rules of a set, one by one.
type pruner struct {
	*possible
	lean   *lean
	guards bool
}

// prune reports whether r can not hold, and guards it if it may.
func (p *pruner) prune(m *ast.Module, r *ast.Rule) bool {
	if !isSetRule(r) {
		return false
	}
	if p.never(m, r) {
		return true
	}
	var guards []*ast.Expr
	for _, e := range r.Body {
		if !e.Negated {
			if list := iterated(e); list != nil {
				if g := p.guard(list); g != nil {
					g.Location = e.Location
					guards = append(guards, g)
				}
			}
		}
		if !p.quiet(m, e) {
			break
		}
	}
	if len(guards) > 0 {
		r.Body = ast.NewBody(append(guards, r.Body...)...)
	}
	return false
}

// iterated returns the list in "some x in list", or nil; the list's name is
// written out.
func iterated(e *ast.Expr) ast.Ref {
	d, ok := e.Terms.(*ast.SomeDecl)
	if !ok {
		return nil
	}
	ref := collection(d)
	if ref == nil || !isConstant(ref) {
		return nil
	}
	return ref
}

// collection returns what "some x in y" goes through, if it has a name.
func collection(d *ast.SomeDecl) ast.Ref {
	if len(d.Symbols) != 1 {
		return nil
	}
	call, ok := d.Symbols[0].Value.(ast.Call)
	if !ok || len(call) < 3 {
		return nil
	}
	ref, _ := call[len(call)-1].Value.(ast.Ref)
	return ref
}

// isConstant reports whether all of ref but its head is written out. That it is
// ground, in OPA's sense, does not say so: another reference in there is, too.
func isConstant(ref ast.Ref) bool {
	return !slices.ContainsFunc(ref[1:], func(t *ast.Term) bool { return !ast.IsScalar(t.Value) })
}

// base returns what is at ref in the data, if only data is there; nil if
// nothing is.
func (p *possible) base(ref ast.Ref) (v ast.Value, ok bool) {
	if len(ref) < 2 || !ref[0].Equal(ast.DefaultRootDocument) || !isConstant(ref) ||
		len(p.c.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true})) > 0 {
		return nil, false
	}
	v, err := p.doc.Find(ref[1:])
	if err != nil {
		return nil, true
	}
	return v, true
}

func hasElements(v ast.Value) bool {
	switch v := v.(type) {
	case *ast.Array:
		return v.Len() > 0
	case ast.Object:
		return v.Len() > 0
	case ast.Set:
		return v.Len() > 0
	}
	return false
}

// compares are the calls that give an answer or none, and never fail.
var compares = map[string]bool{
	ast.Equality.Name: true, ast.Equal.Name: true, ast.NotEqual.Name: true, ast.LessThan.Name: true, ast.LessThanEq.Name: true,
	ast.GreaterThan.Name: true, ast.GreaterThanEq.Name: true, ast.Member.Name: true, ast.MemberWithKey.Name: true,
}

// quiet reports whether e can not fail, and makes nothing fail that it refers
// to.
func (p *possible) quiet(m *ast.Module, e *ast.Expr) bool {
	quiet := true
	// The operators of calls are references too, which are looked at as such.
	ops := map[*ast.Term]bool{}
	call := func(op *ast.Term) {
		ref, ok := op.Value.(ast.Ref)
		if quiet = quiet && ok && compares[ref.String()]; ok {
			ops[op] = true
		}
	}
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if x.IsCall() {
				call(x.Terms.([]*ast.Term)[0])
			}
		case *ast.Every, *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.TemplateString:
			quiet = false
		case *ast.Term:
			if ops[x] {
				return true
			}
			switch v := x.Value.(type) {
			case ast.Call:
				call(v[0])
			case ast.Ref:
				if v[0].Equal(ast.InputRootDocument) {
					break
				}
				n := 1
				for n < len(v) && ast.IsScalar(v[n].Value) {
					n++
				}
				if _, ok := p.base(v[:n]); !ok {
					quiet = false
				}
			case ast.Var:
				// A rule by its name, or something imported.
				if p.names[m.Package.Path.String()][v] || imported(m, v) {
					quiet = false
				}
			}
		}
		return !quiet
	}).Walk(e)
	return quiet
}

func imported(m *ast.Module, name ast.Var) bool {
	for _, i := range m.Imports {
		if i.Name().Equal(name) {
			return true
		}
	}
	return false
}

// guard returns an expression that holds only if the list at ref has something
// in it, or nil if that is not told.
func (p *pruner) guard(ref ast.Ref) *ast.Expr {
	if !p.guards || len(ref) < 2 || !ref[0].Equal(ast.InputRootDocument) {
		return nil
	}
	for _, t := range ref[1:] {
		if _, ok := t.Value.(ast.String); !ok {
			return nil
		}
	}
	path := filledPath(ref[1:])
	known := false
	for _, have := range p.lean.filled {
		known = known || ast.Ref(have).Equal(ast.Ref(path))
	}
	if !known {
		if len(p.lean.filled) == maxFilled {
			return nil
		}
		p.lean.filled = append(p.lean.filled, path)
	}
	at := ast.NewTerm(ast.Ref{ast.InputRootDocument, ast.StringTerm(filledName), ast.StringTerm(path.String())})
	return ast.Equality.Expr(at, ast.BooleanTerm(true))
}

// String returns the name of the list below $filled. No two lists share one,
// however their names are spelt.
func (p filledPath) String() string {
	names := make([]string, len(p))
	for i, t := range p {
		names[i] = t.String()
	}
	return strings.Join(names, ".")
}

// filledTerms returns the member $filled for each combination of lists with
// something in them; bit i stands for paths[i].
func filledTerms(paths []filledPath) []*ast.Term {
	out := make([]*ast.Term, 1<<len(paths))
	for bits := range out {
		var pairs [][2]*ast.Term
		for i, p := range paths {
			if bits>>i&1 == 1 {
				pairs = append(pairs, [2]*ast.Term{ast.StringTerm(p.String()), ast.BooleanTerm(true)})
			}
		}
		out[bits] = ast.NewTerm(ast.NewObject(pairs...))
	}
	return out
}
