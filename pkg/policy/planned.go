package policy

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/anteroom-iomt/anteroom/pkg/policy/machine"
)

// A planned asks for decisions by way of the plan that OPA makes of the rules,
// which takes a fraction of what OPA's evaluator takes. That evaluator has the last
// word all the same: it is asked whenever the plan gives no answer, and beside the
// plan for the first decisions of a set and now and then after that. Should the two
// ever differ, its answer counts and the plan is never asked again.
type planned struct {
	program *machine.Program
	asked   atomic.Uint64
	wrong   atomic.Bool
}

const (
	// checkedFirst is how many decisions of a set are compared before any is
	// trusted to the plan alone, and checkedEvery which of the later ones.
	checkedFirst = 64
	checkedEvery = 1024
)

// plannedOf has OPA plan the rules. If they are not of a kind that is planned, why
// says what is in the way.
func plannedOf(ctx context.Context, modules map[string]*ast.Module, doc ast.Object, d *direct) (_ *planned, why string) {
	entries := []string{decisionPlan}
	if d != nil {
		entries = []string{denyPlan, allowPlan}
		if d.obligations != nil {
			entries = append(entries, obligationsPlan)
		}
	}
	p, err := machine.Plan(ctx, modules, capabilities(), entries...)
	if err != nil {
		return nil, err.Error()
	}
	program, err := machine.New(p, doc)
	if err != nil {
		return nil, err.Error()
	}
	return &planned{program: program}, ""
}

// What the plans are called: of the decision rule, and of the documents that the
// shipped one combines.
const (
	decisionPlan    = "anteroom/authz/decision"
	denyPlan        = "anteroom/authz/deny"
	allowPlan       = "anteroom/authz/allow"
	obligationsPlan = "anteroom/authz/obligations"
)

// planned asks the plan; ok is false if the answer is to be had elsewhere.
func (e *evaluation) planned(p *plan) (a answered, fault string, ok bool) {
	pl := p.planned
	if pl == nil || pl.wrong.Load() {
		return answered{}, "", false
	}
	n := pl.asked.Add(1)
	a, fault, err := e.run(p)
	if err != nil {
		if errors.Is(err, errPlanPanicked) {
			e.distrust(pl, notRun)
		}
		e.limit.restart()
		return answered{}, "", false
	}
	if compared(n) {
		return e.checked(p, a, fault)
	}
	e.unchecked = true
	return a, fault, true
}

// compared reports whether the nth answer of a plan is compared with the evaluator's.
func compared(n uint64) bool { return n <= checkedFirst || n%checkedEvery == 0 }

// checked returns an answer of the plan if OPA's evaluator agrees.
func (e *evaluation) checked(p *plan, a answered, fault string) (answered, string, bool) {
	e.limit.restart()
	b, other, err := e.interpreted(p)
	if err != nil {
		if e.limit.why == "" {
			e.distrust(p.planned, disagree)
		}
		return answered{}, "", false
	}
	if fault != other || !reflect.DeepEqual(e.set.settle(&a), e.set.settle(&b)) {
		e.distrust(p.planned, disagree)
	}
	return b, other, true
}

const (
	disagree = "the plan of the policy set gives another decision than OPA's evaluator"
	notRun   = "the plan of the policy set can not be run"
)

// distrust ends asking the plan. What it decided alone is not remembered any more.
func (e *evaluation) distrust(p *planned, why string) {
	if p.wrong.CompareAndSwap(false, true) {
		e.set.opt.Logger.Error(why+"; the evaluator decides from now on, and decisions cost more", "revision", e.set.revision)
		if f := e.set.opt.OnDistrust; f != nil {
			f(e.set.revision)
		}
	}
}

// stands reports whether a decision that was made is still to be relied on.
func (s *Set) stands(d *Decision) bool {
	return !d.unchecked || s.plan.planned == nil || !s.plan.planned.wrong.Load()
}

// run has the plan run.
func (e *evaluation) run(p *plan) (a answered, fault string, err error) {
	ctx := topdown.BuiltinContext{Context: e.ctx, Cancel: &e.limit}
	if len(e.set.reach.clock) > 0 {
		ctx.Time = e.moment()
	}
	// What is wrong in the machine is for OPA's evaluator to make good.
	defer func() {
		if recover() != nil {
			a, fault, err = answered{}, "", errPlanPanicked
		}
	}()
	r := p.planned.program.Start(ctx, &e.in)
	defer r.Release()
	if p.direct == nil {
		v, err := r.Document(decisionPlan)
		if err != nil {
			return a, "", err
		}
		a, fault = read(v)
		return a, fault, nil
	}
	deny, err := r.Document(denyPlan)
	if err != nil {
		return a, "", err
	}
	allow, err := r.Document(allowPlan)
	if err != nil {
		return a, "", err
	}
	a, ok, err := e.combine(p, deny, allow, func() (ast.Value, error) { return r.Document(obligationsPlan) })
	if err == nil && !ok {
		err = errNotPlanned
	}
	return a, "", err
}

// moment is what time.now_ns() gives.
func (e *evaluation) moment() *ast.Term {
	return ast.NumberTerm(json.Number(strconv.FormatInt(e.now.UnixNano(), 10)))
}

// errPlanPanicked stands for a panic, whose value may quote the input.
var errPlanPanicked = errors.New("the plan panicked")

// errNotPlanned says that what was planned is not enough to decide.
var errNotPlanned = errors.New("the decision rule itself has to be asked")
