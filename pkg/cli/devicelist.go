package cli

import (
	"context"
	"io"
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
			if req.Status != "" && !req.Status.Known() {
				return usagef("--status: %q is none; there are %s", status, joined(device.Statuses()))
			}
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
				return printList(a, recs, "No such devices.", []string{"ID", "CLASS", "STATUS", "LOCATION", "CERTIFICATE ENDS"}, func(r *device.Record) []string {
					return []string{r.ID, r.Class, string(r.Status), dash(r.Location), day(r.Expires())}
				})
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.Class, "class", "", "only this class")
	f.StringVar(&status, "status", "", "only this status: "+joined(device.Statuses()))
	f.StringVar(&req.Location, "location", "", "only this location")
	f.StringVar(&expiring, "expiring", "", "only active devices whose certificate ends within this time, such as 30d, or has ended")
	f.StringVar(&calendar, "calendar", "", "week or month: group active devices by when their certificates end, within a year if --expiring does not say")
	return c
}
