package policy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy/machine"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// The rules that say who may be given a certificate. A set without them leaves
// that to the checks that are built in.
var (
	enrolPackage = ast.MustParseRef("data.anteroom.enrolment")
	enrolRef     = ast.MustParseRef("data.anteroom.enrolment.decision")
)

// An Enrolment is the question whether a device may be given a certificate.
type Enrolment struct {
	// Device is the registry's record, or what it is about to be.
	Device *device.Record
	// Facts are what is known of the request: input.enrolment.
	Facts []protocol.Field
	// Now is the moment the question is asked.
	Now time.Time
}

// saysOfEnrolment reports whether a module is among the rules on enrolment.
func saysOfEnrolment(m *ast.Module) bool { return m.Package.Path.HasPrefix(enrolPackage) }

// checkEnrolment finds rules on enrolment that nobody would ask: without a
// decision, or in a package whose name is nearly the right one.
func checkEnrolment(b *built, ps *problems) (has bool) {
	for name, m := range b.modules {
		if saysOfEnrolment(m) {
			has = true
			continue
		}
		if path := m.Package.Path; len(path) > 2 && path.HasPrefix(enrolPackage[:2]) {
			if s, ok := path[2].Value.(ast.String); ok && config.Nearest(string(s), []string{"enrolment"}) != "" {
				ps.add(name, m.Package.Loc().Row, "package anteroom.%s is asked by nobody; did you mean anteroom.enrolment?", string(s))
			}
		}
	}
	if !has {
		return false
	}
	rules := b.compiler.GetRulesExact(enrolRef)
	if len(rules) == 0 {
		ps.add("", 0, "there are rules in %s, but none defines %s, so that nobody would ask them", enrolPackage, enrolRef)
	}
	for _, r := range rules {
		if len(r.Head.Args) > 0 {
			ps.add(r.Loc().File, r.Loc().Row, "%s is a function; it must be a rule without arguments", enrolRef)
		}
	}
	return true
}

// RulesOnEnrolment reports whether the set says anything about who may be given
// a certificate. If it does not, [Set.Enrol] allows.
func (s *Set) RulesOnEnrolment() bool { return s.enrolment != nil }

// noRulesOnEnrolment is the reason given for the answer of a set without any.
const noRulesOnEnrolment = "the policy set has no rules on enrolment"

// Enrol answers whether a device may be given a certificate. A set that has no
// rules in data.anteroom.enrolment narrows nothing and allows; one that has is
// taken at its word, and whatever fails there denies.
func (s *Set) Enrol(ctx context.Context, q *Enrolment) (d Decision) {
	start := s.opt.Clock()
	defer func() {
		// As in evaluate: a panic denies this one request and no more.
		if recover() != nil {
			d = fault("the evaluation panicked")
		}
		d.Revision, d.Elapsed = s.revision, s.opt.Clock().Sub(start)
	}()
	if s.enrolment == nil {
		return Decision{Allow: true, Reasons: []string{noRulesOnEnrolment}}
	}
	e := evaluation{
		set: s, ctx: ctx, input: s.enrolmentInput(q), now: q.Now,
		limit: deadline{ctx: ctx, clock: s.opt.Clock, start: start, limit: s.opt.Timeout},
	}
	v, err := e.enrolment()
	switch {
	case err != nil && e.limit.why != "":
		return fault("%s", e.limit.why)
	case err != nil:
		return fault("%s", explain(err))
	}
	return settleEnrolment(v)
}

// enrolmentPlanOf has OPA plan the rules on enrolment, if they can be: those modules
// whose rules the decision uses.
func enrolmentPlanOf(ctx context.Context, c *ast.Compiler, modules map[string]*ast.Module, uses map[*ast.Rule]bool, doc ast.Object) *planned {
	used := map[string]*ast.Module{}
	for name, m := range c.Modules {
		if slices.ContainsFunc(m.Rules, func(r *ast.Rule) bool { return uses[r] }) {
			used[name] = modules[name]
		}
	}
	p, err := machine.Plan(ctx, used, capabilities(), enrolmentPlan)
	if err != nil {
		return nil
	}
	program, err := machine.New(p, doc)
	if err != nil {
		return nil
	}
	return &planned{program: program}
}

// enrolmentPlan is what the plan of the rules on enrolment is called.
const enrolmentPlan = "anteroom/enrolment/decision"

// enrolment asks the rules on enrolment, as decision asks those on transactions: by
// their plan, with OPA's evaluator beside it and for what the plan does not answer.
func (e *evaluation) enrolment() (ast.Value, error) {
	pl := e.set.enrolmentPlan
	if pl == nil || pl.wrong.Load() {
		return e.enrolmentInterpreted()
	}
	n := pl.asked.Add(1)
	v, err := e.enrolmentPlanned(pl)
	if err != nil {
		if errors.Is(err, errPlanPanicked) {
			e.distrust(pl, notRun)
		}
		e.limit.restart()
		return e.enrolmentInterpreted()
	}
	if !compared(n) {
		return v, nil
	}
	e.limit.restart()
	w, err := e.enrolmentInterpreted()
	if err == nil && !reflect.DeepEqual(settleEnrolment(v), settleEnrolment(w)) || err != nil && e.limit.why == "" {
		e.distrust(pl, disagree)
	}
	return w, err
}

func (e *evaluation) enrolmentInterpreted() (v ast.Value, err error) {
	e.documents = newDocuments()
	err = e.ask(e.set.enrolment, func(r topdown.QueryResult) { v = r[resultVar].Value })
	return v, err
}

func (e *evaluation) enrolmentPlanned(pl *planned) (v ast.Value, err error) {
	// What is wrong in the machine is for OPA's evaluator to make good.
	defer func() {
		if recover() != nil {
			v, err = nil, errPlanPanicked
		}
	}()
	r := pl.program.Start(topdown.BuiltinContext{Context: e.ctx, Cancel: &e.limit, Time: e.moment()}, builtInput{e.input, e.set.builder})
	defer r.Release()
	return r.Document(enrolmentPlan)
}

// A builtInput is an input that was built before it is looked at.
type builtInput struct {
	term *ast.Term
	*builder
}

// At implements [machine.Input].
func (i builtInput) At(path []string) *ast.Term {
	t := i.term
	for _, name := range path {
		o, ok := t.Value.(ast.Object)
		if !ok {
			return nil
		}
		if t = o.Get(i.word(name)); t == nil {
			return nil
		}
	}
	return t
}

// enrolmentInput builds of the input what the rules can read.
func (s *Set) enrolmentInput(q *Enrolment) *ast.Term {
	want := s.enrolmentWant
	var w inputWriter
	w.builder = &builder{loc: s.opt.Location, want: want, words: s.builder.words}
	w.stack = w.room[:0]
	w.open("", want, 3)
	f := facts{out: &w, loc: s.opt.Location}
	if member := want.at("device"); member != nil && q.Device != nil {
		d := deviceFactsOf(&Question{Device: q.Device, Now: q.Now})
		f.device(&d, member)
	}
	if member := want.at("time"); member != nil {
		f.time(q.Now.In(s.opt.Location), member)
	}
	if member := want.at("enrolment"); member != nil {
		w.value("enrolment", member, protocol.Object(q.Facts...))
	}
	return w.done()
}

// settleEnrolment reads the decision rule's value. It allows only if everything
// in there agrees that it may.
func settleEnrolment(v ast.Value) Decision {
	if v == nil {
		return Decision{Denials: []string{deniedByNothing}}
	}
	obj, ok := v.(ast.Object)
	if !ok {
		return fault("%s is not an object", enrolRef)
	}
	var d Decision
	var asked, has bool
	wrong := ""
	obj.Foreach(func(k, v *ast.Term) {
		name, _ := k.Value.(ast.String)
		good := false
		switch name {
		case "allow":
			var b ast.Boolean
			b, good = v.Value.(ast.Boolean)
			asked, has = bool(b), good
		case "reasons":
			d.Reasons, good = sentences(v.Value)
		case "denials":
			d.Denials, good = sentences(v.Value)
		}
		if !good {
			wrong = string(name)
		}
	})
	why := ""
	switch {
	case wrong != "":
		why = fmt.Sprintf("%s has the wrong shape at %q", enrolRef, wrong)
	case !has:
		why = fmt.Sprintf("%s does not say whether to allow", enrolRef)
	case asked && len(d.Denials) > 0:
		why = fmt.Sprintf("%s allows in spite of a reason to deny", enrolRef)
	case asked && len(d.Reasons) == 0:
		why = fmt.Sprintf("%s allows without a reason", enrolRef)
	case asked:
		d.Allow = true
		return d
	}
	if why != "" {
		d.Fault = why
		d.Denials = append(d.Denials, deniedByFault)
	} else if len(d.Denials) == 0 {
		d.Denials = []string{deniedByNothing}
	}
	return d
}
