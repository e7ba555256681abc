package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
)

// defaultGrantTime is how long a grant lasts if nothing else is said.
const defaultGrantTime = 30 * time.Minute

func (a *app) breakGlassCommand() *cobra.Command {
	c := group("break-glass", "Emergency grants: for some minutes, more than the policy allows",
		a.grantOpenCommand(), a.grantApproveCommand(), a.grantCloseCommand(), a.grantReviewCommand(), a.grantListCommand())
	c.Long = `Emergency grants. For some minutes named devices may do what data.break_glass of the
policy set lists, because one operator asks for it and another approves, each with
the key of their own certificate. It ends by itself, every decision under it is
recorded with it, and it is shown until somebody has reviewed it. Devices that are
revoked, quarantined, retired or expired stay out.`
	return c
}

// credentialFlags are where an operator's certificate and key are.
func (s *signing) credentialFlags(c *cobra.Command) {
	c.Flags().StringVar(&s.cert, "cert", "", "your operator's certificate")
	c.Flags().StringVar(&s.key, "key", "", "your operator's private key")
}

// state signs a statement as the operator whose certificate was named.
func (s *signing) state(purpose string, st *breakglass.Statement, trustDomain string) (string, error) {
	if s.cert == "" {
		return "", usagef("--cert is missing: your operator's certificate")
	}
	signer, err := s.signer()
	if err != nil {
		return "", err
	}
	name, err := ca.OperatorName(signer.Certificate, trustDomain)
	if err != nil {
		return "", fmt.Errorf("--cert: %s: %w", s.cert, err)
	}
	st.TrustDomain, st.Operator, st.At = trustDomain, name, time.Now()
	token, err := st.Sign(purpose, signer.Key, signer.Certificate)
	if err != nil {
		return "", fmt.Errorf("--key: %w", err)
	}
	return token, nil
}

func (a *app) grantOpenCommand() *cobra.Command {
	var sig signing
	var terms breakglass.Terms
	var long string
	var alone bool
	c := &cobra.Command{
		Use: "open {--device ID | --class C | --location L} --reason TEXT --cert FILE --key FILE", Short: "Ask for an emergency grant", Args: args(),
		Long: `Ask for an emergency grant. It covers what everything that is named fits: with
--class and --location the devices of that class in that place. A second operator,
a security officer, approves it within ` + breakglass.ApprovalTime.String() + `; its time begins then.

The reason is recorded with every decision: say what has happened, and name no
patient.`,
		Example: `  anteroom break-glass open --device monitor-0001 --route ehr --reason "monitor carries the chart, EHR terminals down" --cert jane.crt --key jane.key
  anteroom break-glass open --class infusion-pump --location icu-2 --for 20m --reason "..." --cert jane.crt --key jane.key`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if terms.Time = defaultGrantTime; long != "" {
				var err error
				if terms.Time, err = span("--for", long); err != nil {
					return err
				}
			}
			if err := terms.Check(); err != nil {
				return usageError{err}
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				st, err := api.Status(ctx)
				if err != nil {
					return err
				}
				say := &breakglass.Statement{Grant: breakglass.NewID(), Terms: &terms}
				if alone {
					say.Until = time.Now().Add(terms.Time)
				}
				token, err := sig.state(breakglass.ToOpen, say, st.TrustDomain)
				if err != nil {
					return err
				}
				g, err := api.OpenGrant(ctx, admin.GrantRequest{ID: say.Grant, Statement: token})
				if err != nil {
					return err
				}
				return a.print(g, func(w io.Writer) {
					if alone {
						printOpened(w, g, st.Running)
						return
					}
					fmt.Fprintf(w, "Requested %s for %s (%d in service), for %v\n", g.ID, &g.Terms, g.Covered, g.Terms.Time)
					fmt.Fprintf(w, "A second operator approves it until %s: anteroom break-glass approve %s --cert FILE --key FILE\n",
						g.OpenedAt.Add(breakglass.ApprovalTime).Format(time.RFC3339), g.ID)
				})
			})
		},
	}
	f := c.Flags()
	f.StringSliceVar(&terms.Devices, "device", nil, "the devices, by id")
	f.StringVar(&terms.Class, "class", "", "devices of a class")
	f.StringVar(&terms.Location, "location", "", "devices in a place")
	f.StringSliceVar(&terms.Routes, "route", nil, "only on these routes (default: all)")
	f.StringVar(&terms.Reason, "reason", "", "what has happened, without naming a patient")
	f.StringVar(&long, "for", "", "how long it lasts, from its approval (default "+defaultGrantTime.String()+")")
	f.BoolVar(&alone, "alone", false, "open it at once, without a second operator, where break_glass.two_persons is false")
	sig.credentialFlags(c)
	return c
}

func printOpened(w io.Writer, g *admin.Grant, running bool) {
	when := "is open"
	if !running {
		when = "is open as soon as the gateway runs,"
	}
	fmt.Fprintf(w, "BREAK-GLASS %s %s for %s (%d in service) until %s: %s\n", g.ID, when, &g.Terms, g.Covered, g.Until.Format(time.RFC3339), g.Terms.Reason)
	fmt.Fprintf(w, "Close it when it is over: anteroom break-glass close %s. Another person than %s is to review it.\n", g.ID, g.OpenedBy)
}

// grantOf returns a grant that is not done with.
func grantOf(ctx context.Context, api *admin.API, id string) (*admin.Grant, error) {
	gs, err := api.Grants(ctx, admin.GrantsRequest{All: true})
	if err != nil {
		return nil, err
	}
	for i := range gs {
		if gs[i].ID == id {
			return &gs[i], nil
		}
	}
	return nil, fmt.Errorf("there is no grant %q; anteroom break-glass list shows them", id)
}

func (a *app) grantApproveCommand() *cobra.Command {
	var sig signing
	c := &cobra.Command{
		Use: "approve GRANT --cert FILE --key FILE", Short: "Put a requested grant in force, as the second person", Args: args("GRANT"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				st, err := api.Status(ctx)
				if err != nil {
					return err
				}
				g, err := grantOf(ctx, api, arg[0])
				if err != nil {
					return err
				}
				token, err := sig.state(breakglass.ToApprove, &breakglass.Statement{Grant: g.ID, Opening: breakglass.Digest(g.Opening),
					Until: time.Now().Add(g.Terms.Time)}, st.TrustDomain)
				if err != nil {
					return err
				}
				if g, err = api.ApproveGrant(ctx, admin.GrantRequest{ID: g.ID, Statement: token}); err != nil {
					return err
				}
				return a.print(g, func(w io.Writer) { printOpened(w, g, st.Running) })
			})
		},
	}
	sig.credentialFlags(c)
	return c
}

func (a *app) grantCloseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "close GRANT", Short: "End a grant before its time, or withdraw a request", Args: args("GRANT"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				g, err := api.CloseGrant(ctx, arg[0])
				if err != nil {
					return err
				}
				return a.print(g, func(w io.Writer) {
					if !g.NeedsReview {
						fmt.Fprintf(w, "Withdrew %s: nothing was ever allowed under it\n", g.ID)
						return
					}
					fmt.Fprintf(w, "Closed %s: nothing is allowed under it any more\nAnother person than %s is to review it: anteroom break-glass review %s\n", g.ID, g.OpenedBy, g.ID)
				})
			})
		},
	}
}

func (a *app) grantReviewCommand() *cobra.Command {
	var sig signing
	var message string
	c := &cobra.Command{
		Use: "review GRANT -m TEXT --cert FILE --key FILE", Short: "Say what was found looking back at a grant that is over", Args: args("GRANT"),
		Long: `Say what was found looking back at a grant that is over: whether there was an
emergency, and what was done. anteroom audit search GRANT shows every decision
under it. Whoever opened a grant can not review it.`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			if strings.TrimSpace(message) == "" {
				return usagef("--message is missing: what was found")
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				st, err := api.Status(ctx)
				if err != nil {
					return err
				}
				g, err := grantOf(ctx, api, arg[0])
				if err != nil {
					return err
				}
				token, err := sig.state(breakglass.ToReview, &breakglass.Statement{Grant: g.ID, Opening: breakglass.Digest(g.Opening), Finding: message}, st.TrustDomain)
				if err != nil {
					return err
				}
				if g, err = api.ReviewGrant(ctx, admin.GrantRequest{ID: g.ID, Statement: token}); err != nil {
					return err
				}
				return a.print(g, func(w io.Writer) { fmt.Fprintf(w, "Reviewed %s as %s: %s\n", g.ID, g.ReviewedBy, g.Finding) })
			})
		},
	}
	c.Flags().StringVarP(&message, "message", "m", "", "what was found")
	sig.credentialFlags(c)
	return c
}

func (a *app) grantListCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "list", Short: "List grants that are open or not reviewed", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				gs, err := api.Grants(ctx, admin.GrantsRequest{All: all})
				if err != nil {
					return err
				}
				return printList(a, gs, "No grant is open, and none is to be reviewed.",
					[]string{"GRANT", "STATE", "FOR", "UNTIL", "OPENED BY", "APPROVED BY", "REASON"}, func(g admin.Grant) []string {
						state, until := string(g.State), "-"
						if g.NeedsReview {
							state += ", NOT REVIEWED"
						}
						switch {
						case !g.EndedAt.IsZero():
							until = g.EndedAt.Format(time.RFC3339)
						case !g.Until.IsZero():
							until = g.Until.Format(time.RFC3339)
						}
						approved := g.ApprovedBy
						if g.Alone {
							approved = "NOBODY"
						}
						return []string{g.ID, state, g.Terms.String(), until, g.OpenedBy, dash(approved), g.Terms.Reason}
					})
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all grants there ever were")
	return c
}
