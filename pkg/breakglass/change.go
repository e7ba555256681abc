package breakglass

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// Add keeps a new grant. Its id must never have been used.
func (b *Book) Add(ctx context.Context, g *Grant) error {
	if !validID(g.ID) {
		return fmt.Errorf("%w grant: %.20q is no id of one", ErrInvalid, g.ID)
	}
	if err := g.Terms.Check(); err != nil {
		return err
	}
	if !g.ApprovedAt.IsZero() && (!g.ApprovedAt.Before(g.Until) || g.Until.After(g.ApprovedAt.Add(g.Terms.Time))) {
		return fmt.Errorf("%w grant: it says until %s, and is for %v", ErrInvalid, g.Until.Format(time.RFC3339), g.Terms.Time)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	open := 0
	for _, e := range b.entries {
		if e.EndedAt.IsZero() {
			open++
		}
	}
	if open >= maxOpen {
		return fmt.Errorf("%w: %d grants are open already; close one", ErrState, open)
	}
	return b.write(ctx, g, true)
}

// write makes a grant durable and then visible. b.mu is held.
func (b *Book) write(ctx context.Context, g *Grant, fresh bool) error {
	value, err := json.Marshal(g)
	if err != nil {
		return err
	}
	err = b.store.Update(ctx, func(w store.Writer) error {
		if fresh {
			if _, err := w.Get(table, g.ID); err == nil {
				return fmt.Errorf("%w: the id %s was used before, and a request is good once", ErrState, g.ID)
			} else if !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		return w.Put(table, g.ID, value)
	})
	if err != nil {
		return err
	}
	b.put(g)
	return nil
}

// change writes what f makes of a grant.
func (b *Book) change(ctx context.Context, id string, f func(g *Grant, now time.Time) error) (*Grant, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var g Grant
	if e := b.entries[id]; e != nil {
		g = *e.Grant
	} else {
		old, err := b.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		g = *old
	}
	now := b.clock().UTC().Truncate(time.Second)
	if err := f(&g, now); err != nil {
		return nil, err
	}
	return &g, b.write(ctx, &g, false)
}

// Approve puts a pending grant in force.
func (b *Book) Approve(ctx context.Context, id, by string, until time.Time, statement string) (*Grant, error) {
	return b.change(ctx, id, func(g *Grant, now time.Time) error {
		switch s := g.State(b.clock()); {
		case s == Lapsed && g.EndedBy == "", s == Pending && b.entries[id].over:
			return fmt.Errorf("%w: %s was requested at %s, and a request waits %v; open another", ErrState, id, g.OpenedAt.Format(time.RFC3339), ApprovalTime)
		case s != Pending:
			return fmt.Errorf("%w: %s is %s", ErrState, id, s)
		case !b.clock().Before(until) || until.After(b.clock().Add(g.Terms.Time)):
			return fmt.Errorf("%w approval of %s: it says until %s, and the grant is for %v from now", ErrInvalid, id, until.Format(time.RFC3339), g.Terms.Time)
		}
		g.ApprovedBy, g.ApprovedAt, g.Approval, g.Until = by, now, statement, until.UTC()
		return nil
	})
}

// End closes an active grant, or withdraws a pending one. It is out of force when
// End returns, also if that can not be kept.
func (b *Book) End(ctx context.Context, id, by string) (*Grant, error) {
	return b.change(ctx, id, func(g *Grant, now time.Time) error {
		if s := g.State(b.clock()); s != Pending && s != Active {
			return fmt.Errorf("%w: %s is %s already", ErrState, id, s)
		}
		b.out(id)
		g.EndedBy, g.EndedAt = by, now
		return nil
	})
}

// out takes a grant out of force. b.mu is held.
func (b *Book) out(id string) {
	if e := b.entries[id]; e != nil {
		e.over = true
		b.publish()
	}
}

// Review keeps what the reviewer of a grant says of it.
func (b *Book) Review(ctx context.Context, id, by, finding, statement string) (*Grant, error) {
	if finding == "" || len(finding) > maxReview || !printable(finding) {
		return nil, fmt.Errorf("%w review: say what was found in one line of at most %d bytes", ErrInvalid, maxReview)
	}
	return b.change(ctx, id, func(g *Grant, now time.Time) error {
		if !g.NeedsReview(b.clock()) {
			return fmt.Errorf("%w: %s is %s; what was in force and is over is reviewed, once", ErrState, id, g.State(b.clock()))
		}
		if g.EndedAt.IsZero() {
			g.EndedAt = g.Until
		}
		g.ReviewedBy, g.ReviewedAt, g.Finding, g.Review = by, now, finding, statement
		return nil
	})
}

// Due keeps the end of every grant that is over by itself, and returns them.
func (b *Book) Due(ctx context.Context) (out []*Grant, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock()
	var due []*Grant
	for _, e := range b.entries {
		if e.EndedAt.IsZero() && (e.over || !now.Before(e.ends())) {
			due = append(due, e.Grant)
		}
	}
	for _, old := range due {
		g := *old
		g.EndedAt = g.ends().UTC()
		if err := b.write(ctx, &g, false); err != nil {
			return out, err
		}
		out = append(out, &g)
	}
	return out, nil
}
