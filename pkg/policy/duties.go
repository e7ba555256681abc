package policy

import (
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// obligationsName is the set that rules add obligations to.
const obligationsName = "obligations"

// checkDuties finds rules that oblige the gateway to what it can never do, as far
// as they say so in so many words: each would deny what it was written to allow
// on a condition.
func checkDuties(modules map[string]*ast.Module, ps *problems) {
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
					if err := checkDuty(k, v); err != nil {
						at := k.Location
						if at == nil {
							at = r.Loc()
						}
						ps.add(at.File, at.Row, "%s", err)
					}
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
