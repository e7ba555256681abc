package cli

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

func (a *app) replaceCommand() *cobra.Command {
	var (
		req admin.ReplaceRequest
		k   credentials
		yes bool
	)
	c := &cobra.Command{
		Use: "replace OLD NEW", Short: "Have a device take another's place: the same asset with another board", Args: args("the old device's ID", "the new device's ID"),
		Long: `Have a device take another's place, such as the same asset with another board. NEW
gets what belongs to the asset: class, manufacturer, model, UDI, location, owner, tags.
OLD's certificates and token are withdrawn for ever, and its sessions ended. What
belongs to the board NEW has of its own: serial number, posture, certificate, and
patients, with whom it is associated anew.

NEW is pending then, unless --out names a directory for its certificate and key.`,
		Example: "  anteroom device replace pump-0042 pump-0042b --serial 90017 --out pump-0042b",
		RunE: func(cmd *cobra.Command, arg []string) error {
			req.Old, req.New = arg[0], arg[1]
			if err := device.ValidID(req.New); err != nil {
				return err
			}
			ttl, err := k.lifetime()
			if err != nil {
				return err
			}
			enrol := cmd.Flags().Changed("out")
			if err := a.confirm(yes, fmt.Sprintf("Replace %s by %s? The certificates of %s are withdrawn, which can not be undone.", req.Old, req.New, req.Old)); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				var csr []byte
				var key crypto.Signer
				if enrol {
					// Before anything is withdrawn, so that what can not be written
					// is known by then.
					if csr, key, err = k.request(req.New); err != nil {
						return err
					}
				}
				out, err := api.Replace(ctx, req)
				if err != nil {
					return err
				}
				if !enrol {
					return a.print(out, func(w io.Writer) {
						fmt.Fprintf(w, "%s takes the place of %s, which is revoked\n", out.New.ID, out.Old.ID)
						fmt.Fprintf(w, "It is pending: device token %s, or device enroll %s --class %s, gives it a certificate\n", out.New.ID, out.New.ID, out.New.Class)
					})
				}
				iss, err := api.Enroll(ctx, admin.EnrollRequest{Device: *out.New, CSR: csr, TTL: ttl})
				if err != nil {
					return fmt.Errorf("%s takes the place of %s, which is revoked; but it has no certificate: %w", out.New.ID, out.Old.ID, err)
				}
				return a.issued("Replaced "+req.Old+" by", req.New, &k, key, iss)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.Serial, "serial", "", "serial number of the new device")
	f.StringVar(&req.Reason, "reason", "", "why, for the record")
	f.BoolVar(&yes, "yes", false, "do not ask")
	k.flags(c)
	f.Lookup("out").DefValue, f.Lookup("out").Usage = "", "issue the new device's certificate too: directory for certificate and key"
	return c
}

func (a *app) loanCommand() *cobra.Command {
	var (
		req          admin.LoanRequest
		until, lasts string
		back         bool
	)
	c := &cobra.Command{
		Use: "loan ID --to WHOM --for TIME", Short: "Lend a device: another location and owner, until a time", Args: args("the device's ID"),
		Long: `Lend a device. Until the loan's end it has the location and owner that are said, as
policies see them; then those it had before come back by themselves. With
--then-quarantine it is cut off at that moment, until somebody releases it. Lending it
again sets another end; --return ends the loan before its time.`,
		Example: "  anteroom device loan pump-0042 --to 'Ward 5' --location ward-5 --for 14d\n" +
			"  anteroom device loan us-0007 --to 'St. Elsewhere' --until 2026-12-31T18:00:00Z --then-quarantine\n" +
			"  anteroom device loan pump-0042 --return",
		RunE: func(cmd *cobra.Command, arg []string) (err error) {
			req.ID = arg[0]
			if back {
				for _, name := range []string{"to", "location", "owner", "for", "until", "then-quarantine"} {
					if cmd.Flags().Changed(name) {
						return usagef("device loan: --return and --%s exclude each other", name)
					}
				}
				return a.with(cmd, func(ctx context.Context, api *admin.API) error {
					rec, err := api.Return(ctx, req.ID)
					if err != nil {
						return err
					}
					return a.print(rec, func(w io.Writer) {
						fmt.Fprintf(w, "%s is back: location %s, owner %s\n", rec.ID, dash(rec.Location), dash(rec.Owner))
					})
				})
			}
			switch {
			case req.To == "":
				return usagef("device loan: --to is missing: whom it is lent to")
			case (until == "") == (lasts == ""):
				return usagef("device loan: it needs an end, --for or --until")
			case until != "":
				if req.Until, err = time.Parse(time.RFC3339, until); err != nil {
					return usagef("--until: %q is not a time such as 2026-01-31T12:00:00Z", until)
				}
			default:
				if req.For, err = span("--for", lasts); err != nil {
					return err
				}
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				rec, err := api.Lend(ctx, req)
				if err != nil {
					return err
				}
				return a.print(rec, func(w io.Writer) {
					fmt.Fprintf(w, "%s is lent to %s until %s: location %s, owner %s\n", rec.ID, rec.Loan.To, rec.Loan.Until.Format(time.RFC3339), dash(rec.Location), dash(rec.Owner))
				})
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.To, "to", "", "whom it is lent to")
	f.StringVar(&req.Location, "location", "", "where it is meanwhile (default: as now)")
	f.StringVar(&req.Owner, "owner", "", "who is responsible for it meanwhile (default: as now)")
	f.StringVar(&lasts, "for", "", "after which time it ends, such as 14d")
	f.StringVar(&until, "until", "", "when it ends, such as 2026-01-31T12:00:00Z")
	f.BoolVar(&req.ThenQuarantine, "then-quarantine", false, "cut the device off at the end, until it is released")
	f.BoolVar(&back, "return", false, "it is back: end the loan")
	return c
}

// describeLoan fills in the row of a device that is lent.
func describeLoan(row func(name, value string), l *device.Loan) {
	if l == nil {
		return
	}
	end := ", then home"
	if l.ThenQuarantine {
		end = ", then in quarantine"
	}
	text := "to " + l.To + " until " + l.Until.Format(time.RFC3339) + end
	if home := strings.TrimSpace(l.HomeLocation + " " + l.HomeOwner); home != "" {
		text += " (" + home + ")"
	}
	row("on loan", text)
}

func (a *app) decommissionCommand() *cobra.Command {
	var req admin.DecommissionRequest
	var yes bool
	c := &cobra.Command{
		Use: "decommission ID --to WHAT", Short: "Take a device out of service for good, and say what becomes of it", Args: args("the device's ID"),
		Long: `Take a device out of service for good: its certificates and token are withdrawn, its
sessions ended, and it is retired. The record stays, because the audit log speaks of
it, with what became of the device; its id is not given again.`,
		Example: "  anteroom device decommission pump-0042 --to 'destroyed by Example Recycling' --wiped",
		RunE: func(cmd *cobra.Command, arg []string) error {
			req.ID = arg[0]
			if req.To == "" {
				return usagef("device decommission: --to is missing: what becomes of the device")
			}
			if err := a.confirm(yes, fmt.Sprintf("Decommission %s? This can not be undone.", req.ID)); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				rec, err := api.Decommission(ctx, req)
				if err != nil {
					return err
				}
				return a.print(rec, func(w io.Writer) {
					fmt.Fprintf(w, "%s is %s (%s). Its record stays, and its id is not given again\n", rec.ID, rec.Status, rec.StatusReason)
					if !req.Wiped {
						fmt.Fprintln(w, "Nobody said that it was wiped: take its key, certificates and patients' data off it before it leaves")
					}
				})
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.To, "to", "", "what becomes of it, such as 'destroyed' or 'returned to the maker'")
	f.BoolVar(&req.Wiped, "wiped", false, "its key and patients' data were taken off it")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return c
}
