package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// DefaultTestTimeout bounds one Rego test.
const DefaultTestTimeout = 5 * time.Second

// TestOptions are the options of [Test].
type TestOptions struct {
	Options
	// Run selects tests whose name (package and rule, such as
	// "data.anteroom.authz_test.test_pump") matches this regular expression.
	// Empty selects all.
	Run string
	// TestTimeout bounds each test; zero means DefaultTestTimeout.
	TestTimeout time.Duration
}

// A TestResult is the outcome of one Rego test.
type TestResult struct {
	Package string        `json:"package"`
	Name    string        `json:"name"`
	File    string        `json:"file"`
	Line    int           `json:"line"`
	Pass    bool          `json:"pass"`
	Skip    bool          `json:"skip,omitempty"`
	Error   string        `json:"error,omitempty"` // it could not be evaluated
	At      string        `json:"at,omitempty"`    // the expression that did not hold
	Output  string        `json:"output,omitempty"`
	Elapsed time.Duration `json:"elapsed_ns"`
}

// A FileCoverage says how much of a rule file the tests evaluated.
type FileCoverage struct {
	File    string  `json:"file"`
	Percent float64 `json:"percent"`
	// Covered and NotCovered count lines that can be evaluated; Missing lists
	// those that no test reached.
	Covered    int   `json:"covered"`
	NotCovered int   `json:"not_covered"`
	Missing    []int `json:"missing,omitempty"`
}

// A TestReport is what running a directory's tests showed.
type TestReport struct {
	Dir     string         `json:"dir"`
	Results []TestResult   `json:"results"` // sorted by file and line
	Passed  int            `json:"passed"`
	Failed  int            `json:"failed"` // including those that could not be evaluated
	Skipped int            `json:"skipped"`
	Files   []FileCoverage `json:"files"` // rule files, without those of tests
	// Coverage is the percentage of lines of rule files that the tests
	// evaluated; 0 if tests were selected with Run and none ran.
	Coverage float64       `json:"coverage"`
	Elapsed  time.Duration `json:"elapsed_ns"`
}

// OK reports whether tests ran and none failed.
func (r *TestReport) OK() bool { return r.Failed == 0 && r.Passed > 0 }

// Test compiles the set in dir together with its tests and runs them with OPA's
// own test runner. The error is a [*LoadError] if they do not compile; tests
// that fail are in the report.
func Test(ctx context.Context, dir string, opt TestOptions) (*TestReport, error) {
	o := opt.withDefaults()
	start := o.Clock()
	t, err := readTree(dir, o)
	if err != nil {
		return nil, err
	}
	r, err := test(ctx, t, opt)
	if err != nil {
		return nil, err
	}
	r.Elapsed = o.Clock().Sub(start)
	return r, nil
}

// test is Test of what was read.
func test(ctx context.Context, t *tree, opt TestOptions) (*TestReport, error) {
	covered := cover.New()
	r := &TestReport{Dir: t.dir}
	modules, err := runTests(ctx, t, &opt, opt.Run, func(run *tester.Runner) {
		run.SetCoverageQueryTracer(covered).SetCoverageRuns(nil)
	}, r.add)
	if err != nil {
		return nil, err
	}
	if err := r.locate(ctx, t, &opt); err != nil {
		return nil, err
	}
	slices.SortFunc(r.Results, func(a, b TestResult) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Name, b.Name))
	})
	r.cover(covered.Report(modules), t.files)
	return r, nil
}

// runTests compiles what was read with its tests, runs those that filter
// selects, and calls each with every result.
func runTests(ctx context.Context, t *tree, opt *TestOptions, filter string, set func(*tester.Runner), each func(*tester.Result)) (map[string]*ast.Module, error) {
	var ps problems
	b := build(t, func(*file) bool { return true }, &ps)
	refuse := func() error {
		return &LoadError{Dir: t.dir, Problems: ps.sorted(), Revision: t.revision}
	}
	if len(ps) > 0 {
		return nil, refuse()
	}
	store := b.store()
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, fmt.Errorf("test %s: open the data: %w", t.dir, err)
	}
	defer store.Abort(ctx, txn)
	run := tester.NewRunner().
		SetCompiler(b.compiler.WithEnablePrintStatements(true)).
		SetDefaultRegoVersion(ast.RegoV1).
		SetStore(store).
		SetModules(b.modules).
		SetTimeout(cmp.Or(opt.TestTimeout, DefaultTestTimeout)).
		RaiseBuiltinErrors(true).
		CapturePrintOutput(true).
		Filter(filter)
	set(run)
	results, err := run.RunTests(ctx, txn)
	if err != nil {
		var list ast.Errors
		if errors.As(err, &list) {
			ps.addRego("", list)
			return nil, refuse()
		}
		return nil, fmt.Errorf("test %s: %w", t.dir, err)
	}
	for res := range results {
		each(res)
	}
	return b.modules, ctx.Err()
}

// maxLocated bounds how many failed tests are run again to find what failed in
// them; whoever has more repairs these first.
const maxLocated = 20

// locate runs the tests that failed once more, traced, to say which expression
// did not hold. OPA's runner does not say it otherwise.
func (r *TestReport) locate(ctx context.Context, t *tree, opt *TestOptions) error {
	var names []string
	for i := range r.Results {
		res := &r.Results[i]
		if !res.Pass && !res.Skip && res.Error == "" && len(names) < maxLocated {
			names = append(names, regexp.QuoteMeta(res.Package+"."+res.Name))
		}
	}
	if len(names) == 0 {
		return nil
	}
	_, err := runTests(ctx, t, opt, "^("+strings.Join(names, "|")+")$",
		func(run *tester.Runner) { run.EnableTracing(true) },
		func(res *tester.Result) {
			for i := range r.Results {
				if r.Results[i].Package == res.Package && r.Results[i].Name == res.Name {
					r.Results[i].At = failedAt(res)
				}
			}
		})
	return err
}

// failedAt returns the last expression of the test itself that did not hold.
func failedAt(res *tester.Result) string {
	if res.Location == nil {
		return ""
	}
	for _, ev := range slices.Backward(res.Trace) {
		e, ok := ev.Node.(*ast.Expr)
		if ok && ev.Op == topdown.FailOp && e.Location != nil && e.Location.File == res.Location.File && e.Location.Row >= res.Location.Row {
			return fmt.Sprintf("%s:%d: %s", e.Location.File, e.Location.Row, e.Location.Text)
		}
	}
	return ""
}

func (r *TestReport) add(res *tester.Result) {
	out := TestResult{
		Package: res.Package,
		Name:    res.Name,
		Pass:    res.Pass(),
		Skip:    res.Skip,
		Output:  string(res.Output),
		Elapsed: res.Duration,
	}
	if res.Location != nil {
		out.File, out.Line = res.Location.File, res.Location.Row
	}
	if res.Error != nil {
		out.Error = res.Error.Error()
	}
	switch {
	case out.Skip:
		r.Skipped++
	case out.Pass:
		r.Passed++
	default:
		r.Failed++
	}
	r.Results = append(r.Results, out)
}

func (r *TestReport) cover(report cover.Report, files []file) {
	var yes, no int
	for i := range files {
		if files[i].role != roleRego {
			continue
		}
		f := report.Files[files[i].name]
		if f == nil {
			continue
		}
		c := FileCoverage{File: files[i].name, Percent: f.Coverage, Covered: f.CoveredLines, NotCovered: f.NotCoveredLines}
		for _, rng := range f.NotCovered {
			for row := rng.Start.Row; row <= rng.End.Row; row++ {
				if !slices.Contains(c.Missing, row) {
					c.Missing = append(c.Missing, row)
				}
			}
		}
		slices.Sort(c.Missing)
		yes += c.Covered
		no += c.NotCovered
		r.Files = append(r.Files, c)
	}
	if yes+no > 0 && r.Passed+r.Failed > 0 {
		r.Coverage = 100 * float64(yes) / float64(yes+no)
	}
}
