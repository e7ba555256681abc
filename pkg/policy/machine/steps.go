package machine

import (
	"errors"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// What makes a run fail besides the built-in functions.
var (
	errCancelled = errors.New("the run was cancelled")
	errConflict  = errors.New("rules give different values for one thing")
)

// block makes a block.
func (m *maker) block(outer *scope, b *ir.Block) (block, error) {
	sc := &scope{outer: outer, vars: map[ir.Local]value{}}
	var out block
	for i := 0; i < len(b.Stmts); i++ {
		s := b.Stmts[i]
		if st, n, err := m.literal(sc, b.Stmts[i:]); err != nil {
			return nil, err
		} else if n > 0 {
			out = append(out, st)
			i += n - 1
			continue
		}
		st, err := m.step(sc, s)
		if err != nil {
			return nil, err
		}
		// A part of the input that only leads to the next needs no step of its own:
		// where it is not there, the next is not either.
		if d, ok := s.(*ir.DotStmt); ok && i+1 < len(b.Stmts) && m.leads(sc, d, b.Stmts[i+1]) {
			continue
		}
		if st != nil {
			out = append(out, st)
		}
	}
	return out, nil
}

// literal makes one step of the statements that make a collection of constants; n
// is how many they are, 0 if that is not what they do.
func (m *maker) literal(sc *scope, stmts []ir.Stmt) (_ step, n int, err error) {
	var target ir.Local
	switch s := stmts[0].(type) {
	case *ir.MakeSetStmt:
		target = s.Target
	case *ir.MakeArrayStmt:
		target = s.Target
	default:
		return nil, 0, nil
	}
	if m.writes[target] != 1 || m.adds[target] == 0 {
		return nil, 0, nil
	}
	var elems []*ast.Term
	for n = 1; n < len(stmts) && len(elems) < m.adds[target]; n++ {
		var o ir.Operand
		switch s := stmts[n].(type) {
		case *ir.SetAddStmt:
			o = s.Value
		case *ir.ArrayAppendStmt:
			o = s.Value
		default:
			return nil, 0, nil
		}
		if l, _ := addsTo(stmts[n]); l != target {
			return nil, 0, nil
		}
		v, err := m.value(sc, o)
		if err != nil || v.term == nil {
			return nil, 0, err
		}
		elems = append(elems, v.term)
	}
	if len(elems) < m.adds[target] {
		return nil, 0, nil
	}
	t := ast.ArrayTerm(elems...)
	if _, ok := stmts[0].(*ir.MakeSetStmt); ok {
		t = ast.SetTerm(elems...)
		t.Value.(ast.Set).Slice() // sorted once, not by the runs that share it
	}
	sc.vars[target] = value{term: t}
	at := m.slot(target)
	return func(_ *Run, l []*ast.Term) signal {
		l[at] = t
		return onward
	}, n, nil
}

// leads reports whether d only finds the part of the input that the next statement
// looks into.
func (m *maker) leads(sc *scope, d *ir.DotStmt, next ir.Stmt) bool {
	n, ok := next.(*ir.DotStmt)
	if !ok || plain(n.Source) != ir.Val(d.Target) || m.reads[d.Target] != 1 || m.handed[d.Target] {
		return false
	}
	v, ok := sc.find(d.Target)
	if !ok || !v.input {
		return false
	}
	k, err := m.value(sc, n.Key)
	return err == nil && k.term != nil && m.writes[n.Target] == 1
}

// step makes the step of a statement; nil if there is nothing to do.
func (m *maker) step(sc *scope, s ir.Stmt) (step, error) {
	switch s := s.(type) {
	case *ir.NopStmt:
		return nil, nil
	case *ir.ReturnLocalStmt:
		v := m.local(sc, s.Source)
		return func(r *Run, l []*ast.Term) signal {
			r.result = v.get(r, l)
			return returned
		}, nil
	case *ir.BreakStmt:
		sig := signal(s.Index) + 1
		return func(*Run, []*ast.Term) signal { return sig }, nil
	case *ir.BlockStmt:
		return m.blocks(sc, s)
	case *ir.ScanStmt:
		return m.scan(sc, s)
	case *ir.NotStmt:
		return m.not(sc, s)
	case *ir.CallStmt:
		return m.call(sc, s)
	case *ir.DotStmt:
		return m.dot(sc, s)
	case *ir.LenStmt:
		return m.length(sc, s)
	case *ir.EqualStmt:
		return m.equal(sc, s.A, s.B, true)
	case *ir.NotEqualStmt:
		return m.equal(sc, s.A, s.B, false)
	case *ir.IsArrayStmt:
		return m.is(sc, s.Source, func(v ast.Value) bool { _, ok := v.(*ast.Array); return ok })
	case *ir.IsObjectStmt:
		return m.is(sc, s.Source, func(v ast.Value) bool { _, ok := v.(ast.Object); return ok })
	case *ir.IsSetStmt:
		return m.is(sc, s.Source, func(v ast.Value) bool { _, ok := v.(ast.Set); return ok })
	case *ir.IsDefinedStmt:
		v := m.local(sc, s.Source)
		return func(r *Run, l []*ast.Term) signal { return holds(v.get(r, l) != nil) }, nil
	case *ir.IsUndefinedStmt:
		v := m.local(sc, s.Source)
		return func(r *Run, l []*ast.Term) signal { return holds(v.get(r, l) == nil) }, nil
	case *ir.AssignVarStmt:
		v, err := m.value(sc, s.Source)
		if err != nil {
			return nil, err
		}
		if v.term != nil || v.input { // else it is the other local as it is now
			m.know(sc, s.Target, v)
		}
		at := m.slot(s.Target)
		return func(r *Run, l []*ast.Term) signal {
			t := v.get(r, l)
			if t == nil {
				return r.unset()
			}
			l[at] = t
			return onward
		}, nil
	case *ir.AssignVarOnceStmt:
		return m.assignOnce(sc, s)
	case *ir.ResetLocalStmt:
		at := m.slot(s.Target)
		return func(_ *Run, l []*ast.Term) signal {
			l[at] = nil
			return onward
		}, nil
	case *ir.AssignIntStmt:
		return m.constant(sc, s.Target, ast.InternedTerm(s.Value))
	case *ir.MakeNullStmt:
		return m.constant(sc, s.Target, ast.InternedNullTerm)
	case *ir.MakeNumberIntStmt:
		return m.constant(sc, s.Target, ast.InternedTerm(s.Value))
	case *ir.MakeNumberRefStmt:
		return m.constant(sc, s.Target, ast.NewTerm(ast.Number(m.policy.Static.Strings[s.Index].Value)))
	case *ir.MakeArrayStmt, *ir.MakeObjectStmt, *ir.MakeSetStmt:
		return m.fresh(s)
	case *ir.SetAddStmt:
		return m.addTo(sc, s)
	case *ir.ArrayAppendStmt, *ir.ObjectInsertStmt, *ir.ObjectInsertOnceStmt:
		return m.collect(sc, s)
	case *ir.ObjectMergeStmt:
		return m.merge(sc, s)
	}
	return nil, unsupported("a statement of type %T", s)
}

func holds(ok bool) signal {
	if ok {
		return onward
	}
	return undefined
}

func (m *maker) constant(sc *scope, target ir.Local, t *ast.Term) (step, error) {
	m.know(sc, target, value{term: t})
	at := m.slot(target)
	return func(_ *Run, l []*ast.Term) signal {
		l[at] = t
		return onward
	}, nil
}

func (m *maker) is(sc *scope, o ir.Operand, fits func(ast.Value) bool) (step, error) {
	v, err := m.value(sc, o)
	if err != nil {
		return nil, err
	}
	return func(r *Run, l []*ast.Term) signal {
		t := v.get(r, l)
		return holds(t != nil && fits(t.Value))
	}, nil
}

// blocks makes a statement of blocks, which are run one after the other.
func (m *maker) blocks(sc *scope, s *ir.BlockStmt) (step, error) {
	inner := make([]block, 0, len(s.Blocks))
	for _, b := range s.Blocks {
		made, err := m.block(sc, b)
		if err != nil {
			return nil, err
		}
		inner = append(inner, made)
	}
	return func(r *Run, l []*ast.Term) signal {
		for _, b := range inner {
			if sig := b.run(r, l); sig < 0 {
				return sig
			} else if sig > undefined {
				return sig - 1
			}
		}
		return onward
	}, nil
}

// not makes a negation: what is inside must not be defined.
func (m *maker) not(sc *scope, s *ir.NotStmt) (step, error) {
	inner, err := m.block(sc, s.Block)
	if err != nil {
		return nil, err
	}
	return func(r *Run, l []*ast.Term) signal {
		switch sig := inner.run(r, l); {
		case sig < 0:
			return sig
		case sig == onward:
			return undefined
		default:
			return sig - 1
		}
	}, nil
}

// scan makes a loop over what is in a collection; over anything else it does
// nothing. To leave the loop's block is to go on with the next element, and to
// leave one more is to end it.
func (m *maker) scan(sc *scope, s *ir.ScanStmt) (step, error) {
	src := m.local(sc, s.Source)
	key, val := m.slot(s.Key), m.slot(s.Value)
	inner, err := m.block(sc, s.Block)
	if err != nil {
		return nil, err
	}
	return func(r *Run, l []*ast.Term) signal {
		t := src.get(r, l)
		if t == nil {
			return r.unset()
		}
		switch c := t.Value.(type) {
		case *ast.Array:
			for i := range c.Len() {
				l[key], l[val] = ast.InternedTerm(i), c.Elem(i)
				if sig := inner.run(r, l); sig != onward && sig != undefined {
					return outOf(sig)
				}
			}
			return onward
		case ast.Set:
			for _, e := range c.Slice() {
				l[key], l[val] = e, e
				if sig := inner.run(r, l); sig != onward && sig != undefined {
					return outOf(sig)
				}
			}
			return onward
		case ast.Object:
			out := onward
			c.Until(func(k, v *ast.Term) bool {
				l[key], l[val] = k, v
				sig := inner.run(r, l)
				if sig == onward || sig == undefined {
					return false
				}
				out = outOf(sig)
				return true
			})
			return out
		}
		return onward
	}, nil
}

// outOf is what leaving blocks inside a loop is outside of it.
func outOf(sig signal) signal {
	if sig < 0 {
		return sig
	}
	return sig - 2
}

// get returns what is at a key of a collection; nil is undefined.
func get(t, key *ast.Term) *ast.Term {
	if t == nil || key == nil {
		return nil
	}
	switch c := t.Value.(type) {
	case ast.Object:
		return c.Get(key)
	case *ast.Array:
		return c.Get(key)
	case ast.Set:
		if c.Contains(key) {
			return key
		}
	}
	return nil
}

// dot makes a look-up.
func (m *maker) dot(sc *scope, s *ir.DotStmt) (step, error) {
	src, err := m.value(sc, s.Source)
	if err != nil {
		return nil, err
	}
	key, err := m.value(sc, s.Key)
	if err != nil {
		return nil, err
	}
	at := m.slot(s.Target)
	switch {
	case src.term != nil && key.term != nil:
		t := get(src.term, key.term)
		if t == nil {
			return func(*Run, []*ast.Term) signal { return undefined }, nil
		}
		return m.constant(sc, s.Target, t)
	case src.input && key.term != nil:
		p := m.placeOf(src.place, key.term)
		m.know(sc, s.Target, value{input: true, place: p})
		return func(r *Run, l []*ast.Term) signal {
			t := r.place(p)
			l[at] = t
			return holds(t != nil)
		}, nil
	}
	return func(r *Run, l []*ast.Term) signal {
		from, k := src.get(r, l), key.get(r, l)
		if from == nil || k == nil {
			return r.unset()
		}
		t := get(from, k)
		l[at] = t
		return holds(t != nil)
	}, nil
}

func (m *maker) length(sc *scope, s *ir.LenStmt) (step, error) {
	v, err := m.value(sc, s.Source)
	if err != nil {
		return nil, err
	}
	at := m.slot(s.Target)
	return func(r *Run, l []*ast.Term) signal {
		t := v.get(r, l)
		if t == nil {
			return undefined
		}
		switch c := t.Value.(type) {
		case *ast.Array:
			l[at] = ast.InternedTerm(c.Len())
		case ast.Object:
			l[at] = ast.InternedTerm(c.Len())
		case ast.Set:
			l[at] = ast.InternedTerm(c.Len())
		default:
			r.err = unsupported("the length of what is no collection")
			return failed
		}
		return onward
	}, nil
}

// unset fails a run whose plan looks at a local before anything is in it. Plans do
// so where one side of a unification gives the other its variables: what OPA's
// evaluator makes of that is what counts.
func (r *Run) unset() signal {
	r.err = unsupported("a local that is not set yet")
	return failed
}

// same reports whether two terms are equal.
func same(a, b *ast.Term) bool {
	if a == b {
		return true
	}
	if x, ok := a.Value.(ast.String); ok {
		y, ok := b.Value.(ast.String)
		return ok && x == y
	}
	return a.Value.Compare(b.Value) == 0
}

func (m *maker) equal(sc *scope, a, b ir.Operand, want bool) (step, error) {
	x, err := m.value(sc, a)
	if err != nil {
		return nil, err
	}
	y, err := m.value(sc, b)
	if err != nil {
		return nil, err
	}
	return func(r *Run, l []*ast.Term) signal {
		a, b := x.get(r, l), y.get(r, l)
		if a == nil || b == nil {
			return r.unset()
		}
		return holds(same(a, b) == want)
	}, nil
}

func (m *maker) assignOnce(sc *scope, s *ir.AssignVarOnceStmt) (step, error) {
	v, err := m.value(sc, s.Source)
	if err != nil {
		return nil, err
	}
	at := m.slot(s.Target)
	return func(r *Run, l []*ast.Term) signal {
		t := v.get(r, l)
		if t == nil {
			return r.unset()
		}
		if l[at] != nil && !same(l[at], t) {
			r.err = errConflict
			return failed
		}
		l[at] = t
		return onward
	}, nil
}

// operands returns what the operands of a call are.
func (m *maker) operands(sc *scope, ops []ir.Operand) ([]value, error) {
	out := make([]value, 0, len(ops))
	for _, o := range ops {
		v, err := m.value(sc, o)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return slices.Clip(out), nil
}
