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

// Name implements [Proof].
func (Certificate) Name() string { return "certificate" }

func (c Certificate) stand(_ context.Context, g *Registrar, _ *Request) (*standing, error) {
	id, err := g.Identify(c.Leaf)
	fp := fingerprint(c.Leaf)
	return &standing{
		id: id, renewal: true,
		request: func(csr *signingRequest) error { return csr.renewedNames(id) },
		check:   func(rec *device.Record) error { return inForce(rec, fp) },
	}, err
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

// Identify returns the id of the device whose certificate in force this is. If it
// is not in force it returns a [*Refusal], with the id if our CA signed it. It is as strict as a listener for devices: ours, a device's, in its
// validity, in the registry by fingerprint, not withdrawn, of an active device.
func (g *Registrar) Identify(leaf *x509.Certificate) (string, error) {
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
