package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"time"

	"github.com/smallstep/certificates/db"
	"github.com/smallstep/nosql"
)

// revokedTable is where the engine keeps revocations, by serial number. It has a
// call for whether one is there, and none for what it says.
const revokedTable = "revoked_x509_certs"

// A CertificateStatus is what the CA knows of a serial number.
type CertificateStatus struct {
	Certificate *x509.Certificate // nil if none of the intermediates signed one
	Issuer      *x509.Certificate // the one that did
	Revoked     bool
	RevokedAt   time.Time
	Reason      int // RFC 5280 §5.3.1
}

// Status returns what the CA knows of the certificate with a serial number, given
// in decimal.
func (a *Authority) Status(ctx context.Context, serial string) (*CertificateStatus, error) {
	s, err := a.status(ctx, serial)
	if err != nil {
		return nil, fmt.Errorf("look up certificate %.60s: %w", serial, err)
	}
	return s, nil
}

func (a *Authority) status(ctx context.Context, serial string) (*CertificateStatus, error) {
	if err := checkSerial(serial); err != nil {
		return nil, err
	}
	if err := a.enter(ctx); err != nil {
		return nil, err
	}
	defer a.leave()
	cert, err := a.db.GetCertificate(serial)
	if nosql.IsErrNotFound(err) {
		return &CertificateStatus{}, nil
	}
	if err != nil {
		return nil, err
	}
	t := a.trust.Load()
	i := t.of(cert)
	if i < 0 {
		return &CertificateStatus{}, nil
	}
	s := &CertificateStatus{Certificate: cert, Issuer: t.intermediates[i]}
	b, err := a.db.Get([]byte(revokedTable), []byte(serial))
	if nosql.IsErrNotFound(err) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	var info db.RevokedCertificateInfo
	if err := json.Unmarshal(b, &info); err != nil {
		return nil, err
	}
	s.Revoked, s.RevokedAt, s.Reason = true, info.RevokedAt.UTC(), info.ReasonCode
	return s, nil
}

// A Responder is who answers for the CA whether a certificate was revoked (RFC
// 6960 §4.2.2.2): a key that rests nowhere, and its certificate, which is good for
// nothing else.
type Responder struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// NewResponder issues the certificate of a responder that answers for an
// intermediate. It is not in the registry
// and can not be revoked (id-pkix-ocsp-nocheck), and so should live for a short
// time only.
func (a *Authority) NewResponder(ctx context.Context, issuer *x509.Certificate, ttl time.Duration) (*Responder, error) {
	r, err := a.delegate(ctx, issuer, ttl, &x509.Certificate{
		Subject: pkix.Name{CommonName: "OCSP responder"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: asn1.NullBytes}},
	})
	if err != nil {
		return nil, fmt.Errorf("issue the OCSP responder's certificate: %w", err)
	}
	return r, nil
}

// NewTimekeeper issues the certificate of who signs what time it is, for devices
// that have no clock: good for time stamping (RFC 3161 §2.3, critical and alone)
// and nothing else. It is not in the registry and should live for a short time only.
func (a *Authority) NewTimekeeper(ctx context.Context, ttl time.Duration) (*Responder, error) {
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return nil, err
	}
	r, err := a.delegate(ctx, a.issuer(), ttl, &x509.Certificate{
		Subject:         pkix.Name{CommonName: "Timekeeper"},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	})
	if err != nil {
		return nil, fmt.Errorf("issue the timekeeper's certificate: %w", err)
	}
	return r, nil
}

// cmcRA is the extended key usage of a registration authority (RFC 6402 §2.10).
var cmcRA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}

// NewRecipient issues the certificate of the RSA key that devices encrypt their
// requests to where a protocol wants that (RFC 8894 §2.1.3), and that answers are
// signed with. It is good for nothing else, in TLS least of all.
func (a *Authority) NewRecipient(ctx context.Context, key *rsa.PublicKey, ttl time.Duration) (*x509.Certificate, error) {
	cert, err := a.certify(ctx, a.issuer(), ttl, key, &x509.Certificate{
		Subject:  pkix.Name{CommonName: "SCEP registration authority"},
		KeyUsage: x509.KeyUsageKeyEncipherment, UnknownExtKeyUsage: []asn1.ObjectIdentifier{cmcRA},
	})
	if err != nil {
		return nil, fmt.Errorf("issue the certificate that requests are encrypted to: %w", err)
	}
	return cert, nil
}

// delegate issues a certificate that Issue does not: nobody's identity, for a key
// that rests nowhere.
func (a *Authority) delegate(ctx context.Context, issuer *x509.Certificate, ttl time.Duration, cert *x509.Certificate) (*Responder, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if cert, err = a.certify(ctx, issuer, ttl, key.Public(), cert); err != nil {
		return nil, err
	}
	return &Responder{Certificate: cert, Key: key}, nil
}

// certify issues a certificate that is nobody's identity and in no database. What is
// in it besides what each has, its template says.
func (a *Authority) certify(ctx context.Context, issuer *x509.Certificate, ttl time.Duration, key crypto.PublicKey, cert *x509.Certificate) (*x509.Certificate, error) {
	v, err := a.validityOf(&Request{Profile: Server, TTL: ttl}, issuer)
	if err != nil {
		return nil, err
	}
	if err := a.enter(ctx); err != nil {
		return nil, err
	}
	defer a.leave()
	t := a.trust.Load()
	i := t.place(issuer)
	if i < 0 || t.keys[i] == nil {
		return nil, fmt.Errorf("the key of %s is not here", issuer.Subject.CommonName)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	cert.Subject.Organization = []string{a.organisation}
	cert.NotBefore, cert.NotAfter = v.notBefore, v.notAfter
	cert.BasicConstraintsValid, cert.KeyUsage = true, cert.KeyUsage|x509.KeyUsageDigitalSignature
	if cert.SubjectKeyId, err = keyID(spki); err != nil {
		return nil, err
	}
	if cert.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, issuer, key, t.keys[i])
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
