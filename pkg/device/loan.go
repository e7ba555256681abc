package device

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// maxLoan is the longest that a device is on loan: what is away for longer has
// moved.
const maxLoan = 2 * 366 * 24 * time.Hour

// A Loan says that a device is elsewhere for a time, with location and owner of
// that place. Both come back at its end; nobody has to remember it.
type Loan struct {
	To string `json:"to"` // whom it is lent to
	// HomeLocation and HomeOwner are the record's own, which come back.
	HomeLocation string    `json:"home_location,omitempty"`
	HomeOwner    string    `json:"home_owner,omitempty"`
	Since        time.Time `json:"since"`
	Until        time.Time `json:"until"`
	// ThenQuarantine cuts the device off when the loan is over, until somebody
	// releases it: for what should be back by then, or out of the house.
	ThenQuarantine bool   `json:"then_quarantine,omitempty"`
	By             string `json:"by,omitempty"` // the operator who lent it
}

// Over reports whether the loan has ended.
func (l *Loan) Over(now time.Time) bool { return !now.Before(l.Until) }

// CutOff reports whether a device is out because its loan ended, whether anybody
// has noticed or not.
func (r *Record) CutOff(now time.Time) bool {
	return r.Loan != nil && r.Loan.ThenQuarantine && r.Loan.Over(now)
}

// OverdueReason is why a device is in quarantine whose loan ended so.
const OverdueReason = "its loan is over"

// Lend puts a device elsewhere until a time: an active one. What is not said of the
// place is as at home. Lent again, it keeps the home it had.
func (g *Registry) Lend(ctx context.Context, id, location, owner string, l Loan) (*Record, error) {
	return g.change(ctx, id, func(r *Record) error {
		if r.Status != Active {
			return fmt.Errorf("%s: %w: it is %s, and such a device is not lent", id, ErrTransition, r.Status)
		}
		now := g.now().UTC()
		if r.CutOff(now) {
			return fmt.Errorf("%s: %w: %s, and it is about to be quarantined", id, ErrTransition, OverdueReason)
		}
		l.Until, l.Since = l.Until.UTC(), now
		if l.Over(now) || l.Until.After(now.Add(maxLoan)) {
			return fmt.Errorf("%w loan: it ends in the future, within two years", ErrInvalid)
		}
		l.HomeLocation, l.HomeOwner = r.Location, r.Owner
		if had := r.Loan; had != nil {
			l.HomeLocation, l.HomeOwner, l.Since = had.HomeLocation, had.HomeOwner, had.Since
		}
		r.Loan, r.Location, r.Owner = &l, cmp.Or(location, l.HomeLocation), cmp.Or(owner, l.HomeOwner)
		return nil
	})
}

// Return ends a device's loan. If its time is over and it says so, the device goes
// into quarantine; one that came back before has nothing to answer for.
func (g *Registry) Return(ctx context.Context, id string) (*Record, error) {
	return g.change(ctx, id, func(r *Record) error {
		if r.Loan == nil {
			return fmt.Errorf("%s: %w: it is not on loan", id, ErrTransition)
		}
		cut := r.CutOff(g.now())
		r.comeHome()
		if cut && r.Status == Active {
			return r.move(Quarantined, OverdueReason, g)
		}
		return nil
	})
}

// comeHome gives a record back what it had before the loan.
func (r *Record) comeHome() {
	if r.Loan != nil {
		r.Location, r.Owner, r.Loan = r.Loan.HomeLocation, r.Loan.HomeOwner, nil
	}
}

func (r *Record) validLoan() error {
	l := r.Loan
	if l == nil {
		return nil
	}
	if l.To == "" {
		return fmt.Errorf("%w loan: it names nobody", ErrInvalid)
	}
	for _, f := range [...]struct{ what, s string }{
		{"whom it is lent to", l.To}, {"home location", l.HomeLocation}, {"home owner", l.HomeOwner}, {"who lends it", l.By},
	} {
		if err := validText(f.what, f.s); err != nil {
			return err
		}
	}
	return nil
}
