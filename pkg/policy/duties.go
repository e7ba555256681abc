package policy

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// obligationsName is the set that rules add obligations to.
const obligationsName = "obligations"

// checkDuties finds rules that oblige the gateway to what it can never do, as far
// as they say so in so many words: each would deny what it was written to allow
// on a condition.
func checkDuties(modules map[string]*ast.Module, ps *problems) {
	eachDuty(modules, func(k, v *ast.Term, at *ast.Location) {
		if err := checkDuty(k, v); err != nil {
			ps.add(at.File, at.Row, "%s", err)
		}
	})
}

// eachDuty calls f with the kind and the value of each obligation that a rule
// writes out, and its place.
func eachDuty(modules map[string]*ast.Module, f func(k, v *ast.Term, at *ast.Location)) {
	for _, m := range modules {
		if !m.Package.Path.Equal(entryRef[:len(entryRef)-1]) {
			continue
		}
		for _, r := range m.Rules {
			for ; r != nil; r = r.Else {
				if string(r.Head.Name) != obligationsName || r.Head.Key == nil {
					continue
				}
				obj, ok := r.Head.Key.Value.(ast.Object)
				if !ok {
					continue
				}
				obj.Foreach(func(k, v *ast.Term) {
					at := k.Location
					if at == nil {
						at = r.Loc()
					}
					f(k, v, at)
				})
			}
		}
	}
}

func checkDuty(k, v *ast.Term) error {
	kind, ok := k.Value.(ast.String)
	if !ok {
		return nil
	}
	if !v.IsGround() || hasCall(v) {
		return protocol.KnownObligation(string(kind))
	}
	value, ok := valueOf(v.Value)
	if !ok {
		value = protocol.Null() // a fraction, or a key that is no text: nothing takes it
	}
	_, err := protocol.Oblige([]protocol.Obligation{{Kind: string(kind), Value: value}})
	return err
}

// hasCall reports whether a value is made by the rule rather than written there.
func hasCall(t *ast.Term) (has bool) {
	ast.WalkTerms(t, func(t *ast.Term) bool {
		switch t.Value.(type) {
		case ast.Call, ast.Ref, ast.Var, *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			has = true
		}
		return has
	})
	return has
}

// mirrorsIn returns the backends that rules and the shipped places of data oblige
// to mirror to, as far as they are written out, and where.
func mirrorsIn(modules map[string]*ast.Module, data *datum) map[string]string {
	out := map[string]string{}
	add := func(v ast.Value, file string, line int) {
		named := func(v ast.Value) {
			if s, ok := v.(ast.String); ok {
				out[string(s)] = fmt.Sprintf("%s:%d", file, line)
			}
		}
		named(v)
		elems, _ := elements(v)
		for _, t := range elems {
			named(t.Value)
		}
	}
	eachDuty(modules, func(k, v *ast.Term, at *ast.Location) {
		if k.Value.Compare(ast.String(protocol.KindMirror)) == 0 {
			add(v.Value, at.File, at.Row)
		}
	})
	table := func(d *datum) {
		if d == nil || d.value == nil {
			return
		}
		elems, _ := elements(d.value)
		for _, t := range elems {
			if obj, ok := t.Value.(ast.Object); ok {
				if v := obj.Get(ast.StringTerm(protocol.KindMirror)); v != nil {
					add(v.Value, d.file, d.line)
				}
			}
		}
	}
	table(data.obj[obligationsName])
	if classes := data.obj["classes"]; classes != nil {
		for _, c := range classes.obj {
			table(c.obj[obligationsName])
		}
	}
	return out
}

// Mirrors returns the backends that the set obliges to mirror to, as far as its
// rules and data write their names out, each with one place where.
func (s *Set) Mirrors() map[string]string { return s.mirrors }
