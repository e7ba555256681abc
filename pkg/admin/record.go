package admin

import (
	"context"
	"fmt"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

const (
	// maxSubject bounds what a record says a request was about: ids of devices,
	// operators and sessions fit, and nothing else is one.
	maxSubject = 64
	// maxReason bounds the error in a record.
	maxReason = 512
)

// A subject is a request that is about something.
type subject interface{ about() string }

func (r *EnrollRequest) about() string  { return r.Device.ID }
func (r *RenewRequest) about() string   { return r.ID }
func (r *TokenRequest) about() string   { return r.ID }
func (r *StatusRequest) about() string  { return r.ID }
func (r *PostureRequest) about() string { return r.ID }

func (r *ReplaceRequest) about() string      { return r.Old }
func (r *AcceptRequest) about() string       { return r.ID }
func (r *LoanRequest) about() string         { return r.ID }
func (r *DecommissionRequest) about() string { return r.ID }

func (r *OperatorRequest) about() string { return r.Name }
func (r *Name) about() string            { return r.ID }

func (r *WithdrawRequest) about() string { return r.Serial }

func (r *GrantRequest) about() string { return r.ID }

// withdraws reports whether an operation only ever takes something away. Such
// ones are done even when they can not be recorded: a full disk must not keep a
// stolen device on the network.
func withdraws(name string, req any) bool {
	switch name {
	case "operator.revoke", "session.kill", "device.dissociate", "token.revoke", "break-glass.close", "device.decommission", "certificate.revoke":
		return true
	case "device.approve":
		r, ok := req.(*ApproveRequest)
		return ok && r.Withdraw
	case "device.status":
		r, ok := req.(*StatusRequest)
		return ok && r.To != device.Active
	}
	return false
}

func request(a Actor, event, name string, req any) *audit.Record {
	r := &audit.Record{Kind: audit.KindOperator, Event: event, Operator: a.Name,
		Detail: []protocol.Field{{Name: "operation", Value: protocol.String(name)}}}
	if s, ok := req.(subject); ok {
		text := s.about()
		r.Detail = append(r.Detail, protocol.Field{Name: "subject", Value: protocol.String(text[:min(len(text), maxSubject)])})
	}
	return r
}

// announce records, durably, what an operator is about to change. Whatever is
// cut off afterwards, the log says who asked for it; and what can not be
// recorded is not done, unless it takes something away.
func (s *Service) announce(ctx context.Context, a Actor, name string, req any) error {
	err := s.append(ctx, request(a, "operator.request", name, req))
	if err == nil {
		return nil
	}
	if withdraws(name, req) {
		s.cfg.Logger.Error("going on with a withdrawal that can not be recorded", "operation", name, "operator", a.Name, "error", err)
		return nil
	}
	return fmt.Errorf("nothing was changed, because it can not be recorded: %w", err)
}

// failed records that an announced change was not made.
func (s *Service) failed(ctx context.Context, a Actor, name string, req any, why error) {
	r := request(a, "operator.failed", name, req)
	text := why.Error()
	r.Error = text[:min(len(text), maxReason)]
	if err := s.cfg.State.Audit.Append(ctx, r); err != nil {
		s.cfg.Logger.Error("recording that a change failed", "operation", name, "error", err)
	}
}

// append records and waits until the record is durable.
func (s *Service) append(ctx context.Context, r *audit.Record) error {
	if err := s.cfg.State.Audit.Append(ctx, r); err != nil {
		return err
	}
	return s.cfg.State.Audit.Flush(ctx)
}

// commit records what an operator did and returns when the record is durable.
func (s *Service) commit(ctx context.Context, a Actor, event string, rec *device.Record, detail ...protocol.Field) error {
	r := &audit.Record{Kind: audit.KindDevice, Event: event, Operator: a.Name, Detail: detail}
	if rec != nil {
		r.Device, r.Class, r.DeviceStatus = rec.ID, rec.Class, string(rec.Status)
	} else {
		r.Kind = audit.KindOperator
	}
	if err := s.append(ctx, r); err != nil {
		return fmt.Errorf("the change was made, but its record is not durable: %w", err)
	}
	return nil
}
