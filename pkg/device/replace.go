package device

import (
	"context"
	"fmt"
	"maps"
)

// Replace has one device take another's place, in one durable step: the new one is
// pending and has what belongs to the asset (class, maker, model, UDI, place,
// owner, tags), the old one is revoked. What belongs to a board is the new one's
// own: serial number, health, certificates. The new one is not in the registry, or
// is pending and has no certificate; what is known of it stays.
func (g *Registry) Replace(ctx context.Context, oldID string, with *Record, reason string) (old, new *Record, err error) {
	err = g.do(ctx, &edit{ids: []string{oldID, with.ID}, make: func() ([]change, error) {
		changes, err := g.replacement(oldID, with, reason)
		if err == nil {
			old, new = changes[0].new, changes[1].new
		}
		return changes, err
	}})
	if err != nil {
		return nil, nil, err
	}
	return old, new, nil
}

func (g *Registry) replacement(oldID string, with *Record, reason string) ([]change, error) {
	was, ok := g.Get(oldID)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s: %w", oldID, ErrNotFound)
	case oldID == with.ID:
		return nil, fmt.Errorf("%w replacement of %s: by itself", ErrInvalid, oldID)
	case was.Status == Retired:
		return nil, fmt.Errorf("%s: %w: it is retired", oldID, ErrTransition)
	}
	now := g.now().UTC()
	r := with.clone()
	r.Status, r.Certificates, r.Patients, r.Loan = Pending, nil, nil, nil
	r.CreatedAt, r.StatusAt = now, now
	there, exists := g.Get(with.ID)
	if exists {
		if there.Status != Pending || len(there.Certificates) > 0 {
			return nil, fmt.Errorf("%s: %w and is %s: what takes another's place is new, or pending", with.ID, ErrExists, there.Status)
		}
		if there.Class != was.Class {
			return nil, fmt.Errorf("%w replacement: %s is of class %s, and %s of class %s", ErrInvalid, with.ID, there.Class, oldID, was.Class)
		}
		own := there.clone()
		if with.Serial != "" {
			own.Serial = with.Serial
		}
		r = own
	}
	next := was.clone()
	if next.Status != Revoked {
		if err := next.move(Revoked, "replaced by "+r.ID+because(reason), g); err != nil {
			return nil, err
		}
	}
	r.inherit(next)
	r.StatusReason = "replaces " + oldID
	return []change{{was, next}, {there, r}}, nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// inherit fills in what belongs to the asset and is not known.
func (r *Record) inherit(old *Record) {
	for _, f := range [...]struct{ to, from *string }{
		{&r.Class, &old.Class}, {&r.Manufacturer, &old.Manufacturer}, {&r.Model, &old.Model}, {&r.UDI, &old.UDI},
		{&r.Location, &old.Location}, {&r.Owner, &old.Owner},
	} {
		if *f.to == "" {
			*f.to = *f.from
		}
	}
	if len(r.Tags) == 0 {
		r.Tags = maps.Clone(old.Tags)
	}
	r.LifeCritical = r.LifeCritical || old.LifeCritical
}
