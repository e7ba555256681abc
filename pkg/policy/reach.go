package policy

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// A reach says what an entry point's value depends on, apart from the data.
type reach struct {
	input *paths
	// clock lists the uses of built-in functions whose value does not follow
	// from their arguments.
	clock []Problem
	// rules counts the rules the entry point can evaluate.
	rules int
	// used holds them; of a chain of else branches the first.
	used map[*ast.Rule]bool
}

// Limits of the analysis. Past them everything counts as read, which is
// correct and slow.
const (
	maxAliasPath = 32
	maxAliases   = 4096
)

// reachOf computes what the rule at entry can depend on, from compiled rules.
//
// The answer errs on one side only: it may hold a path that is never read, and
// never lacks one that is. It follows references to rules, calls of functions
// with their arguments, and local variables that do nothing but name a part of
// the input. A reference counts up to its first part that is not constant, and
// then stands for all below. A variable that does anything else (it is
// compared, passed to a built-in, put into a value, returned) stands for all
// below what it names; so does input itself.
func reachOf(c *ast.Compiler, entry ast.Ref) *reach { return reachWithout(c, entry, nil) }

// reachWithout is reachOf for a set some of whose rules can not hold. Nothing
// follows from what such a rule reads.
func reachWithout(c *ast.Compiler, entry ast.Ref, dead map[place]bool) *reach {
	a := newAnalysis(c)
	a.dead = dead
	a.follow(entry)
	return a.run()
}

// reachOfRule is reachOf for one rule of several that make up a document.
func reachOfRule(c *ast.Compiler, r *ast.Rule) *reach {
	a := newAnalysis(c)
	a.seen[r] = true
	a.queue = append(a.queue, r)
	return a.run()
}

func newAnalysis(c *ast.Compiler) *analysis {
	return &analysis{
		compiler: c,
		seen:     map[*ast.Rule]bool{},
		vars:     map[local]*variable{},
		out:      &reach{input: &paths{}},
	}
}

func (a *analysis) run() *reach {
	for len(a.queue) > 0 {
		r := a.queue[0]
		a.queue = a.queue[1:]
		a.rule(r)
	}
	a.out.used = a.seen
	a.solve()
	a.out.input.seal(0)
	return a.out
}

// A local is a variable of a rule and its else branches. The compiler makes the
// names of declared variables unique; undeclared ones are shared in the rule.
type local struct {
	rule *ast.Rule
	name ast.Var
}

// A source is a path below input (of is zero) or below a local variable.
type source struct {
	of   local
	path []string
}

// A variable collects how a local variable is used.
type variable struct {
	from []source // what it is a name of
	// bound counts the places that give it its value. With more than one, its
	// values are compared, and comparing reads all of both.
	bound int
	whole bool       // it is used as a value, so all below is read
	below [][]string // it is read at these paths
	users []*variable
	names map[string][]string // the solution: the paths of input it names
}

type analysis struct {
	compiler *ast.Compiler
	queue    []*ast.Rule
	seen     map[*ast.Rule]bool
	dead     map[place]bool
	vars     map[local]*variable
	current  *ast.Rule // the first of the chain of else branches being read
	out      *reach
}

func (a *analysis) variable(l local) *variable {
	v := a.vars[l]
	if v == nil {
		v = &variable{names: map[string][]string{}}
		a.vars[l] = v
	}
	return v
}

// follow queues the rules that ref may refer to.
func (a *analysis) follow(ref ast.Ref) []*ast.Rule {
	rules := a.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true})
	for _, r := range rules {
		if !a.seen[r] && !a.dead[placeOf(r)] {
			a.seen[r] = true
			a.queue = append(a.queue, r)
		}
	}
	return rules
}

func (a *analysis) rule(r *ast.Rule) {
	a.current = r
	for _, arg := range r.Head.Args {
		if v, ok := arg.Value.(ast.Var); ok {
			a.variable(local{r, v}).bound++
		} else {
			a.use(arg)
		}
	}
	for ; r != nil; r = r.Else {
		a.out.rules++
		for _, t := range r.Head.Reference {
			if _, ok := t.Value.(ast.Var); ok && t == r.Head.Reference[0] {
				continue // the rule's own name
			}
			a.use(t)
		}
		if r.Head.Key != nil {
			a.use(r.Head.Key)
		}
		if r.Head.Value != nil {
			a.use(r.Head.Value)
		}
		a.body(r.Body)
	}
}

func (a *analysis) body(b ast.Body) {
	for _, e := range b {
		a.expr(e)
	}
}

func (a *analysis) expr(e *ast.Expr) {
	for _, w := range e.With {
		a.with(w)
	}
	switch t := e.Terms.(type) {
	case *ast.Term:
		a.use(t)
	case []*ast.Term:
		if e.IsEquality() && len(t) == 3 {
			a.equal(t[1], t[2])
		} else {
			a.call(t[0], t[1:])
		}
	case *ast.Every:
		for _, x := range []*ast.Term{t.Key, t.Value, t.Domain} {
			if x != nil {
				a.use(x)
			}
		}
		a.body(t.Body)
	case *ast.SomeDecl:
		for _, x := range t.Symbols {
			a.use(x)
		}
	default:
		// Whatever it is, it may read anything, the clock included.
		a.out.input.add(nil)
		p := Problem{Message: fmt.Sprintf("rule %s: what an expression depends on is not known", a.current.Head.Ref())}
		if e.Location != nil {
			p.File, p.Line, p.Column = e.Location.File, e.Location.Row, e.Location.Col
		}
		a.out.clock = append(a.out.clock, p)
	}
}

// with reads a "with TARGET as VALUE". The rules evaluated under it still only
// read what they read anyway, from the real input or from the value, so it is
// the value's own reads that count. A replaced function is another matter: what
// it is called with then goes somewhere else.
func (a *analysis) with(w *ast.With) {
	a.use(w.Value)
	ref, ok := w.Target.Value.(ast.Ref)
	if !ok {
		a.out.input.add(nil)
		return
	}
	switch {
	case ref[0].Equal(ast.InputRootDocument):
		if len(ref) > 1 { // the rest of the real input stays
			a.use(w.Target)
		}
	case !ref[0].Equal(ast.DefaultRootDocument):
		a.out.input.add(nil) // a built-in function
	default:
		for _, r := range a.follow(ref) {
			if len(r.Head.Args) > 0 {
				a.out.input.add(nil)
			}
		}
	}
}

// equal reads an equation. One between a variable and a constant reference
// gives the variable its meaning; any other compares.
func (a *analysis) equal(x, y *ast.Term) {
	for _, p := range [][2]*ast.Term{{x, y}, {y, x}} {
		name, ok := p[0].Value.(ast.Var)
		if !ok || ast.RootDocumentNames.Contains(p[0]) {
			continue
		}
		if src, ok := a.source(p[1]); ok {
			v := a.variable(local{a.current, name})
			v.bound++
			v.from = append(v.from, src)
			return
		}
	}
	a.use(x)
	a.use(y)
}

// source tells whether t is a constant reference into input or into a local
// variable. It then counts as asked for, and what is read of it is up to whoever
// holds it.
func (a *analysis) source(t *ast.Term) (source, bool) {
	ref, ok := t.Value.(ast.Ref)
	if !ok {
		return source{}, false
	}
	path, whole := constant(ref)
	head, ok := ref[0].Value.(ast.Var)
	if !ok || !whole || ref[0].Equal(ast.DefaultRootDocument) {
		return source{}, false
	}
	if ref[0].Equal(ast.InputRootDocument) {
		a.out.input.touch(path)
		return source{path: path}, true
	}
	return source{of: local{a.current, head}, path: path}, true
}

// constant returns the names up to the first part of a reference that is not a
// constant name, and whether that was all.
func constant(ref ast.Ref) (path []string, whole bool) {
	for _, t := range ref[1:] {
		s, ok := t.Value.(ast.String)
		if !ok {
			return path, false
		}
		path = append(path, string(s))
	}
	return path, true
}

// call reads a call of op with args, the last of which may be its result.
func (a *analysis) call(op *ast.Term, args []*ast.Term) {
	ref, ok := op.Value.(ast.Ref)
	if !ok {
		a.out.input.add(nil)
		return
	}
	if !ref[0].Equal(ast.DefaultRootDocument) {
		a.builtin(ref, op.Location)
		for _, t := range args {
			a.use(t)
		}
		return
	}
	rules := a.follow(ref)
	for i, t := range args {
		a.argument(rules, i, t)
	}
}

func (a *analysis) builtin(ref ast.Ref, loc *ast.Location) {
	name := ref.String()
	b := ast.BuiltinMap[name]
	if b == nil || !b.Nondeterministic {
		return
	}
	p := Problem{Message: fmt.Sprintf("rule %s: %s makes its decisions depend on more than the input", a.current.Head.Ref(), name)}
	if loc != nil {
		p.File, p.Line, p.Column = loc.File, loc.Row, loc.Col
	}
	a.out.clock = append(a.out.clock, p)
}

// argument binds t to the i-th parameter of each of the rules, which are one
// function's.
func (a *analysis) argument(rules []*ast.Rule, i int, t *ast.Term) {
	src, ok := a.source(t)
	if name, is := t.Value.(ast.Var); is && !ast.RootDocumentNames.Contains(t) {
		src, ok = source{of: local{a.current, name}}, true
	}
	if !ok {
		a.use(t)
		return
	}
	for _, r := range rules {
		if i >= len(r.Head.Args) { // it is the result
			a.use(t)
			continue
		}
		param, ok := r.Head.Args[i].Value.(ast.Var)
		if !ok { // a constant or a pattern: the argument is compared with it
			a.use(t)
			continue
		}
		v := a.variable(local{r, param})
		v.from = append(v.from, src)
	}
	if len(rules) == 0 {
		a.use(t)
	}
}

// use reads a term as a value: all of it.
func (a *analysis) use(t *ast.Term) {
	switch x := t.Value.(type) {
	case ast.Var:
		if ast.RootDocumentNames.Contains(t) {
			a.ref(ast.Ref{t})
			return
		}
		a.variable(local{a.current, x}).whole = true
	case ast.Ref:
		a.ref(x)
	case *ast.Array:
		x.Foreach(a.use)
	case ast.Set:
		x.Foreach(a.use)
	case ast.Object:
		x.Foreach(func(k, v *ast.Term) { a.use(k); a.use(v) })
	case *ast.ArrayComprehension:
		a.use(x.Term)
		a.body(x.Body)
	case *ast.SetComprehension:
		a.use(x.Term)
		a.body(x.Body)
	case *ast.ObjectComprehension:
		a.use(x.Key)
		a.use(x.Value)
		a.body(x.Body)
	case ast.Call:
		a.call(x[0], x[1:])
	case ast.Null, ast.Boolean, ast.Number, ast.String:
	default: // a kind of term this code does not know
		a.out.input.add(nil)
	}
}

func (a *analysis) ref(ref ast.Ref) {
	path, _ := constant(ref)
	switch head := ref[0].Value.(type) {
	case ast.Var:
		switch {
		case ref[0].Equal(ast.InputRootDocument):
			a.out.input.add(path)
		case ref[0].Equal(ast.DefaultRootDocument):
			a.follow(ref)
		default:
			v := a.variable(local{a.current, head})
			v.below = append(v.below, path)
		}
	default:
		a.use(ref[0])
	}
	for _, t := range ref[1:] {
		if _, ok := t.Value.(ast.String); !ok {
			a.use(t)
		}
	}
}

// solve finds the paths each variable names, and adds what is read of them.
func (a *analysis) solve() {
	var work []*variable
	for _, v := range a.vars {
		for _, s := range v.from {
			if s.of.rule == nil {
				v.names[joined(s.path)] = s.path
			} else {
				from := a.variable(s.of)
				from.users = append(from.users, v)
			}
		}
	}
	for _, v := range a.vars {
		work = append(work, v)
	}
	total := 0
	for len(work) > 0 {
		v := work[len(work)-1]
		work = work[:len(work)-1]
		grew := false
		for _, s := range v.from {
			if s.of.rule == nil {
				continue
			}
			for _, p := range a.variable(s.of).names {
				p = append(p[:len(p):len(p)], s.path...)
				if _, ok := v.names[joined(p)]; ok {
					continue
				}
				if total++; total > maxAliases || len(p) > maxAliasPath {
					a.out.input.add(nil)
					return
				}
				v.names[joined(p)] = p
				grew = true
			}
		}
		if grew {
			work = append(work, v.users...)
		}
	}
	for _, v := range a.vars {
		for _, p := range v.names {
			a.out.input.touch(p)
			if v.whole || v.bound > 1 {
				a.out.input.add(p)
			}
			for _, b := range v.below {
				a.out.input.add(append(p[:len(p):len(p)], b...))
			}
		}
	}
}
