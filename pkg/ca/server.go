package ca

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/caddyserver/certmagic"
)

// A ServerIssuer issues the gateway's own certificates to certmagic, in the
// same process. It implements certmagic.Issuer and is safe for concurrent use.
//
// It signs whatever names the signing request holds, because the request comes
// from this process's own certmagic.Config. Nothing that a peer can reach may
// hand requests to it.
type ServerIssuer struct {
	authority *Authority
	ttl       time.Duration
	key       string
}

var _ certmagic.Issuer = (*ServerIssuer)(nil)

// ServerIssuer returns an issuer of server certificates with a lifetime.
func (a *Authority) ServerIssuer(ttl time.Duration) *ServerIssuer {
	return &ServerIssuer{authority: a, ttl: ttl, key: "anteroom-" + hex.EncodeToString(a.issuer().SubjectKeyId)}
}

// Issue issues a server certificate for the DNS names and IP addresses in a
// signing request, and returns it with the intermediate's in PEM form.
func (s *ServerIssuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	var names []string
	if csr != nil {
		names = append(names, csr.DNSNames...)
		for _, ip := range csr.IPAddresses {
			names = append(names, ip.String())
		}
	}
	issued, err := s.authority.Issue(ctx, Request{Profile: Server, CSR: csr, TTL: s.ttl, Names: names})
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: issued.ChainPEM}, nil
}

// IssuerKey names this CA in certmagic's storage: by the intermediate that signed
// when the issuer was made, so that certificates of a former CA that rest there are
// not taken for this one's. It stays when the intermediate is rotated, because
// certmagic looks for the certificate to renew under it.
func (s *ServerIssuer) IssuerKey() string { return s.key }
