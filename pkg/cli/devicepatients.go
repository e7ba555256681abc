package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// maxPatientLines bounds what is read as patients from standard input.
const maxPatientLines = 64 << 10

// bedside is which devices and patients a command is about.
type bedside struct {
	location string
	patients []string
}

func (b *bedside) flags(c *cobra.Command) {
	c.Flags().StringVar(&b.location, "location", "", "all devices at this location, in place of an ID")
	c.Flags().StringArrayVar(&b.patients, "patient", nil, `a patient, Patient/ID or SYSTEM|VALUE; may be repeated; "-" reads them from standard input, a line each`)
}

// read returns the device's id, "" if all at a location are meant, and the
// patients.
func (b *bedside) read(cmd *cobra.Command, arg []string, in io.Reader) (id string, patients []string, err error) {
	if len(arg) > 0 {
		id = arg[0]
	}
	if id != "" && b.location != "" {
		return "", nil, usagef("%s: a device's ID or --location, not both", cmd.CommandPath())
	}
	for _, p := range b.patients {
		if p != "-" {
			patients = append(patients, p)
			continue
		}
		lines := bufio.NewScanner(io.LimitReader(in, maxPatientLines))
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); line != "" {
				patients = append(patients, line)
			}
		}
		if err := lines.Err(); err != nil {
			return "", nil, fmt.Errorf("--patient -: %w", err)
		}
	}
	for _, p := range patients {
		if _, err := device.ParsePatient(p); err != nil {
			return "", nil, usageError{fmt.Errorf("--patient: %w", err)}
		}
	}
	return id, patients, nil
}

func (a *app) associateCommand() *cobra.Command {
	var (
		b            bedside
		req          admin.AssociateRequest
		until, lasts string
	)
	c := &cobra.Command{
		Use: "associate ID --patient PATIENT", Short: "Say at which patient's bedside a device is", Args: optional,
		Example: "  anteroom device associate pump-0042 --patient Patient/123 --for 12h\n" +
			"  anteroom device associate --location icu-2-bed-4 --patient 'http://hospital.example/mrn|0815' --only",
		RunE: func(cmd *cobra.Command, arg []string) (err error) {
			if req.ID, req.Patients, err = b.read(cmd, arg, a.in); err != nil {
				return err
			}
			req.Location = b.location
			switch {
			case req.ID == "" && req.Location == "":
				return usagef("device associate: the device's ID is missing, or --location")
			case len(req.Patients) == 0:
				return usagef("device associate: --patient is missing")
			case until != "" && lasts != "":
				return usagef("device associate: --until or --for, not both")
			case until != "":
				if req.Until, err = time.Parse(time.RFC3339, until); err != nil {
					return usagef("--until: %q is not a time such as 2026-01-31T12:00:00Z", until)
				}
			case lasts != "":
				if req.For, err = span("--for", lasts); err != nil {
					return err
				}
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				bs, err := api.Associate(ctx, req)
				if err != nil {
					return err
				}
				return a.print(bs, func(w io.Writer) { printBedsides(w, bs) })
			})
		},
	}
	b.flags(c)
	c.Flags().BoolVar(&req.Only, "only", false, "end its associations with other patients")
	c.Flags().StringVar(&until, "until", "", "when it ends by itself, such as 2026-01-31T12:00:00Z")
	c.Flags().StringVar(&lasts, "for", "", "after which time it ends by itself, such as 12h or 3d")
	return c
}

func (a *app) dissociateCommand() *cobra.Command {
	var b bedside
	c := &cobra.Command{
		Use: "dissociate ID [--patient PATIENT]", Short: "Say that a device is at a patient's bedside no more", Args: optional,
		Example: "  anteroom device dissociate pump-0042\n" +
			"  anteroom device dissociate --patient Patient/123    # of every device, as after a discharge",
		RunE: func(cmd *cobra.Command, arg []string) error {
			id, patients, err := b.read(cmd, arg, a.in)
			if err != nil {
				return err
			}
			if id == "" && b.location == "" && len(patients) == 0 {
				return usagef("device dissociate: the device's ID is missing, or --location, or --patient")
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				bs, err := api.Dissociate(ctx, admin.DissociateRequest{ID: id, Location: b.location, Patients: patients})
				if err != nil {
					return err
				}
				return a.print(bs, func(w io.Writer) {
					if len(bs) == 0 {
						fmt.Fprintln(w, "No such associations.")
					}
					printBedsides(w, bs)
				})
			})
		},
	}
	b.flags(c)
	return c
}

func printBedsides(w io.Writer, bs []*admin.Bedside) {
	for _, b := range bs {
		if len(b.Patients) == 0 {
			fmt.Fprintf(w, "%s is associated with no patient\n", b.Device)
			continue
		}
		var texts []string
		for _, p := range b.Patients {
			text := string(p.Patient)
			if !p.Until.IsZero() {
				text += " until " + p.Until.Format(time.RFC3339)
			}
			texts = append(texts, text)
		}
		fmt.Fprintf(w, "%s is associated with %s\n", b.Device, strings.Join(texts, ", "))
	}
}

// describeBedside says with whom a device is associated, as rows of its
// description.
func describeBedside(row func(name, value string), b *admin.Bedside) {
	for _, p := range b.Patients {
		text := fmt.Sprintf("%s since %s", string(p.Patient), p.Since.Format(time.RFC3339))
		if !p.Until.IsZero() {
			text += " until " + p.Until.Format(time.RFC3339)
		}
		if p.By != "" {
			text += fmt.Sprintf(", by %s (%s)", p.By, p.Source)
		}
		row("patient", text)
	}
	if b.Withheld > 0 {
		row("patients", fmt.Sprintf("%d, shown to enrollers and security officers only", b.Withheld))
	}
}

// shownDevice is a device as it is shown: with its patients, which a record does
// not tell, and what the gateway found out.
type shownDevice struct {
	*device.Record
	Patients []device.Association `json:"patients"`
	Withheld int                  `json:"patients_withheld,omitempty"`
	Findings []admin.Found        `json:"findings,omitempty"`
	Clock    *admin.ClockReading  `json:"clock,omitempty"`
}
