package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/workbench"
)

// shownNear is how many rules that did not fire are shown; --json has all.
const shownNear = 5

func (a *app) policyExplainCommand() *cobra.Command {
	var dir, set string
	var trace bool
	c := &cobra.Command{
		Use: "explain DECISION-ID", Short: "Say why something was allowed or denied",
		Long: `Find a decision in the audit log by the ID the device was told, make it again, and
say which rules fired, which nearly did, and which condition of those failed.
What the record does not hold is said.`,
		Args: args("DECISION-ID"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			ctx := cmd.Context()
			dir, err := a.auditDir(dir)
			if err != nil {
				return err
			}
			cfg, err := a.load()
			if err != nil {
				return err
			}
			show, end := a.progressBar("looking for it")
			e, err := workbench.Find(ctx, dir, arg[0], show)
			end()
			if err != nil {
				return err
			}
			s, err := a.setAt(ctx, cfg, set)
			if err != nil {
				return err
			}
			devices := workbench.DeviceList{}
			if err := a.with(cmd, func(ctx context.Context, api *admin.API) error {
				if rec, err := api.Show(ctx, e.Device); err == nil {
					devices[rec.ID] = rec
				}
				return nil // a device that is gone is said below
			}); err != nil {
				return err
			}
			x, err := workbench.ExplainRecord(ctx, s, e, devices)
			if err != nil {
				return err
			}
			return a.print(x, func(w io.Writer) {
				printExplained(w, x)
				if trace {
					fmt.Fprintln(w)
					x.Trace(w)
				}
			})
		},
	}
	c.Flags().StringVar(&dir, "audit", "", "audit directory (default: the configuration's)")
	c.Flags().StringVar(&set, "policies", "", "explain by this set instead of the one in force")
	c.Flags().BoolVar(&trace, "trace", false, "print every step of the evaluation too")
	return c
}

func (a *app) policyEvalCommand() *cobra.Command {
	var id, class, file string
	var patients []string
	var explain, trace bool
	c := &cobra.Command{
		Use: "eval [DIR] --device ID --request FILE", Short: "Try a policy set on one request", Args: optional,
		Long: `Decide a request that nobody sent. The device is one of the registry, or an
imaginary one of a class. The request is JSON, as a policy sees it, or a line of
the audit log; session, route and time may be left out:

  {"request": {"protocol": "fhir", "action": "read", "resource": "Patient",
               "fhir": {"interaction": "read", "type": "Patient"}},
   "route": {"environment": "production"}, "time": "2026-01-31T12:00:00Z"}

The exit status is 0 if it is allowed and 3 if it is denied.`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			ctx := cmd.Context()
			if (id == "") == (class == "") {
				return usagef("policy eval: say either --device or --class")
			}
			if file == "" {
				return usagef("policy eval: --request is missing: a file, or - for standard input")
			}
			body, err := a.readRequest(file)
			if err != nil {
				return err
			}
			cfg, err := a.load()
			if err != nil {
				return err
			}
			path := ""
			if len(arg) > 0 {
				path = arg[0]
			}
			set, err := a.setAt(ctx, cfg, path)
			if err != nil {
				return err
			}
			rec := &device.Record{ID: "imaginary", Class: class, Status: device.Active}
			if id != "" {
				if err := a.with(cmd, func(ctx context.Context, api *admin.API) error {
					if rec, err = api.Show(ctx, id); err != nil {
						return err
					}
					b, err := api.Patients(ctx, id)
					if err != nil {
						return err
					}
					if b.Withheld > 0 {
						fmt.Fprintf(a.err, "anteroom: warning: the device's patients are not shown to you, and it is tried as if it had none\n")
					}
					rec.Patients = b.Patients
					return nil
				}); err != nil {
					return err
				}
			}
			for _, name := range patients {
				p, err := device.ParsePatient(name)
				if err != nil {
					return usageError{fmt.Errorf("--patient: %w", err)}
				}
				rec.Patients = append(rec.Patients, device.Association{Patient: p})
			}
			if len(rec.Patients) > device.MaxPatients {
				return usagef("--patient: a device has at most %d patients", device.MaxPatients)
			}
			q, err := workbench.ParseRequest(body, rec, time.Now())
			if err != nil {
				if file == "-" {
					file = "standard input"
				}
				return fmt.Errorf("%s: %w", file, err)
			}
			x := workbench.Explain(ctx, set, q)
			if err := a.print(x, func(w io.Writer) {
				if explain || trace {
					printExplained(w, x)
				} else {
					printOutcome(w, x)
				}
				if trace {
					fmt.Fprintln(w)
					x.Trace(w)
				}
			}); err != nil {
				return err
			}
			if !x.Allow {
				return deniedError{}
			}
			return nil
		},
	}
	c.Flags().StringVar(&id, "device", "", "device ID")
	c.Flags().StringVar(&class, "class", "", "an imaginary active device of this class")
	c.Flags().StringArrayVar(&patients, "patient", nil, "a patient it is associated with, beside those it has; may be repeated")
	c.Flags().StringVar(&file, "request", "", "file with the request; - is standard input")
	c.Flags().BoolVar(&explain, "explain", false, "say which rules fired and which nearly did")
	c.Flags().BoolVar(&trace, "trace", false, "print every step of the evaluation too")
	return c
}

func (a *app) readRequest(file string) ([]byte, error) {
	in := a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, workbench.MaxRequest+1))
}

// printOutcome prints a decision in a line and its reasons.
func printOutcome(w io.Writer, x *workbench.ExplainedDecision) {
	if x.Allow {
		fmt.Fprintf(w, "ALLOW  %s\n", strings.Join(x.Reasons, "; "))
	} else {
		fmt.Fprintf(w, "DENY   %s\n", strings.Join(x.Denials, "; "))
	}
	if x.Fault != "" {
		fmt.Fprintf(w, "fault  %s\n", x.Fault)
	}
	if len(x.Obligations) > 0 {
		fmt.Fprintf(w, "and    %s\n", strings.Join(x.Obligations, ", "))
	}
}

func printExplained(w io.Writer, x *workbench.ExplainedDecision) {
	if r := x.Recorded; r != nil {
		outcome := "denied"
		switch {
		case r.WouldDeny:
			outcome = "would have been denied, and was allowed by a route that only observes"
		case r.Allow:
			outcome = "allowed"
		}
		fmt.Fprintf(w, "%s: %s (%s) asked for %s on route %s at %s: %s\n", r.ID, r.Device, r.Class, r.What, dash(r.Route), r.Time.Local().Format(time.DateTime), outcome)
		if r.Of != "" {
			fmt.Fprintf(w, "It is a part of %s.\n", r.Of)
		}
		for _, d := range r.Denials {
			fmt.Fprintf(w, "  because %s\n", d)
		}
		if x.NotAsked != "" {
			fmt.Fprintf(w, "No policy was asked: %s.\n", x.NotAsked)
			return
		}
		switch {
		case !x.Same():
			fmt.Fprintf(w, "By revision %.12s. REVISION %.12s (%s) DECIDES OTHERWISE:\n", r.Revision, x.Set.Revision, x.Set.Dir)
		case r.Revision != x.Set.Revision:
			fmt.Fprintf(w, "By revision %.12s; revision %.12s (%s) decides alike:\n", r.Revision, x.Set.Revision, x.Set.Dir)
		default:
			fmt.Fprintf(w, "By revision %.12s, which is in force:\n", r.Revision)
		}
	}
	printOutcome(w, x)
	printRules(w, x.Rules)
	for _, c := range x.Caveats {
		fmt.Fprintf(w, "note: %s\n", c)
	}
}

func printRules(w io.Writer, rules []policy.RuleOutcome) {
	fired, near := 0, 0
	for _, r := range rules {
		if r.Fired {
			if fired++; fired == 1 {
				fmt.Fprintln(w, "\nWhat held:")
			}
			fmt.Fprintf(w, "  %s  %s\n      %s:%d%s\n", r.Name, r.Says, r.File, r.Line, titled(&r))
		}
	}
	// What would have changed the outcome: another reason to deny, or, if nothing
	// denied it, a reason to allow.
	other := "allow"
	for _, r := range rules {
		switch {
		case r.Fired && r.Name == "deny":
			other = ""
		case r.Fired && r.Name == "allow" && other != "":
			other = "deny"
		}
	}
	for _, r := range rules {
		if r.Fired || r.Held == 0 || r.Name != other {
			continue
		}
		if near++; near > shownNear {
			break
		}
		if near == 1 {
			fmt.Fprintln(w, "\nWhat came closest:")
		}
		fmt.Fprintf(w, "  %s  %s\n      %s:%d%s\n      %d of %s held; not line %d: %s\n", r.Name, r.Says, r.File, r.Line, titled(&r),
			r.Held, plural(r.Conditions, "condition"), r.FailedLine, r.Failed)
		for _, f := range r.Saw {
			value := f.Value
			if value == "" {
				value = "not there"
			}
			fmt.Fprintf(w, "      where %s is %s\n", f.Path, value)
		}
	}
	if fired+near > 0 {
		fmt.Fprintln(w)
	}
}

func titled(r *policy.RuleOutcome) string {
	if r.Title == "" || r.Title == r.Says {
		return ""
	}
	return ", " + r.Title
}
