package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// keepEnded is how long an intermediate stays known after its end: what it signed
// has ended with it, and lists that name it have, too.
const keepEnded = 30 * 24 * time.Hour

// minIntermediate is the least that must be left of an intermediate that is put
// into use: one that ends sooner would cut every certificate short.
const minIntermediate = 90 * 24 * time.Hour

// ErrRotation is wrapped by errors that say why a certificate can not be put into
// use as the intermediate.
var ErrRotation = errors.New("not a next intermediate")

func refuseNext(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRotation, fmt.Sprintf(format, args...))
}

// PrepareRotation makes the key of a next intermediate and returns a signing
// request for it, in DER. The key rests encrypted with the passphrase, which must be
// the present one, before it returns. Nothing else changes: an earlier key that was
// never put into use is forgotten, and what signs goes on signing.
func (a *Authority) PrepareRotation(ctx context.Context, passphrase []byte) (csr []byte, err error) {
	if csr, err = a.prepareRotation(ctx, passphrase); err != nil {
		return nil, fmt.Errorf("prepare a rotation: %w", err)
	}
	return csr, nil
}

func (a *Authority) prepareRotation(ctx context.Context, passphrase []byte) (csr []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a.rotating.Lock()
	defer a.rotating.Unlock()
	t := a.trust.Load()
	key, name, err := a.nextKey(t, passphrase)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	id, err := keyID(spki)
	if err != nil {
		return nil, err
	}
	if csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{a.organisation}, CommonName: "Anteroom Intermediate CA"},
	}, key); err != nil {
		return nil, err
	}
	if err := a.forgetPrepared(t); err != nil {
		return nil, err
	}
	a.reached("before the key")
	mine := &x509.Certificate{SubjectKeyId: id}
	if name != "" {
		err = durable.Create(filepath.Join(a.dir, kmsFileOf(mine)), []byte(name+"\n"), keyMode)
	} else {
		var data []byte
		if data, err = encryptKey(key.(*ecdsa.PrivateKey), passphrase); err == nil {
			err = durable.Create(filepath.Join(a.dir, keyFileOf(mine)), data, keyMode)
		}
	}
	if err != nil {
		return nil, err
	}
	a.reached("the key is written")
	return csr, durable.SyncDir(a.dir)
}

// nextKey makes a key: in the module if there is one, and then name says where.
func (a *Authority) nextKey(t *trust, passphrase []byte) (key crypto.Signer, name string, err error) {
	if a.module != nil {
		return a.newModuleKey()
	}
	// The next start reads all keys with one passphrase.
	check := &trust{intermediates: t.intermediates[:1], keys: make([]crypto.Signer, 1)}
	if err := a.readKeys(check, passphrase); err != nil {
		return nil, "", err
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return key, "", err
}

// forgetPrepared removes keys that belong to no intermediate.
func (a *Authority) forgetPrepared(t *trust) error {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, c := range t.intermediates {
		used[keyFileOf(c)], used[kmsFileOf(c)] = true, true
	}
	for _, e := range entries {
		if n := e.Name(); strings.HasPrefix(n, "intermediate-") && (strings.HasSuffix(n, ".key") || strings.HasSuffix(n, kmsEnding)) && !used[n] {
			if err := os.Remove(filepath.Join(a.dir, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// SignIntermediate signs the certificate of a next intermediate with a root's key:
// where that key is, which should not be where the gateway is. The request
// contributes its key and nothing else. Constrain permits URIs of the trust domain
// only, as [InitConfig] says.
func SignIntermediate(root *x509.Certificate, rootKey crypto.Signer, csr []byte, constrain bool, now time.Time) (*x509.Certificate, error) {
	c, err := signIntermediate(root, rootKey, csr, constrain, now)
	if err != nil {
		return nil, fmt.Errorf("sign an intermediate: %w", err)
	}
	return c, nil
}

func signIntermediate(root *x509.Certificate, rootKey crypto.Signer, csr []byte, constrain bool, now time.Time) (*x509.Certificate, error) {
	req, err := ParseCSR(csr)
	if err != nil {
		return nil, err
	}
	if !matches(rootKey, root) {
		return nil, fmt.Errorf("the key is not that of %s", root.Subject.CommonName)
	}
	if !root.IsCA || len(root.Subject.Organization) != 1 {
		return nil, errors.New("the root is no CA of anteroom's")
	}
	if now.Before(root.NotBefore) || now.After(root.NotAfter) {
		return nil, fmt.Errorf("the root is valid from %s to %s", root.NotBefore.Format(time.RFC3339), root.NotAfter.Format(time.RFC3339))
	}
	uri, err := onlyURI(root)
	if err != nil {
		return nil, err
	}
	trustDomain, ok := strings.CutPrefix(uri, scheme+"://")
	if !ok {
		return nil, errors.New("the root names no trust domain")
	}
	c := intermediateTemplate(trustDomain, root.Subject.Organization[0], constrain, now)
	if c.NotBefore.Before(root.NotBefore) {
		c.NotBefore = root.NotBefore
	}
	if c.NotAfter.After(root.NotAfter) {
		c.NotAfter = root.NotAfter
	}
	return signCA(c, root, req.PublicKey, rootKey)
}

// Rotate puts the certificate of a prepared key into use: from here on it signs,
// and what the former intermediates signed stays good and on their lists. The one
// step is the replacement of a file: whenever the process is killed, the next one has
// the former intermediate or this one, whole. Errors of the certificate wrap
// [ErrRotation], and change nothing.
//
// It is trusted before it signs. When trusted is called, which may be nil, it is among
// [Authority.Intermediates] and the former one signs: whoever verifies with a copy of
// those takes another, and no certificate comes that they do not know. If the rotation
// fails after that, trusted is called once more.
func (a *Authority) Rotate(ctx context.Context, next *x509.Certificate, passphrase []byte, trusted func()) error {
	if trusted == nil {
		trusted = func() {}
	}
	if err := a.rotate(ctx, next, passphrase, trusted); err != nil {
		return fmt.Errorf("rotate the intermediate: %w", err)
	}
	return nil
}

func (a *Authority) rotate(ctx context.Context, next *x509.Certificate, passphrase []byte, trusted func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.rotating.Lock()
	defer a.rotating.Unlock()
	now, old := a.clock(), a.trust.Load()
	if err := a.checkNext(next, old, now); err != nil {
		return err
	}
	list := []*x509.Certificate{next}
	for _, c := range old.intermediates {
		if now.Before(c.NotAfter.Add(keepEnded)) {
			list = append(list, c)
		}
	}
	t := old.with(old.roots, list)
	if _, err := t.check(a.trustDomain); err != nil {
		return refuseNext("%v", err)
	}
	key, original, err := a.keyOf(next, passphrase)
	if original {
		return refuseNext("it is not for the key that was prepared last")
	}
	if err != nil {
		return err
	}
	if !matches(key, next) {
		return refuseNext("it is not for the key that was prepared last")
	}
	t.keys[0] = key
	if err := a.foresee(old, next, key); err != nil {
		return err
	}
	trusted()
	if err := a.putTrust(t, intermediateFile, certPEM(list...)); err != nil {
		if a.trust.Load() != t {
			a.trust.Store(old)
			trusted()
		}
		return err
	}
	return nil
}

// foresee has an intermediate trusted that does not sign yet. Nothing of it rests
// anywhere: a process that is killed here has not begun.
func (a *Authority) foresee(old *trust, next *x509.Certificate, key crypto.Signer) error {
	t := old.with(old.roots, append(slices.Clone(old.intermediates), next))
	t.keys[len(t.keys)-1], t.engine = key, old.engine
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return ErrClosed
	}
	a.trust.Store(t)
	return nil
}

// putTrust replaces a file of certificates and then what is in use. When it returns
// an error, neither is changed, unless it says so.
func (a *Authority) putTrust(t *trust, file string, data []byte) error {
	path := filepath.Join(a.dir, file)
	tmp := filepath.Join(a.dir, "."+file+".next")
	a.reached("before the certificates")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := durable.Create(tmp, data, certMode); err != nil {
		return err
	}
	a.reached("the certificates are written beside")
	// Whoever issues is waited for, and nobody begins until all of it is done.
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errors.Join(ErrClosed, os.Remove(tmp))
	}
	before := a.trust.Load()
	if err := a.use(t); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		a.trust.Store(before)
		return errors.Join(err, os.Remove(tmp))
	}
	a.reached("the certificates are in place")
	if err := durable.SyncDir(a.dir); err != nil {
		return fmt.Errorf("it is in use, but may not survive a power failure: %w", err)
	}
	return nil
}

// checkNext refuses a certificate that is no next intermediate of this CA.
func (a *Authority) checkNext(c *x509.Certificate, old *trust, now time.Time) error {
	switch {
	case c == nil:
		return refuseNext("there is none")
	case old.place(c) == 0:
		return refuseNext("it is in use already")
	case old.place(c) > 0:
		return refuseNext("it was in use before")
	case !c.IsCA || !c.BasicConstraintsValid || c.KeyUsage&x509.KeyUsageCertSign == 0 || c.KeyUsage&x509.KeyUsageCRLSign == 0:
		return refuseNext("it is not a CA's that may sign certificates and lists")
	case !c.MaxPathLenZero || c.MaxPathLen != 0:
		return refuseNext("it may sign further CAs")
	case len(c.SubjectKeyId) < 8:
		return refuseNext("it has no key identifier")
	case now.Before(c.NotBefore):
		return refuseNext("it is not valid before %s", c.NotBefore.Format(time.RFC3339))
	case now.Add(minIntermediate).After(c.NotAfter):
		return refuseNext("it ends at %s, within %d days", c.NotAfter.Format(time.RFC3339), int(minIntermediate.Hours()/24))
	case len(c.Subject.Organization) != 1 || c.Subject.Organization[0] != a.organisation:
		return refuseNext("it is not of the organisation %q", a.organisation)
	}
	if slices.ContainsFunc(old.intermediates, func(o *x509.Certificate) bool { return ListName(o) == ListName(c) }) {
		return refuseNext("its key's identifier begins like a former one's")
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: old.rootPool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return refuseNext("no root of this CA signed it: %v", err)
	}
	return nil
}

// reached is for tests, which end the process there.
func (a *Authority) reached(step string) {
	if a.fault != nil {
		a.fault(step)
	}
}
