package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// AssociateRequest says that a device is at the bedside of patients, or that all
// devices at a place are.
type AssociateRequest struct {
	ID       string `json:"id,omitempty"` // either this
	Location string `json:"location,omitempty"`
	// Patients are named as [device.ParsePatient] reads them.
	Patients []string `json:"patients"`
	// Only ends the associations with other patients in the same step.
	Only  bool          `json:"only,omitempty"`
	Until time.Time     `json:"until,omitzero"`
	For   time.Duration `json:"for,omitempty"` // from now on, in place of Until
	// Feed names the feed of admissions that says so; "" is the operator. No
	// operator can speak for a feed.
	Feed string `json:"-"`
}

// DissociateRequest says that devices are at a bedside no more: of the patients,
// or if none is named of nobody. Without id and location it is every device of
// the patients, as after a discharge.
type DissociateRequest struct {
	ID       string   `json:"id,omitempty"`
	Location string   `json:"location,omitempty"`
	Patients []string `json:"patients,omitempty"`
}

// BedsideRequest asks for a device's patients.
type BedsideRequest struct {
	ID string `json:"id"`
}

// A Bedside says with whom a device is associated. Who may not say so does not
// see it either, but how many there are.
type Bedside struct {
	Device   string               `json:"device"`
	Patients []device.Association `json:"patients"`
	Withheld int                  `json:"withheld,omitempty"`
}

// atBedside are the roles that see and change who a device's patient is: those
// who look after devices, and those who have to find out what one did. The
// others see pseudonyms in the audit log.
var atBedside = []Role{Enroller, SecurityOfficer}

func (r *AssociateRequest) about() string  { return cmp.Or(r.ID, r.Location) }
func (r *DissociateRequest) about() string { return cmp.Or(r.ID, r.Location) }

// bedside returns what holds of a record now.
func (s *Service) bedside(rec *device.Record) *Bedside {
	return &Bedside{Device: rec.ID, Patients: rec.PatientsAt(s.cfg.Clock())}
}

// Associate associates devices with patients. When it returns, every session of
// theirs is decided on with it. The devices at a place are those that are there
// now; one is changed after the other, and the request can be made again if it
// was cut off between them.
func (s *Service) Associate(ctx context.Context, a Actor, req *AssociateRequest) ([]*Bedside, error) {
	if len(req.Patients) == 0 {
		return nil, fmt.Errorf("%w association: with which patient?", device.ErrInvalid)
	}
	if (req.ID == "") == (req.Location == "") {
		return nil, fmt.Errorf("%w association: of a device, or of all at a location", device.ErrInvalid)
	}
	until := req.Until
	switch {
	case req.For < 0, req.For > 0 && !until.IsZero():
		return nil, fmt.Errorf("%w association: it ends at a time, or after a time", device.ErrInvalid)
	case req.For > 0:
		until = s.cfg.Clock().Add(req.For)
	}
	source, by := device.ByOperator, a.Name
	if req.Feed != "" {
		source, by = device.ByADT, req.Feed
	}
	patients, err := parsePatients(req.Patients)
	if err != nil {
		return nil, err
	}
	as := make([]device.Association, len(patients))
	for i, p := range patients {
		as[i] = device.Association{Patient: p, Until: until.UTC(), Source: source, By: by}
	}
	ids := []string{req.ID}
	if req.Location != "" {
		if ids = s.serving(req.Location); len(ids) == 0 {
			return nil, fmt.Errorf("location %q: %w there that is in service", req.Location, device.ErrNotFound)
		}
	}
	var out []*Bedside
	for _, id := range ids {
		rec, err := s.cfg.State.Devices.Associate(ctx, id, req.Only, as...)
		if err != nil && req.Location != "" {
			return nil, fmt.Errorf("%d of %d devices were associated, and %s was not: %w", len(out), len(ids), id, err)
		}
		if err != nil {
			return nil, err
		}
		fields := []protocol.Field{
			patientsField(patients),
			{Name: "source", Value: protocol.String(string(source))}, {Name: "by", Value: protocol.String(by)},
		}
		if req.Only {
			fields = append(fields, protocol.Field{Name: "only", Value: protocol.Bool(true)})
		}
		if !until.IsZero() {
			fields = append(fields, protocol.Field{Name: "until", Value: protocol.String(until.UTC().Format(time.RFC3339))})
		}
		if err := s.commit(ctx, a, "device.associated", rec, fields...); err != nil {
			return nil, err
		}
		out = append(out, s.bedside(rec))
	}
	return out, nil
}

// Dissociate ends associations. When it returns, every session of the devices is
// decided on without them.
func (s *Service) Dissociate(ctx context.Context, a Actor, req *DissociateRequest) ([]*Bedside, error) {
	if req.ID != "" && req.Location != "" {
		return nil, fmt.Errorf("%w association: of a device, or of all at a location", device.ErrInvalid)
	}
	patients, err := parsePatients(req.Patients)
	if err != nil {
		return nil, err
	}
	ids := []string{req.ID}
	if req.ID == "" {
		if req.Location == "" && len(patients) == 0 {
			return nil, fmt.Errorf("%w association: of a device, of all at a location, or with a patient", device.ErrInvalid)
		}
		ids = s.associated(req.Location, patients)
	}
	out := []*Bedside{}
	var errs []error // what is to be ended is ended as far as it can be
	for _, id := range ids {
		before, _ := s.cfg.State.Devices.Get(id)
		rec, err := s.cfg.State.Devices.Dissociate(ctx, id, patients...)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.commit(ctx, a, "device.dissociated", rec, patientsField(gone(before, rec))))
		out = append(out, s.bedside(rec))
	}
	return out, errors.Join(errs...)
}

// gone returns the patients that were before and are no more.
func gone(before, now *device.Record) (out []device.Patient) {
	if before == nil {
		return nil
	}
	for _, was := range before.Patients {
		if !slices.ContainsFunc(now.Patients, func(a device.Association) bool { return a.Patient == was.Patient }) {
			out = append(out, was.Patient)
		}
	}
	return out
}

// Patients says with whom a device is associated. That somebody was shown it is
// recorded before it is.
func (s *Service) Patients(ctx context.Context, a Actor, req *BedsideRequest) (*Bedside, error) {
	rec, ok := s.cfg.State.Devices.Get(req.ID)
	if !ok {
		return nil, fmt.Errorf("%s: %w", req.ID, device.ErrNotFound)
	}
	b := s.bedside(rec)
	if len(b.Patients) == 0 {
		return b, nil
	}
	if !a.may(atBedside...) {
		b.Withheld, b.Patients = len(b.Patients), nil
		return b, nil
	}
	shown := make([]device.Patient, len(b.Patients))
	for i := range b.Patients {
		shown[i] = b.Patients[i].Patient
	}
	if err := s.commit(ctx, a, "device.patients-shown", rec, patientsField(shown)); err != nil {
		return nil, fmt.Errorf("the patients of %s are not shown: %w", req.ID, err)
	}
	return b, nil
}

// serving returns the ids of the devices at a place that can be associated.
func (s *Service) serving(location string) (ids []string) {
	for _, r := range s.cfg.State.Devices.List(device.Filter{Location: location}) {
		if r.Status == device.Active || r.Status == device.Quarantined {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// associated returns the ids of devices that are associated with one of the
// patients, or with any if none is named.
func (s *Service) associated(location string, patients []device.Patient) (ids []string) {
	for _, r := range s.cfg.State.Devices.List(device.Filter{Location: location}) {
		if slices.ContainsFunc(r.Patients, func(a device.Association) bool { return len(patients) == 0 || slices.Contains(patients, a.Patient) }) {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

func parsePatients(names []string) ([]device.Patient, error) {
	if len(names) > device.MaxPatients {
		return nil, fmt.Errorf("%w association: more than %d patients", device.ErrInvalid, device.MaxPatients)
	}
	out := make([]device.Patient, len(names))
	for i, name := range names {
		var err error
		if out[i], err = device.ParsePatient(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// patientsField names patients in a record, where they become the pseudonyms
// that they have in the records of transactions.
func patientsField(ps []device.Patient) protocol.Field {
	v := make([]protocol.Value, len(ps))
	for i, p := range ps {
		v[i] = protocol.Sensitive(p.Fact())
	}
	return protocol.Field{Name: "patients", Value: protocol.List(v...)}
}
