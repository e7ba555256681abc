package device

import (
	"context"
	"fmt"
)

// Register adds pending devices in one durable step: all of them, or none and the
// error says why. They have no certificates.
func (g *Registry) Register(ctx context.Context, recs []*Record) ([]*Record, error) {
	if len(recs) == 0 {
		return nil, nil
	}
	var out []*Record
	var ids []string
	seen := map[string]bool{}
	for _, rec := range recs {
		r := rec.clone()
		if seen[r.ID] {
			return nil, fmt.Errorf("%s: %w", r.ID, ErrExists)
		}
		seen[r.ID] = true
		r.Status, r.StatusReason, r.Certificates = Pending, "", nil
		out, ids = append(out, r), append(ids, r.ID)
	}
	err := g.do(ctx, &edit{ids: ids, make: func() (changes []change, err error) {
		now := g.now().UTC()
		for _, r := range out {
			if _, ok := g.Get(r.ID); ok {
				return nil, fmt.Errorf("%s: %w", r.ID, ErrExists)
			}
			r.CreatedAt, r.StatusAt = now, now
			changes = append(changes, change{nil, r})
		}
		return changes, nil
	}})
	if err != nil {
		return nil, err
	}
	return out, nil
}
