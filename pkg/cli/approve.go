package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
)

// shownKey is how much of a key's fingerprint a table shows.
const shownKey = 16

func (a *app) approveCommand() *cobra.Command {
	var req admin.ApproveRequest
	var file string
	c := &cobra.Command{
		Use: "approve [ID…] [--list FILE]", Short: "Let devices in that come with their manufacturer's certificate; without an ID, list who waits",
		Long: `Let devices in that come with their manufacturer's certificate: each is given one
certificate of ours when it asks next, or comes for the first time. The device is in
the registry, with the manufacturer and the serial number that its certificate says.
Without an ID or a list, show who waits, and who was approved and has not come.`,
		Example: "  anteroom device approve pump-0042\n  anteroom device approve --list delivery.csv",
		RunE: func(cmd *cobra.Command, ids []string) error {
			if file != "" {
				listed, err := readIDs(file)
				if err != nil {
					return err
				}
				ids = append(ids, listed...)
			}
			switch {
			case req.NewBoard && req.Withdraw:
				return usagef("device approve: --new-board and --withdraw exclude each other")
			case len(ids) == 0 && (req.NewBoard || req.Withdraw || file != ""):
				return usagef("device approve: the device's ID is missing")
			case len(ids) == 0:
				return a.listWaiting(cmd)
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				out := []admin.Approval{}
				for batch := range slices.Chunk(ids, importBatch) {
					rows, err := api.Approve(ctx, admin.ApproveRequest{IDs: batch, NewBoard: req.NewBoard, Withdraw: req.Withdraw})
					if err != nil {
						return fmt.Errorf("%w; of %d devices %d were done, and running the command again does the rest", err, len(ids), len(out))
					}
					out = append(out, rows...)
				}
				return a.approved(out)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&file, "list", "", "file with IDs, one a line, or CSV with a column id")
	f.BoolVar(&req.NewBoard, "new-board", false, "forget the factory certificate that the device showed before: its board was replaced")
	f.BoolVar(&req.Withdraw, "withdraw", false, "take the approval back, if it was not used, or refuse a device that waits")
	return c
}

// readIDs reads a list of devices: the first column, or that with the name id. What
// is wrong with an id is said for each when it is approved.
func readIDs(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cr, err := openTable(f, likelyComma)
	if err != nil {
		return nil, err
	}
	cr.FieldsPerRecord, cr.Comment = -1, '#'
	var ids []string
	column, first := 0, true
	for {
		row, err := cr.Read()
		if errors.Is(err, io.EOF) {
			return ids, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if first {
			first = false
			if i := slices.IndexFunc(row, func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), "id") }); i >= 0 {
				column = i
				continue
			}
			if len(row) > 1 {
				return nil, fmt.Errorf("%s: no column is called id", path)
			}
		}
		if column >= len(row) {
			line, _ := cr.FieldPos(0)
			return nil, fmt.Errorf("%s:%d: there is no id", path, line)
		}
		if len(ids) == maxRows {
			return nil, fmt.Errorf("%s: more than %d rows", path, maxRows)
		}
		ids = append(ids, strings.TrimSpace(row[column]))
	}
}

// approved reports what became of approvals. Those that were refused fail the
// command, after the others were done.
func (a *app) approved(rows []admin.Approval) error {
	refused := 0
	err := a.print(rows, func(w io.Writer) {
		for _, r := range rows {
			switch r.Outcome {
			case admin.Approved:
				text := r.ID + " is approved, and is given a certificate when it comes"
				if r.FactoryKey != "" {
					text = fmt.Sprintf("%s is approved: serial number %s, factory key %s…", r.ID, r.Serial, r.FactoryKey[:shownKey])
				}
				fmt.Fprintln(w, text)
			case admin.ApprovalWithdrawn:
				fmt.Fprintf(w, "%s is not approved, and waits when it comes again\n", r.ID)
			case admin.ApprovalUnchanged:
				fmt.Fprintf(w, "%s: nothing to change\n", r.ID)
			default:
				fmt.Fprintln(w, r.Error)
			}
		}
	})
	for _, r := range rows {
		if r.Outcome == admin.ApprovalRefused {
			refused++
		}
	}
	if err == nil && refused > 0 {
		err = fmt.Errorf("%d of %d devices were not approved", refused, len(rows))
	}
	return err
}

func (a *app) listWaiting(cmd *cobra.Command) error {
	return a.with(cmd, func(ctx context.Context, api *admin.API) error {
		list, err := api.Waiting(ctx)
		if err != nil {
			return err
		}
		return printList(a, list, "No device waits for approval.",
			[]string{"DEVICE", "MANUFACTURER", "SERIAL", "FACTORY KEY", "FROM", "STATE"}, func(n enrol.Newcomer) []string {
				key, state := "-", "waits since "+n.Since.Format(time.RFC3339)
				if n.FactoryKey != "" {
					key = n.FactoryKey[:shownKey] + "…"
				}
				if !n.Approved.IsZero() {
					state = "approved by " + n.By
				}
				return []string{n.Device, dash(n.Manufacturer), dash(n.Serial), key, dash(n.Remote), state}
			})
	})
}
