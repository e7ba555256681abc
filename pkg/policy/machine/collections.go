package machine

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// fresh makes an empty collection. A set is made when the first element is added:
// most stay empty, or get one that is a constant, and are shared then.
func (m *maker) fresh(s ir.Stmt) (step, error) {
	var at int
	var empty func() ast.Value
	switch s := s.(type) {
	case *ir.MakeArrayStmt:
		at, empty = m.slot(s.Target), func() ast.Value { return ast.NewArray() }
	case *ir.MakeObjectStmt:
		at, empty = m.slot(s.Target), func() ast.Value { return ast.NewObject() }
	case *ir.MakeSetStmt:
		at = m.slot(s.Target)
		return func(_ *Run, l []*ast.Term) signal {
			l[at] = ast.InternedEmptySet
			return onward
		}, nil
	}
	return func(_ *Run, l []*ast.Term) signal {
		l[at] = ast.NewTerm(empty())
		return onward
	}, nil
}

// addTo makes a step that adds to a set. The set is the local's alone from when it
// was made until nothing is added any more.
func (m *maker) addTo(sc *scope, s *ir.SetAddStmt) (step, error) {
	v, err := m.value(sc, s.Value)
	if err != nil {
		return nil, err
	}
	at := m.slot(s.Set)
	var single *ast.Term
	if v.term != nil {
		single = ast.SetTerm(v.term)
		single.Value.(ast.Set).Slice()
		m.prog.single[single] = true
	}
	return func(r *Run, l []*ast.Term) signal {
		to, e := l[at], v.get(r, l)
		if to == nil || e == nil {
			r.err = unsupported("adding what is not defined")
			return failed
		}
		set, ok := to.Value.(ast.Set)
		switch {
		case !ok:
			r.err = unsupported("adding to what is no set")
			return failed
		case to == ast.InternedEmptySet && single != nil:
			l[at] = single
		case to == ast.InternedEmptySet:
			l[at] = ast.SetTerm(e)
		case r.prog.single[to]:
			own := set.Copy()
			own.Add(e)
			l[at] = ast.NewTerm(own)
		default:
			set.Add(e)
		}
		return onward
	}, nil
}

// collect makes a step that adds to a collection.
func (m *maker) collect(sc *scope, s ir.Stmt) (step, error) {
	var at int
	var ops []ir.Operand
	var add func(to, k, v *ast.Term) (ok, conflict bool)
	switch s := s.(type) {
	case *ir.ArrayAppendStmt:
		at, ops, add = m.slot(s.Array), []ir.Operand{s.Value, s.Value}, func(to, _, v *ast.Term) (bool, bool) {
			c, ok := to.Value.(*ast.Array)
			if ok {
				to.Value = c.Append(v)
			}
			return ok, false
		}
	case *ir.ObjectInsertStmt:
		at, ops, add = m.slot(s.Object), []ir.Operand{s.Key, s.Value}, func(to, k, v *ast.Term) (bool, bool) {
			c, ok := to.Value.(ast.Object)
			if ok {
				c.Insert(k, v)
			}
			return ok, false
		}
	case *ir.ObjectInsertOnceStmt:
		at, ops, add = m.slot(s.Object), []ir.Operand{s.Key, s.Value}, func(to, k, v *ast.Term) (bool, bool) {
			c, ok := to.Value.(ast.Object)
			if !ok {
				return false, false
			}
			if have := c.Get(k); have != nil {
				return true, !same(have, v)
			}
			c.Insert(k, v)
			return true, false
		}
	}
	key, err := m.value(sc, ops[0])
	if err != nil {
		return nil, err
	}
	val, err := m.value(sc, ops[1])
	if err != nil {
		return nil, err
	}
	return func(r *Run, l []*ast.Term) signal {
		to, k, v := l[at], key.get(r, l), val.get(r, l)
		if to == nil || k == nil || v == nil {
			r.err = unsupported("adding what is not defined")
			return failed
		}
		ok, conflict := add(to, k, v)
		switch {
		case !ok:
			r.err = unsupported("adding to what is no collection")
			return failed
		case conflict:
			r.err = errConflict
			return failed
		}
		return onward
	}, nil
}

// merge makes the union of what rules give and what the data have.
func (m *maker) merge(sc *scope, s *ir.ObjectMergeStmt) (step, error) {
	a, b, at := m.local(sc, s.A), m.local(sc, s.B), m.slot(s.Target)
	return func(r *Run, l []*ast.Term) signal {
		x, y := a.get(r, l), b.get(r, l)
		if x == nil || y == nil {
			r.err = unsupported("a union with what is not defined")
			return failed
		}
		xo, ok1 := x.Value.(ast.Object)
		yo, ok2 := y.Value.(ast.Object)
		if !ok1 || !ok2 {
			r.err = errConflict
			return failed
		}
		both, ok := xo.Merge(yo)
		if !ok {
			r.err = errConflict
			return failed
		}
		l[at] = ast.NewTerm(both)
		return onward
	}, nil
}
