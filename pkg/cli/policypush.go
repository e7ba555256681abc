package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	opabundle "github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
)

// defaultWindow is the window in which a trial's denials are counted.
const defaultWindow = 10 * time.Minute

// trialFlags say with whom a revision is tried first.
type trialFlags struct {
	devices    []string
	maxDenials int
	window     string
}

func (t *trialFlags) request() (*admin.CanaryRequest, error) {
	if len(t.devices) == 0 {
		if t.maxDenials != 0 || t.window != "" {
			return nil, usagef("--max-denials and --window are for a trial: name its devices with --canary")
		}
		return nil, nil
	}
	out := &admin.CanaryRequest{MaxDenials: t.maxDenials, Window: defaultWindow}
	var err error
	if t.window != "" {
		if out.Window, err = span("--window", t.window); err != nil {
			return nil, err
		}
	}
	for _, d := range t.devices {
		if class, ok := strings.CutPrefix(d, "class="); ok {
			out.Classes = append(out.Classes, class)
		} else {
			out.Devices = append(out.Devices, d)
		}
	}
	return out, nil
}

func (a *app) policyPushCommand() *cobra.Command {
	var message string
	var sig signing
	var trial trialFlags
	c := &cobra.Command{
		Use: "push [DIR] -m MESSAGE --cert FILE --key FILE", Short: "Make a signed revision of a policy set and put it in force", Args: optional,
		Long: `Make a revision of a policy set, sign it with your operator's key, and put it in
force. The gateway takes it only from an operator who is a policy author, and
only if it loads. The configuration must say policy.source: pushed.

With --canary the revision decides for the named devices first. It is put in
force for all by policy promote, and ended by policy rollback; and by itself if
it denies life-critical devices among them more than --max-denials transactions
within --window that the revision in force would have allowed.`,
		Example: `  anteroom policy push policies -m "monitors may not read Patient" --cert jane.crt --key jane.key
  anteroom policy push policies -m "..." --cert jane.crt --key jane.key --canary pump-1,pump-2 --max-denials 5 --window 10m
  anteroom policy push policies -m "..." --cert jane.crt --key jane.key --canary class=infusion-pump`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			if strings.TrimSpace(message) == "" {
				return usagef("--message is missing: what is changed, and why")
			}
			if sig.cert == "" {
				return usagef("--cert is missing: your operator's certificate")
			}
			signer, err := sig.signer()
			if err != nil {
				return err
			}
			canary, err := trial.request()
			if err != nil {
				return err
			}
			dir, err := a.policyDir(arg)
			if err != nil {
				return err
			}
			src, err := policy.Read(dir, policy.Options{})
			if err != nil {
				return err
			}
			if _, err := src.Compile(cmd.Context(), policy.Options{}); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				st, err := api.PolicyState(ctx)
				if err != nil {
					return err
				}
				archive, err := signed(src, signer, message, st.Last)
				if err != nil {
					return err
				}
				out, err := api.PushPolicy(ctx, admin.PushRequest{Bundle: archive, Canary: canary})
				if err != nil {
					return err
				}
				return a.print(out, func(w io.Writer) { printPushed(w, out, !st.Loaded.IsZero()) })
			})
		},
	}
	f := c.Flags()
	f.StringVarP(&message, "message", "m", "", "what is changed, and why")
	f.StringVar(&sig.cert, "cert", "", "your operator's certificate")
	f.StringVar(&sig.key, "key", "", "your operator's private key")
	f.StringSliceVar(&trial.devices, "canary", nil, "try it with these devices first: ids, and class=CLASS")
	f.IntVar(&trial.maxDenials, "max-denials", 0, "how many new denials of life-critical devices the trial bears")
	f.StringVar(&trial.window, "window", "", "the time in which they are counted (default "+defaultWindow.String()+")")
	return c
}

// signed packs a set and signs it for a push.
func signed(src *policy.Source, s *opabundle.Signer, message string, after int) ([]byte, error) {
	name := ""
	if i := strings.LastIndexByte(s.Issuer, '/'); i >= 0 {
		name = s.Issuer[i+1:]
	}
	b, err := src.Bundle(map[string]any{"anteroom": admin.PushNote{Author: name, Message: message, After: after}})
	if err != nil {
		return nil, err
	}
	s.Scope = admin.PushScope
	if err := b.Sign(*s); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := b.Write(&buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func printPushed(w io.Writer, p *admin.Pushed, running bool) {
	before := "the directory"
	if p.Previous != nil {
		before = "revision " + p.Previous.Short()
	}
	force := "is in force"
	if !running {
		force = "will be in force when the gateway starts"
	}
	switch {
	case p.Canary == nil || p.Entry.Forced.After(p.Canary.Since):
		fmt.Fprintf(w, "Revision %s by %s %s; before it was %s\n", p.Entry.Short(), p.Entry.Author, force, before)
	default:
		fmt.Fprintf(w, "Revision %s by %s is on trial with %s; %s decides for all others\n", p.Entry.Short(), p.Entry.Author, tried(p.Canary), before)
	}
	for _, text := range p.Warnings {
		fmt.Fprintf(w, "WARNING: %s\n", text)
	}
}

// tried says who takes part in a trial.
func tried(c *opabundle.Canary) string {
	out := append([]string(nil), c.Devices...)
	for _, class := range c.Classes {
		out = append(out, "class "+class)
	}
	return strings.Join(out, ", ")
}

func (a *app) policyHistoryCommand() *cobra.Command {
	return &cobra.Command{
		Use: "history", Short: "List the pushed revisions, the newest first", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				es, err := api.PolicyHistory(ctx)
				if err != nil {
					return err
				}
				st, err := api.PolicyState(ctx)
				if err != nil {
					return err
				}
				if es == nil {
					es = []opabundle.Entry{}
				}
				slices.Reverse(es)
				return a.print(es, func(w io.Writer) {
					if len(es) == 0 {
						fmt.Fprintln(w, "Nothing was pushed yet.")
						return
					}
					tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
					fmt.Fprintln(tw, "\tNUMBER\tREVISION\tPUSHED\tAUTHOR\tMESSAGE")
					for i := range es {
						e, mark := &es[i], ""
						switch {
						case st.Pushed != nil && st.Pushed.Number == e.Number:
							mark = "*"
						case st.Canary != nil && st.Canary.Number == e.Number:
							mark = "?"
						}
						text := e.Message
						if e.Ended != "" {
							text += " [" + e.Ended + "]"
						}
						fmt.Fprintf(tw, "%s\t%d\t%.12s\t%s\t%s\t%s\n", mark, e.Number, e.Revision, e.Pushed.Format(time.RFC3339), e.Author, text)
					}
					tw.Flush()
				})
			})
		},
	}
}

func (a *app) policyPullCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "pull [REVISION] -o FILE", Short: "Write a pushed revision as the bundle its author signed", Args: optional,
		Long: `Write a pushed revision, or the one in force, as the bundle its author signed, with
every file as it was. tar unpacks it; every command that takes a policy set takes
it as it is.`,
		Example: `  anteroom policy pull 3 -o three.tar.gz && tar -xzf three.tar.gz -C policies`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			if out == "" {
				return usagef("--output is missing: the bundle's file")
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				rev, err := api.PolicyRevision(ctx, strings.Join(arg, ""))
				if err != nil {
					return err
				}
				if err := durable.Replace(out, rev.Bundle, 0o644); err != nil {
					return fmt.Errorf("write %s: %w", out, err)
				}
				return a.print(map[string]any{"file": out, "entry": rev.Entry}, func(w io.Writer) {
					fmt.Fprintf(w, "Wrote %s: revision %s by %s, signed with %s\n", out, rev.Entry.Short(), rev.Entry.Author, rev.Entry.Fingerprint)
				})
			})
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "the file to write")
	return c
}

func (a *app) policyRollBackCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rollback [REVISION]", Short: "Put an earlier revision in force, or end a trial", Args: optional,
		Long: `Put an earlier revision in force: the one that is named by its number or its
content hash, or the one that was in force before. If a revision is on
trial and none is named, the trial is ended and nothing else is changed.`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			ref := strings.Join(arg, "")
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				out, err := api.RollBackPolicy(ctx, ref)
				if err != nil {
					return err
				}
				return a.print(out, func(w io.Writer) {
					switch {
					case out.Canary != nil && ref == "":
						fmt.Fprintf(w, "The trial of revision %s is ended\n", out.Entry.Short())
					case out.Previous != nil:
						fmt.Fprintf(w, "Revision %s by %s is in force; before it was revision %s\n", out.Entry.Short(), out.Entry.Author, out.Previous.Short())
					default:
						fmt.Fprintf(w, "Revision %s by %s is in force; before it was the directory\n", out.Entry.Short(), out.Entry.Author)
					}
				})
			})
		},
	}
}

func (a *app) policyPromoteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "promote", Short: "Put the revision on trial in force for all devices", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				out, err := api.PromotePolicy(ctx)
				if err != nil {
					return err
				}
				return a.print(out, func(w io.Writer) { printPushed(w, out, true) })
			})
		},
	}
}

func (a *app) policyStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say which policy set decides", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				st, err := api.PolicyState(ctx)
				if err != nil {
					return err
				}
				return a.print(st, func(w io.Writer) {
					tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
					row := func(name, format string, args ...any) {
						fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
					}
					row("source", "%s", st.Source)
					printPolicy(row, st)
					if st.Refused != "" {
						row("REFUSED", "%s", st.Refused)
					}
					tw.Flush()
				})
			})
		},
	}
}

// printPolicy prints what decides, a row at a time.
func printPolicy(row func(name, format string, args ...any), st *admin.PolicyStatus) {
	switch {
	case st.Revision == "":
		row("policy", "%s", st.Dir)
	case st.Loaded.IsZero():
		row("policy", "%s from %s", st.Revision, st.Dir)
	default:
		row("policy", "%s from %s, loaded %s", st.Revision, st.Dir, st.Loaded.Format(time.RFC3339))
	}
	switch c := st.Cache; {
	case c.Hits+c.Misses > 0:
		row("", "%d of %d decisions remembered (%.1f %%), %d of %d places taken", c.Hits, c.Hits+c.Misses, 100*float64(c.Hits)/float64(c.Hits+c.Misses), c.Entries, c.Limit)
	case c.Limit == 0 && !st.Loaded.IsZero():
		row("", "no decision is remembered: policy.cache is off, or a rule reads the clock (anteroom policy check)")
	}
	if len(st.Observing) > 0 {
		row("ENFORCES NOTHING", "on routes %s (mode: observe)", strings.Join(st.Observing, ", "))
	}
	if e := st.Pushed; e != nil {
		row("pushed", "%d by %s at %s: %s", e.Number, e.Author, e.Pushed.Format(time.RFC3339), e.Message)
	}
	if r := st.Remote; r != nil {
		switch {
		case r.Fetched.IsZero():
			row("bundle", "none yet from %s", r.URL)
		default:
			row("bundle", "%q from %s, fetched %s", r.Revision, r.URL, r.Fetched.Format(time.RFC3339))
		}
		if !r.Checked.IsZero() {
			row("", "the server was last heard of at %s", r.Checked.Format(time.RFC3339))
		}
		if r.Error != "" {
			row("", "%d failures in a row: %s", r.Failures, r.Error)
		}
	}
	if c := st.Canary; c != nil {
		row("ON TRIAL", "revision %s by %s since %s, with %s", c.Entry.Short(), c.Entry.Author, c.Since.Format(time.RFC3339), tried(&c.Canary))
		if r := c.Report; r != nil {
			row("", "%d decisions, %d denied; %d of them new, %d of life-critical devices (more than %d within %v ends it)",
				r.Decisions, r.Denials, r.New, r.Critical, c.MaxDenials, c.Window)
		}
	}
	if st.Shadow != nil {
		printShadow(row, st.Shadow)
	}
}
