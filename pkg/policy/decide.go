package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	start := s.opt.Clock()
	d := s.decide(ctx, q, start)
	d.Revision = s.revision
	d.Elapsed = s.opt.Clock().Sub(start)
	return d
}

func (s *Set) decide(ctx context.Context, q *Question, start time.Time) Decision {
	if q.Transaction != nil {
		for _, p := range q.Transaction.Omitted {
			if s.reach.input.reaches(p) {
				return fault("a fact that this set reads was left out when the request was taken in: input.%s", strings.Join(p, "."))
			}
		}
	}
	if ctx.Err() != nil {
		return fault(endedEarly)
	}
	if s.cache == nil {
		return s.answer(ctx, q, start)
	}
	a, ok := s.cache.ask(s, q)
	if !ok {
		return s.answer(ctx, q, start)
	}
	d, ok := s.cache.find(a)
	if !ok {
		// A fault may pass, such as a time limit that was met; only an answer is
		// worth remembering.
		if d = s.answer(ctx, q, start); d.Fault == "" {
			s.cache.put(a, d)
		}
	}
	s.cache.release(a)
	return d
}

// answer asks OPA.
func (s *Set) answer(ctx context.Context, q *Question, start time.Time) Decision {
	v, f := s.evaluate(ctx, s.builder.input(q), q.Now, start)
	if f != "" {
		return fault("%s", f)
	}
	if v == nil {
		return Decision{Denials: []string{deniedByNothing}}
	}
	return s.read(v)
}

func fault(format string, args ...any) Decision {
	return Decision{Denials: []string{deniedByFault}, Fault: fmt.Sprintf(format, args...)}
}

// evaluate asks OPA and returns the value of the decision, nil if it has none,
// or what went wrong.
func (s *Set) evaluate(ctx context.Context, in *ast.Term, now, start time.Time) (v ast.Value, f string) {
	// A panic here would end the whole gateway. It denies this one transaction
	// instead. Its value may quote the input and is not kept.
	defer func() {
		if recover() != nil {
			v, f = nil, "the evaluation panicked"
		}
	}()
	limit := deadline{ctx: ctx, clock: s.opt.Clock, start: start, limit: s.opt.Timeout}
	err := topdown.NewQuery(s.query).
		WithCompiler(s.compiler).
		WithQueryCompiler(s.querier).
		WithStore(s.store).
		WithTransaction(s.txn).
		WithBaseCache(s.data).
		WithInput(in).
		WithTime(now).
		WithCancel(&limit).
		WithMetrics(metrics.NoOp()).
		WithStrictBuiltinErrors(true).
		Iter(ctx, func(r topdown.QueryResult) error {
			v = r[resultVar].Value
			return nil
		})
	if err != nil {
		if limit.why != "" {
			return nil, limit.why
		}
		return nil, explain(err)
	}
	return v, ""
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

// read takes the decision out of the value of the decision rule. It allows only
// if everything in there agrees that it may.
func (s *Set) read(v ast.Value) Decision {
	obj, ok := v.(ast.Object)
	if !ok {
		return fault("%s is not an object", entryRef)
	}
	var d Decision
	var wrong []string
	var asked, has bool
	obj.Foreach(func(k, v *ast.Term) {
		name, _ := k.Value.(ast.String)
		ok := true
		switch name {
		case "allow":
			var b ast.Boolean
			b, ok = v.Value.(ast.Boolean)
			asked, has = bool(b), true
		case "reasons":
			d.Reasons, ok = sentences(v.Value)
		case "denials":
			d.Denials, ok = sentences(v.Value)
		case "obligations":
			d.Obligations, ok = obligations(v.Value)
		default:
			ok = false
		}
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%q", string(name)))
		}
	})
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
		for _, o := range d.Obligations {
			if !s.known[o.Kind] {
				d.Fault = fmt.Sprintf("the rules oblige the gateway to %q, which it cannot do", o.Kind)
				break
			}
		}
	}
	d.Allow = asked && d.Fault == ""
	if !d.Allow {
		d.Obligations = nil
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

// elements calls f for each element of a set or an array.
func elements(v ast.Value, f func(*ast.Term) bool) bool {
	ok := true
	each := func(t *ast.Term) { ok = ok && f(t) }
	switch v := v.(type) {
	case ast.Set:
		v.Foreach(each)
	case *ast.Array:
		v.Foreach(each)
	default:
		return false
	}
	return ok
}

// sentences reads a set of texts.
func sentences(v ast.Value) ([]string, bool) {
	var out []string
	ok := elements(v, func(t *ast.Term) bool {
		s, ok := t.Value.(ast.String)
		if !ok || s == "" || len(s) > maxReasonLen || len(out) == maxReasons {
			return false
		}
		out = append(out, string(s))
		return true
	})
	slices.Sort(out)
	return out, ok
}

// obligations reads a set of objects, each member of which is one obligation.
func obligations(v ast.Value) ([]Obligation, bool) {
	var out []Obligation
	ok := elements(v, func(t *ast.Term) bool {
		obj, ok := t.Value.(ast.Object)
		if !ok || obj.Len() == 0 {
			return false
		}
		obj.Foreach(func(k, v *ast.Term) {
			kind, is := k.Value.(ast.String)
			val, good := valueOf(v.Value)
			if !is || !good || len(out) == maxObligations {
				ok = false
				return
			}
			out = append(out, Obligation{string(kind), val})
		})
		return ok
	})
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
		var list []protocol.Value
		ok = elements(v, func(t *ast.Term) bool {
			e, ok := valueOf(t.Value)
			list = append(list, e)
			return ok
		})
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
