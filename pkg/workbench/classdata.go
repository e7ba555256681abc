package workbench

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"go.yaml.in/yaml/v3"
)

// A Suggestion is least-privilege data for one class of devices, made of what
// it was seen to do. It is for a person to read; nothing applies it.
type Suggestion struct {
	Class     string `json:"class"`
	Decisions int    `json:"decisions"`
	Devices   int    `json:"devices"`
	// File is the class's data file below the policy set, Data what it would
	// hold, and Diff the way there.
	File string `json:"file"`
	Data string `json:"data"`
	Diff string `json:"diff,omitempty"`
	// Unused are grants that nobody used in that time, such as "Observation:
	// read"; New are uses that the class was not granted.
	Unused []string `json:"unused,omitempty"`
	New    []string `json:"new,omitempty"`
	// Kept are grants that nobody used and that stay: they are for alarms.
	Kept []string `json:"kept,omitempty"`
	// TestFile and Test are a Rego test that pins what was seen.
	TestFile string `json:"test_file"`
	Test     string `json:"test"`
	TestDiff string `json:"test_diff,omitempty"`
}

// Suggest makes data of a use. dir is the policy set's directory.
func Suggest(u *Use, dir string) (*Suggestion, error) {
	s := &Suggestion{Class: u.Class, Decisions: u.Decisions, Devices: len(u.Devices), TestFile: "authz/seen_" + strings.ReplaceAll(u.Class, "-", "_") + "_test.rego"}
	var doc *yaml.Node
	var before []byte
	// What is written for a directory that is not there would be no diff of it.
	at, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !at.IsDir() {
		return nil, fmt.Errorf("%s is not a directory: a suggestion is a diff against one", dir)
	}
	if s.File, before, doc, err = classFile(dir, u.Class); err != nil {
		return nil, err
	}
	class := member(doc.Content[0], u.Class, yaml.MappingNode)
	s.write(class, u)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(doc), e.Close()); err != nil {
		return nil, fmt.Errorf("write %s: %w", s.File, err)
	}
	s.Data = b.String()
	s.Diff = patch(s.File, before, b.Bytes())
	s.Test = u.test()
	was, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(s.TestFile)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.TestDiff = patch(s.TestFile, was, []byte(s.Test))
	return s, nil
}

// patch returns a unified diff, "" if there is nothing to change.
func patch(name string, before, after []byte) string {
	from := "a/" + name
	if before == nil {
		from = "/dev/null"
	}
	return string(diff.Diff(from, before, "b/"+name, after))
}

// classFile finds the file that holds a class's data, or names a new one.
func classFile(dir, class string) (name string, body []byte, doc *yaml.Node, err error) {
	for _, ext := range []string{"*.yaml", "*.yml"} {
		names, err := filepath.Glob(filepath.Join(dir, "classes", ext))
		if err != nil {
			return "", nil, nil, err
		}
		for _, path := range names {
			body, err := os.ReadFile(path)
			if err != nil {
				return "", nil, nil, err
			}
			doc := &yaml.Node{}
			if err := yaml.Unmarshal(body, doc); err != nil {
				return "", nil, nil, fmt.Errorf("%s: %w", path, err)
			}
			if len(doc.Content) == 1 && find(doc.Content[0], class) >= 0 {
				return "classes/" + filepath.Base(path), body, doc, nil
			}
		}
	}
	return "classes/" + class + ".yaml", nil, &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode}}}, nil
}

// find returns where a mapping holds the key, or -1.
func find(n *yaml.Node, key string) int {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return i
			}
		}
	}
	return -1
}

// member returns a mapping's member, which it makes if need be.
func member(n *yaml.Node, key string, kind yaml.Kind) *yaml.Node {
	if i := find(n, key); i >= 0 {
		if v := n.Content[i+1]; v.Kind == kind {
			return v
		}
		n.Content[i+1] = &yaml.Node{Kind: kind}
		return n.Content[i+1]
	}
	v := &yaml.Node{Kind: kind}
	n.Content = append(n.Content, text(key), v)
	return v
}

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// drop removes a member.
func drop(n *yaml.Node, key string) {
	if i := find(n, key); i >= 0 {
		n.Content = slices.Delete(n.Content, i, i+2)
	}
}

// write changes a class's data to what was used, and keeps the rest of it, its
// comments and its order.
func (s *Suggestion) write(class *yaml.Node, u *Use) {
	fhir := member(class, "fhir", yaml.MappingNode)
	s.words(fhir, "system", "the server", u.System)
	s.table(fhir, "types", u.Types)
	s.table(fhir, "operations", u.Calls)
	s.words(fhir, "includes", "includes", u.Includes)
	s.words(fhir, "chains", "chains", u.Chains)
	if len(fhir.Content) == 0 {
		drop(class, "fhir")
	}
	s.web(class, u.Web)
}

// table writes lists of words by name.
func (s *Suggestion) table(n *yaml.Node, key string, seen map[string]map[string]bool) {
	t := member(n, key, yaml.MappingNode)
	for i := len(t.Content) - 2; i >= 0; i -= 2 {
		if name := t.Content[i].Value; seen[name] == nil {
			s.words(t, name, name, nil)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		s.words(t, name, name, seen[name])
	}
	if len(t.Content) == 0 {
		drop(n, key)
	}
}

// alarms are the types of resources that devices raise alarms with. That none
// was raised does not say that none will be; taking the grant away would
// silence it.
var alarms = []string{"Communication", "DetectedIssue", "Flag"}

// words writes one list of words, and notes what it takes away and adds.
func (s *Suggestion) words(n *yaml.Node, key, what string, seen map[string]bool) {
	list := member(n, key, yaml.SequenceNode)
	granted := map[string]bool{}
	list.Content = slices.DeleteFunc(list.Content, func(w *yaml.Node) bool {
		granted[w.Value] = true
		if !seen[w.Value] && w.Value == "create" && slices.Contains(alarms, key) {
			s.Kept = append(s.Kept, what+": "+w.Value)
			return false
		}
		if !seen[w.Value] {
			s.Unused = append(s.Unused, what+": "+w.Value)
			return true
		}
		return false
	})
	for _, w := range slices.Sorted(maps.Keys(seen)) {
		if !granted[w] {
			s.New = append(s.New, what+": "+w)
			list.Style = yaml.FlowStyle
			list.Content = append(list.Content, text(w))
		}
	}
	if len(list.Content) == 0 {
		drop(n, key)
	}
}

// web keeps the rules for addresses that were used, and adds rules for those
// that no rule fits.
func (s *Suggestion) web(class *yaml.Node, seen []WebUse) {
	rules := member(class, "http", yaml.SequenceNode)
	used := map[*yaml.Node]bool{}
	var fresh []*yaml.Node
	for _, w := range seen {
		found := false
		for _, r := range rules.Content {
			if fits(r, &w) {
				used[r], found = true, true
			}
		}
		if !found {
			s.New = append(s.New, w.Method+" /"+strings.Join(w.Path, "/"))
			r := &yaml.Node{Kind: yaml.MappingNode}
			flow(member(r, "methods", yaml.SequenceNode), w.Method)
			flow(member(r, "path", yaml.SequenceNode), w.Path...)
			if !w.Bare {
				flow(member(r, "query_any", yaml.SequenceNode), slices.Sorted(maps.Keys(w.Query))...)
			}
			fresh = append(fresh, r)
		}
	}
	rules.Content = slices.DeleteFunc(rules.Content, func(r *yaml.Node) bool {
		if !used[r] {
			s.Unused = append(s.Unused, strings.Join(values(r, "methods"), ",")+" /"+strings.Join(values(r, "path"), "/"))
		}
		return !used[r]
	})
	rules.Content = append(rules.Content, fresh...)
	if len(rules.Content) == 0 {
		drop(class, "http")
	}
}

func flow(n *yaml.Node, words ...string) {
	n.Style = yaml.FlowStyle
	for _, w := range words {
		n.Content = append(n.Content, text(w))
	}
}

func values(rule *yaml.Node, key string) (out []string) {
	if i := find(rule, key); i >= 0 {
		for _, v := range rule.Content[i+1].Content {
			out = append(out, v.Value)
		}
	}
	return out
}

// fits reports whether a rule of a class is for what was seen.
func fits(rule *yaml.Node, w *WebUse) bool {
	path := values(rule, "path")
	if !slices.Contains(values(rule, "methods"), w.Method) {
		return false
	}
	if n := len(path); n > 0 && path[n-1] == "**" && len(w.Path) >= n-1 {
		path = append(slices.Clone(path[:n-1]), w.Path[n-1:]...)
	}
	if len(path) != len(w.Path) {
		return false
	}
	for i, p := range path {
		if p != "*" && p != w.Path[i] {
			return false
		}
	}
	return true
}

// test writes a Rego test that what was seen stays allowed.
func (u *Use) test() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What devices of class %s were seen to do. Written by anteroom policy suggest.\npackage anteroom.authz_test\n\nimport data.anteroom.authz\n", u.Class)
	name := strings.ReplaceAll(u.Class, "-", "_")
	var cases []string
	device := fmt.Sprintf(`"device": {"id": "seen", "class": %q, "status": "active"}`, u.Class)
	ask := func(interaction, typ, operation string) {
		cases = append(cases, fmt.Sprintf(`{%s, "request": {"protocol": "fhir", "fhir": {"interaction": %q, "type": %q, "operation": %q}}}`, device, interaction, typ, operation))
	}
	for _, i := range slices.Sorted(maps.Keys(u.System)) {
		ask(i, "", "")
	}
	for _, t := range slices.Sorted(maps.Keys(u.Types)) {
		for _, i := range slices.Sorted(maps.Keys(u.Types[t])) {
			ask(i, t, "")
		}
	}
	for _, op := range slices.Sorted(maps.Keys(u.Calls)) {
		for _, t := range slices.Sorted(maps.Keys(u.Calls[op])) {
			ask("operation", t, op)
		}
	}
	for _, w := range u.Web {
		var path, query []string
		for _, p := range w.Path {
			if p == "*" {
				p = "x"
			}
			path = append(path, fmt.Sprintf("%q", p))
		}
		for _, q := range slices.Sorted(maps.Keys(w.Query)) {
			query = append(query, fmt.Sprintf("%q: [\"x\"]", q))
		}
		cases = append(cases, fmt.Sprintf(`{%s, "request": {"protocol": "http", "http": {"method": %q, "path": [%s], "query": {%s}}}}`,
			device, w.Method, strings.Join(path, ", "), strings.Join(query, ", ")))
	}
	fmt.Fprintf(&b, "\ntest_%s_goes_on_as_seen if {\n\tevery asked in [\n", name)
	for _, c := range cases {
		fmt.Fprintf(&b, "\t\t%s,\n", c)
	}
	b.WriteString("\t] {\n\t\tauthz.allow != set() with input as asked\n\t}\n}\n")
	return b.String()
}
