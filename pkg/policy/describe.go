package policy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// A Description is what a policy set says of itself: its rules with their
// METADATA, and the classes of devices in its data.
type Description struct {
	Dir      string            `json:"dir"`
	Revision string            `json:"revision"`
	Rules    []RuleDescription `json:"rules"` // reasons to allow first, then to deny, then the others
	// Controls maps a control ("HIPAA 164.312(a)(1) Access control") to the
	// indices of the rules that serve it.
	Controls map[string][]int   `json:"controls"`
	Classes  []ClassDescription `json:"classes"`
}

// A RuleDescription describes one rule.
type RuleDescription struct {
	Name string `json:"name"` // "allow", "deny", "obligations" or another's
	// Sentence is the reason the rule gives, if it is always the same.
	Sentence    string   `json:"sentence,omitempty"`
	Title       string   `json:"title,omitempty"`
	Description string   `json:"description,omitempty"`
	Controls    []string `json:"controls,omitempty"`
	// At are the places it is written at, as file:line.
	At []string `json:"at"`
	// Reads are the parts of the input it depends on, Data those of the data.
	Reads []string `json:"reads,omitempty"`
	Data  []string `json:"data,omitempty"`
}

// A ClassDescription describes what the data permit a class of devices.
type ClassDescription struct {
	Name  string `json:"name"`
	Title string `json:"title,omitempty"`
	// Grants are lines such as "Observation: create, read".
	Grants []string `json:"grants"`
}

// Describe describes the set in dir. The error is a [*LoadError] if it does not
// load.
func Describe(ctx context.Context, dir string, opt Options) (*Description, error) {
	s, err := Load(ctx, dir, opt)
	if err != nil {
		return nil, err
	}
	d := &Description{Dir: dir, Revision: s.revision, Controls: map[string][]int{}}
	notes := s.compiler.GetAnnotationSet()
	var all []*ast.Rule
	for _, m := range s.compiler.Modules {
		all = append(all, m.Rules...)
	}
	slices.SortFunc(all, func(a, b *ast.Rule) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Loc().File, b.Loc().File), cmp.Compare(a.Loc().Row, b.Loc().Row))
	})
	for _, r := range all {
		if !s.reach.used[r] {
			continue
		}
		d.add(s, r, notes)
	}
	for i, r := range d.Rules {
		for _, c := range r.Controls {
			d.Controls[c] = append(d.Controls[c], i)
		}
	}
	d.Classes = s.classes()
	return d, nil
}

// rank orders rules by what they are for.
func rank(r *ast.Rule) int {
	if r.Module.Package.Path.Equal(allowRef[:len(allowRef)-1]) {
		switch r.Head.Name {
		case "allow":
			return 0
		case "deny":
			return 1
		case "obligations":
			return 2
		}
	}
	return 3
}

// add adds a rule that says something, or joins it to another body of the same
// rule.
func (d *Description) add(s *Set, r *ast.Rule, notes *ast.AnnotationSet) {
	out := RuleDescription{Name: name(r), At: []string{fmt.Sprintf("%s:%d", r.Loc().File, r.Loc().Row)}}
	if r.Head.Key != nil {
		if text, ok := r.Head.Key.Value.(ast.String); ok {
			out.Sentence = string(text)
		}
	}
	as := notes.GetRuleScope(r)
	if doc := notes.GetDocumentScope(r.Ref().GroundPrefix()); doc != nil {
		as = append(as, doc)
	}
	for _, a := range as {
		out.Title, out.Description = cmp.Or(out.Title, a.Title), cmp.Or(out.Description, strings.TrimSpace(a.Description))
		list, _ := a.Custom["controls"].([]any)
		for _, c := range list {
			if text, ok := c.(string); ok && !slices.Contains(out.Controls, text) {
				out.Controls = append(out.Controls, text)
			}
		}
	}
	out.Reads, out.Data = s.readBy(r)
	for i := range d.Rules {
		have := &d.Rules[i]
		same := have.Name == out.Name && have.Sentence == out.Sentence && (out.Title == "" || have.Title == out.Title)
		if !same || rank(r) == 3 && out.Title == "" {
			continue
		}
		have.At = append(have.At, out.At...)
		have.Reads, have.Data = union(have.Reads, out.Reads), union(have.Data, out.Data)
		return
	}
	if rank(r) < 3 || out.Title != "" {
		d.Rules = append(d.Rules, out)
	}
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// readBy lists the parts of the input and of the data that one rule depends on.
func (s *Set) readBy(r *ast.Rule) (input, data []string) {
	re := reachOfRule(s.compiler, r)
	if re.input.all || len(re.input.order) > 0 {
		re.input.list("input", &input)
	}
	for used := range re.used {
		ast.WalkRefs(used, func(ref ast.Ref) bool {
			if !ref[0].Equal(ast.DefaultRootDocument) || len(s.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{})) > 0 {
				return false
			}
			if path, _ := constant(ref); len(path) > 0 {
				data = append(data, "data."+strings.Join(path, "."))
			}
			return false
		})
	}
	slices.Sort(input)
	return input, union(nil, data)
}

// classes reads data.classes as far as it is laid out like the shipped one.
func (s *Set) classes() (out []ClassDescription) {
	for _, class := range s.Keys("classes") {
		c := ClassDescription{Name: class, Grants: []string{}}
		v, err := s.data.doc.Find(ast.Ref{ast.StringTerm("classes"), ast.StringTerm(class)})
		if err != nil {
			continue
		}
		doc, err := ast.JSON(v)
		if err != nil {
			continue
		}
		m, _ := doc.(map[string]any)
		c.Title, _ = m["title"].(string)
		fhir, _ := m["fhir"].(map[string]any)
		if words := list(fhir["system"]); words != "" {
			c.Grants = append(c.Grants, "the server: "+words)
		}
		for _, part := range []string{"types", "operations"} {
			members, _ := fhir[part].(map[string]any)
			for _, k := range slices.Sorted(maps.Keys(members)) {
				c.Grants = append(c.Grants, k+": "+list(members[k]))
			}
		}
		if bound, _ := fhir["compartment"].(map[string]any); list(bound["held"]) != "" {
			text := "held to the patients it is associated with: " + list(bound["held"])
			if except := list(bound["except"]); except != "" {
				text += "; but not with " + except
			}
			c.Grants = append(c.Grants, text)
		}
		web, _ := m["http"].([]any)
		for _, r := range web {
			rule, _ := r.(map[string]any)
			path, _ := rule["path"].([]any)
			text := list(rule["methods"])
			for _, p := range path {
				text += fmt.Sprintf("/%v", p)
			}
			c.Grants = append(c.Grants, strings.Replace(text, "/", " /", 1))
		}
		out = append(out, c)
	}
	return out
}

func list(v any) string {
	var words []string
	l, _ := v.([]any)
	for _, w := range l {
		words = append(words, fmt.Sprint(w))
	}
	return strings.Join(words, ", ")
}
