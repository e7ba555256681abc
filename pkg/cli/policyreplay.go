package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/workbench"
)

// defaultSince is how far back commands look that read recorded traffic.
const defaultSince = "24h"

// Rows that are printed; --json has all.
const (
	shownChanges = 25
	shownDevices = 10
)

func (a *app) policyReplayCommand() *cobra.Command {
	var f filter
	var dir, current, page string
	var fail bool
	c := &cobra.Command{
		Use: "replay DIR", Short: "Decide recorded traffic again under another policy set",
		Long: `Have a candidate set, a directory or a bundle, decide recorded traffic again and
say what it would decide otherwise than the set in force: by rule, class and
device, with decision IDs to look at (anteroom policy explain).

Nothing is changed. What a record does not hold is taken from the registry of
now; decisions that the set in force itself makes otherwise now than then are
counted apart, as drift. The exit status is 0, or with --fail-on-change 1 if
anything would change.`,
		Example: `  anteroom policy replay policies-next --since 7d
  anteroom policy replay policies-next --class infusion-pump --html replay.html`,
		Args: args("DIR"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if err := f.complete(time.Now()); err != nil {
				return err
			}
			cfg, err := a.load()
			if err != nil {
				return err
			}
			candidate, err := a.setAt(cmd.Context(), cfg, arg[0])
			if err != nil {
				return err
			}
			now, err := a.setAt(cmd.Context(), cfg, current)
			if err != nil {
				return fmt.Errorf("the set in force: %w", err)
			}
			devices, err := a.registry(cmd)
			if err != nil {
				return err
			}
			if dir, err = a.auditDir(dir); err != nil {
				return err
			}
			file, err := openPage(page)
			if err != nil {
				return err
			}
			defer file.Close() // done before if all goes well
			start := time.Now()
			show, end := a.progressBar("replaying")
			rep, err := workbench.Replay(cmd.Context(), now, candidate, workbench.ReplayOptions{Dir: dir, Filter: f.Filter, Devices: devices, Progress: show})
			end()
			if err != nil {
				return err
			}
			took := time.Since(start)
			if err := writePage(file, rep); err != nil {
				return err
			}
			err = a.print(rep, func(w io.Writer) {
				printReplay(w, rep, &f, took)
				if page != "" {
					fmt.Fprintf(w, "Wrote %s\n", page)
				}
			})
			if err == nil && fail && rep.Changed > 0 {
				return silentError{}
			}
			return err
		},
	}
	s := c.Flags()
	f.times(c, defaultSince)
	s.StringVar(&f.Device, "device", "", "only of this device")
	s.StringVar(&f.Class, "class", "", "only of this class")
	s.StringVar(&f.Route, "route", "", "only of this route")
	s.StringVar(&page, "html", "", "write the report to this file too, as a page")
	s.StringVar(&current, "current", "", "compare with this set instead of the one in force")
	s.StringVar(&dir, "audit", "", "audit directory (default: the configuration's)")
	s.BoolVar(&fail, "fail-on-change", false, "exit with status 1 if anything would change")
	return c
}

// openPage makes the file of a report, which names devices and patients'
// pseudonyms: for its owner only.
func openPage(name string) (*os.File, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--html: %w", err)
	}
	return f, nil
}

func writePage(f *os.File, rep *workbench.ReplayReport) error {
	if f == nil {
		return nil
	}
	if err := errors.Join(workbench.WriteHTML(f, rep), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return nil
}

func printReplay(w io.Writer, r *workbench.ReplayReport, f *filter, took time.Duration) {
	if r.Decisions == 0 {
		fmt.Fprintf(w, "No decision is recorded in that time%s", f.chosen())
		if r.LeftOut.Refused+r.LeftOut.Gateway > 0 {
			fmt.Fprintf(w, " that a policy was asked for")
		}
		fmt.Fprintln(w)
	} else {
		fmt.Fprintf(w, "%d decisions from %s to %s made again in %v: %d would change", r.Decisions,
			r.First.Local().Format(time.DateTime), r.Last.Local().Format(time.DateTime), took.Round(time.Millisecond), r.Changed)
		if r.Reworded > 0 {
			fmt.Fprintf(w, ", %d only their reasons", r.Reworded)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "candidate %s (%.12s), in force %s (%.12s)\n", r.Candidate.Dir, r.Candidate.Revision, r.Current.Dir, r.Current.Revision)
	if len(r.Changes) > 0 {
		fmt.Fprintln(w)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "CHANGE\tCOUNT\tDEVICES\tCLASS\tWHAT\tRULE\tSUCH AS")
		for i, c := range r.Changes {
			if i == shownChanges {
				fmt.Fprintf(tw, "and %d more rows\t\t\t\t\t\tin --json\n", len(r.Changes)-i)
				break
			}
			fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%s\t%s\t%s\n", c.Change, c.Count, c.Devices, c.Class, c.What, c.Rule, first(c.Examples))
		}
		tw.Flush()
		fmt.Fprintln(w)
		fmt.Fprintln(tw, "DEVICE\tCHANGES\tCLASS")
		for i, d := range r.Devices {
			if i == shownDevices {
				fmt.Fprintf(tw, "and %d more\t\tin --json\n", len(r.Devices)-i)
				break
			}
			fmt.Fprintf(tw, "%s\t%d\t%s\n", d.Device, d.Total, d.Class)
		}
		tw.Flush()
		fmt.Fprintln(w)
	}
	for _, n := range r.Notes() {
		fmt.Fprintf(w, "note: %s\n", n)
	}
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return strings.TrimSpace(s[0])
}
