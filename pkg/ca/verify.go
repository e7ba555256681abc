package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Roots returns the root certificates, at least one.
func (a *Authority) Roots() []*x509.Certificate { return slices.Clone(a.trust.Load().roots) }

// Intermediates returns the intermediate certificates: the one that signs,
// then former ones.
func (a *Authority) Intermediates() []*x509.Certificate {
	return slices.Clone(a.trust.Load().intermediates)
}

// RootsPEM returns the root certificates in PEM form: what a device is given to
// check the gateway against.
func (a *Authority) RootsPEM() []byte { return certPEM(a.trust.Load().roots...) }

// Pool returns pools of the roots and of the intermediates, the caller's own.
func (a *Authority) Pool() (roots, intermediates *x509.CertPool) {
	t := a.trust.Load()
	return t.rootPool.Clone(), t.pool.Clone()
}

// ClientCAs returns the pool for tls.Config.ClientCAs. It holds the
// intermediates beside the roots, because crypto/tls verifies with the
// certificates the device sent and this pool only, and many devices send no
// more than their own certificate.
func (a *Authority) ClientCAs() *x509.CertPool {
	t := a.trust.Load()
	p := t.rootPool.Clone()
	for _, c := range t.intermediates {
		p.AddCert(c)
	}
	return p
}

// VerifyOptions returns the options with which a device's or operator's
// certificate is verified at a time: our roots, our intermediates, client
// authentication. Its pools are shared and must not be changed.
func (a *Authority) VerifyOptions(now time.Time) x509.VerifyOptions {
	t := a.trust.Load()
	return x509.VerifyOptions{
		Roots: t.rootPool, Intermediates: t.pool, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// VerifyDevice verifies a device's certificate at a time and returns the
// device's id. The certificates a device sends beside its own are not asked
// for: every intermediate that counts is here already, and a chain through any
// other is none of ours.
//
// It does not look into the CA's list of revocations or the registry.
func (a *Authority) VerifyDevice(leaf *x509.Certificate, now time.Time) (id string, err error) {
	if err := a.verifyClient(leaf, now); err != nil {
		return "", fmt.Errorf("verify device certificate: %w", err)
	}
	return DeviceID(leaf, a.trustDomain)
}

// VerifyOperator is to operators what [Authority.VerifyDevice] is to devices.
func (a *Authority) VerifyOperator(leaf *x509.Certificate, now time.Time) (name string, err error) {
	if err := a.verifyClient(leaf, now); err != nil {
		return "", fmt.Errorf("verify operator certificate: %w", err)
	}
	return OperatorName(leaf, a.trustDomain)
}

func (a *Authority) verifyClient(leaf *x509.Certificate, now time.Time) error {
	if leaf == nil {
		return errors.New("no certificate")
	}
	if leaf.IsCA {
		return errors.New("it is a CA's certificate")
	}
	_, err := leaf.Verify(a.VerifyOptions(now))
	return err
}

// ChainOf returns a certificate of this CA with that of the intermediate that
// signed it, as a peer is to be sent them.
func (a *Authority) ChainOf(leaf *x509.Certificate) []*x509.Certificate {
	t := a.trust.Load()
	if i := t.of(leaf); i >= 0 {
		return []*x509.Certificate{leaf, t.intermediates[i]}
	}
	return []*x509.Certificate{leaf}
}

// Root returns the root that certificates issued now chain to.
func (a *Authority) Root() *x509.Certificate {
	t := a.trust.Load()
	for _, r := range t.roots {
		if t.issuing().CheckSignatureFrom(r) == nil {
			return r
		}
	}
	return t.roots[0]
}
