package policy

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// maxTrace bounds how many steps an explained evaluation may take: the shipped
// set takes some hundreds.
const maxTrace = 1 << 17

// An Explanation says why a question is decided as it is.
type Explanation struct {
	Decision Decision
	// Rules are those of allow, deny and obligations: first what fired, then
	// those that came furthest.
	Rules []RuleOutcome
	trace []*topdown.Event
}

// A RuleOutcome says what became of one rule.
type RuleOutcome struct {
	Name  string `json:"name"` // allow, deny or obligations
	Fired bool   `json:"fired"`
	// Says is the sentence of the rule, or its title where the sentence is made
	// of the request.
	Says  string `json:"says"`
	Title string `json:"title,omitempty"`
	File  string `json:"file"`
	Line  int    `json:"line"`
	// Held counts the conditions that held, of Conditions.
	Held       int `json:"held"`
	Conditions int `json:"conditions"`
	// Failed is the condition that did not hold, as it is written, and FailedLine
	// its line; Saw is what the facts in it were.
	Failed     string `json:"failed,omitempty"`
	FailedLine int    `json:"failed_line,omitempty"`
	Saw        []Fact `json:"saw,omitempty"`
}

// A Fact is a part of the input and its value, as JSON; "" if it is not there.
type Fact struct {
	Path  string `json:"path"`
	Value string `json:"value"`
}

// Explain decides q with every step watched. It costs a hundred times what
// Decide does, and what it says holds facts of the question.
func (s *Set) Explain(ctx context.Context, q *Question) *Explanation {
	e := &Explanation{Decision: s.Decide(ctx, q)}
	in := s.builder.input(q)
	t := &tracer{}
	limit := deadline{ctx: ctx, clock: s.opt.Clock, start: s.opt.Clock(), limit: stalled * s.opt.Timeout}
	// Without indexing OPA visits rules it can tell will not hold; they are what
	// somebody who asks why wants to hear of. The outcome is Decide's.
	_ = topdown.NewQuery(s.decision.body).
		WithCompiler(s.compiler).WithQueryCompiler(s.decision.querier).WithStore(s.store).WithTransaction(s.txn).WithBaseCache(s.data).
		WithInput(in).WithTime(q.Now).WithCancel(&limit).WithMetrics(metrics.NoOp()).
		WithIndexing(false).WithEarlyExit(false).WithQueryTracer(t).
		Iter(ctx, func(topdown.QueryResult) error { return nil })
	e.trace = t.events
	notes := s.compiler.GetAnnotationSet()
	for _, m := range s.compiler.Modules {
		for _, r := range m.Rules {
			if rank(r) == 3 || r.Default {
				continue
			}
			o := RuleOutcome{Name: string(r.Head.Name), File: r.Loc().File, Line: r.Loc().Row}
			if r.Head.Key != nil {
				if text, ok := r.Head.Key.Value.(ast.String); ok {
					o.Says = string(text)
				}
			}
			for _, a := range notes.GetRuleScope(r) {
				o.Title = cmp.Or(o.Title, a.Title)
			}
			o.Says = cmp.Or(o.Says, o.Title, name(r))
			t.outcome(r, in, &o)
			e.Rules = append(e.Rules, o)
		}
	}
	slices.SortStableFunc(e.Rules, func(a, b RuleOutcome) int {
		fired := func(o RuleOutcome) int {
			if o.Fired {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(fired(a), fired(b)), cmp.Compare(b.Held, a.Held), cmp.Compare(a.Conditions-a.Held, b.Conditions-b.Held),
			strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return e
}

// Trace writes OPA's own trace of the evaluation.
func (e *Explanation) Trace(w io.Writer) { topdown.PrettyTraceWithLocation(w, e.trace) }

// A tracer keeps the events of one evaluation, up to a limit.
type tracer struct{ events []*topdown.Event }

// Enabled is part of topdown.QueryTracer.
func (t *tracer) Enabled() bool { return len(t.events) < maxTrace }

// Config is part of topdown.QueryTracer.
func (t *tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent is part of topdown.QueryTracer.
func (t *tracer) TraceEvent(e topdown.Event) {
	if t.Enabled() {
		t.events = append(t.events, &e)
	}
}

// outcome finds out what became of r.
func (t *tracer) outcome(r *ast.Rule, in *ast.Term, o *RuleOutcome) {
	rows := conditionRows(r, len(r.Body))
	o.Conditions = len(rows)
	queries := map[uint64]bool{}
	furthest := -1
	for _, ev := range t.events {
		switch n := ev.Node.(type) {
		case *ast.Rule:
			if n != r {
				continue
			}
			switch ev.Op {
			case topdown.EnterOp:
				queries[ev.QueryID] = true
			case topdown.ExitOp:
				o.Fired = true
			}
		case *ast.Expr:
			if ev.Op != topdown.FailOp || !queries[ev.QueryID] {
				continue
			}
			if i := n.Index; i > furthest && i < len(r.Body) {
				furthest = i
			}
		}
	}
	if o.Fired {
		o.Held = o.Conditions
		return
	}
	if furthest < 0 {
		return
	}
	failed := r.Body[furthest]
	for row := range conditionRows(r, furthest) {
		if failed.Location == nil || row != failed.Location.Row {
			o.Held++
		}
	}
	if loc := failed.Location; loc != nil {
		o.Failed, o.FailedLine = strings.Join(strings.Fields(string(loc.Text)), " "), loc.Row
		o.Saw = factsOf(r, loc.Row, in)
	}
}

// conditionRows returns the lines of the first n steps of a rule. The compiler
// splits what is written into several steps and adds what makes the sentence;
// lines are what an author calls a condition.
func conditionRows(r *ast.Rule, n int) map[int]bool {
	rows := map[int]bool{}
	below := false
	for i, e := range r.Body {
		if t, ok := e.Terms.(*ast.Term); ok && t.Value.Compare(ast.Boolean(true)) == 0 || e.Location == nil {
			continue
		}
		below = below || e.Location.Row > r.Loc().Row
		if i < n {
			rows[e.Location.Row] = true
		}
	}
	if below {
		delete(rows, r.Loc().Row)
	}
	return rows
}

// factsOf returns the facts that the conditions on a line read.
func factsOf(r *ast.Rule, row int, in *ast.Term) (out []Fact) {
	seen := map[string]bool{}
	for _, e := range r.Body {
		if e.Location == nil || e.Location.Row != row {
			continue
		}
		ast.WalkRefs(e, func(ref ast.Ref) bool {
			if !ref[0].Equal(ast.InputRootDocument) {
				return false
			}
			ref = ref.GroundPrefix()
			path := ref.String()
			if len(ref) < 2 || seen[path] {
				return false
			}
			seen[path] = true
			f := Fact{Path: path}
			if v, err := in.Value.Find(ref[1:]); err == nil {
				f.Value = v.String()
			}
			out = append(out, f)
			return false
		})
	}
	slices.SortFunc(out, func(a, b Fact) int { return strings.Compare(a.Path, b.Path) })
	return out
}
