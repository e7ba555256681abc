package enrol

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// expired proves by a certificate that has ended, for a device that lay on a shelf
// while it did. It is a [Certificate] in every request; [Registrar.Enrol] tells
// the two apart by the clock. It renews and does nothing else, at the enrolment
// listener and nowhere else, for as long after its end as the device's class may.
//
// What stands in for the end that has passed: it must be the latest certificate
// the registry has of the device. A copy of an older key, from a backup or a
// board that was sold, ended for good when the next certificate was issued.
type expired struct {
	Certificate
	signed bool // it is a [Signature]
}

// Name implements [Proof]. It is another than a certificate's that is in force,
// so that rules which know only of those allow none of these.
func (expired) Name() string { return "expired-certificate" }

// proof returns what a request proves by.
func (g *Registrar) proof(q *Request) Proof {
	c, ok := q.Proof.(Certificate)
	s, signed := q.Proof.(Signature)
	if signed {
		c, ok = s.Certificate, true
	}
	if !ok || c.Leaf == nil || g.cfg.Clock().Before(c.Leaf.NotAfter) {
		return q.Proof
	}
	return expired{c, signed}
}

func (e expired) stand(ctx context.Context, g *Registrar, q *Request) (*standing, error) {
	if q.Listener != config.EnrolmentListener {
		return nil, notHere()
	}
	// Verified at its last moment: whose it is does not change with its end.
	id, err := g.cfg.CA.VerifyDevice(e.Leaf, e.Leaf.NotAfter)
	if err != nil {
		return nil, &Refusal{Code: BadProof, Why: notHere().Why, err: err}
	}
	rec, ok := g.cfg.Devices.Get(id)
	if !ok {
		return &standing{id: id}, refuse(NoRecord, "%s: %w", id, device.ErrNotFound)
	}
	st := &standing{id: id, renewal: true, detail: []protocol.Field{field("expired_at", e.Leaf.NotAfter.UTC().Format(time.RFC3339))}}
	fp := fingerprint(e.Leaf)
	st.check = func(rec *device.Record) error {
		if err := inForce(rec, fp); err != nil {
			return err
		}
		if err := g.within(rec, e.Leaf.NotAfter); err != nil {
			return err
		}
		return latest(rec, fp)
	}
	st.request = func(csr *signingRequest) error {
		if e.signed {
			if err := csr.madeOutTo(id); err != nil {
				return err
			}
		}
		if err := csr.renewedNames(id); err != nil {
			return err
		}
		st.issued, err = g.renewedBy(ctx, rec, e.Leaf, csr.key)
		return err
	}
	if err := inForce(rec, fp); err != nil {
		return st, err
	}
	// What was given for this certificate before may be asked for again; what else
	// is wrong with it is for check to say, when the key is known.
	return st, g.within(rec, e.Leaf.NotAfter)
}

func notHere() *Refusal {
	return refuse(BadProof, "the certificate is not one of a device here that is in its validity")
}

// within reports whether a certificate that has ended may still renew itself.
func (g *Registrar) within(rec *device.Record, ended time.Time) error {
	e := g.cfg.Settings().Enrolment
	grace, ok := e.ClassGrace[rec.Class]
	if !ok {
		grace = e.Grace
	}
	if !g.cfg.Clock().After(ended.Add(grace.D())) {
		return nil
	}
	why := fmt.Sprintf("the certificate of %s ended at %s", rec.ID, ended.UTC().Format(time.RFC3339))
	if grace == 0 {
		return refuse(BadProof, "%s, and devices of class %s do not renew after that (enrolment.class_grace): an operator renews it", why, rec.Class)
	}
	return refuse(BadProof, "%s, and devices of class %s renew for %v after that (enrolment.class_grace): an operator renews it", why, rec.Class, grace)
}

// latest reports whether a certificate is the last one that the device was given.
func latest(rec *device.Record, fp string) error {
	if n := len(rec.Certificates); rec.Certificates[n-1].Fingerprint != fp {
		return refuse(BadProof, "%s has ended, and %s was given another certificate after it: an operator renews it",
			"certificate "+rec.Certificate(fp).Serial, rec.ID)
	}
	return nil
}

// renewedBy returns the certificate that this one and this key were given before,
// if it is the device's latest: its answer was lost on the way. Without it a
// device whose connection broke would have superseded itself.
func (g *Registrar) renewedBy(ctx context.Context, rec *device.Record, old *x509.Certificate, key string) (*x509.Certificate, error) {
	n := len(rec.Certificates)
	if n < 2 || rec.Certificates[n-2].Fingerprint != fingerprint(old) {
		return nil, nil
	}
	c := rec.Certificates[n-1]
	if c.Key != key || !c.RevokedAt.IsZero() || !c.IssuedAt.After(old.NotAfter) || !g.cfg.Clock().Before(c.NotAfter) {
		return nil, nil
	}
	status, err := g.cfg.CA.Status(ctx, c.Serial)
	if err != nil {
		return nil, err
	}
	if leaf := status.Certificate; leaf != nil && !status.Revoked && fingerprint(leaf) == c.Fingerprint {
		return leaf, nil
	}
	return nil, nil
}
