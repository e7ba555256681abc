package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// A whole is an input that is there as one term.
type whole struct{ term *ast.Term }

func (w whole) At(path []string) *ast.Term {
	t := w.term
	for _, name := range path {
		t = get(t, ast.StringTerm(name))
	}
	return t
}

// never ends no run.
type never struct{}

func (never) Cancel()         {}
func (never) Cancelled() bool { return false }

var data = ast.MustParseTerm(`{
	"words": ["a", "b"], "empty": [], "flags": {"a": true, "b": false},
	"classes": {"pump": {"types": {"Observation": ["create", "read"]}}, "p": {"base": 1}},
	"deep": [{"k": {"v": [1, 2, 3]}}]
}`).Value.(ast.Object)

// A rig is one module, planned and for OPA's evaluator.
type rig struct {
	program  *Program
	compiler *ast.Compiler
}

func caps() *ast.Capabilities {
	return ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(ast.RegoV1))
}

func newRig(tb testing.TB, body string) (*rig, error) {
	tb.Helper()
	m, err := ast.ParseModuleWithOpts("p.rego", "package p\n\n"+body, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		tb.Fatal(err)
	}
	modules := map[string]*ast.Module{"p.rego": m}
	r := &rig{compiler: ast.NewCompiler().WithCapabilities(caps()).WithDefaultRegoVersion(ast.RegoV1)}
	if r.compiler.Compile(modules); r.compiler.Failed() {
		tb.Fatal(r.compiler.Errors)
	}
	p, err := Plan(tb.Context(), modules, caps(), "p/out")
	if err != nil {
		return nil, err
	}
	r.program, err = New(p, data)
	return r, err
}

func (r *rig) run(input *ast.Term, cancel topdown.Cancel) (ast.Value, error) {
	run := r.program.Start(topdown.BuiltinContext{Context: context.Background(), Cancel: cancel}, whole{input})
	defer run.Release()
	return run.Document("p/out")
}

// opa is what OPA's evaluator gives.
func (r *rig) opa(tb testing.TB, input *ast.Term) (v ast.Value, err error) {
	tb.Helper()
	store := inmem.NewFromASTObject(data)
	txn, err := store.NewTransaction(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	defer store.Abort(tb.Context(), txn)
	err = topdown.NewQuery(ast.MustParseBody("x = data.p.out")).
		WithCompiler(r.compiler).WithStore(store).WithTransaction(txn).WithInput(input).WithStrictBuiltinErrors(true).
		Iter(tb.Context(), func(q topdown.QueryResult) error {
			v = q["x"].Value
			return nil
		})
	return v, err
}

// Inputs with what the rules below look at, and without.
var inputs = []string{
	`{}`, `[]`, `"a"`, `null`,
	`{"x": 1, "y": 1.0, "n": null, "s": "a", "l": ["a", "b", "c"], "o": {"k": "v", "a": 1}, "t": true}`,
	`{"x": 2, "y": "1", "s": "b", "l": [], "o": {}, "t": false}`,
	`{"x": -1, "y": [1], "s": "", "l": "abc", "o": ["v"], "t": "true"}`,
	`{"x": 3, "s": "pump", "l": ["create", {"k": 1}, 3, 3.0, null, true], "o": {"k": {"k": "v"}}, "kind": "Observation"}`,
	`{"x": 10, "s": "c", "l": [[1, 2], [1, 3]], "o": {"1": "one", "a": "b"}, "i": 1}`,
}

var rules = map[string]string{
	"a constant":                             `out := "x"`,
	"nothing":                                `out := "x" if false`,
	"a part of the input":                    `out := input.o.k`,
	"the input":                              `out := input`,
	"a part and a part of it":                "out := [a, b] if {\n\ta := input.o\n\tb := input.o.k\n}",
	"equality":                               `out if input.x == 1`,
	"equality of numbers":                    `out if input.x == input.y`,
	"unification":                            "out := [a, b] if [a, b] = input.l[_]",
	"patterns":                               "out := {v | [_, v] = input.l[_]}",
	"an object pattern":                      `out := {v | {"k": v} = input.l[_]}`,
	"comparisons":                            `out := [input.x < 2, input.x <= 2, input.x > 2, input.x >= 2, input.x != 2]`,
	"truth":                                  `out := "yes" if input.t`,
	"not":                                    `out := "no" if not input.t`,
	"not of a rule":                          "out := 1 if not r\nr if input.x > 1",
	"some in a list":                         `out contains v if some v in input.l`,
	"some key in":                            `out contains [k, v] if some k, v in input.o`,
	"in":                                     `out := [input.s in data.words, "a" in input.l, "v" in input.o]`,
	"every":                                  `out if every v in input.l { v != "c" }`,
	"a variable bound later":                 "out := [x, y] if [x, y] = [y, 1]",
	"a member bound later":                   `out := x if {"a": x, "b": y} = {"a": y, "b": input.x}`,
	"every over keys":                        `out if every k, v in input.o { k != v }`,
	"every of nothing":                       `out if every v in input.missing { v }`,
	"a default":                              "default out := \"none\"\n\nout := input.s if input.x == 1",
	"else":                                   "out := 1 if input.x == 1 else := 2 if input.x == 2 else := input.s",
	"what is made in each else":              "out := {\"a\": r} if input.x == 1 else := {\"b\": r | q, \"c\": set()}\n\nr contains input.s\n\nq contains v if some v in input.l",
	"a conflict":                             "out := 1 if input.x > 1\n\nout := 2 if input.x > 2",
	"no conflict":                            "out := 1 if input.x > 1\n\nout := 1 if input.x > 2",
	"a set of constants":                     `out := input.s if input.s in {"a", "b", 3, null}`,
	"a set in a set":                         `out contains {"a", input.s}`,
	"a list of constants":                    `out := ["a", 1, [2]]`,
	"a set rule of many":                     "out contains \"a\" if input.x > 0\n\nout contains \"b\" if input.x > 1\n\nout contains \"c\" if input.x > 2\n\nout contains input.s",
	"an object rule":                         "out[k] := v if some k, v in input.o",
	"an object conflict":                     "out[\"k\"] := v if some v in input.l",
	"nested heads":                           "out.a.b := input.x\n\nout.a.c := input.s\n\nout.d[k] := v if some k, v in input.o",
	"comprehensions":                         `out := [[v | some v in input.l], {v | some v in input.l}, {k: v | some k, v in input.o}]`,
	"an object comprehension that conflicts": `out := {"k": v | some v in input.l}`,
	"a closure":                              "out := [v | some v in input.l; v == input.s]",
	"functions":                              "out contains f(v) if some v in input.l\n\nf(v) := upper(v) if v != \"b\"\n\nf(\"b\") := \"bee\"",
	"a function of two values":               "out := f(input.x)\n\nf(v) := 1 if v > 0\n\nf(v) := 2 if v > 1",
	"a function with a default":              "out := f(input.x)\n\ndefault f(_) := 0\n\nf(v) := 1 if v > 1",
	"a function of a false value":            "out := [f(v) | some v in input.l]\n\nf(v) := v == \"a\"",
	"a partial rule called twice":            "out := [count(r), r]\n\nr contains v if some v in input.l",
	"data by name":                           `out := data.words[1]`,
	"data by the input":                      `out := data.flags[input.s]`,
	"data that is not there":                 `out := data.none`,
	"data through a list":                    "out contains v if some v in data.deep[_].k.v",
	"a deep permission":                      `out if input.l[0] in data.classes[input.s].types[input.kind]`,
	"an empty list of the data":              `out contains v if some v in data.empty`,
	"a built-in error":                       `out := to_number(input.s)`,
	"a built-in error behind a guard":        `out := to_number(input.s) if input.x == 3`,
	"a built-in of the wrong type":           `out := upper(input.x)`,
	"count":                                  `out := count(input.l)`,
	"division":                               `out := 10 / input.x`,
	"a number as a key":                      `out := input.l[input.i]`,
	"a negative key":                         `out := input.l[input.x - 3]`,
	"a ref into a set":                       "out := s[input.s]\n\ns := {\"a\", \"b\"}",
	"membership by a set ref":                `out if {"a", "b"}[input.s]`,
	"sprintf":                                `out := sprintf("%v of %v", [input.s, input.x])`,
	"a template":                             "out := $\"{input.s}-{input.x}\"",
	"object.get":                             `out := object.get(input, ["o", "k"], "none")`,
	"dynamic parts of the input":             `out := input[input.s]`,
	"all parts of the input":                 "out contains k if {\n\tsome k\n\tinput[k]\n}",
	"false parts":                            `out contains k if input.o[k] == input.x`,
	"many locals":                            "out := z if {\n\ta := input.x\n\tb := a\n\tc := b\n\tsome d in input.l\n\te := d\n\tz := [c, e]\n\te == \"b\"\n}",
	"nested loops":                           "out contains [a, b] if {\n\tsome a in input.l\n\tsome b in input.l\n\ta != b\n}",
	"a rule in a rule":                       "out := [a, b, a] if true\n\na := b\n\nb := input.s",
	"arrays of arrays":                       "out := [[x, [y | some y in input.l; y == x]] | some x in input.l]",
}

// What the plan gives is what OPA's evaluator gives; where that fails, so does the
// plan.
func TestPlansGiveWhatOPAGives(t *testing.T) {
	for name, body := range rules {
		t.Run(name, func(t *testing.T) {
			r, err := newRig(t, body)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range inputs {
				in := ast.MustParseTerm(text)
				want, fault := r.opa(t, in)
				got, err := r.run(in, never{})
				if fault != nil {
					if err == nil {
						t.Errorf("%s: got %v, OPA fails: %v", text, got, fault)
					}
					continue
				}
				if err != nil {
					// OPA is asked then.
					if !strings.HasSuffix(name, "bound later") {
						t.Errorf("%s: %v, want %v", text, err, want)
					}
					continue
				}
				if (got == nil) != (want == nil) || got != nil && got.Compare(want) != 0 {
					t.Errorf("%s: got %v, want %v", text, got, want)
				}
			}
		})
	}
}

// Runs share what is constant, and nothing else.
func TestRunsOfOneProgramAtATime(t *testing.T) {
	r, err := newRig(t, rules["a set rule of many"])
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				in := ast.MustParseTerm(fmt.Sprintf(`{"x": %d, "s": "s%d-%d"}`, (i+j)%4, i, j))
				got, err := r.run(in, never{})
				if err != nil {
					t.Error(err)
					return
				}
				if n := got.(ast.Set).Len(); n != (i+j)%4+1 {
					t.Errorf("%v gives %v", in, got)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestWhatIsNotSupportedIsRefused(t *testing.T) {
	for name, body := range map[string]string{
		"a set that is added to after it was made elsewhere": "out := p\n\np.a := {\"x\"} if input.t\n\np[k] contains input.s if some k in input.l",
		"the same of a rule's value":                         "out := [p, q]\n\nq contains input.x\n\np.a := q if input.t\n\np[k] contains input.s if some k in input.l",
		"with":                                               "out := v if v := r with input.x as 1\n\nr := input.x",
		"walk":                                               "out contains p if walk(input, [p, _])",
	} {
		if _, err := newRig(t, body); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := newRig(t, `out := 1`)
	if err != nil {
		t.Fatal(err)
	}
	run := r.program.Start(topdown.BuiltinContext{Cancel: never{}}, whole{})
	defer run.Release()
	if _, err := run.Document("p/other"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("another document: %v", err)
	}
}

// after ends a run after some questions.
type after struct{ n *int }

func (after) Cancel()           {}
func (a after) Cancelled() bool { *a.n--; return *a.n < 0 }

func TestARunIsEnded(t *testing.T) {
	r, err := newRig(t, `out := count([1 | some i in input; some j in input; i + j == 7])`)
	if err != nil {
		t.Fatal(err)
	}
	n := 100
	if v, err := r.run(ast.MustParseTerm("["+strings.Repeat("1,", 999)+"1]"), after{&n}); !errors.Is(err, errCancelled) {
		t.Errorf("got %v, %v", v, err)
	}
	if n != -1 {
		t.Errorf("it was asked to end %d times more", -1-n)
	}
}

func TestNamesOfDocuments(t *testing.T) {
	for text, want := range map[string]string{
		"data.a.b":       "a/b",
		`data.a["b c"]`:  "a/b c",
		`data.a["b/c"]`:  "",
		"data":           "",
		"input.a":        "",
		"data.a[0]":      "",
		"data.a[data.b]": "",
	} {
		got, err := Name(ast.MustParseRef(text))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

// FuzzPlans mixes the rules above with inputs of any form.
func FuzzPlans(f *testing.F) {
	var rigs []*rig
	var names []string
	for name := range rules {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		r, err := newRig(f, rules[name])
		if err != nil {
			f.Fatal(err)
		}
		rigs = append(rigs, r)
	}
	for _, in := range inputs {
		f.Add(uint(0), in)
	}
	f.Fuzz(func(t *testing.T, n uint, text string) {
		v, err := ast.ValueFromReader(strings.NewReader(text))
		if err != nil {
			t.Skip()
		}
		in := ast.NewTerm(v)
		i := int(n % uint(len(rigs)))
		want, fault := rigs[i].opa(t, in)
		got, err := rigs[i].run(in, never{})
		if err == nil && fault != nil {
			t.Fatalf("%s of %v: got %v, OPA fails: %v", names[i], in, got, fault)
		}
		if err == nil && ((got == nil) != (want == nil) || got != nil && got.Compare(want) != 0) {
			t.Fatalf("%s of %v: got %v, want %v", names[i], in, got, want)
		}
	})
}

// A local that was assigned stays what it was when the one it came from changes.
func TestAssignedLocalsAreTheirOwn(t *testing.T) {
	local := func(l ir.Local) ir.Operand { return ir.Operand{Value: l} }
	p := &ir.Policy{
		Static: &ir.Static{Strings: []*ir.StringConst{{Value: "result"}}},
		Funcs:  &ir.Funcs{},
		Plans: &ir.Plans{Plans: []*ir.Plan{{Name: "x", Blocks: []*ir.Block{{Stmts: []ir.Stmt{
			&ir.MakeNumberIntStmt{Value: 1, Target: 2},
			&ir.AssignVarStmt{Source: local(2), Target: 3},
			&ir.MakeNumberIntStmt{Value: 5, Target: 2},
			&ir.MakeObjectStmt{Target: 4},
			&ir.ObjectInsertStmt{Key: ir.Operand{Value: ir.StringIndex(0)}, Value: local(3), Object: 4},
			&ir.ResultSetAddStmt{Value: 4},
		}}}}}},
	}
	program, err := New(p, data)
	if err != nil {
		t.Fatal(err)
	}
	run := program.Start(topdown.BuiltinContext{Cancel: never{}}, whole{})
	defer run.Release()
	if v, err := run.Document("x"); err != nil || v.Compare(ast.Number("1")) != 0 {
		t.Errorf("got %v, %v", v, err)
	}
}
