package admin

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// PreparedRotation is what a root has to sign for the next intermediate.
type PreparedRotation struct {
	CSR   []byte `json:"csr"`   // DER
	Roots []byte `json:"roots"` // PEM: those that may sign it
}

// CertificateRequest has a certificate put into use.
type CertificateRequest struct {
	Certificate []byte `json:"certificate"` // one, in PEM or DER
}

// certificate reads the one certificate of a request.
func (r *CertificateRequest) certificate() (*x509.Certificate, error) {
	data := r.Certificate
	if block, rest := pem.Decode(data); block != nil {
		if block.Type != "CERTIFICATE" || len(strings.TrimSpace(string(rest))) > 0 {
			return nil, fmt.Errorf("%w: it is not one certificate", ca.ErrRotation)
		}
		data = block.Bytes
	}
	c, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ca.ErrRotation, err)
	}
	return c, nil
}

// passphrase reads what the CA's keys are encrypted with.
func (s *Service) passphrase() ([]byte, error) {
	pass, err := s.cfg.State.Config().CA.Passphrase.Read()
	if err != nil {
		return nil, fmt.Errorf("CA passphrase: %w", err)
	}
	return pass, nil
}

// PrepareRotation makes the key of a next intermediate, and returns what a root's
// key has to sign. That key does not come here.
func (s *Service) PrepareRotation(ctx context.Context, a Actor, _ *struct{}) (*PreparedRotation, error) {
	pass, err := s.passphrase()
	if err != nil {
		return nil, err
	}
	defer clear(pass)
	csr, err := s.cfg.State.CA.PrepareRotation(ctx, pass)
	if err != nil {
		return nil, err
	}
	return &PreparedRotation{csr, s.cfg.State.CA.RootsPEM()}, s.commit(ctx, a, "ca.rotation.prepared", nil)
}

// Rotate puts the certificate of the prepared key into use. When it returns,
// devices that have one from the new intermediate are let in, and so are all others.
func (s *Service) Rotate(ctx context.Context, a Actor, req *CertificateRequest) (*AuthorityCertificate, error) {
	c, err := req.certificate()
	if err != nil {
		return nil, err
	}
	pass, err := s.passphrase()
	if err != nil {
		return nil, err
	}
	defer clear(pass)
	err = s.cfg.State.CA.Rotate(ctx, c, pass, s.trustChanged)
	return s.trusts(ctx, a, "ca.rotated", c, err)
}

// AddRoot has a further root trusted.
func (s *Service) AddRoot(ctx context.Context, a Actor, req *CertificateRequest) (*AuthorityCertificate, error) {
	c, err := req.certificate()
	if err != nil {
		return nil, err
	}
	err = s.cfg.State.CA.AddRoot(ctx, c)
	return s.trusts(ctx, a, "ca.root.added", c, err)
}

// RemoveRoot has a root trusted no more.
func (s *Service) RemoveRoot(ctx context.Context, a Actor, req *Name) (*AuthorityCertificate, error) {
	roots := s.cfg.State.CA.Roots()
	i := slices.IndexFunc(roots, func(c *x509.Certificate) bool { return strings.EqualFold(ca.Fingerprint(c), req.ID) })
	if i < 0 {
		return nil, fmt.Errorf("a root with the SHA-256 %.64s: %w", req.ID, device.ErrNotFound)
	}
	err := s.cfg.State.CA.RemoveRoot(ctx, roots[i])
	return s.trusts(ctx, a, "ca.root.removed", roots[i], err)
}

// trusts follows a change of whom the CA trusts.
func (s *Service) trusts(ctx context.Context, a Actor, event string, c *x509.Certificate, err error) (*AuthorityCertificate, error) {
	if err != nil {
		return nil, err
	}
	s.trustChanged()
	return authorityCertificate(c, event != "ca.rotated"), s.commit(ctx, a, event, nil,
		protocol.Field{Name: "name", Value: protocol.String(c.Subject.CommonName)},
		protocol.Field{Name: "fingerprint", Value: protocol.String(ca.Fingerprint(c))})
}

// trustChanged has the listeners of a running gateway verify against what the CA
// trusts now.
func (s *Service) trustChanged() {
	if s.cfg.Live != nil {
		s.cfg.Live.TrustChanged()
	}
}

func authorityCertificate(c *x509.Certificate, root bool) *AuthorityCertificate {
	return &AuthorityCertificate{Name: c.Subject.CommonName, Root: root, Serial: c.SerialNumber.String(),
		Fingerprint: ca.Fingerprint(c), NotAfter: c.NotAfter.UTC(), PEM: string(ca.CertPEM(c))}
}
