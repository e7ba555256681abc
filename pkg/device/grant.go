package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// mostCertificates is how many certificates a record keeps that are of no use
// any more, before those that have ended are forgotten.
const mostCertificates = 16

// ErrStatus is wrapped by the error for a device whose status lets it have no
// certificate.
var ErrStatus = errors.New("its status lets it have no certificate")

// A Grant is a certificate that a device is to be given.
type Grant struct {
	ID          string
	Certificate Certificate
	// New is what is known of a device that is not in the registry yet; nil means
	// that it must be.
	New *Record
	// Again gives a revoked device a new life. Its former certificates stay
	// withdrawn.
	Again bool
	// Check is given a copy of the record to look at and to change, but for id,
	// status, certificates and times; its error grants nothing. It is not called
	// for a new device. It runs while other changes wait, on whichever goroutine
	// makes them, and must not use the registry to make one.
	Check func(*Record) error
	// Also is written with the change or not at all; its error grants nothing. It may
	// be called again when what it wrote was undone for another change's sake.
	Also func(store.Writer) error
}

// Grant gives a device a certificate: the one change by which it gets one. The
// device is active afterwards. It must be new, pending or active before, or
// revoked with Again; in quarantine a device gets none. When Grant returns,
// certificate, status and what Also wrote are durable, or none of them is.
func (g *Registry) Grant(ctx context.Context, gr Grant) (*Record, error) {
	return g.one(ctx, gr.ID, gr.Also, func() (old, new *Record, err error) {
		old, _ = g.Get(gr.ID)
		new, err = gr.on(old, g.now().UTC())
		return old, new, err
	})
}

// on returns what becomes of a record; old is nil if there is none.
func (gr *Grant) on(old *Record, now time.Time) (*Record, error) {
	var r *Record
	switch {
	case old == nil && gr.New == nil:
		return nil, fmt.Errorf("%s: %w", gr.ID, ErrNotFound)
	case old == nil:
		r = gr.New.clone()
		r.ID, r.Certificates = gr.ID, nil
		r.Status, r.StatusReason, r.CreatedAt, r.StatusAt = Active, "", now, now
	default:
		r = old.clone()
		if err := mayHave(r, gr.Again, now); err != nil {
			return nil, err
		}
		if gr.Check != nil {
			if err := gr.Check(r); err != nil {
				return nil, err
			}
			r.ID, r.Status, r.StatusReason = old.ID, old.Status, old.StatusReason
			r.StatusAt, r.RevokedAt, r.CreatedAt, r.Certificates = old.StatusAt, old.RevokedAt, old.CreatedAt, slices.Clone(old.Certificates)
		}
		switch r.Status {
		case Pending:
			r.Status, r.StatusReason, r.StatusAt = Active, "enrolled", now
		case Revoked:
			r.Status, r.StatusReason, r.StatusAt = Active, "enrolled anew", now
		}
	}
	if len(r.Certificates) >= mostCertificates {
		r.Certificates = slices.DeleteFunc(r.Certificates, func(c Certificate) bool { return !c.NotAfter.After(now) })
	}
	r.Certificates = append(r.Certificates, gr.Certificate)
	return r, nil
}

// mayHave reports whether a device may be given a certificate.
func mayHave(r *Record, again bool, now time.Time) error {
	switch {
	case r.CutOff(now):
		return fmt.Errorf("%s: %s: %w", r.ID, OverdueReason, ErrStatus)
	case r.Status == Pending, r.Status == Active, r.Status == Revoked && again:
		return nil
	}
	return fmt.Errorf("%s is %s: %w", r.ID, r.Status, ErrStatus)
}
