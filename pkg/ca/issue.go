package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// minTTL is the shortest lifetime that can be asked for; certificates count
// in whole seconds.
const minTTL = time.Second

// ErrIntermediateEnded is wrapped by the error of [Authority.Issue] when the
// intermediate's own validity is over, or does not begin yet.
var ErrIntermediateEnded = errors.New("the intermediate CA certificate is outside its validity")

// A Request asks for a certificate.
type Request struct {
	Profile Profile
	ID      string                   // device id or operator name; empty for Server
	CSR     *x509.CertificateRequest // parsed; only its key counts
	// Key is in place of CSR a key whose holder has just proved to have it: by a
	// signing request that [ParseCSR] has verified, or in a TLS handshake, for
	// protocols that renew without a signing request. Exactly one of the two is given.
	Key crypto.PublicKey
	// TTL is how long the certificate is valid from now. Policy on how long
	// that may be is the caller's; the end of the intermediate is this
	// package's: past it, a certificate is cut short.
	TTL   time.Duration
	Names []string // Server only: DNS names and IP addresses
	// Backdate is how far not-before lies in the past; nil means as the CA was opened.
	Backdate *time.Duration
}

// Issued is a new certificate.
type Issued struct {
	Leaf     *x509.Certificate
	Chain    []*x509.Certificate // leaf, intermediate
	ChainPEM []byte              // the same, as files and TLS stacks want it
	// CutShort says that the lifetime asked for would have outlived the
	// intermediate, and that the certificate ends with it instead.
	CutShort bool
}

// Issue issues a certificate. It is the only way to one. The certificate is on
// stable storage before Issue returns it.
//
// A lifetime that would outlive the intermediate is cut short rather than
// refused: in the last years of an intermediate a device still gets a
// certificate, and CutShort and a warning in the log say so.
func (a *Authority) Issue(ctx context.Context, r Request) (*Issued, error) {
	issued, err := a.issue(ctx, &r)
	if err != nil {
		who := r.ID
		if r.Profile == Server {
			who = fmt.Sprintf("%.200q", r.Names)
		}
		return nil, fmt.Errorf("issue %s certificate for %.220s: %w", r.Profile, who, err)
	}
	return issued, nil
}

func (a *Authority) issue(ctx context.Context, r *Request) (*Issued, error) {
	key, spki, err := r.subject()
	if err != nil {
		return nil, err
	}
	want, err := a.contentOf(r, key)
	if err != nil {
		return nil, err
	}
	ski, err := keyID(spki)
	if err != nil {
		return nil, err
	}
	if err := a.enter(ctx); err != nil {
		return nil, err
	}
	defer a.leave()
	// Until leave no other intermediate takes over.
	t := a.trust.Load()
	v, err := a.validityOf(r, t.issuing())
	if err != nil {
		return nil, err
	}
	cert, err := want.fill(a.templates[r.Profile])
	if err != nil {
		return nil, err
	}
	if err := want.check(cert); err != nil {
		return nil, fmt.Errorf("the template made another certificate than its profile: %w", err)
	}
	cert.NotBefore, cert.NotAfter = v.notBefore, v.notAfter
	cert.PublicKey, cert.SubjectKeyId = key, ski
	cert.CRLDistributionPoints, cert.OCSPServer = urls(t.listURL(a.crl, 0)), urls(a.ocsp)
	if cert.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	chain, err := t.sign(cert)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(chain[0].RawSubjectPublicKeyInfo, spki) {
		return nil, errors.New("the engine made a certificate for another key")
	}
	if err := a.db.StoreCertificateChain(nil, chain...); err != nil {
		return nil, fmt.Errorf("write it to the database: %w", err)
	}
	if v.cutShort {
		a.log.Warn("certificate cut short: it would have outlived the intermediate CA certificate",
			"profile", r.Profile.String(), "id", r.ID, "not_after", v.notAfter)
	}
	return &Issued{Leaf: chain[0], Chain: chain, ChainPEM: certPEM(chain...), CutShort: v.cutShort}, nil
}

// urls is what a certificate says of a place that may be none.
func urls(u string) []string {
	if u == "" {
		return nil
	}
	return []string{u}
}

// subject returns the key that the certificate is for, once whoever asks is known to
// have it.
func (r *Request) subject() (key crypto.PublicKey, spki []byte, err error) {
	if key = r.Key; key == nil {
		csr, err := ownCSR(r.CSR)
		if err != nil {
			return nil, nil, err
		}
		key = csr.PublicKey
	} else if r.CSR != nil {
		return nil, nil, errors.New("both a signing request and a key are given")
	}
	if err := checkKey(key); err != nil {
		return nil, nil, err
	}
	// As the certificate will have it, however it was written in the request.
	if spki, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return nil, nil, refuseCSR("the key can not be written: %v", err)
	}
	return key, spki, nil
}

type validity struct {
	notBefore, notAfter time.Time
	cutShort            bool
}

func (a *Authority) validityOf(r *Request, ca *x509.Certificate) (v validity, err error) {
	if r.TTL < minTTL {
		return v, fmt.Errorf("lifetime %v is shorter than %v", r.TTL, minTTL)
	}
	now := a.clock().UTC()
	if now.Before(ca.NotBefore) || !now.Before(ca.NotAfter) {
		return v, fmt.Errorf("%w (%s to %s)", ErrIntermediateEnded,
			ca.NotBefore.Format(time.RFC3339), ca.NotAfter.Format(time.RFC3339))
	}
	backdate := a.backdate
	if r.Backdate != nil {
		if backdate = *r.Backdate; backdate < 0 {
			return v, fmt.Errorf("back-dating by %v", backdate)
		}
	}
	if r.Profile == Server {
		// What renews server certificates measures from not-before: back-dated
		// by more than its lifetime, a certificate is due for renewal at birth.
		backdate = min(backdate, r.TTL)
	}
	v.notBefore = now.Add(-backdate).Truncate(time.Second)
	if v.notBefore.Before(ca.NotBefore) {
		v.notBefore = ca.NotBefore
	}
	v.notAfter = now.Add(r.TTL).Truncate(time.Second)
	if v.notAfter.After(ca.NotAfter) {
		v.notAfter, v.cutShort = ca.NotAfter, true
	}
	return v, nil
}
