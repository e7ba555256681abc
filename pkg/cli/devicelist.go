package cli

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// yearAhead is how far a calendar looks that is not told.
const yearAhead = 366 * 24 * time.Hour

func (a *app) listCommand() *cobra.Command {
	var (
		req      admin.ListRequest
		status   string
		expiring string
		calendar string
	)
	c := &cobra.Command{
		Use: "list", Short: "List devices", Args: args(),
		Example: "  anteroom device list --expiring 30d\n  anteroom device list --calendar month",
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Status = device.Status(status)
			if expiring != "" {
				var err error
				if req.Expiring, err = span("--expiring", expiring); err != nil {
					return err
				}
			}
			switch calendar {
			case "":
			case "week", "month":
				if req.Expiring == 0 {
					req.Expiring = yearAhead
				}
			default:
				return usagef("--calendar: %q is neither week nor month", calendar)
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				recs, err := api.List(ctx, req)
				if err != nil {
					return err
				}
				if calendar != "" {
					rows := calendarOf(recs, calendar, time.Now())
					return a.print(rows, func(w io.Writer) { printCalendar(w, rows) })
				}
				if recs == nil {
					recs = []*device.Record{}
				}
				return a.print(recs, func(w io.Writer) { printDevices(w, recs) })
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.Class, "class", "", "only this class")
	f.StringVar(&status, "status", "", "only this status")
	f.StringVar(&req.Location, "location", "", "only this location")
	f.StringVar(&expiring, "expiring", "", "only active devices whose certificate ends within this time, such as 30d, or has ended")
	f.StringVar(&calendar, "calendar", "", "week or month: group active devices by when their certificates end, within a year if --expiring does not say")
	return c
}

func printDevices(w io.Writer, recs []*device.Record) {
	if len(recs) == 0 {
		fmt.Fprintln(w, "No such devices.")
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ID\tCLASS\tSTATUS\tLOCATION\tCERTIFICATE ENDS")
	for _, r := range recs {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", r.ID, r.Class, r.Status, dash(r.Location), day(r.Expires()))
	}
	tw.Flush()
}
