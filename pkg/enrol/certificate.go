package enrol

import (
	"bytes"
	"context"
	"crypto/x509"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// A Certificate proves by the certificate in force that the device showed in the
// TLS handshake: whoever calls has that handshake's word that the device holds
// the key, and nothing else of it.
type Certificate struct{ Leaf *x509.Certificate }

// A Signature proves by a certificate like [Certificate]; in place of a handshake
// there is a message that was signed with the key. Anybody who has seen the message
// can send it again, and is given what it brought the first time.
type Signature struct{ Certificate }

// Name implements [Proof].
func (Certificate) Name() string { return "certificate" }

func (c Certificate) stand(_ context.Context, g *Registrar, _ *Request) (*standing, error) {
	id, err := g.identify(c.Leaf)
	fp := fingerprint(c.Leaf)
	return &standing{
		id: id, renewal: true,
		request: func(csr *signingRequest) error { return csr.renewedNames(id) },
		check:   func(rec *device.Record) error { return inForce(rec, fp) },
	}, err
}

func (s Signature) stand(ctx context.Context, g *Registrar, q *Request) (*standing, error) {
	st, err := s.Certificate.stand(ctx, g, q)
	st.request = func(csr *signingRequest) (err error) {
		if err := csr.madeOutTo(st.id); err != nil {
			return err
		}
		if err := csr.renewedNames(st.id); err != nil {
			return err
		}
		st.issued, err = g.following(ctx, st.id, fingerprint(s.Leaf), csr.key, q.Way)
		return err
	}
	return st, err
}

// following returns the certificate in force that a device was given by a way and
// for a key after the one with a fingerprint, or nil.
func (g *Registrar) following(ctx context.Context, id, fp, key string, way Way) (*x509.Certificate, error) {
	rec, ok := g.cfg.Devices.Get(id)
	if !ok {
		return nil, nil
	}
	for i := len(rec.Certificates) - 1; i >= 0 && rec.Certificates[i].Fingerprint != fp; i-- {
		c := &rec.Certificates[i]
		if c.Key != key || c.Way != string(way) || !c.RevokedAt.IsZero() || !g.cfg.Clock().Before(c.NotAfter) {
			continue
		}
		status, err := g.cfg.CA.Status(ctx, c.Serial)
		if err != nil {
			return nil, err
		}
		if leaf := status.Certificate; leaf != nil && !status.Revoked && fingerprint(leaf) == c.Fingerprint {
			return leaf, nil
		}
	}
	return nil, nil
}

// ProofOf returns the proof that a certificate is whose holder proved to have its
// key: the device's own of our CA, or its manufacturer's. Which of the two says
// nothing yet; either is checked as strictly.
func (g *Registrar) ProofOf(makers *Makers, leaf *x509.Certificate, chain []*x509.Certificate) Proof {
	for _, c := range g.Authorities() {
		if bytes.Equal(c.RawSubject, leaf.RawIssuer) {
			return Certificate{leaf}
		}
	}
	if makers == nil || len(makers.list) == 0 {
		return Certificate{leaf}
	}
	return Factory{makers, leaf, chain}
}

// identify returns the id of the device whose certificate in force this is. If it
// is not in force it returns a [*Refusal], with the id if our CA signed it. It is as strict as a listener for devices: ours, a device's, in its
// validity, in the registry by fingerprint, not withdrawn, of an active device.
func (g *Registrar) identify(leaf *x509.Certificate) (string, error) {
	id, err := g.cfg.CA.VerifyDevice(leaf, g.cfg.Clock())
	if err != nil {
		return "", &Refusal{Code: BadProof, Why: "the certificate is not one of a device here that is in its validity", err: err}
	}
	rec, ok := g.cfg.Devices.Get(id)
	if !ok {
		return id, refuse(NoRecord, "%s: %w", id, device.ErrNotFound)
	}
	return id, inForce(rec, fingerprint(leaf))
}

// inForce reports whether a certificate is one that its device may use.
func inForce(rec *device.Record, fp string) error {
	c := rec.Certificate(fp)
	switch {
	case c == nil:
		return refuse(BadProof, "the registry does not know this certificate of %s", rec.ID)
	case !c.RevokedAt.IsZero():
		return refuse(BadProof, "this certificate of %s was revoked", rec.ID)
	}
	return renewable(rec)
}
