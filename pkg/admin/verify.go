package admin

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
)

// VerifyRequest asks whether the CA is as it should be, and a certificate of it.
type VerifyRequest struct {
	Certificate []byte `json:"certificate,omitempty"` // PEM; what follows the first is passed over
}

// VerifyAuthority checks the CA's certificates and keys, its revocation lists, and
// a certificate if one is given.
func (s *Service) VerifyAuthority(ctx context.Context, _ Actor, req *VerifyRequest) ([]ca.Finding, error) {
	st, now := s.cfg.State, s.cfg.Clock()
	out, err := st.CA.Check(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range st.CA.Intermediates() {
		if now.After(c.NotAfter) {
			continue
		}
		f := ca.Finding{What: "revocation list of " + c.Subject.CommonName}
		if f.Note, err = s.listFresh(ctx, c, now); err != nil {
			f.Error = err.Error()
		}
		out = append(out, f)
	}
	if len(req.Certificate) == 0 {
		return out, nil
	}
	return append(out, s.verifyLeaf(ctx, req.Certificate, now)), nil
}

// listFresh checks the list in force as somebody else would.
func (s *Service) listFresh(ctx context.Context, issuer *x509.Certificate, now time.Time) (string, error) {
	l, err := s.cfg.State.Revocations.List(ctx, issuer)
	if err != nil {
		return "", err
	}
	crl, err := x509.ParseRevocationList(l.DER)
	if err != nil {
		return "", err
	}
	if err := crl.CheckSignatureFrom(issuer); err != nil {
		return "", err
	}
	if now.Before(crl.ThisUpdate) || !now.Before(crl.NextUpdate) {
		return "", fmt.Errorf("it is valid from %s to %s", crl.ThisUpdate.Format(time.RFC3339), crl.NextUpdate.Format(time.RFC3339))
	}
	return fmt.Sprintf("number %d, %d certificates, until %s", crl.Number, len(crl.RevokedCertificateEntries), crl.NextUpdate.UTC().Format(time.RFC3339)), nil
}

// verifyLeaf says what is true of a certificate: whose it is, and whether it is
// good here.
func (s *Service) verifyLeaf(ctx context.Context, data []byte, now time.Time) ca.Finding {
	f := ca.Finding{What: "certificate"}
	whose, err := s.leaf(ctx, data, now)
	if whose != "" {
		f.What += " of " + whose
	}
	if err != nil {
		f.Error = err.Error()
	}
	return f
}

func (s *Service) leaf(ctx context.Context, data []byte, now time.Time) (whose string, err error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("it is not a certificate in PEM form")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	a := s.cfg.State.CA
	st, err := a.Status(ctx, c.SerialNumber.String())
	switch {
	case err != nil:
		return "", err
	case st.Certificate == nil || !st.Certificate.Equal(c):
		return "", errors.New("this CA did not issue it")
	}
	id, err := ca.DeviceID(c, a.TrustDomain())
	if err != nil {
		// An operator's, or the gateway's own.
		opt := a.VerifyOptions(now)
		opt.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		if _, err := c.Verify(opt); err != nil {
			return c.Subject.CommonName, err
		}
		if st.Revoked {
			return c.Subject.CommonName, fmt.Errorf("it was revoked at %s", st.RevokedAt.Format(time.RFC3339))
		}
		return c.Subject.CommonName, nil
	}
	if _, err := a.VerifyDevice(c, now); err != nil {
		return id, err
	}
	rec, ok := s.cfg.State.Devices.Get(id)
	if !ok {
		return id, errors.New("no device of this id is in the registry")
	}
	have := rec.Certificate(ca.Fingerprint(c))
	switch {
	case have == nil:
		return id, errors.New("the registry does not have it, so that nobody gets in with it")
	case !have.RevokedAt.IsZero():
		return id, fmt.Errorf("it was revoked at %s", have.RevokedAt.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s, which is %s", id, rec.Status), nil
}
