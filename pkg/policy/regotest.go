package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/tester"
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
	var ps problems
	b := build(t, func(*file) bool { return true }, &ps)
	if len(ps) > 0 {
		return nil, &LoadError{Dir: dir, Problems: ps.sorted(), Revision: t.revision}
	}
	store := b.store()
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, fmt.Errorf("test %s: open the data: %w", dir, err)
	}
	defer store.Abort(ctx, txn)

	// A test is about rules, not about the JSON schema of the input: it may give
	// a rule an input that no adapter would build. The rules themselves were
	// checked against the schema as they are without their tests.
	covered := cover.New()
	results, err := tester.NewRunner().
		SetCompiler(b.compiler.WithEnablePrintStatements(true)).
		SetDefaultRegoVersion(ast.RegoV1).
		SetStore(store).
		SetModules(b.modules).
		SetTimeout(cmp.Or(opt.TestTimeout, DefaultTestTimeout)).
		RaiseBuiltinErrors(true).
		CapturePrintOutput(true).
		SetCoverageQueryTracer(covered).
		SetCoverageRuns(nil).
		Filter(opt.Run).
		RunTests(ctx, txn)
	if err != nil {
		var list ast.Errors
		if errors.As(err, &list) {
			ps.addRego("", list)
			return nil, &LoadError{Dir: dir, Problems: ps.sorted(), Revision: t.revision}
		}
		return nil, fmt.Errorf("test %s: %w", dir, err)
	}
	r := &TestReport{Dir: dir}
	for res := range results {
		r.add(res)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.SortFunc(r.Results, func(a, b TestResult) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Name, b.Name))
	})
	r.cover(covered.Report(b.modules), t.files)
	r.Elapsed = o.Clock().Sub(start)
	return r, nil
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
	if at := res.FailedAt; at != nil && at.Location != nil {
		out.At = fmt.Sprintf("%s:%d: %s", at.Location.File, at.Location.Row, at.Location.Text)
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
