package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// importBatch is how many devices are registered in one durable step: at most so
// many have to be looked at again when an import was cut off.
const importBatch = 200

// importRow is what became of one row.
type importRow struct {
	Line int `json:"line"`
	admin.Imported
}

// importResult is what became of an import.
type importResult struct {
	File       string      `json:"file"`
	DryRun     bool        `json:"dry_run,omitempty"`
	Registered int         `json:"registered"`
	Unchanged  int         `json:"unchanged"`
	Refused    int         `json:"refused"`
	Rows       []importRow `json:"rows"` // those refused or warned of; with a dry run all
	// Bundles is what was made of those that are in the registry now, if that was
	// asked for.
	Bundles *batchResult `json:"bundles,omitempty"`

	good []string // ids that are in the registry as the file says
}

func (a *app) importCommand() *cobra.Command {
	var in inventory
	var dry bool
	b := batch{app: a}
	c := &cobra.Command{
		Use: "import FILE.csv", Short: "Register devices from an inventory, such as a CMMS exports", Args: args("the file"),
		Long: `Register devices from an inventory in CSV, as pending: they are known, and have no
certificate until they enrol. The first line names the columns: id, class,
manufacturer, model, serial, udi, location, owner, life_critical, tag.NAME, or
others that --map gives one of these names; further columns are passed over.

Rows that are no device are reported with their line, and the others are done. What
was done stays done when an import is cut off: run it again, and it does the rest.

With --out, each device that was registered and has no certificate is enrolled, and
its bundle (key, certificate, the CA's) goes into that directory.`,
		Example: "  anteroom device import assets.csv --map 'Asset No=id' --map 'Device Type=class' --map 'Dept=location' --dry-run",
		RunE: func(cmd *cobra.Command, arg []string) error {
			in.file = arg[0]
			bundles := cmd.Flags().Changed("out")
			for _, name := range []string{"csr", "key", "p12", "p12-legacy", "p12-password-file", "ttl", "csr-dir"} {
				if !bundles && cmd.Flags().Changed(name) {
					return usagef("device import: --%s is for --out", name)
				}
			}
			if bundles && dry {
				return usagef("device import: a dry run makes no bundles")
			}
			f, err := os.Open(in.file)
			if err != nil {
				return err
			}
			defer f.Close()
			rows, err := in.read(f)
			if err != nil {
				return fmt.Errorf("%s: %w", in.file, err)
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				res := &importResult{File: in.file, DryRun: dry, Rows: []importRow{}}
				if err := a.importRows(ctx, api, rows, res); err != nil {
					return fmt.Errorf("%w; %d devices were registered, and running the command again does the rest", err, res.Registered)
				}
				if bundles {
					if err := b.enrol(ctx, api, res); err != nil {
						return err
					}
				}
				return a.imported(res)
			})
		},
	}
	f := c.Flags()
	f.StringArrayVar(&in.maps, "map", nil, "column=field: what a column is called here; may be repeated")
	f.StringVar(&in.class, "class", "", "class of the rows that name none")
	f.StringVar(&in.separator, "separator", "", "what is between columns (default: comma, semicolon or tab, as the first line has it)")
	f.BoolVar(&dry, "dry-run", false, "change nothing, and report on every row")
	f.StringVar(&b.csrs, "csr-dir", "", "with --out: directory with signing requests made on the devices, ID.csr")
	b.flags(c)
	f.Lookup("out").DefValue, f.Lookup("out").Usage = "", "enrol the devices too: directory for their bundles"
	return c
}

// importRows registers rows, batch by batch.
func (a *app) importRows(ctx context.Context, api *admin.API, rows []inventoryRow, res *importResult) error {
	bar := progress{w: a.err, on: terminal(a.err), total: len(rows)}
	defer bar.done()
	do := api.Import
	if res.DryRun {
		do = api.CheckImport
	}
	for len(rows) > 0 {
		n := min(importBatch, len(rows))
		batch := rows[:n]
		rows = rows[n:]
		var req admin.ImportRequest
		for _, r := range batch {
			if r.err == nil {
				req.Devices = append(req.Devices, *r.rec)
			}
		}
		var out []admin.Imported
		if len(req.Devices) > 0 {
			var err error
			if out, err = do(ctx, req); err != nil {
				return err
			}
		}
		if len(out) != len(req.Devices) {
			return errors.New("the gateway answers for other devices than were sent")
		}
		for _, r := range batch {
			row := importRow{Line: r.line}
			if r.err != nil {
				row.Outcome, row.Error = admin.ImportRefused, r.err.Error()
			} else {
				row.Imported, out = out[0], out[1:]
			}
			res.add(row)
		}
		bar.step(n)
	}
	return nil
}

func (r *importResult) add(row importRow) {
	switch row.Outcome {
	case admin.ImportRegistered:
		r.Registered++
		r.good = append(r.good, row.ID)
	case admin.ImportUnchanged:
		r.Unchanged++
		r.good = append(r.good, row.ID)
	default:
		r.Refused++
	}
	if r.DryRun || row.Error != "" || row.Warning != "" {
		r.Rows = append(r.Rows, row)
	}
}

// enrol makes bundles for the devices of an import that have no certificate yet,
// and for those whose bundle a run that was cut off did not finish.
func (b *batch) enrol(ctx context.Context, api *admin.API, res *importResult) error {
	ttl, err := b.lifetime()
	if err != nil {
		return err
	}
	begun, err := b.begin()
	if err != nil {
		return err
	}
	all, err := api.List(ctx, admin.ListRequest{})
	if err != nil {
		return err
	}
	recs := map[string]*device.Record{}
	b.recs = recs
	for _, r := range all {
		recs[r.ID] = r
	}
	res.Bundles = newBatchResult(b.out)
	var ids []string
	for _, id := range res.good {
		switch r := recs[id]; {
		case r == nil:
		case r.Status == device.Pending && len(r.Certificates) == 0, slices.Contains(begun, id):
			ids = append(ids, id)
		default:
			res.Bundles.Skipped[id] = "it is " + string(r.Status)
		}
	}
	return b.run(ctx, ids, res.Bundles, func(id string, csr []byte) (*admin.Issued, error) {
		if recs[id].Status != device.Pending {
			return api.Renew(ctx, admin.RenewRequest{ID: id, CSR: csr, TTL: ttl})
		}
		return api.Enroll(ctx, admin.EnrollRequest{Device: *recs[id], CSR: csr, TTL: ttl})
	})
}

// imported reports what became of an import. Rows that were refused fail the
// command, after the others were done.
func (a *app) imported(res *importResult) error {
	err := a.print(res, func(w io.Writer) {
		for _, row := range res.Rows {
			text := row.ID + ": " + row.Outcome
			switch {
			case row.Error != "":
				text = row.Error
			case row.Outcome == admin.ImportRegistered && res.DryRun:
				text = row.ID + ": would be registered"
			}
			if row.Warning != "" {
				text += "; " + row.Warning
			}
			fmt.Fprintf(w, "%s:%d: %s\n", res.File, row.Line, text)
		}
		verb := "Registered"
		if res.DryRun {
			verb = "Nothing was changed. To register:"
		}
		fmt.Fprintf(w, "%s %d, unchanged %d, refused %d\n", verb, res.Registered, res.Unchanged, res.Refused)
		if res.Bundles != nil {
			res.Bundles.print(w, "Enrolled")
		}
	})
	if err == nil && (res.Refused > 0 || res.Bundles != nil && len(res.Bundles.Failed) > 0) {
		err = silentError{}
	}
	return err
}

// A progress shows on a terminal how far a long work has come.
type progress struct {
	w           io.Writer
	on          bool
	total, have int
}

const progressWidth = 40

func (p *progress) step(n int) {
	p.have += n
	if !p.on || p.total == 0 {
		return
	}
	full := p.have * progressWidth / p.total
	fmt.Fprintf(p.w, "\r[%s%s] %d of %d", strings.Repeat("#", full), strings.Repeat(".", progressWidth-full), p.have, p.total)
}

func (p *progress) done() {
	if p.on {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
