package enrol

import (
	"context"
	"fmt"
	"slices"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

func (o Operator) stand(_ context.Context, _ *Registrar, q *Request) (*standing, error) {
	st := &standing{id: q.ID, operator: o.Person, renewal: q.New == nil, again: q.Again}
	if st.id == "" && q.New != nil {
		st.id = q.New.ID
	}
	if err := device.ValidID(st.id); err != nil {
		return nil, &Refusal{Code: BadRequest, Why: err.Error(), err: err}
	}
	st.check = func(rec *device.Record) error {
		if st.renewal {
			if err := renewable(rec); err != nil {
				return err
			}
			return notServers(rec)
		}
		return enrollable(rec, q)
	}
	return st, nil
}

// renewable reports whether a device may be given a further certificate.
func renewable(rec *device.Record) error {
	if rec.Status != device.Active {
		return refusedStatus(rec, "and only an active device is renewed")
	}
	return nil
}

// notServers refuses a server beside the gateway that has no certificate but those
// that ACME gave it for its names: another with a device's identity would open what
// they do not.
func notServers(rec *device.Record) error {
	if len(rec.Certificates) == 0 || slices.ContainsFunc(rec.Certificates, func(c device.Certificate) bool { return !ofNames(&c) }) {
		return nil
	}
	err := fmt.Errorf("%s: %w: it is a server, which renews its certificate by ACME; a device's would let it in where it is not (device enroll, under another id)", rec.ID, device.ErrTransition)
	return &Refusal{Code: BadStatus, Why: err.Error(), err: err}
}

// ofNames reports whether a certificate is a server's, which says names and no
// identity. ACME gives them to servers, and devices' to keys in hardware only.
func ofNames(c *device.Certificate) bool { return c.Way == string(ACME) && !c.HardwareBacked }

func refusedStatus(rec *device.Record, text string) error {
	err := fmt.Errorf("%s: %w: it is %s, %s", rec.ID, device.ErrTransition, rec.Status, text)
	return &Refusal{Code: BadStatus, Why: err.Error(), err: err}
}

// enrollable reports whether an operator may enrol a device, and fills in what is
// known of it now.
func enrollable(rec *device.Record, q *Request) error {
	if rec == nil {
		return nil
	}
	var err error
	switch {
	case rec.Status == device.Pending:
		keep(rec, q.New)
		return nil
	case rec.Status == device.Revoked && q.Again:
		n := q.New
		rec.Class, rec.Manufacturer, rec.Model, rec.Serial, rec.UDI = n.Class, n.Manufacturer, n.Model, n.Serial, n.UDI
		rec.Location, rec.Owner, rec.Tags, rec.LifeCritical, rec.Posture = n.Location, n.Owner, n.Tags, n.LifeCritical, n.Posture
		return nil
	case rec.Status == device.Revoked:
		err = fmt.Errorf("%s: %w and was revoked: enrolling it anew needs --again", rec.ID, device.ErrExists)
	default:
		err = fmt.Errorf("%s: %w and is %s: device renew gives it another certificate", rec.ID, device.ErrExists, rec.Status)
	}
	return &Refusal{Code: BadStatus, Why: err.Error(), err: err}
}

// keep fills in what is known of a pending device now. What is not said stays: it
// was registered, from an inventory or in another's place, with more than who
// enrols it types.
func keep(rec, now *device.Record) {
	for _, f := range [...]struct{ to, from *string }{
		{&rec.Class, &now.Class}, {&rec.Manufacturer, &now.Manufacturer}, {&rec.Model, &now.Model}, {&rec.Serial, &now.Serial},
		{&rec.UDI, &now.UDI}, {&rec.Location, &now.Location}, {&rec.Owner, &now.Owner},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if len(now.Tags) > 0 {
		rec.Tags = now.Tags
	}
	if now.Posture != (device.Posture{}) {
		rec.Posture = now.Posture
	}
	rec.LifeCritical = rec.LifeCritical || now.LifeCritical
}
