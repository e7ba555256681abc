package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Sentences the engine itself gives as the reason of a deny.
const (
	deniedByNothing = "no rule allows this"
	deniedBySilence = "the decision rule denies this without a reason"
	deniedByFault   = "the policy could not be evaluated, so nothing is allowed"
)

// endedEarly is the fault of a question nobody waits for any more.
const endedEarly = "the transaction ended before it was decided"

// decisionFields are the members of the decision. A rule that has another has
// misspelt one, and what it meant would be lost.
var decisionFields = []string{"allow", "reasons", "denials", "obligations"}

// Decide answers q. It never fails: what could not be evaluated, or not in
// time, is a deny with a Fault. The answer may be one that was given before to
// an equal question; the caller must not change what its slices hold.
func (s *Set) Decide(ctx context.Context, q *Question) Decision {
	d := s.decide(ctx, q)
	d.Revision = s.revision
	return d
}

func (s *Set) decide(ctx context.Context, q *Question) Decision {
	if q.Transaction != nil {
		for _, p := range q.Transaction.Omitted {
			if s.ReachesFor(q.Device, p...) {
				return fault("a fact that this set reads was left out when the request was taken in: input.%s", strings.Join(p, "."))
			}
		}
	}
	if ctx.Err() != nil {
		return fault(endedEarly)
	}
	if s.cache == nil {
		return s.answer(ctx, q)
	}
	a, ok := s.cache.ask(s, q)
	if !ok {
		return s.answer(ctx, q)
	}
	d, ok := s.cache.find(a)
	if !ok || !s.stands(&d) {
		// A fault may pass, such as a time limit that was met; only an answer is
		// worth remembering.
		if d = s.answer(ctx, q); d.Fault == "" {
			kept := d
			kept.Elapsed = 0
			s.cache.put(a, kept)
		}
	}
	s.cache.release(a)
	return d
}

// answer asks OPA.
func (s *Set) answer(ctx context.Context, q *Question) (d Decision) {
	start := s.opt.Clock()
	a, unchecked, f := s.evaluate(ctx, q, start)
	if f != "" {
		d = fault("%s", f)
	} else {
		d = s.settle(&a)
		d.unchecked = unchecked
	}
	d.Elapsed = s.opt.Clock().Sub(start)
	return d
}

func fault(format string, args ...any) Decision {
	return Decision{Denials: []string{deniedByFault}, Fault: fmt.Sprintf(format, args...)}
}

// evaluate asks OPA and returns what the rules say, or what went wrong.
func (s *Set) evaluate(ctx context.Context, q *Question, start time.Time) (a answered, unchecked bool, f string) {
	// A panic here would end the whole gateway. It denies this one transaction
	// instead. Its value may quote the input and is not kept.
	defer func() {
		if recover() != nil {
			a, unchecked, f = answered{}, false, "the evaluation panicked"
		}
	}()
	e := evaluation{
		set: s, ctx: ctx, in: inParts{builder: s.builder, question: q}, now: q.Now,
		limit: deadline{ctx: ctx, clock: s.opt.Clock, start: start, limit: s.opt.Timeout},
	}
	a, f, err := e.decision(s.plan)
	if err != nil {
		if e.limit.why != "" {
			return answered{}, false, e.limit.why
		}
		return answered{}, false, explain(err)
	}
	return a, e.unchecked, f
}

// An evaluation asks the queries of one decision.
type evaluation struct {
	set       *Set
	ctx       context.Context
	in        inParts
	unchecked bool      // the plan alone has answered
	input     *ast.Term // whole, for OPA's evaluator
	now       time.Time
	limit     deadline
	documents *documents
}

// ask evaluates a query and hands its last result to f; there is at most one.
func (e *evaluation) ask(q *query, f func(topdown.QueryResult)) error {
	return topdown.NewQuery(q.body).
		WithCompiler(q.compiler).
		WithQueryCompiler(q.querier).
		WithStore(e.set.store).
		WithTransaction(e.set.txn).
		WithBaseCache(e.set.data).
		WithVirtualCache(e.documents).
		WithInput(e.input).
		WithTime(e.now).
		WithCancel(&e.limit).
		WithMetrics(metrics.NoOp()).
		WithStrictBuiltinErrors(true).
		Iter(e.ctx, func(r topdown.QueryResult) error {
			f(r)
			return nil
		})
}

// decision asks for the decision.
func (e *evaluation) decision(p *plan) (a answered, fault string, err error) {
	if a, fault, ok := e.planned(p); ok {
		return a, fault, nil
	}
	return e.interpreted(p)
}

// interpreted asks OPA's evaluator for the decision.
func (e *evaluation) interpreted(p *plan) (a answered, fault string, err error) {
	e.input = e.set.builder.told(e.in.question, p.filled, p.terms)
	e.documents, _ = p.documents.Get().(*documents)
	defer func() {
		e.documents.reset()
		p.documents.Put(e.documents)
	}()
	if p.direct != nil {
		if a, ok, err := e.direct(p); err != nil || ok {
			return a, "", err
		}
	}
	return e.whole(p)
}

// whole asks for the decision rule itself.
func (e *evaluation) whole(p *plan) (a answered, fault string, err error) {
	var v ast.Value
	if err := e.ask(p.whole, func(r topdown.QueryResult) { v = r[resultVar].Value }); err != nil {
		return answered{}, "", err
	}
	a, fault = read(v)
	return a, fault, nil
}

// A deadline ends an evaluation that takes too long or is no longer wanted.
// OPA asks it at every expression; looking at the clock only now and then costs
// less than a timer for each evaluation would.
type deadline struct {
	ctx   context.Context
	clock func() time.Time
	start time.Time
	limit time.Duration
	asked uint
	why   string
}

const (
	// deadlineStride is how many expressions pass between looks at the clock: at
	// about 100 ns each, some microseconds.
	deadlineStride = 64
	// deadlineWork is how many expressions an evaluation may take in any case, up
	// to stalled times the limit. The shipped set takes about a hundred. On a
	// machine that is stalled, an evaluation that did little is not the rules'
	// fault, and a deny would be a wrong one.
	deadlineWork = 1 << 13
	stalled      = 10
)

// Cancel is part of topdown.Cancel. Nobody calls it.
func (d *deadline) Cancel() {}

// Cancelled reports whether to stop.
func (d *deadline) Cancelled() bool {
	d.asked++
	if d.why != "" {
		return true
	}
	if d.asked%deadlineStride != 0 {
		return false
	}
	return d.check()
}

// restart gives whoever evaluates next all of the time, unless there is none left.
func (d *deadline) restart() {
	if d.why == "" {
		d.asked, d.start = 0, d.clock()
	}
}

func (d *deadline) check() bool {
	if d.ctx.Err() != nil {
		d.why = endedEarly
	} else if took := d.clock().Sub(d.start); took > d.limit && (d.asked > deadlineWork || took > stalled*d.limit) {
		d.why = "the evaluation took longer than it may"
	}
	return d.why != ""
}

// explain says what an evaluation error was, without OPA's message where that
// can quote the input: messages of built-in functions do.
func explain(err error) string {
	var e *topdown.Error
	if !errors.As(err, &e) {
		return "the evaluation failed"
	}
	what := e.Code
	if e.Code == topdown.BuiltinErr {
		if name, _, ok := strings.Cut(e.Message, ":"); ok && ast.BuiltinMap[name] != nil {
			what += ": " + name + " refused its arguments"
		}
	}
	if e.Code == topdown.ConflictErr {
		what += ": rules give different values for one thing"
	}
	if e.Location != nil && e.Location.File != "" {
		return fmt.Sprintf("%s:%d: %s", e.Location.File, e.Location.Row, what)
	}
	return what
}

// An answered is what the rules say, before it is known whether it makes sense.
// Members are nil where nothing is said.
type answered struct {
	defined     bool // anything is said at all
	allow       ast.Value
	reasons     ast.Value
	denials     ast.Value
	obligations ast.Value
	wrong       []string // names of members that a decision does not have
}

// read takes an answer out of the value of the decision rule.
func read(v ast.Value) (a answered, fault string) {
	if v == nil {
		return a, ""
	}
	obj, ok := v.(ast.Object)
	if !ok {
		return a, fmt.Sprintf("%s is not an object", entryRef)
	}
	a.defined = true
	obj.Foreach(func(k, v *ast.Term) {
		name, _ := k.Value.(ast.String)
		switch name {
		case "allow":
			a.allow = v.Value
		case "reasons":
			a.reasons = v.Value
		case "denials":
			a.denials = v.Value
		case "obligations":
			a.obligations = v.Value
		default:
			a.wrong = append(a.wrong, fmt.Sprintf("%q", string(name)))
		}
	})
	return a, ""
}

// settle makes a decision of an answer. It allows only if everything in there
// agrees that it may.
func (s *Set) settle(a *answered) Decision {
	if !a.defined {
		return Decision{Denials: []string{deniedByNothing}}
	}
	var d Decision
	wrong := a.wrong
	check := func(name string, ok bool) {
		if !ok {
			wrong = append(wrong, strconv.Quote(name))
		}
	}
	var ok bool
	if a.reasons != nil {
		d.Reasons, ok = sentences(a.reasons)
		check("reasons", ok)
	}
	if a.denials != nil {
		d.Denials, ok = sentences(a.denials)
		check("denials", ok)
	}
	var duties []protocol.Obligation
	if a.obligations != nil {
		duties, ok = obligations(a.obligations)
		check("obligations", ok)
	}
	b, has := a.allow.(ast.Boolean)
	check("allow", has || a.allow == nil)
	asked := bool(b)
	slices.Sort(wrong)
	switch {
	case len(wrong) > 0:
		d.Fault = fmt.Sprintf("%s has the wrong shape at %s", entryRef, strings.Join(wrong, ", "))
	case !has:
		d.Fault = fmt.Sprintf("%s does not say whether to allow", entryRef)
	case asked && len(d.Denials) > 0:
		d.Fault = fmt.Sprintf("%s allows in spite of a reason to deny", entryRef)
	case asked && len(d.Reasons) == 0:
		d.Fault = fmt.Sprintf("%s allows without a reason", entryRef)
	}
	if d.Fault == "" && asked {
		var err error
		if d.Obligations, err = protocol.Oblige(duties); err != nil {
			d.Fault = err.Error()
		}
	}
	d.Allow = asked && d.Fault == ""
	if !d.Allow {
		switch {
		case d.Fault != "":
			d.Denials = append(d.Denials, deniedByFault)
		case len(d.Denials) > 0:
		case len(d.Reasons) == 0:
			d.Denials = []string{deniedByNothing}
		default:
			d.Denials = []string{deniedBySilence}
		}
	}
	return d
}

// elements returns the elements of a set or an array.
func elements(v ast.Value) (elems []*ast.Term, ok bool) {
	switch v := v.(type) {
	case ast.Set:
		return v.Slice(), true
	case *ast.Array:
		for i := range v.Len() {
			elems = append(elems, v.Elem(i))
		}
		return elems, true
	}
	return nil, false
}

// sentences reads a set of texts.
func sentences(v ast.Value) ([]string, bool) {
	elems, ok := elements(v)
	if !ok || len(elems) == 0 {
		return nil, ok
	}
	out := make([]string, 0, min(len(elems), maxReasons))
	for _, t := range elems {
		s, ok := t.Value.(ast.String)
		if !ok || s == "" || len(s) > maxReasonLen || len(out) == maxReasons {
			return nil, false
		}
		out = append(out, string(s))
	}
	slices.Sort(out)
	return out, true
}

// obligations reads a set of objects, each member of which is one obligation.
func obligations(v ast.Value) ([]protocol.Obligation, bool) {
	elems, ok := elements(v)
	if !ok || len(elems) == 0 {
		return nil, ok
	}
	var out []protocol.Obligation
	for _, t := range elems {
		obj, is := t.Value.(ast.Object)
		if !is || obj.Len() == 0 {
			return nil, false
		}
		obj.Foreach(func(k, v *ast.Term) {
			kind, is := k.Value.(ast.String)
			val, good := valueOf(v.Value)
			if !is || !good || len(out) == maxObligations {
				ok = false
				return
			}
			out = append(out, protocol.Obligation{Kind: string(kind), Value: val})
		})
	}
	return out, ok
}

// valueOf turns OPA's form into a value; ok is false if it has none there: a
// fraction, or a key that is not a text.
func valueOf(v ast.Value) (out protocol.Value, ok bool) {
	switch v := v.(type) {
	case ast.Null:
		return protocol.Null(), true
	case ast.Boolean:
		return protocol.Bool(bool(v)), true
	case ast.Number:
		n, ok := v.Int64()
		return protocol.Int(n), ok
	case ast.String:
		return protocol.String(string(v)), true
	case *ast.Array, ast.Set:
		elems, ok := elements(v)
		list := make([]protocol.Value, 0, len(elems))
		for _, t := range elems {
			e, good := valueOf(t.Value)
			list, ok = append(list, e), ok && good
		}
		return protocol.List(list...), ok
	case ast.Object:
		var fs []protocol.Field
		ok = true
		v.Foreach(func(k, v *ast.Term) {
			name, is := k.Value.(ast.String)
			e, good := valueOf(v.Value)
			ok = ok && is && good
			fs = append(fs, protocol.Field{Name: string(name), Value: e})
		})
		return protocol.Object(fs...), ok
	}
	return protocol.Null(), false
}
