package machine

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// call makes a call of a function of the plan, or of a built-in one.
func (m *maker) call(sc *scope, s *ir.CallStmt) (step, error) {
	args, err := m.operands(sc, s.Args)
	if err != nil {
		return nil, err
	}
	at := m.slot(s.Result)
	if m.source[s.Func] != nil {
		return m.callPlanned(s.Func, args, at)
	}
	b := m.builtins[s.Func]
	if b == nil {
		return nil, unsupported("a call of %s, which is not there", s.Func)
	}
	if ast.BuiltinMap[s.Func] == nil || ast.BuiltinMap[s.Func].Relation || b.Decl.Result() == nil || len(args) != b.Decl.Arity() {
		return nil, unsupported("a call of %s in this form", s.Func)
	}
	slow, err := callBuiltin(s.Func, args, at)
	if err != nil {
		return nil, err
	}
	if quick := quickly(s.Func, args, at, slow); quick != nil {
		return quick, nil
	}
	return slow, nil
}

// callPlanned makes a call of a function of the plan. The first two arguments are
// always input and data as they are.
func (m *maker) callPlanned(name string, args []value, at int) (step, error) {
	if len(args) < 2 || !args[0].input || args[0].place != 0 || args[1].term != m.data {
		return nil, unsupported("a call of %s with another input or data", name)
	}
	f, err := m.function(name)
	if err != nil {
		return nil, err
	}
	args = args[2:]
	if len(args) != len(f.params) {
		return nil, unsupported("a call of %s with %d arguments", name, len(args))
	}
	return func(r *Run, l []*ast.Term) signal {
		from := len(r.args)
		for _, a := range args {
			r.args = append(r.args, a.get(r, l))
		}
		t, sig := r.call(f, r.args[from:])
		r.args = r.args[:from]
		if sig == failed {
			return failed
		}
		l[at] = t
		return holds(t != nil)
	}, nil
}

// callBuiltin makes a call of one of OPA's functions. Unlike OPA's plan, which
// takes an error of one for undefined, the run fails then.
func callBuiltin(name string, args []value, at int) (step, error) {
	f := topdown.GetBuiltin(name)
	if f == nil {
		return nil, unsupported("a call of %s, which OPA does not have in Go", name)
	}
	return func(r *Run, l []*ast.Term) signal {
		from := len(r.args)
		for _, a := range args {
			t := a.get(r, l)
			if t == nil {
				r.err = unsupported("a call of %s with what is not defined", name)
				return failed
			}
			r.args = append(r.args, t)
		}
		r.output = nil
		// The function may keep its operands: others are put where these are only
		// once the call is over.
		err := f(r.ctx, r.args[from:len(r.args):len(r.args)], r.emit)
		r.args = r.args[:from]
		if err != nil {
			r.err = err
			return failed
		}
		l[at] = r.output
		return holds(r.output != nil)
	}, nil
}

// quickly makes a shorter call of functions that are asked most, with what they
// are asked of most; anything else is put to slow, which is the function itself.
func quickly(name string, args []value, at int, slow step) step {
	switch name {
	case ast.Member.Name:
		x, c := args[0], args[1]
		return func(r *Run, l []*ast.Term) signal {
			e, in := x.get(r, l), c.get(r, l)
			if e == nil || in == nil {
				return slow(r, l)
			}
			found := false
			switch c := in.Value.(type) {
			case ast.Set:
				found = c.Contains(e)
			case *ast.Array:
				for i := 0; i < c.Len() && !found; i++ {
					found = same(c.Elem(i), e)
				}
			default:
				return slow(r, l)
			}
			l[at] = ast.InternedTerm(found)
			return onward
		}
	}
	compare := comparisons[name]
	if compare == nil {
		return nil
	}
	a, b := args[0], args[1]
	return func(r *Run, l []*ast.Term) signal {
		x, y := a.get(r, l), b.get(r, l)
		if x == nil || y == nil {
			return slow(r, l)
		}
		l[at] = ast.InternedTerm(compare(ast.Compare(x.Value, y.Value)))
		return onward
	}
}

// comparisons are those of OPA that hold between values of any two types.
var comparisons = map[string]func(int) bool{
	ast.Equal.Name:         func(c int) bool { return c == 0 },
	ast.NotEqual.Name:      func(c int) bool { return c != 0 },
	ast.LessThan.Name:      func(c int) bool { return c < 0 },
	ast.LessThanEq.Name:    func(c int) bool { return c <= 0 },
	ast.GreaterThan.Name:   func(c int) bool { return c > 0 },
	ast.GreaterThanEq.Name: func(c int) bool { return c >= 0 },
}
