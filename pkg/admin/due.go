package admin

import (
	"context"
	"errors"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// EndDue ends what has ended by its time, and records it: associations with patients,
// which the registry forgets, and loans. It looks at every record once, and returns
// when the next of them will end, or the zero time.
func (s *Service) EndDue(ctx context.Context) (next time.Time, err error) {
	now := s.cfg.Clock()
	sooner := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	var errs []error
	for _, r := range s.cfg.State.Devices.List(device.Filter{}) {
		due := false
		for _, a := range r.Patients {
			if a.Holds(now) {
				sooner(a.Until)
			} else {
				due = true
			}
		}
		if due {
			errs = append(errs, s.endAssociations(ctx, r))
		}
		switch {
		case r.Loan == nil:
		case r.Loan.Over(now):
			errs = append(errs, s.endLoan(ctx, r))
		default:
			sooner(r.Loan.Until)
		}
	}
	return next, errors.Join(errs...)
}

func (s *Service) endAssociations(ctx context.Context, r *device.Record) error {
	rec, err := s.cfg.State.Devices.EndDue(ctx, r.ID)
	if err != nil {
		return err
	}
	return s.commit(ctx, Actor{}, "device.dissociated", rec, patientsField(gone(r, rec)), protocol.Field{Name: "reason", Value: protocol.String("its time was over")})
}

func (s *Service) endLoan(ctx context.Context, r *device.Record) error {
	rec, err := s.cfg.State.Devices.Return(ctx, r.ID)
	if err != nil {
		return err
	}
	return s.commit(ctx, Actor{}, "device.loan-over", rec, worded("to", r.Loan.To), worded("location", rec.Location), worded("owner", rec.Owner))
}
