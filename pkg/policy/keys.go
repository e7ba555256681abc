package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Keys returns the names of what the set's data holds at a path below data,
// sorted; nil if there is no object. Keys("classes") are the classes of devices
// that the set knows.
func (s *Set) Keys(path ...string) []string {
	doc := s.data.doc
	for _, p := range path {
		t := doc.Get(ast.StringTerm(p))
		if t == nil {
			return nil
		}
		o, ok := t.Value.(ast.Object)
		if !ok {
			return nil
		}
		doc = o
	}
	var out []string
	doc.Foreach(func(k, _ *ast.Term) {
		if name, ok := k.Value.(ast.String); ok {
			out = append(out, string(name))
		}
	})
	slices.Sort(out)
	return out
}
