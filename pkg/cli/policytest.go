package cli

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

func (a *app) policyTestCommand() *cobra.Command {
	var run, format string
	var threshold float64
	var watch bool
	c := &cobra.Command{
		Use: "test [DIR]", Short: "Run a policy set's own tests", Args: optional,
		Long: `Run the tests of a policy set with OPA's own test runner: the rules named test_…
in the files named …_test.rego. DIR is the directory the configuration enforces,
or another one. The stock "opa test" runs the same tests.`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			dir, err := a.policyDir(arg)
			if err != nil {
				return err
			}
			if a.json {
				format = "json"
			}
			var write func(io.Writer, *policy.TestReport) error
			switch format {
			case "text":
				write = func(w io.Writer, rep *policy.TestReport) error { printTests(readable{w}, rep, run == ""); return nil }
			case "json":
				write = func(w io.Writer, rep *policy.TestReport) error {
					e := json.NewEncoder(w)
					e.SetIndent("", "  ")
					return e.Encode(rep)
				}
			case "junit":
				write = writeJUnit
			default:
				return usagef("--format: %q is none of text, json and junit", format)
			}
			once := func(ctx context.Context) error {
				rep, err := policy.Test(ctx, dir, policy.TestOptions{Run: run})
				if err != nil {
					return err
				}
				if err := write(a.out, rep); err != nil {
					return err
				}
				if !rep.OK() {
					return silentError{}
				}
				if run == "" && rep.Coverage < threshold {
					return fmt.Errorf("coverage is %.1f %%, less than %.1f %%", rep.Coverage, threshold)
				}
				return nil
			}
			if !watch {
				return once(cmd.Context())
			}
			return policy.Follow(cmd.Context(), dir, policy.Options{}, func(ctx context.Context) {
				// What another program reads stays what it is.
				notes := a.err
				if format == "text" {
					notes = a.out
					fmt.Fprintf(a.out, "%s ", time.Now().Format(time.TimeOnly))
				}
				if err := once(ctx); err != nil && err != error(silentError{}) {
					fmt.Fprintln(notes, err)
				}
			})
		},
	}
	c.Flags().StringVar(&run, "run", "", "only tests whose name matches this regular expression")
	c.Flags().Float64Var(&threshold, "threshold", 0, "fail if less than this percentage of the rules is covered")
	c.Flags().StringVar(&format, "format", "text", "text, json or junit")
	c.Flags().BoolVar(&watch, "watch", false, "run again whenever a file is saved, until Ctrl-C")
	return c
}

func printTests(w io.Writer, rep *policy.TestReport, all bool) {
	for _, r := range rep.Results {
		if r.Pass || r.Skip {
			continue
		}
		fmt.Fprintf(w, "FAIL %s.%s (%s:%d)\n", r.Package, r.Name, r.File, r.Line)
		for _, text := range []string{r.At, r.Error, r.Output} {
			if text != "" {
				fmt.Fprintf(w, "     %s\n", text)
			}
		}
	}
	if !all { // what some of the tests cover says nothing
		fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", rep.Passed, rep.Failed, rep.Skipped)
		return
	}
	for _, f := range rep.Files {
		if len(f.Missing) > 0 {
			fmt.Fprintf(w, "not covered: %s, lines %v\n", f.File, f.Missing)
		}
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped; coverage %.1f %%\n", rep.Passed, rep.Failed, rep.Skipped, rep.Coverage)
}

// The form of test results that build servers read, as JUnit's own Ant task
// began it.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr"`
		Line    int           `xml:"line,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitFailure `xml:"failure"`
		Skipped *struct{}     `xml:"skipped"`
		Output  string        `xml:"system-out,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// writeJUnit writes a report with a suite for each file.
func writeJUnit(w io.Writer, rep *policy.TestReport) error {
	out := junitSuites{Tests: len(rep.Results), Failures: rep.Failed, Skipped: rep.Skipped}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }
	var took time.Duration
	for _, r := range rep.Results { // sorted by file
		if n := len(out.Suites); n == 0 || out.Suites[n-1].Name != r.File {
			out.Suites, took = append(out.Suites, junitSuite{Name: r.File}), 0
		}
		s := &out.Suites[len(out.Suites)-1]
		c := junitCase{Name: r.Name, Class: r.Package, File: r.File, Line: r.Line, Time: seconds(r.Elapsed), Output: r.Output}
		switch {
		case r.Skip:
			c.Skipped = &struct{}{}
			s.Skipped++
		case !r.Pass:
			c.Failure = &junitFailure{Message: r.At, Text: r.Error}
			if r.At == "" {
				c.Failure.Message = fmt.Sprintf("%s:%d does not hold", r.File, r.Line)
			}
			s.Failures++
		}
		took += r.Elapsed
		s.Tests, s.Time, s.Cases = s.Tests+1, seconds(took), append(s.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(out); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
