package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// A clause is a compiled rule as a list of conditions that can be compared with
// another's.
type clause struct {
	rule *ast.Rule
	// head is everything the rule says where it holds, with variables named in
	// the order in which they come.
	head       string
	conditions []string
	// open are the indices of conditions that hold variables. Such a condition
	// means the same only among the same others.
	open map[int]bool
	// wants maps what is compared with a constant to the constants.
	wants map[string][]string
}

func clauseOf(r *ast.Rule) *clause {
	c := &clause{rule: r, open: map[int]bool{}, wants: map[string][]string{}}
	names := map[ast.Var]string{}
	c.head = canonicalHead(r, names)
	for _, e := range r.Body {
		if t, ok := e.Terms.(*ast.Term); ok && t.Value.Compare(ast.Boolean(true)) == 0 && len(e.With) == 0 && !e.Negated {
			continue // a body of "true", which is no body
		}
		text, open := canonical(e, names)
		if open {
			c.open[len(c.conditions)] = true
		}
		c.conditions = append(c.conditions, text)
		c.constant(e)
	}
	return c
}

func canonicalHead(r *ast.Rule, names map[ast.Var]string) string {
	h := r.Head
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %v", r.Module.Package.Path, r.Head.Ref().GroundPrefix(), h.RuleKind())
	for _, t := range h.Args {
		text, _ := canonical(t, names)
		b.WriteString(" arg " + text)
	}
	for _, t := range h.Reference[1:] {
		text, _ := canonical(t, names)
		b.WriteString(" ref " + text)
	}
	for _, t := range []*ast.Term{h.Key, h.Value} {
		if t != nil {
			text, _ := canonical(t, names)
			b.WriteString(" says " + text)
		}
	}
	return fmt.Sprintf("%v %s", r.Default, b.String())
}

// functions are the first names of OPA's built-in functions, operators included:
// they look like variables.
var functions = func() map[ast.Var]bool {
	out := map[ast.Var]bool{}
	for name := range ast.BuiltinMap {
		first, _, _ := strings.Cut(name, ".")
		out[ast.Var(first)] = true
	}
	return out
}()

// canonical renders a part of a rule with its variables renamed, and reports
// whether there were any.
func canonical[T interface{ Copy() T }](x T, names map[ast.Var]string) (text string, open bool) {
	y, err := ast.TransformVars(x.Copy(), func(v ast.Var) (ast.Value, error) {
		if ast.RootDocumentNames.Contains(ast.NewTerm(v)) || functions[v] {
			return v, nil
		}
		open = true
		if names[v] == "" {
			names[v] = fmt.Sprintf("v%d", len(names))
		}
		return ast.Var(names[v]), nil
	})
	if err != nil {
		return fmt.Sprintf("%p", &x), true // like nothing else
	}
	return fmt.Sprint(y), open
}

// constant notes a condition that compares a fact with a constant.
func (c *clause) constant(e *ast.Expr) {
	if !e.IsEquality() || e.Negated || len(e.With) > 0 {
		return
	}
	x, y := e.Operand(0), e.Operand(1)
	if ast.IsScalar(x.Value) {
		x, y = y, x
	}
	ref, ok := x.Value.(ast.Ref)
	if !ok || !ref.IsGround() || !ref[0].Equal(ast.InputRootDocument) || !ast.IsScalar(y.Value) {
		return
	}
	if s, want := ref.String(), y.String(); !slices.Contains(c.wants[s], want) {
		c.wants[s] = append(c.wants[s], want)
	}
}

// contradiction returns two conditions that cannot both hold, or nothing.
func (c *clause) contradiction() (a, b string) {
	for _, ref := range slices.Sorted(maps.Keys(c.wants)) {
		if w := c.wants[ref]; len(w) > 1 {
			return ref + " == " + w[0], ref + " == " + w[1]
		}
	}
	return "", ""
}

// holdsWith reports whether c provably holds wherever o does: all it asks for, o
// asks for too.
func (c *clause) holdsWith(o *clause) bool {
	if slices.Equal(c.conditions, o.conditions) {
		return true
	}
	for i, cond := range c.conditions {
		if c.open[i] || !slices.Contains(o.conditions, cond) {
			return false
		}
	}
	return true
}
