package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrTransition is wrapped by the error for a status that can not follow the
// present one.
var ErrTransition = errors.New("status can not change")

// next holds which status may follow which (design: pending → active ⇄
// quarantined; any → revoked, retired). Revoked is final for the device's
// certificates: the way back is a new enrolment, which makes the record active
// again with a new certificate. Retired is final for the record, which then does
// not change at all, and its id is not given again: what the audit log says of an
// id is always of the same device.
var next = map[Status][]Status{
	Pending:     {Active, Quarantined, Revoked, Retired},
	Active:      {Quarantined, Revoked, Retired},
	Quarantined: {Active, Revoked, Retired},
	Revoked:     {Retired},
	Retired:     {},
}

// Statuses returns all there are, in the order of a life.
func Statuses() []Status { return []Status{Pending, Active, Quarantined, Revoked, Retired} }

// Known reports whether s is one of the statuses.
func (s Status) Known() bool { _, ok := next[s]; return ok }

// move changes the record's status if it may follow. Revoking withdraws every
// certificate the device has, and it is at nobody's bedside any more.
func (r *Record) move(to Status, reason string, reg *Registry) error {
	if !to.Known() {
		return fmt.Errorf("%w status %q", ErrInvalid, to)
	}
	if r.Status == to {
		return fmt.Errorf("%s: %w: it is %s already", r.ID, ErrTransition, to)
	}
	if !slices.Contains(next[r.Status], to) {
		return fmt.Errorf("%s: %w from %s to %s", r.ID, ErrTransition, r.Status, to)
	}
	now := reg.now().UTC()
	r.Status, r.StatusReason, r.StatusAt = to, reason, now
	if to == Revoked || to == Retired {
		r.RevokedAt, r.Patients = now, nil
		r.comeHome()
		for i := range r.Certificates {
			if r.Certificates[i].RevokedAt.IsZero() {
				r.Certificates[i].RevokedAt = now
			}
		}
	}
	return nil
}

// keepsWithdrawn reports whether r has all of old's certificates that were
// withdrawn and have not ended, still withdrawn: nothing gives one back.
func (r *Record) keepsWithdrawn(old *Record, now time.Time) error {
	for _, was := range old.Certificates {
		if was.RevokedAt.IsZero() {
			continue
		}
		switch c := r.Certificate(was.Fingerprint); {
		case c == nil && was.NotAfter.After(now), c != nil && !c.RevokedAt.Equal(was.RevokedAt):
			return fmt.Errorf("%w change of %s: certificate %s was withdrawn and stays so", ErrInvalid, r.ID, was.Serial)
		}
	}
	return nil
}

// SetStatus moves a device to another status. It is the only way a status
// changes besides [Registry.Grant]. The error wraps [ErrNotFound],
// [ErrTransition] or [ErrInvalid], or is the store's.
func (g *Registry) SetStatus(ctx context.Context, id string, to Status, reason string) (*Record, error) {
	return g.change(ctx, id, func(r *Record) error { return r.move(to, reason, g) })
}
