package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	found "github.com/anteroom-iomt/anteroom/pkg/finding"
)

func (a *app) findingsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "findings [ID]", Short: "Show what the gateway found out about devices, and what to do", Args: optional,
		Long: `Show what the gateway found out about devices by itself, and what to do about it:
certificates in use at two places at once, clocks that are wrong. Without an ID all
that is open, with one also what is over.`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			id := ""
			if len(arg) > 0 {
				id = arg[0]
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				out, err := api.Findings(ctx, id)
				if err != nil {
					return err
				}
				return a.print(out, func(w io.Writer) {
					if len(out.Findings) == 0 {
						fmt.Fprintln(w, "Nothing was found.")
					}
					for _, f := range out.Findings {
						fmt.Fprintf(w, "%s: %s: %s\n", f.Device, f.Kind, f.What)
						state := "open since " + f.Since.Format(time.RFC3339)
						if !f.Open() {
							state = "over since " + f.Over.Format(time.RFC3339)
						}
						if f.By != "" {
							state += ", accepted by " + f.By
						}
						fmt.Fprintf(w, "  %s, seen %d times, last at %s\n", state, f.Times, f.Last.Format(time.RFC3339))
						if f.Advice != "" {
							fmt.Fprintf(w, "  %s\n", f.Advice)
						}
					}
				})
			})
		},
	}
}

func (a *app) acceptCommand() *cobra.Command {
	var kinds []string
	for _, k := range found.Kinds() {
		kinds = append(kinds, string(k))
	}
	return &cobra.Command{
		Use: "accept ID KIND", Short: "Say that a finding is known: it is over, and the same is not reported again", Args: args("the device's ID", "the kind of finding: "+strings.Join(kinds, ", ")),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if !slices.Contains(kinds, arg[1]) {
				return usagef("device accept: %q is no kind of finding; there are %s", arg[1], strings.Join(kinds, ", "))
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				f, err := api.Accept(ctx, admin.AcceptRequest{ID: arg[0], Kind: found.Kind(arg[1])})
				if err != nil {
					return err
				}
				return a.print(f, func(w io.Writer) { fmt.Fprintf(w, "Accepted of %s: %s\n", f.Device, f.What) })
			})
		},
	}
}

// describeFindings fills in the rows of what was found out about a device.
func describeFindings(row func(name, value string), fs *admin.Findings) {
	if fs == nil {
		return
	}
	if c := fs.Clock; c != nil {
		row("clock", admin.ClockError(c.Error)+" at "+c.At.Format(time.RFC3339))
	}
	for _, f := range fs.Findings {
		if f.Open() {
			row("FINDING", f.What+". "+f.Advice)
		}
	}
}
