package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
)

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "Read and verify the record of everything", a.verifyCommand(), a.tailCommand(), a.searchCommand())
}

// auditDir returns the audit directory: as named, or the configuration's.
func (a *app) auditDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	cfg, err := a.load()
	if err != nil {
		return "", err
	}
	return cfg.Audit.Dir, nil
}

func (a *app) verifyCommand() *cobra.Command {
	var dir, key, checkpoint string
	c := &cobra.Command{
		Use: "verify", Short: "Prove that no record was altered, removed, reordered or cut off", Args: args(),
		Long: `Read the whole audit log and check every record against the signed transparency
log. It may be run beside the gateway, or on a copy on another machine: with
--public-key from the day of installation and a --checkpoint kept elsewhere, not
even who owns the gateway can rewrite the past unseen.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.auditDir(dir)
			if err != nil {
				return err
			}
			opt := audit.VerifyOptions{}
			if key != "" {
				b, err := os.ReadFile(key)
				if err != nil {
					return fmt.Errorf("public key: %w", err)
				}
				opt.PublicKey = strings.TrimSpace(string(b))
			}
			if checkpoint != "" {
				if opt.Checkpoint, err = os.ReadFile(checkpoint); err != nil {
					return fmt.Errorf("checkpoint: %w", err)
				}
			}
			progress := terminal(a.err)
			if progress {
				opt.Progress = func(p audit.Progress) {
					percent := 100
					if p.Total > 0 {
						percent = int(100 * p.Bytes / p.Total)
					}
					fmt.Fprintf(a.err, "\r%3d %%  %d records", percent, p.Records)
				}
			}
			rep, err := audit.Verify(cmd.Context(), dir, opt)
			if progress {
				fmt.Fprintln(a.err)
			}
			if err != nil {
				return err
			}
			return a.print(rep, func(w io.Writer) { printReport(w, rep) })
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "audit directory (default: the configuration's)")
	c.Flags().StringVar(&key, "public-key", "", "file with the log's public key as it was kept (default: the one in the directory)")
	c.Flags().StringVar(&checkpoint, "checkpoint", "", "file with a checkpoint that was kept earlier")
	return c
}

func printReport(w io.Writer, r *audit.Report) {
	if r.Records == 0 {
		fmt.Fprintln(w, "The log is empty.")
		return
	}
	fmt.Fprintf(w, "Verified records %d to %d in %d segments: complete and unaltered.\n", r.First, r.Last, r.Segments)
	fmt.Fprintf(w, "The signed checkpoint covers them up to %d.", r.Covered)
	if n := r.Waiting + r.Unsealed; n > 0 {
		fmt.Fprintf(w, " %d newer records are not under it yet.", n)
	}
	fmt.Fprintln(w)
	for _, g := range r.Gaps {
		fmt.Fprintf(w, "Before record %d a run ended without closing the log: records of its last moments may never have been written.\n", g.Before)
	}
}

// filter is the flags that choose records.
type filter struct {
	audit.Filter
	kind, since, until string
	denied, allowed    bool
}

func (f *filter) flags(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.kind, "kind", "", joined(audit.Kinds()))
	s.StringVar(&f.Event, "event", "", "event, such as transaction.decided")
	s.StringVar(&f.Device, "device", "", "device ID")
	s.StringVar(&f.Class, "class", "", "device class")
	s.StringVar(&f.Route, "route", "", "route")
	s.StringVar(&f.Decision, "decision", "", "decision ID, as the device was told")
	s.StringVar(&f.Tag, "tag", "", "tag the policy gave the decision")
	f.times(c, "")
	s.BoolVar(&f.denied, "denied", false, "only what was denied")
	s.BoolVar(&f.allowed, "allowed", false, "only what was allowed")
}

// times adds the flags that bound the time; since is where it begins by default.
func (f *filter) times(c *cobra.Command, since string) {
	c.Flags().StringVar(&f.since, "since", since, "a time span such as 24h or 7d, or a time such as 2026-01-31T12:00:00Z")
	c.Flags().StringVar(&f.until, "until", "", "likewise")
}

func (f *filter) complete(now time.Time) (err error) {
	f.Kind = audit.Kind(f.kind)
	if kinds := audit.Kinds(); f.Kind != "" && !slices.Contains(kinds, f.Kind) {
		return usagef("--kind: %q is none; there are %s", f.kind, joined(kinds))
	}
	if f.denied && f.allowed {
		return usagef("--denied and --allowed exclude each other")
	}
	if f.denied || f.allowed {
		f.Allow = &f.allowed
	}
	if f.Since, err = moment("--since", f.since, now); err != nil {
		return err
	}
	f.Until, err = moment("--until", f.until, now)
	return err
}

// chosen says in words what else than a time the filter asks for.
func (f *filter) chosen() string {
	out := ""
	for _, c := range []struct{ what, name string }{{"device", f.Device}, {"class", f.Class}, {"route", f.Route}} {
		if c.name != "" {
			out += fmt.Sprintf(" of %s %s", c.what, c.name)
		}
	}
	return out
}

// moment reads a time, or how long ago it was.
func moment(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	// The others are what records and lists are shown with, which are in UTC.
	for _, form := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	d, err := span(flag, s)
	if err != nil {
		return time.Time{}, usagef("%s: %q is neither a time span, such as 24h or 7d, nor a time, such as 2026-01-31T12:00:00Z", flag, s)
	}
	return now.Add(-d), nil
}

// joined puts commas between words.
func joined[T ~string](words []T) string {
	var out []string
	for _, w := range words {
		out = append(out, string(w))
	}
	return strings.Join(out, ", ")
}

func (a *app) tailCommand() *cobra.Command {
	var dir string
	var f filter
	var n int
	var follow bool
	c := &cobra.Command{
		Use: "tail", Short: "Show the newest records, and with -f those that come", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.records(cmd.Context(), dir, &f, audit.ReadOptions{Last: n, Follow: follow})
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "audit directory (default: the configuration's)")
	c.Flags().IntVarP(&n, "lines", "n", 10, "how many records")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more")
	f.flags(c)
	return c
}

func (a *app) searchCommand() *cobra.Command {
	var dir string
	var f filter
	c := &cobra.Command{
		Use: "search [TEXT]", Short: "Find records", Args: optional,
		RunE: func(cmd *cobra.Command, arg []string) error {
			if len(arg) > 0 {
				f.Text = arg[0]
			}
			return a.records(cmd.Context(), dir, &f, audit.ReadOptions{})
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "audit directory (default: the configuration's)")
	f.flags(c)
	return c
}

// records prints records: a line each, or with --json as they were written.
func (a *app) records(ctx context.Context, dir string, f *filter, opt audit.ReadOptions) error {
	dir, err := a.auditDir(dir)
	if err != nil {
		return err
	}
	if err := f.complete(time.Now()); err != nil {
		return err
	}
	opt.Filter = f.Filter
	for e, err := range audit.Read(ctx, dir, opt) {
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		if a.json {
			fmt.Fprintf(a.out, "%s\n", e.Raw)
			continue
		}
		fmt.Fprintln(readable{a.out}, line(e))
	}
	return nil
}

// line says in one line what a record tells.
func line(e *audit.Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s %s", e.Seq, e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Event)
	add := func(name, v string) {
		if v != "" {
			fmt.Fprintf(&b, " %s=%s", name, v)
		}
	}
	add("operator", e.Operator)
	add("device", e.Device)
	add("remote", e.Remote)
	if r := e.Request; r != nil {
		add("route", e.Route)
		add("request", strings.TrimSpace(r.Action+" "+r.Resource))
	}
	if d := e.Decision; d != nil {
		verdict := "deny"
		if d.Allow {
			verdict = "allow"
		}
		fmt.Fprintf(&b, " %s", verdict)
		for _, why := range append(d.Denials, d.Reasons...) {
			fmt.Fprintf(&b, " %q", why)
		}
		if g := e.BreakGlass; g != nil {
			add("break_glass", g.ID)
		}
		add("fault", d.Fault)
		add("tags", strings.Join(d.Tags, ","))
		add("decision", d.ID)
	}
	if e.Request == nil {
		details(add, e.Detail)
	}
	if e.Error != "" {
		fmt.Fprintf(&b, " %q", e.Error)
	}
	return b.String()
}

// details adds the plain facts of an event, in order of name.
func details(add func(name, v string), raw json.RawMessage) {
	var facts map[string]any
	if json.Unmarshal(raw, &facts) != nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		switch v := facts[name].(type) {
		case string:
			if strings.ContainsAny(v, " \"\n") {
				v = strconv.Quote(v)
			}
			add(name, v)
		case float64, bool:
			add(name, fmt.Sprint(v))
		}
	}
}
