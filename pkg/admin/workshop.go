package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Replace has a device take another's place, such as the same asset with another
// board: the old one is revoked, the new one pending with what belongs to the
// asset. When it returns every session of the old one has been ended.
func (s *Service) Replace(ctx context.Context, a Actor, req *ReplaceRequest) (*Replaced, error) {
	old, next, err := s.cfg.State.Devices.Replace(ctx, req.Old, &device.Record{ID: req.New, Serial: req.Serial}, req.Reason)
	if err != nil {
		return nil, err
	}
	if err := s.withdraw(ctx, old, "superseded"); err != nil {
		return nil, fmt.Errorf("%s takes the place of %s, and %w", next.ID, old.ID, err)
	}
	err = s.commit(ctx, a, "device.replaced", old, worded("by", next.ID), worded("reason", req.Reason))
	return &Replaced{old, next}, errors.Join(err, s.commit(ctx, a, "device.registered", next, worded("replaces", old.ID), worded("serial", next.Serial)))
}

func worded(name, value string) protocol.Field {
	return protocol.Field{Name: name, Value: protocol.String(value)}
}

// Lend puts a device elsewhere for a time, with location and owner of that place,
// as policies see them from now on. Lent again, the loan is another.
func (s *Service) Lend(ctx context.Context, a Actor, req *LoanRequest) (*device.Record, error) {
	until := req.Until
	if until.IsZero() == (req.For == 0) {
		return nil, fmt.Errorf("%w loan: it ends at a time or after one", device.ErrInvalid)
	}
	if req.For != 0 {
		until = s.cfg.Clock().Add(req.For)
	}
	rec, err := s.cfg.State.Devices.Lend(ctx, req.ID, req.Location, req.Owner, device.Loan{To: req.To, Until: until.Truncate(time.Second), ThenQuarantine: req.ThenQuarantine, By: a.Name})
	if err != nil {
		return nil, err
	}
	return rec, s.commit(ctx, a, "device.lent", rec, worded("to", req.To), worded("until", rec.Loan.Until.Format(time.RFC3339)),
		worded("location", rec.Location), worded("owner", rec.Owner), protocol.Field{Name: "then_quarantine", Value: protocol.Bool(req.ThenQuarantine)})
}

// Return ends a device's loan before its time.
func (s *Service) Return(ctx context.Context, a Actor, req *Name) (*device.Record, error) {
	rec, err := s.cfg.State.Devices.Return(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	return rec, s.commit(ctx, a, "device.returned", rec, worded("location", rec.Location), worded("owner", rec.Owner))
}

// Decommission takes a device out of service for good: its certificates and its
// token are withdrawn and its sessions ended. The record stays, retired, because
// the audit log speaks of it, and its id is not given again; what becomes of the
// device is written there.
func (s *Service) Decommission(ctx context.Context, a Actor, req *DecommissionRequest) (*device.Record, error) {
	if req.To == "" {
		return nil, fmt.Errorf("%w: what becomes of the device is not said", device.ErrInvalid)
	}
	reason := "decommissioned: " + req.To
	if !req.Wiped {
		reason += "; NOT wiped"
	}
	rec, err := s.cfg.State.Devices.SetStatus(ctx, req.ID, device.Retired, reason)
	if err != nil {
		// As in SetStatus: who asks again completes what was cut off.
		old, ok := s.cfg.State.Devices.Get(req.ID)
		if !ok || old.Status != device.Retired || !errors.Is(err, device.ErrTransition) {
			return nil, err
		}
		rec = old
	}
	if err := s.withdraw(ctx, rec, "cessation of operation"); err != nil {
		return nil, err
	}
	return rec, s.commit(ctx, a, "device.decommissioned", rec, worded("to", req.To), protocol.Field{Name: "wiped", Value: protocol.Bool(req.Wiped)})
}
