package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// Kinds of findings of [Lint].
const (
	// FindingInvalid: the set does not load.
	FindingInvalid = "invalid"
	// FindingUnused: the decision cannot reach the rule.
	FindingUnused = "unused"
	// FindingUncacheable: the rule makes decisions depend on more than the
	// question's facts, so that none can be remembered.
	FindingUncacheable = "uncacheable"
	// FindingShadowed: another rule says the same whenever this one would.
	FindingShadowed = "shadowed"
	// FindingImpossible: the rule's conditions contradict each other.
	FindingImpossible = "impossible"
	// FindingUnread: no rule reads the data.
	FindingUnread = "unread"
	// FindingUntested: no test evaluates the rule.
	FindingUntested = "untested"
	// FindingFailing: a test of the set fails.
	FindingFailing = "failing"
)

// A Finding is something an author should know of a policy set.
type Finding struct {
	Kind string `json:"kind"`
	// Error reports that it has to be repaired; any other finding is a warning.
	Error bool `json:"error"`
	Problem
}

// A LintReport is what [Lint] found.
type LintReport struct {
	Dir string `json:"dir"`
	// Revision and what follows are of the set, if it loads.
	Revision string   `json:"revision,omitempty"`
	Modules  int      `json:"modules"`
	Reads    []string `json:"reads,omitempty"`
	// Tests is how many tests of the set passed, Coverage the percentage of rule
	// lines they evaluated.
	Tests    int       `json:"tests"`
	Coverage float64   `json:"coverage"`
	Findings []Finding `json:"findings"` // by file and line
}

// Errors counts the findings that have to be repaired, and the others.
func (r *LintReport) Errors() (errs, warnings int) {
	for _, f := range r.Findings {
		if f.Error {
			errs++
		} else {
			warnings++
		}
	}
	return errs, warnings
}

// Lint looks at the set in dir as an author should want somebody to: whether it
// loads, whether all of it can have an effect, and whether its tests look at all
// of it. What it says of rules it can prove; it passes over what it cannot.
//
// The error is of the attempt itself. A set that does not load is a report with
// findings.
func Lint(ctx context.Context, dir string, opt Options) (*LintReport, error) {
	opt = opt.withDefaults()
	r := &LintReport{Dir: dir, Findings: []Finding{}}
	t, err := readTree(dir, opt)
	if err != nil {
		return r.invalid(err)
	}
	set, err := compile(ctx, t, opt)
	if err != nil {
		return r.invalid(err)
	}
	r.Revision, r.Modules, r.Reads = set.Revision(), set.Modules(), set.Reads()
	for _, p := range set.Uncacheable() {
		r.warn(FindingUncacheable, p)
	}
	l := linter{r, set}
	l.rules()
	l.data()
	if err := l.tests(ctx, t, opt); err != nil {
		return r.invalid(err)
	}
	r.sort()
	return r, nil
}

func (r *LintReport) invalid(err error) (*LintReport, error) {
	le, ok := errors.AsType[*LoadError](err)
	if !ok || le.cause != nil {
		return nil, err
	}
	for _, p := range le.Problems {
		r.Findings = append(r.Findings, Finding{FindingInvalid, true, p})
	}
	r.sort()
	return r, nil
}

func (r *LintReport) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
}

func (r *LintReport) warn(kind string, p Problem) {
	r.Findings = append(r.Findings, Finding{Kind: kind, Problem: p})
}

// A linter looks at one set that loads.
type linter struct {
	*LintReport
	set *Set
}

func (l *linter) at(kind string, loc *ast.Location, format string, args ...any) {
	p := Problem{Message: fmt.Sprintf(format, args...)}
	if loc != nil {
		p.File, p.Line, p.Column = loc.File, loc.Row, loc.Col
	}
	l.warn(kind, p)
}

// rules looks at the compiled rules, so that imports, aliases and the ways to
// write one thing make no difference.
func (l *linter) rules() {
	var heads []*clause
	for _, m := range l.set.compiler.Modules {
		for _, r := range m.Rules {
			if !l.set.reach.used[r] && !l.set.enrolmentUses[r] {
				l.at(FindingUnused, r.Loc(), "rule %s has no effect: the decision does not reach it", name(r))
			}
			heads = append(heads, l.chain(r)...)
		}
	}
	l.shadowed(heads)
}

func name(r *ast.Rule) string { return strings.TrimPrefix(r.Head.Ref().String(), "data.") }

// chain looks at a rule and its else branches.
func (l *linter) chain(r *ast.Rule) (out []*clause) {
	for first, always := r, false; r != nil; r = r.Else {
		c := clauseOf(r)
		if always {
			l.at(FindingShadowed, r.Loc(), "this else branch of rule %s is never reached: the branch before it always holds", name(first))
		}
		always = always || len(c.conditions) == 0
		if a, b := c.contradiction(); a != "" {
			l.at(FindingImpossible, r.Loc(), "rule %s never holds: it asks for both %s and %s", name(first), a, b)
		}
		if r == first && r.Else == nil {
			out = append(out, c)
		}
	}
	return out
}

// shadowed finds rules that say nothing another one does not say.
func (l *linter) shadowed(all []*clause) {
	byHead := map[string][]*clause{}
	for _, c := range all {
		byHead[c.head] = append(byHead[c.head], c)
	}
	for _, cs := range byHead {
		for i, c := range cs {
			for j, o := range cs {
				// Of two that are alike, the second is the one too many.
				if i == j || !o.holdsWith(c) || c.holdsWith(o) && before(c, o) {
					continue
				}
				loc := o.rule.Loc()
				l.at(FindingShadowed, c.rule.Loc(), "rule %s adds nothing: the one at %s:%d says the same whenever this one would", name(c.rule), loc.File, loc.Row)
				break
			}
		}
	}
}

func before(a, b *clause) bool {
	x, y := a.rule.Loc(), b.rule.Loc()
	if x.File != y.File {
		return x.File < y.File
	}
	return x.Row < y.Row
}

// data finds tables that no rule looks at.
func (l *linter) data() {
	read := map[string]bool{}
	all := false
	for _, m := range l.set.compiler.Modules {
		ast.WalkRefs(m, func(r ast.Ref) bool {
			if r[0].Equal(ast.DefaultRootDocument) {
				if len(r) == 1 {
					all = true
				} else if s, ok := r[1].Value.(ast.String); ok {
					read[string(s)] = true
				} else {
					all = true
				}
			}
			return false
		})
	}
	if all {
		return
	}
	names := make([]string, 0, len(read))
	for n := range read {
		names = append(names, n)
	}
	for key, d := range l.set.tables {
		if read[key] {
			continue
		}
		text := fmt.Sprintf("data.%s is read by no rule", key)
		if near := config.Nearest(key, names); near != "" {
			text += fmt.Sprintf(", did you mean data.%s?", near)
		}
		l.warn(FindingUnread, Problem{File: d.file, Line: d.line, Message: text})
	}
}

// tests runs the set's tests and finds rules that none of them evaluates.
func (l *linter) tests(ctx context.Context, t *tree, opt Options) error {
	if !slices.ContainsFunc(t.files, func(f file) bool { return f.role == roleRegoTest }) {
		l.warn(FindingUntested, Problem{Message: "the set has no tests; a test is a rule test_… in a file …_test.rego"})
		return nil
	}
	rep, err := test(ctx, t, TestOptions{Options: opt})
	if err != nil {
		return err
	}
	l.Tests, l.Coverage = rep.Passed, rep.Coverage
	for _, res := range rep.Results {
		if !res.Pass && !res.Skip {
			l.Findings = append(l.Findings, Finding{FindingFailing, true, Problem{File: res.File, Line: res.Line,
				Message: fmt.Sprintf("test %s fails; see anteroom policy test", res.Name)}})
		}
	}
	missing := map[string][]int{}
	for _, f := range rep.Files {
		missing[f.File] = f.Missing
	}
	for _, m := range l.set.compiler.Modules {
		for _, r := range m.Rules {
			for r := r; r != nil; r = r.Else {
				loc := r.Loc()
				// A rule that was not evaluated has its first condition among the
				// missing lines, one without conditions its head.
				row := loc.Row
				if len(r.Body) > 0 && r.Body[0].Location != nil {
					row = r.Body[0].Location.Row
				}
				if slices.Contains(missing[loc.File], row) {
					l.at(FindingUntested, loc, "no test evaluates this rule %s", name(r))
				}
			}
		}
	}
	return nil
}
