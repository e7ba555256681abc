package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// A Change is one difference between two policy sets.
type Change struct {
	// What is added, removed or changed.
	What string `json:"what"`
	// Where is a file's path, a rule's or a value's.
	Where string `json:"where"`
	// At is the file and line of a rule or value, in the newer set if it is there.
	At string `json:"at,omitempty"`
	// Old and New are a value's texts, cut off if they are long, or the heads of
	// rules.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// The values of Change.What.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// A Difference is what differs between two policy sets.
type Difference struct {
	Files []Change `json:"files"`
	// Rules has the rules whose meaning is spelt differently; layout and comments
	// do not count.
	Rules []Change `json:"rules"`
	Data  []Change `json:"data"`
}

// Empty reports whether the sets are the same, tests included.
func (d *Difference) Empty() bool { return len(d.Files)+len(d.Rules)+len(d.Data) == 0 }

// maxShown bounds a value's text in a Change, in bytes.
const maxShown = 120

// Diff compares two sets. It is an error if one of them can not be parsed.
func Diff(older, newer *Source) (*Difference, error) {
	d := &Difference{Files: []Change{}, Rules: []Change{}, Data: []Change{}}
	was, is := bodies(older.tree), bodies(newer.tree)
	for _, name := range names(was, is) {
		a, inOld := was[name]
		b, inNew := is[name]
		switch {
		case !inOld:
			d.Files = append(d.Files, Change{What: Added, Where: name})
		case !inNew:
			d.Files = append(d.Files, Change{What: Removed, Where: name})
		case !bytes.Equal(a, b):
			d.Files = append(d.Files, Change{What: Changed, Where: name})
		}
	}
	oldBuilt, err := parsed(older.tree)
	if err != nil {
		return nil, err
	}
	newBuilt, err := parsed(newer.tree)
	if err != nil {
		return nil, err
	}
	d.rules(rulesOf(oldBuilt), rulesOf(newBuilt))
	d.data("data", oldBuilt.data, newBuilt.data)
	return d, nil
}

func bodies(t *tree) map[string][]byte {
	out := map[string][]byte{}
	for _, f := range t.files {
		out[f.name] = f.body
	}
	return out
}

// names returns the keys of both maps, sorted.
func names[V any](a, b map[string]V) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

func parsed(t *tree) (*built, error) {
	var ps problems
	b := build(t, func(f *file) bool { return !f.isTest() }, &ps)
	if len(ps) > 0 {
		return nil, &LoadError{Dir: t.dir, Problems: ps.sorted(), Revision: t.revision}
	}
	return b, nil
}

// A ruleText is one rule: what it is, and where.
type ruleText struct{ head, text, at string }

// rulesOf returns the rules of a set by their path; each path may have several.
func rulesOf(b *built) map[string][]ruleText {
	out := map[string][]ruleText{}
	for _, name := range slices.Sorted(maps.Keys(b.modules)) {
		for _, r := range b.modules[name].Rules {
			path := b.modules[name].Package.Path.String() + "." + r.Head.Ref().GroundPrefix().String()
			out[path] = append(out[path], ruleText{headOf(r), r.String(), fmt.Sprintf("%s:%d", name, r.Loc().Row)})
		}
	}
	return out
}

func headOf(r *ast.Rule) string {
	if r.Default {
		return "default " + r.Head.String()
	}
	return r.Head.String()
}

func (d *Difference) rules(was, is map[string][]ruleText) {
	for _, path := range names(was, is) {
		gone, come := without(was[path], is[path]), without(is[path], was[path])
		// Rules with one head are one rule that was changed.
		for _, g := range gone {
			c := Change{What: Removed, Where: path, At: g.at, Old: shown(g.head)}
			if i := slices.IndexFunc(come, func(n ruleText) bool { return n.head == g.head }); i >= 0 {
				c.What, c.At, c.New = Changed, come[i].at, shown(come[i].head)
				come = slices.Delete(come, i, i+1)
			}
			d.Rules = append(d.Rules, c)
		}
		for _, n := range come {
			d.Rules = append(d.Rules, Change{What: Added, Where: path, At: n.at, New: shown(n.head)})
		}
	}
}

// without returns the rules of a whose text is not in b, each as often as it is
// there more often.
func without(a, b []ruleText) (out []ruleText) {
	left := map[string]int{}
	for _, r := range b {
		left[r.text]++
	}
	for _, r := range a {
		if left[r.text]--; left[r.text] < 0 {
			out = append(out, r)
		}
	}
	return out
}

func (d *Difference) data(path string, was, is *datum) {
	switch {
	case was.obj != nil && is.obj != nil:
		for _, k := range names(was.obj, is.obj) {
			at := path + "." + k
			a, b := was.obj[k], is.obj[k]
			switch {
			case a == nil:
				d.Data = append(d.Data, Change{What: Added, Where: at, At: b.at(), New: b.shown()})
			case b == nil:
				d.Data = append(d.Data, Change{What: Removed, Where: at, At: a.at(), Old: a.shown()})
			default:
				d.data(at, a, b)
			}
		}
	case ast.Compare(was.ast(), is.ast()) != 0:
		d.Data = append(d.Data, Change{What: Changed, Where: path, At: is.at(), Old: was.shown(), New: is.shown()})
	}
}

func (d *datum) at() string {
	if d.file == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", d.file, cmp.Or(d.line, 1))
}

func (d *datum) shown() string { return shown(d.ast().String()) }

func shown(s string) string {
	if s = strings.Join(strings.Fields(s), " "); len(s) > maxShown {
		return strings.ToValidUTF8(s[:maxShown], "") + " …"
	}
	return s
}
