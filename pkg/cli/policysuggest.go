package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/workbench"
)

func (a *app) policySuggestCommand() *cobra.Command {
	var f filter
	var dir string
	c := &cobra.Command{
		Use: "suggest [DIR]", Short: "Write the least a class needs, from what it was seen to do", Args: optional,
		Long: `Read what devices were allowed to do, on observing routes also what they would not
have been, and write the class data that allow just that: as a diff against the
set in DIR, the enforced one by default, with a test that pins what was seen.

It is for a person to read: what nobody did in that time may still be needed, such
as an alarm that did not go off. Nothing is applied.`,
		Example: `  anteroom policy suggest --since 30d --class infusion-pump > pump.diff
  patch -p1 -d policies < pump.diff`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			if err := f.complete(time.Now()); err != nil {
				return err
			}
			set, err := a.policyDir(arg)
			if err != nil {
				return err
			}
			if dir, err = a.auditDir(dir); err != nil {
				return err
			}
			uses, err := workbench.Observe(cmd.Context(), dir, f.Filter)
			if err != nil {
				return err
			}
			out := []*workbench.Suggestion{}
			for _, class := range slices.Sorted(maps.Keys(uses)) {
				s, err := workbench.Suggest(uses[class], set)
				if err != nil {
					return err
				}
				out = append(out, s)
			}
			return a.print(out, func(w io.Writer) {
				if len(out) == 0 {
					fmt.Fprintf(w, "# Nothing that was allowed is recorded in that time%s\n", f.chosen())
				}
				for _, s := range out {
					printSuggestion(w, s)
				}
			})
		},
	}
	s := c.Flags()
	f.times(c, "7d")
	s.StringVar(&f.Class, "class", "", "only this class")
	s.StringVar(&f.Device, "device", "", "only this device")
	s.StringVar(&dir, "audit", "", "audit directory (default: the configuration's)")
	return c
}

// printSuggestion prints a diff that patch takes: what is for people stands
// before each file's header, where patch reads nothing.
func printSuggestion(w io.Writer, s *workbench.Suggestion) {
	fmt.Fprintf(w, "# class %s: %s by %s\n", s.Class, plural(s.Decisions, "decision"), plural(s.Devices, "device"))
	for _, u := range s.Unused {
		fmt.Fprintf(w, "# granted, and not used: %s\n", u)
	}
	for _, k := range s.Kept {
		fmt.Fprintf(w, "# not used, and kept, because it is for alarms: %s\n", k)
	}
	for _, n := range s.New {
		fmt.Fprintf(w, "# used, and not granted: %s\n", n)
	}
	if s.Diff == "" {
		fmt.Fprintf(w, "# %s allows just that already\n", s.File)
	}
	fmt.Fprint(w, s.Diff)
	fmt.Fprint(w, s.TestDiff)
}
