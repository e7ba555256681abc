package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

func (a *app) statusCommand() *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use: "status", Short: "Say how the gateway is", Args: args(),
		Long: `Say how the gateway is: what it listens on and forwards to, what decides, who is
registered. PROBLEM is what does not work as it should, with what to do; WARNING is
what works and should be known, such as a route that only observes.

The exit status is 0 if that could be said. With --strict, for scripts and
monitoring, it is 1 if no gateway runs or there is a PROBLEM.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				st, err := api.Status(ctx)
				if err != nil {
					return err
				}
				if err := a.print(st, func(w io.Writer) { printStatus(w, st, time.Now()) }); err != nil || !strict {
					return err
				}
				if !st.Running {
					return errors.New("no gateway is running")
				}
				if n := len(st.Problems); n > 0 {
					return errors.New("the gateway runs, with " + plural(n, "problem"))
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "exit with status 1 unless a gateway runs without a problem")
	return c
}

func printStatus(w io.Writer, st *admin.Status, now time.Time) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer tw.Flush()
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	if st.Running {
		row("gateway", "running %s since %s", st.Version, st.Started.Format(time.RFC3339))
	} else {
		row("gateway", "not running")
	}
	row("trust domain", "%s", st.TrustDomain)
	for _, l := range st.Listeners {
		row("listener "+l.Name, "%s, %s, %s TLS, %d connections", l.Address, l.Protocol, l.Profile, l.Connections)
		for _, c := range l.Certificates {
			row("", "certificate %s until %s (%s)", c.Name, day(c.NotAfter), left(c.NotAfter, now))
		}
	}
	for _, b := range st.Backends {
		var as []string
		for _, addr := range b.Addresses {
			state := "up"
			if !addr.Healthy {
				state = "DOWN: " + addr.Error
			}
			as = append(as, addr.Address+" "+state)
		}
		row("backend "+b.Name, "%s", strings.Join(as, ", "))
	}
	printPolicy(row, &st.Policy)
	var counts []string
	for _, s := range []device.Status{device.Active, device.Pending, device.Quarantined, device.Revoked, device.Retired} {
		if n := st.Devices[s]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, s))
		}
	}
	row("devices", "%s", dash(strings.Join(counts, ", ")))
	if st.Running {
		row("sessions", "%d", st.Sessions)
	}
	health := "healthy"
	if !st.Audit.Healthy {
		health = "UNAVAILABLE: " + st.Audit.Error
	}
	row("audit", "%s, %d records, %d in %d sealed blocks", health, st.Audit.Seq, st.Audit.Sealed, st.Audit.Blocks)
	for _, c := range st.CA {
		row("CA", "%s until %s (%s)", c.Name, day(c.NotAfter), left(c.NotAfter, now))
	}
	var within []string
	for _, days := range admin.ExpiryDays() {
		if n := st.ExpiringWithin[days]; n > 0 && days > 0 {
			within = append(within, fmt.Sprintf("%d within %d days", n, days))
		}
	}
	if len(within) > 0 {
		row("end", "%s", strings.Join(within, ", "))
	}
	for _, e := range st.Expiring {
		row("ends first", "%s until %s (%s)", e.ID, day(e.NotAfter), left(e.NotAfter, now))
	}
	for _, text := range st.Warnings {
		row("WARNING", "%s", text)
	}
	for _, text := range st.Problems {
		row("PROBLEM", "%s", strings.ReplaceAll(text, "\n", "; "))
	}
}

// left says how long it is until a time.
func left(t, now time.Time) string {
	switch d := t.Sub(now); {
	case d <= 0:
		return "ended"
	case d < 48*time.Hour:
		return d.Round(time.Minute).String()
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

func (a *app) sessionCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List live device connections", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				ss, err := api.Sessions(ctx)
				if err != nil {
					return err
				}
				return printList(a, ss, "No sessions.", []string{"ID", "DEVICE", "CLASS", "LISTENER", "REMOTE", "TLS", "SINCE"}, func(s admin.SessionInfo) []string {
					return []string{s.ID, s.Device, s.Class, s.Listener, s.Remote, s.TLS, s.Started.Format(time.RFC3339)}
				})
			})
		},
	}
	kill := &cobra.Command{
		Use: "kill SESSION", Short: "End a connection; the device may connect again", Args: args("the session's ID"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				if err := api.KillSession(ctx, arg[0]); err != nil {
					return err
				}
				return a.print(map[string]string{"killed": arg[0]}, func(w io.Writer) { fmt.Fprintf(w, "Ended session %s\n", arg[0]) })
			})
		},
	}
	return group("session", "See and end live connections", list, kill)
}

func (a *app) operatorCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List operators", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				ops, err := api.Operators(ctx)
				if err != nil {
					return err
				}
				return printList(a, ops, "No operators.", []string{"NAME", "ROLES", "CERTIFICATE ENDS"}, func(o admin.Operator) []string {
					ends := day(o.NotAfter)
					if !o.RevokedAt.IsZero() {
						ends = "revoked " + day(o.RevokedAt)
					}
					return []string{o.Name, dash(roles(o.Roles)), ends}
				})
			})
		},
	}
	var names []string
	var k credentials
	add := &cobra.Command{
		Use: "add NAME --role ROLE", Short: "Add an operator and issue the operator's certificate", Args: args("the operator's name"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			ttl, err := k.lifetime()
			if err != nil {
				return err
			}
			var rs []admin.Role
			for _, n := range names {
				if !slices.Contains(admin.AllRoles, admin.Role(n)) {
					return usagef("--role: %q is none; there are %s", n, roles(admin.AllRoles))
				}
				rs = append(rs, admin.Role(n))
			}
			if len(rs) == 0 {
				return usagef("operator add: --role is missing; there are %s", roles(admin.AllRoles))
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				csr, key, err := k.request(arg[0])
				if err != nil {
					return err
				}
				iss, err := api.AddOperator(ctx, admin.OperatorRequest{Name: arg[0], Roles: rs, CSR: csr, TTL: ttl})
				if err != nil {
					return err
				}
				paths, password, err := k.deliver(arg[0], key, iss)
				if err != nil {
					return err
				}
				return a.print(map[string]any{"operator": arg[0], "files": paths, "p12_password": password}, func(w io.Writer) {
					fmt.Fprintf(w, "Added operator %s (%s): certificate valid until %s in %s\n", arg[0], roles(rs), day(iss.NotAfter), strings.Join(paths, ", "))
					if password != "" {
						fmt.Fprintf(w, "Password of the PKCS#12 file, shown this once: %s\n", password)
					}
				})
			})
		},
	}
	add.Flags().StringSliceVar(&names, "role", nil, "what the operator may do: "+roles(admin.AllRoles)+"; may be repeated")
	k.flags(add)
	var yes bool
	revoke := &cobra.Command{
		Use: "revoke NAME", Short: "Withdraw an operator's certificate and roles", Args: args("the operator's name"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if err := a.confirm(yes, fmt.Sprintf("Revoke operator %s? This can not be undone.", arg[0])); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				o, err := api.RevokeOperator(ctx, arg[0])
				if err != nil {
					return err
				}
				return a.print(o, func(w io.Writer) { fmt.Fprintf(w, "Operator %s is revoked\n", o.Name) })
			})
		},
	}
	revoke.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return group("operator", "The people who may run this gateway", list, add, revoke)
}

func roles(rs []admin.Role) string { return joined(rs) }
