package device

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// MaxPatients bounds with how many patients a device is associated at a time. A
// bedside device has one, at a birth two or three; what serves a whole ward, such
// as a central station, is not bound to patients at all.
const MaxPatients = 64

// patientsTable holds the associations, beside the records and not in them: what
// is written of a record anywhere never says who the patient is.
const patientsTable = "devices-patients"

// A Patient names one, as a FHIR server does ("Patient/123") or by an identifier
// of the hospital's, with who gave it ("http://hospital.example/mrn|0815"). It is
// printed and logged as what it is and not as whom it names.
type Patient string

// onPatient is what is printed of a patient.
const onPatient = "[patient]"

// String keeps a patient out of messages. The name itself is string(p).
func (Patient) String() string { return onPatient }

// GoString is String for the verb %#v.
func (Patient) GoString() string { return onPatient }

// LogValue keeps a patient out of logs.
func (Patient) LogValue() slog.Value { return slog.StringValue(onPatient) }

// fhirPatient begins the name of a patient by its id on the FHIR server.
const fhirPatient = "Patient/"

// Fact returns the patient as policies see it, and as they see the patients of a
// transaction: the id alone, or system|value. No id holds a "|".
func (p Patient) Fact() string { return strings.TrimPrefix(string(p), fhirPatient) }

// ParsePatient reads the name of a patient. It takes nothing that could mean two
// things: no address of a server, no version, no bare id. Its error does not
// repeat what it was given.
func ParsePatient(s string) (Patient, error) {
	bad := fmt.Errorf("%w patient: write Patient/ID, as the FHIR server knows it, or an identifier as SYSTEM|VALUE", ErrInvalid)
	if len(s) > maxText {
		return "", bad
	}
	if id, ok := strings.CutPrefix(s, fhirPatient); ok && isFHIRID(id) {
		return Patient(s), nil
	}
	system, value, ok := strings.Cut(s, "|")
	if !ok || system == "" || value == "" || strings.ContainsAny(value, "|") || strings.ContainsAny(s, " ,$\\") || validText("patient", s) != nil {
		return "", bad
	}
	return Patient(s), nil
}

// isFHIRID reports whether s is an id (http://hl7.org/fhir/R4/datatypes.html#id).
func isFHIRID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.'
	})
}

// A Source is where an association comes from.
type Source string

// The sources.
const (
	ByOperator Source = "operator"
	ByADT      Source = "adt" // the hospital's feed of admissions, discharges and transfers
)

// An Association says that a device is at a patient's bedside.
type Association struct {
	Patient Patient   `json:"patient"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until,omitzero"` // it ends by itself then; zero: when somebody ends it
	Source  Source    `json:"source"`
	By      string    `json:"by,omitempty"` // who said so: an operator, a feed
}

// Holds reports whether the association has not ended.
func (a *Association) Holds(now time.Time) bool { return a.Until.IsZero() || now.Before(a.Until) }

// PatientsAt returns the associations that hold, in order of the patients.
func (r *Record) PatientsAt(now time.Time) []Association {
	out := make([]Association, 0, len(r.Patients))
	for i := range r.Patients {
		if r.Patients[i].Holds(now) {
			out = append(out, r.Patients[i])
		}
	}
	return out
}

// Associate adds associations to those a device has, or with only puts them in
// their place. One with a patient the device has already replaces that one and
// keeps its beginning. The registry sets since. Only a device in service, or in
// quarantine, is associated.
func (g *Registry) Associate(ctx context.Context, id string, only bool, as ...Association) (*Record, error) {
	return g.change(ctx, id, func(r *Record) error {
		if r.Status != Active && r.Status != Quarantined {
			return fmt.Errorf("%s: %w: it is %s, and such a device has no patient", id, ErrTransition, r.Status)
		}
		now := g.now().UTC()
		had := r.PatientsAt(now)
		var next []Association
		if !only {
			next = slices.Clone(had)
		}
		for _, a := range as {
			if !a.Holds(now) {
				return fmt.Errorf("%w association: it ends before it begins", ErrInvalid)
			}
			a.Since = now
			same := func(o Association) bool { return o.Patient == a.Patient }
			if i := slices.IndexFunc(had, same); i >= 0 {
				a.Since = had[i].Since
			}
			next = append(slices.DeleteFunc(next, same), a)
		}
		r.Patients = next
		return nil
	})
}

// Dissociate ends a device's associations with patients, or if none is named
// all. One that is not there has ended already.
func (g *Registry) Dissociate(ctx context.Context, id string, patients ...Patient) (*Record, error) {
	return g.change(ctx, id, func(r *Record) error {
		left := r.PatientsAt(g.now())
		r.Patients = slices.DeleteFunc(left, func(a Association) bool {
			return len(patients) == 0 || slices.Contains(patients, a.Patient)
		})
		return nil
	})
}

// EndDue takes the associations out of a record that have ended by themselves.
// Nobody decides by them any more; this has the store forget them, and tells
// subscribers.
func (g *Registry) EndDue(ctx context.Context, id string) (*Record, error) {
	return g.change(ctx, id, func(r *Record) error {
		r.Patients = r.PatientsAt(g.now())
		return nil
	})
}

// validPatients checks the associations and puts them in order.
func (r *Record) validPatients() error {
	if len(r.Patients) > MaxPatients {
		return fmt.Errorf("%w association: a device has at most %d patients at a time", ErrInvalid, MaxPatients)
	}
	slices.SortFunc(r.Patients, func(a, b Association) int { return cmp.Compare(a.Patient, b.Patient) })
	for i, a := range r.Patients {
		if _, err := ParsePatient(string(a.Patient)); err != nil {
			return err
		}
		if i > 0 && r.Patients[i-1].Patient == a.Patient {
			return fmt.Errorf("%w association: a patient is there twice", ErrInvalid)
		}
		if a.Source != ByOperator && a.Source != ByADT {
			return fmt.Errorf("%w association: its source is neither %s nor %s", ErrInvalid, ByOperator, ByADT)
		}
		if err := validText("who associates", a.By); err != nil {
			return err
		}
	}
	return nil
}

// putPatients writes the associations of r, if they are not those of old.
func putPatients(w store.Writer, old, r *Record) error {
	switch {
	case old != nil && slices.Equal(old.Patients, r.Patients), old == nil && len(r.Patients) == 0:
		return nil
	case len(r.Patients) == 0:
		return w.Delete(patientsTable, r.ID)
	}
	value, err := json.Marshal(r.Patients)
	if err != nil {
		return err
	}
	return w.Put(patientsTable, r.ID, value)
}

// readPatients reads the associations of a device.
func (r *Record) readPatients(value []byte) error {
	if json.Unmarshal(value, &r.Patients) != nil {
		// The error could repeat what it could not read.
		return fmt.Errorf("patients of %s: not readable", r.ID)
	}
	return r.validPatients()
}
