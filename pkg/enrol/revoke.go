package enrol

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

const (
	// eventRevoking: somebody who may has asked for one certificate to be revoked.
	eventRevoking = "certificate.revoking"
	// eventRevoked: it was.
	eventRevoked = "certificate.revoked"
)

// A Revocation asks that one certificate is revoked, whatever way it came by.
type Revocation struct {
	Fingerprint string // of the certificate, as the registry names it
	Reason      string // in words, some of which are RFC 5280's
	// May reports whether who asks may have it revoked; its error is a [*Refusal].
	May func(rec *device.Record, c *device.Certificate) error
}

// HoldersReason returns the words of package ca for a reason (RFC 5280 §5.3.1) that a
// certificate's holder can give. The CA's own end (2, 10) is not theirs to say, and
// nothing here is on hold (6) or comes back from it (8); 7 is not used.
func HoldersReason(code int) (words string, ok bool) {
	words, ok = map[int]string{0: "", 1: "key compromise", 3: "affiliation changed", 4: "superseded", 5: "cessation of operation", 9: "privilege withdrawn"}[code]
	return words, ok
}

// NotTheirs is the refusal of a certificate that is not who asks may have revoked, or
// that nobody here has: it does not say which.
func NotTheirs() *Refusal {
	return refuse(BadProof, "the certificate is not one of a device here, or who asks may not have it revoked")
}

// Revoke revokes one certificate of a device, for ever: in the registry first, where
// it ends the sessions that were begun with it before Revoke returns, then in the CA's
// database, for everybody else. The device stays what it is. The error is a
// [*Refusal], which is recorded, or wraps [device.ErrWithdrawn]; what was cut off
// between the two is completed by asking again. Of the request, Way, Proof, Remote and
// Listener count.
//
// It takes something away, and so is done even if it can not be recorded.
func (g *Registrar) Revoke(ctx context.Context, q *Request, r *Revocation) (*device.Record, error) {
	rec, err := g.revoke(ctx, q, r)
	if err == nil || errors.Is(err, device.ErrWithdrawn) {
		return rec, err
	}
	refused := *q
	if rec != nil {
		refused.ID = rec.ID
	}
	return nil, g.Refuse(ctx, &refused, err)
}

func (g *Registrar) revoke(ctx context.Context, q *Request, r *Revocation) (*device.Record, error) {
	rec, ok := g.cfg.Devices.ByFingerprint(r.Fingerprint)
	if !ok {
		return nil, NotTheirs()
	}
	if err := r.May(rec, rec.Certificate(r.Fingerprint)); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	g.noteRevocation(ctx, q, eventRevoking, rec, r)
	now, err := g.cfg.Devices.Withdraw(ctx, rec.ID, r.Fingerprint, r.Reason, r.May)
	done := errors.Is(err, device.ErrWithdrawn)
	if err != nil && !done {
		return rec, err
	}
	if now == nil {
		now = rec
	}
	serial := now.Certificate(r.Fingerprint).Serial
	if err := g.cfg.CA.Revoke(ctx, serial, cmp.Or(r.Reason, "unspecified")); err != nil && !errors.Is(err, ca.ErrUnknownSerial) {
		return now, fmt.Errorf("certificate %s of %s is revoked, but the CA does not know it: %w; ask again", serial, now.ID, err)
	}
	if done {
		return now, err
	}
	g.noteRevocation(ctx, q, eventRevoked, now, r)
	g.observe(q.Way, "revoked")
	return now, nil
}

// noteRevocation records what is about to be revoked, and what was, and waits until
// the record is durable.
func (g *Registrar) noteRevocation(ctx context.Context, q *Request, event string, rec *device.Record, r *Revocation) {
	a := g.record(q, event, rec)
	if o, ok := q.Proof.(Operator); ok {
		a.Operator = o.Person
	}
	a.Fingerprint = r.Fingerprint
	a.Detail = append(a.Detail, field("serial", rec.Certificate(r.Fingerprint).Serial), field("reason", cmp.Or(r.Reason, "unspecified")))
	err := g.cfg.Audit.Append(ctx, a)
	if err == nil {
		err = g.cfg.Audit.Flush(ctx)
	}
	if err != nil {
		g.cfg.Logger.Error("going on with a revocation that can not be recorded", "event", event, "device", rec.ID, "error", err)
	}
}
