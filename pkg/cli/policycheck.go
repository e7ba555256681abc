package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

func (a *app) policyCheckCommand() *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use: "check [DIR]", Short: "Say what is wrong with a policy set, or looks wrong", Args: optional,
		Long: `Compile a policy set as the gateway would, its fields and data checked against
their schemas, and look for what has no effect: rules the decision does not
reach, rules that another one makes superfluous, conditions that contradict each
other, data no rule reads, rules that keep decisions from being remembered, and
rules no test evaluates. DIR is a directory or a bundle; the default is the one
the configuration enforces.

The exit status is 0 if the set can be put in force. With --strict warnings count
as errors.`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			dir, err := a.policyDir(arg)
			if err != nil {
				return err
			}
			rep, err := policy.Lint(cmd.Context(), dir, policy.Options{})
			if err != nil {
				return err
			}
			errs, warnings := rep.Errors()
			if err := a.print(rep, func(w io.Writer) { printLint(w, rep) }); err != nil {
				return err
			}
			if errs > 0 || strict && warnings > 0 {
				return fmt.Errorf("%s: %s, %s", dir, plural(errs, "error"), plural(warnings, "warning"))
			}
			return nil
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "fail on warnings too")
	return c
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func printLint(w io.Writer, r *policy.LintReport) {
	for _, f := range r.Findings {
		level := "warning"
		if f.Error {
			level = "error"
		}
		p := f.Problem
		p.Message = fmt.Sprintf("%s: %s (%s)", level, p.Message, f.Kind)
		fmt.Fprintln(w, p)
	}
	if r.Revision != "" {
		fmt.Fprintf(w, "%s can be put in force: revision %s, %s, %s, coverage %.1f %%\n",
			r.Dir, r.Revision, plural(r.Modules, "rule file"), plural(r.Tests, "test"), r.Coverage)
	}
}
