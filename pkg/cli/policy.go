package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Check and test policy sets", a.policyCheckCommand(), a.policyTestCommand(), a.policyBuildCommand(),
		a.policyPushCommand(), a.policyHistoryCommand(), a.policyPullCommand(), a.policyRollBackCommand(), a.policyPromoteCommand(), a.policyDiffCommand(), a.policyStatusCommand())
}

// policyDir returns the directory a command is to look at.
func (a *app) policyDir(arg []string) (string, error) {
	if len(arg) > 0 {
		return arg[0], nil
	}
	cfg, err := a.load()
	if err != nil {
		return "", err
	}
	return cfg.Policy.Enforce, nil
}

func (a *app) policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check [DIR]", Short: "Compile a policy set as the gateway would", Args: optional,
		RunE: func(cmd *cobra.Command, arg []string) error {
			dir, err := a.policyDir(arg)
			if err != nil {
				return err
			}
			set, err := policy.Load(cmd.Context(), dir, policy.Options{})
			if err != nil {
				return err
			}
			return a.print(map[string]any{"dir": dir, "revision": set.Revision(), "reads": set.Reads(), "modules": set.Modules()}, func(w io.Writer) {
				fmt.Fprintf(w, "%s is good: revision %s, %d rule files\n", dir, set.Revision(), set.Modules())
				for _, p := range set.Uncacheable() {
					fmt.Fprintf(w, "note: %s\n", p)
				}
			})
		},
	}
}

func (a *app) policyTestCommand() *cobra.Command {
	var run string
	var threshold float64
	c := &cobra.Command{
		Use: "test [DIR]", Short: "Run a policy set's own tests", Args: optional,
		RunE: func(cmd *cobra.Command, arg []string) error {
			dir, err := a.policyDir(arg)
			if err != nil {
				return err
			}
			rep, err := policy.Test(cmd.Context(), dir, policy.TestOptions{Run: run})
			if err != nil {
				return err
			}
			if err := a.print(rep, func(w io.Writer) { printTests(w, rep) }); err != nil {
				return err
			}
			if !rep.OK() {
				return silentError{}
			}
			if run == "" && rep.Coverage < threshold {
				return fmt.Errorf("coverage is %.1f %%, less than %.1f %%", rep.Coverage, threshold)
			}
			return nil
		},
	}
	c.Flags().StringVar(&run, "run", "", "only tests whose name matches this regular expression")
	c.Flags().Float64Var(&threshold, "threshold", 0, "fail if less than this percentage of the rules is covered")
	return c
}

func printTests(w io.Writer, rep *policy.TestReport) {
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
	for _, f := range rep.Files {
		if len(f.Missing) > 0 {
			fmt.Fprintf(w, "not covered: %s, lines %v\n", f.File, f.Missing)
		}
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped; coverage %.1f %%\n", rep.Passed, rep.Failed, rep.Skipped, rep.Coverage)
}
