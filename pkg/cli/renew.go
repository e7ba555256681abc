package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
)

func (a *app) renewCommand() *cobra.Command {
	b := batch{app: a}
	var (
		expiring string
		all      bool
		req      admin.ListRequest
	)
	c := &cobra.Command{
		Use: "renew ID | --expiring TIME", Short: "Issue another certificate; the old one stays valid until it ends", Args: optional,
		Long: `Issue a device another certificate; the old one stays valid until it ends.

With --expiring, do it for every active device whose certificate ends within that
time, or has ended: a bundle for each goes into --out, to be carried to the device.
Devices that renew by themselves (by EST, step or JSON) are passed over, unless --all
is given. A run that was cut off is run again with the same --out, and does the rest.`,
		Example: "  anteroom device renew pump-0042 --out pump-0042\n  anteroom device renew --expiring 30d --out renewed-november",
		RunE: func(cmd *cobra.Command, arg []string) error {
			ttl, err := b.lifetime()
			if err != nil {
				return err
			}
			if (len(arg) == 1) == (expiring != "") {
				return usagef("device renew: name a device, or say --expiring")
			}
			if len(arg) == 1 {
				if all || b.csrs != "" || req.Class != "" || req.Location != "" {
					return usagef("device renew: --all, --csr-dir, --class and --location are for --expiring")
				}
				return a.renewOne(cmd, arg[0], &b.credentials, ttl)
			}
			if req.Expiring, err = span("--expiring", expiring); err != nil {
				return err
			}
			if !cmd.Flags().Changed("out") {
				return usagef("device renew --expiring: --out names the directory for the bundles")
			}
			return b.renew(cmd, req, ttl, all)
		},
	}
	f := c.Flags()
	f.StringVar(&expiring, "expiring", "", "every active device whose certificate ends within this time, such as 30d")
	f.BoolVar(&all, "all", false, "with --expiring: devices that renew by themselves too")
	f.StringVar(&req.Class, "class", "", "with --expiring: only this class")
	f.StringVar(&req.Location, "location", "", "with --expiring: only this location")
	f.StringVar(&b.csrs, "csr-dir", "", "with --expiring: directory with signing requests made on the devices, ID.csr")
	b.flags(c)
	return c
}

func (a *app) renewOne(cmd *cobra.Command, id string, k *credentials, ttl time.Duration) error {
	if err := device.ValidID(id); err != nil {
		return err
	}
	return a.with(cmd, func(ctx context.Context, api *admin.API) error {
		csr, key, err := k.request(id)
		if err != nil {
			return err
		}
		iss, err := api.Renew(ctx, admin.RenewRequest{ID: id, CSR: csr, TTL: ttl})
		if err != nil {
			return err
		}
		return a.issued("Renewed", id, k, key, iss)
	})
}

// renew makes bundles for the devices whose certificates end.
func (b *batch) renew(cmd *cobra.Command, req admin.ListRequest, ttl time.Duration, all bool) error {
	begun, err := b.begin()
	if err != nil {
		return err
	}
	return b.app.with(cmd, func(ctx context.Context, api *admin.API) error {
		recs, err := api.List(ctx, req)
		if err != nil {
			return err
		}
		b.recs = map[string]*device.Record{}
		for _, r := range recs {
			b.recs[r.ID] = r
		}
		res, ids := newBatchResult(b.out), map[string]bool{}
		for _, id := range begun {
			if rec, err := api.Show(ctx, id); err == nil {
				b.recs[id] = rec
			} else if e, ok := errors.AsType[*admin.Error](err); !ok || e.Code != admin.CodeNotFound {
				return err
			}
			if ids[id] = !b.stray(id); !ids[id] {
				res.Skipped[id] = "the key in " + b.path(id, ".key") + " is none that it was given a certificate for"
			}
		}
		for _, r := range recs {
			if way := wayOf(r); !all && way != "" && way != string(enrol.CLI) && !ids[r.ID] {
				res.Skipped[r.ID] = "it renews by itself (" + way + ")"
				continue
			}
			ids[r.ID] = true
			delete(res.Skipped, r.ID)
		}
		maps.DeleteFunc(ids, func(_ string, in bool) bool { return !in })
		err = b.run(ctx, slices.Sorted(maps.Keys(ids)), res, func(id string, csr []byte) (*admin.Issued, error) {
			return api.Renew(ctx, admin.RenewRequest{ID: id, CSR: csr, TTL: ttl})
		})
		if err != nil {
			return err
		}
		return b.report(res, "Renewed")
	})
}

// wayOf returns how a device came to its last certificate.
func wayOf(r *device.Record) string {
	if n := len(r.Certificates); n > 0 {
		return r.Certificates[n-1].Way
	}
	return ""
}

// calendarWidth is the most devices that a row of the calendar names.
const calendarWidth = 6

// calendar groups devices by the week or month in which their certificates end.
type calendarRow struct {
	Begins  string         `json:"begins"` // 2006-01-02, or "ended"
	Label   string         `json:"label"`
	Count   int            `json:"count"`
	Classes map[string]int `json:"classes"`
	Devices []string       `json:"devices"`
}

func calendarOf(recs []*device.Record, by string, now time.Time) []calendarRow {
	sorted := slices.DeleteFunc(slices.Clone(recs), func(r *device.Record) bool { return r.Expires().IsZero() })
	slices.SortStableFunc(sorted, func(a, b *device.Record) int { return a.Expires().Compare(b.Expires()) })
	out := []calendarRow{}
	for _, r := range sorted {
		begins, label := period(r.Expires().In(now.Location()), by)
		if !now.Before(r.Expires()) {
			begins, label = "ended", "ended already"
		}
		if n := len(out); n == 0 || out[n-1].Begins != begins {
			out = append(out, calendarRow{Begins: begins, Label: label, Classes: map[string]int{}})
		}
		row := &out[len(out)-1]
		row.Count++
		row.Classes[r.Class]++
		row.Devices = append(row.Devices, r.ID)
	}
	return out
}

// period returns the first day and the name of the week (ISO 8601) or month that a
// time is in.
func period(t time.Time, by string) (begins, label string) {
	y, m, d := t.Date()
	if by == "month" {
		first := time.Date(y, m, 1, 0, 0, 0, 0, t.Location())
		return first.Format(time.DateOnly), first.Format("January 2006")
	}
	monday := time.Date(y, m, d-(int(t.Weekday())+6)%7, 0, 0, 0, 0, t.Location())
	year, week := t.ISOWeek()
	return monday.Format(time.DateOnly), fmt.Sprintf("%d week %d, from %s", year, week, monday.Format("2 January"))
}

func printCalendar(w io.Writer, rows []calendarRow) {
	if len(rows) == 0 {
		fmt.Fprintln(w, "No certificate ends in that time.")
	}
	for _, row := range rows {
		fmt.Fprintf(w, "%s: %d\n", row.Label, row.Count)
		for _, class := range slices.Sorted(maps.Keys(row.Classes)) {
			fmt.Fprintf(w, "  %d %s\n", row.Classes[class], class)
		}
		names, more := row.Devices, ""
		if n := len(names) - calendarWidth; n > 0 {
			names, more = names[:calendarWidth], fmt.Sprintf(" and %d more", n)
		}
		for i, name := range names {
			if i == 0 {
				fmt.Fprint(w, "  ")
			} else {
				fmt.Fprint(w, ", ")
			}
			fmt.Fprint(w, name)
		}
		fmt.Fprintln(w, more)
	}
}
