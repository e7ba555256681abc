package device

import (
	"context"
	"fmt"
)

// Register adds pending devices in one durable step: all of them, or none and the
// error says why. They have no certificates.
func (g *Registry) Register(ctx context.Context, recs []*Record) ([]*Record, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now().UTC()
	seen := map[string]bool{}
	var changes []change
	var out []*Record
	for _, rec := range recs {
		r := rec.clone()
		if _, ok := g.Get(r.ID); ok || seen[r.ID] {
			return nil, fmt.Errorf("%s: %w", r.ID, ErrExists)
		}
		seen[r.ID] = true
		r.Status, r.StatusReason, r.Certificates = Pending, "", nil
		r.CreatedAt, r.StatusAt = now, now
		changes = append(changes, change{nil, r})
		out = append(out, r)
	}
	if len(changes) == 0 {
		return nil, nil
	}
	if err := g.commitAll(ctx, changes); err != nil {
		return nil, err
	}
	return out, nil
}
