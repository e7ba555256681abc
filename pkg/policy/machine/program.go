package machine

import (
	"fmt"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// A Program is a plan made ready to run. It never changes and is safe for
// concurrent use.
type Program struct {
	entries map[string]*function
	funcs   int                // how many functions have their result remembered within a run
	places  []place            // the parts of the input that are looked up by name
	runs    sync.Pool          // of *Run
	single  map[*ast.Term]bool // the sets of one constant, which runs share
}

// An Input gives the parts of the input that a run looks at, when it does.
type Input interface {
	// At returns what is at a path of names; nil is undefined. A run asks for each
	// path once, and does not change the path.
	At(path []string) *ast.Term
}

// A place is a part of the input.
type place struct {
	path []string // where it is, if only names lead there
	in   int      // else the place it is in
	key  *ast.Term
}

// A function is what rules of one name were planned to be, or a whole plan.
type function struct {
	name   string
	locals int // how many it has
	params []int
	memo   int // where its result is remembered within a run; -1 if it is not
	blocks []block
}

type block []step

// A step does what one statement says. l are the locals of its function; one that
// is not defined is nil.
type step func(r *Run, l []*ast.Term) signal

// A signal is how the execution goes on after a step. More than zero is the number
// of blocks that are left; one that is not defined leaves its own.
type signal int

const (
	onward    signal = 0
	undefined signal = 1
	returned  signal = -1 // Run.result is what the function gives
	failed    signal = -2 // Run.err says why
)

// New makes a program of a plan, for rules that find the given data. Neither must
// be changed afterwards.
func New(p *ir.Policy, data ast.Object) (*Program, error) {
	b := &builder{
		policy: p,
		data:   ast.NewTerm(data),
		prog:   &Program{entries: map[string]*function{}, places: []place{{}}, single: map[*ast.Term]bool{}},
		funcs:  map[string]*function{},
		source: map[string]*ir.Func{},
		places: map[placeKey]int{},
	}
	for _, s := range p.Static.Strings {
		b.strings = append(b.strings, ast.StringTerm(s.Value))
	}
	b.builtins = map[string]*ir.BuiltinFunc{}
	for _, f := range p.Static.BuiltinFuncs {
		b.builtins[f.Name] = f
	}
	for _, f := range p.Funcs.Funcs {
		b.source[f.Name] = f
	}
	for _, pl := range p.Plans.Plans {
		f, err := b.entry(pl)
		if err != nil {
			return nil, fmt.Errorf("plan of %s: %w", pl.Name, err)
		}
		b.prog.entries[pl.Name] = f
	}
	b.prog.runs.New = func() any {
		return &Run{
			prog:  b.prog,
			at:    make([]known, len(b.prog.places)),
			memos: make([]known, b.prog.funcs),
		}
	}
	return b.prog, nil
}

// known is a value that was found out within a run; nil is undefined.
type known struct {
	term *ast.Term
	is   bool // it was found out
}

// A Run evaluates documents for one input. It must not be used by two goroutines
// at a time.
type Run struct {
	prog   *Program
	input  Input
	ctx    topdown.BuiltinContext
	at     []known // by place
	memos  []known // by function
	stack  []*ast.Term
	args   []*ast.Term
	output *ast.Term // what a built-in function gave
	emit   func(*ast.Term) error
	result *ast.Term
	err    error
}

// Start begins a run. ctx has what built-in functions may use; its Cancel ends the
// run and must be there. The caller releases the run.
func (p *Program) Start(ctx topdown.BuiltinContext, input Input) *Run {
	r := p.runs.Get().(*Run)
	r.ctx, r.input = ctx, input
	if r.emit == nil {
		r.emit = r.got
	}
	return r
}

// Release ends a run. What it evaluated stays as it is.
func (r *Run) Release() {
	clear(r.at)
	clear(r.memos)
	clear(r.stack[:cap(r.stack)])
	clear(r.args[:cap(r.args)])
	r.stack, r.args = r.stack[:0], r.args[:0]
	r.input, r.ctx, r.output, r.result, r.err = nil, topdown.BuiltinContext{}, nil, nil, nil
	r.prog.runs.Put(r)
}

// Document evaluates a document that the program was planned for, by the name that
// [Name] gives it; nil is undefined. The caller must not change it.
func (r *Run) Document(name string) (ast.Value, error) {
	f := r.prog.entries[name]
	if f == nil {
		return nil, unsupported("%s was not planned for", name)
	}
	t, sig := r.call(f, nil)
	if sig == failed {
		return nil, r.err
	}
	if t == nil {
		return nil, nil
	}
	return t.Value, nil
}

// call runs a function. args are what its parameters beyond input and data are.
func (r *Run) call(f *function, args []*ast.Term) (*ast.Term, signal) {
	if f.memo >= 0 {
		if m := r.memos[f.memo]; m.is {
			return m.term, onward
		}
	}
	from := len(r.stack)
	if need := from + f.locals; need <= cap(r.stack) {
		r.stack = r.stack[:need]
	} else {
		// Functions that are running keep the locals they have.
		r.stack = append(make([]*ast.Term, 0, 2*need+64), r.stack...)[:need]
	}
	l := r.stack[from:len(r.stack):len(r.stack)]
	clear(l)
	for i, p := range f.params {
		l[p] = args[i]
	}
	var out *ast.Term
	for _, b := range f.blocks {
		sig := b.run(r, l)
		if sig == returned {
			out = r.result
			break
		}
		if sig == failed {
			return nil, failed
		}
	}
	r.stack = r.stack[:from]
	if f.memo >= 0 {
		r.memos[f.memo] = known{out, true}
	}
	return out, onward
}

// run does the steps of a block until one says otherwise.
func (b block) run(r *Run, l []*ast.Term) signal {
	if r.ctx.Cancel.Cancelled() {
		r.err = errCancelled
		return failed
	}
	for _, s := range b {
		if sig := s(r, l); sig != onward {
			return sig
		}
	}
	return onward
}

// place returns a part of the input; nil is undefined.
func (r *Run) place(i int) *ast.Term {
	if k := &r.at[i]; k.is {
		return k.term
	}
	p := &r.prog.places[i]
	var t *ast.Term
	if p.key == nil {
		t = r.input.At(p.path)
	} else {
		t = get(r.place(p.in), p.key)
	}
	r.at[i] = known{t, true}
	return t
}

// got takes what a built-in function gives.
func (r *Run) got(t *ast.Term) error {
	r.output = t
	return nil
}
