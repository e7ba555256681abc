package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// A Root is a new root with its encrypted key, before anybody trusts it.
type Root struct {
	Certificate *x509.Certificate
	KeyPEM      []byte // encrypted
}

// NewRoot makes a root for a trust domain, as [Init] does: where its key shall be,
// which should not be where the gateway is.
func NewRoot(trustDomain, organisation string, passphrase []byte, now time.Time) (*Root, error) {
	cfg := InitConfig{Dir: "-", TrustDomain: trustDomain, Organisation: organisation, Passphrase: passphrase}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("make a root: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a root: %w", err)
	}
	c := caTemplate("Root", trustDomain, organisation, rootYears, 1, now)
	r := &Root{}
	if r.Certificate, err = signCA(c, c, key.Public(), key); err != nil {
		return nil, fmt.Errorf("make a root: %w", err)
	}
	if r.KeyPEM, err = encryptKey(key, passphrase); err != nil {
		return nil, fmt.Errorf("make a root: %w", err)
	}
	return r, nil
}

// CertPEM returns certificates in PEM form.
func CertPEM(certs ...*x509.Certificate) []byte { return certPEM(certs...) }

// AddRoot has a further root trusted, beside those there are: the next intermediate
// may be signed by it. What is handed out as the roots has it from here on.
func (a *Authority) AddRoot(ctx context.Context, root *x509.Certificate) error {
	if err := a.addRoot(ctx, root); err != nil {
		return fmt.Errorf("trust a root: %w", err)
	}
	return nil
}

func (a *Authority) addRoot(ctx context.Context, root *x509.Certificate) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.rotating.Lock()
	defer a.rotating.Unlock()
	old, now := a.trust.Load(), a.clock()
	switch {
	case root == nil:
		return refuseNext("there is no certificate")
	case slices.ContainsFunc(old.roots, root.Equal):
		return refuseNext("it is trusted already")
	case !root.IsCA || !root.BasicConstraintsValid || root.CheckSignatureFrom(root) != nil || !bytes.Equal(root.RawIssuer, root.RawSubject):
		return refuseNext("it is not a root: a CA's certificate that its own key signed")
	case now.Before(root.NotBefore) || now.After(root.NotAfter):
		return refuseNext("it is valid from %s to %s", root.NotBefore.Format(time.RFC3339), root.NotAfter.Format(time.RFC3339))
	case len(root.Subject.Organization) != 1 || root.Subject.Organization[0] != a.organisation:
		return refuseNext("it is not of the organisation %q", a.organisation)
	}
	if uri, err := onlyURI(root); err != nil || uri != scheme+"://"+a.trustDomain {
		return refuseNext("it is not for the trust domain %s", a.trustDomain)
	}
	if err := checkKey(root.PublicKey); err != nil {
		return refuseNext("%v", err)
	}
	t := old.with(append(slices.Clone(old.roots), root), old.intermediates)
	return a.putTrust(t, rootFile, certPEM(t.roots...))
}

// with returns a trust with other certificates, and the keys of those that stay.
func (t *trust) with(roots, intermediates []*x509.Certificate) *trust {
	next := newTrust(roots, intermediates)
	for i, c := range intermediates {
		if at := t.place(c); at >= 0 {
			next.keys[i] = t.keys[at]
			if at == t.original {
				next.original = i
			}
		}
	}
	return next
}

// RemoveRoot has a root trusted no more. It is refused while an intermediate that
// has not ended chains to no other.
func (a *Authority) RemoveRoot(ctx context.Context, root *x509.Certificate) error {
	if err := a.removeRoot(ctx, root); err != nil {
		return fmt.Errorf("trust a root no more: %w", err)
	}
	return nil
}

func (a *Authority) removeRoot(ctx context.Context, root *x509.Certificate) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.rotating.Lock()
	defer a.rotating.Unlock()
	old, now := a.trust.Load(), a.clock()
	at := slices.IndexFunc(old.roots, root.Equal)
	if at < 0 {
		return refuseNext("it is not trusted")
	}
	roots := slices.Delete(slices.Clone(old.roots), at, at+1)
	var live []*x509.Certificate
	for i, c := range old.intermediates {
		_, err := c.Verify(x509.VerifyOptions{Roots: pool(roots), CurrentTime: c.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil && i == 0 {
			return refuseNext("%s, which signs, chains to no other root", c.Subject.CommonName)
		}
		if err != nil && !now.After(c.NotAfter) {
			return refuseNext("%s, which ends %s, chains to no other root: until then certificates it signed need this one", c.Subject.CommonName, c.NotAfter.Format(time.RFC3339))
		}
		if err == nil {
			live = append(live, c)
		}
	}
	// Intermediates that have ended go first: each step leaves what belongs together.
	if len(live) < len(old.intermediates) {
		if err := a.putTrust(old.with(old.roots, live), intermediateFile, certPEM(live...)); err != nil {
			return err
		}
	}
	t := old.with(roots, live)
	return a.putTrust(t, rootFile, certPEM(t.roots...))
}
