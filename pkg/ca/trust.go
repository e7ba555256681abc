package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"
	"go.step.sm/crypto/pemutil"
)

// A trust is whom a CA trusts and signs with. It is never changed once it is in
// use: a rotation makes another.
type trust struct {
	roots         []*x509.Certificate
	intermediates []*x509.Certificate // the first one signs, the others did
	rootPool      *x509.CertPool
	pool          *x509.CertPool // of the intermediates
	// keys are those of the intermediates, in their order. The first one is there;
	// without one of the others nobody signs that one's revocation list any more.
	keys []crypto.Signer
	// original is the place of the intermediate that Init made, or -1.
	original int
	engine   *authority.Authority
}

// readTrust reads the certificates in a CA's directory.
func readTrust(dir string) (*trust, error) {
	roots, err := readCerts(filepath.Join(dir, rootFile))
	if err != nil {
		return nil, err
	}
	intermediates, err := readCerts(filepath.Join(dir, intermediateFile))
	if err != nil {
		return nil, err
	}
	return newTrust(roots, intermediates), nil
}

func newTrust(roots, intermediates []*x509.Certificate) *trust {
	return &trust{roots: roots, intermediates: intermediates, rootPool: pool(roots), pool: pool(intermediates),
		keys: make([]crypto.Signer, len(intermediates)), original: -1}
}

func (t *trust) issuing() *x509.Certificate { return t.intermediates[0] }

// sign has the first intermediate sign what a certificate is to be, and returns it and
// the intermediate's.
//
// It is the step of [authority.Authority.SignWithContext] that does so, with the check of
// name constraints, which is left to who would check them. The steps before are for
// provisioners, which there are none of, and would verify a signing request twice that
// was verified when it was read.
func (t *trust) sign(cert *x509.Certificate) ([]*x509.Certificate, error) {
	engine := softcas.SoftCAS{CertificateChain: t.intermediates[:1:1], Signer: t.keys[0]}
	out, err := engine.CreateCertificate(&apiv1.CreateCertificateRequest{Template: cert, Lifetime: cert.NotAfter.Sub(cert.NotBefore)})
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(slices.Concat(t.intermediates[:1], t.roots), constrained) {
		at := x509.VerifyOptions{Roots: t.rootPool, Intermediates: t.pool, CurrentTime: out.Certificate.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
		if _, err := out.Certificate.Verify(at); err != nil {
			return nil, fmt.Errorf("nobody would take it: %w", err)
		}
	}
	return append([]*x509.Certificate{out.Certificate}, out.CertificateChain...), nil
}

// constrained reports whether a CA's certificate says which names there may be below it
// (RFC 5280 §4.2.1.10).
func constrained(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) })
}

// of returns the place of the intermediate that signed a certificate, or -1.
func (t *trust) of(leaf *x509.Certificate) int {
	for i, c := range t.intermediates {
		if bytes.Equal(leaf.AuthorityKeyId, c.SubjectKeyId) {
			return i
		}
	}
	return -1
}

// place returns the place of an intermediate, or -1.
func (t *trust) place(c *x509.Certificate) int {
	for i, have := range t.intermediates {
		if have.Equal(c) {
			return i
		}
	}
	return -1
}

// check checks that the certificates belong together and are for a trust domain,
// and returns the organisation they name. Expiry is no reason not to open: revoking
// must still work.
func (t *trust) check(trustDomain string) (organisation string, err error) {
	for i, c := range t.intermediates {
		// Verified at a time within its validity, so that age is no matter here.
		if _, err := c.Verify(x509.VerifyOptions{
			Roots: t.rootPool, Intermediates: t.pool,
			CurrentTime: c.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		}); err != nil {
			return "", fmt.Errorf("%s: certificate %d does not chain to a root in %s: %w", intermediateFile, i+1, rootFile, err)
		}
		if !c.IsCA {
			return "", fmt.Errorf("%s: certificate %d is not a CA's", intermediateFile, i+1)
		}
	}
	uri, err := onlyURI(t.issuing())
	if err != nil {
		return "", fmt.Errorf("%s: %w", intermediateFile, err)
	}
	if want := scheme + "://" + trustDomain; uri != want {
		return "", fmt.Errorf("the CA was made for trust domain %q, not for %q", uri, want)
	}
	if o := t.issuing().Subject.Organization; len(o) == 1 {
		return o[0], nil
	}
	return "", fmt.Errorf("%s: the certificate names no organisation", intermediateFile)
}

// keyFileOf names the file of a rotated intermediate's key. Its name comes from
// the key, so that the one step of a rotation is to replace the certificates.
func keyFileOf(c *x509.Certificate) string {
	return "intermediate-" + hex.EncodeToString(c.SubjectKeyId[:min(len(c.SubjectKeyId), 8)]) + ".key"
}

// readKeys reads the keys of the intermediates. That of the issuing one must be
// there; that of a former one is for its revocation list.
func (a *Authority) readKeys(t *trust, passphrase []byte) error {
	for i, c := range t.intermediates {
		if i > 0 && a.clock().After(c.NotAfter) {
			continue // so are all that it signed
		}
		key, original, err := a.keyOf(c, passphrase)
		if err == nil && !matches(key, c) {
			which := "the first certificate"
			if i > 0 {
				which = fmt.Sprintf("certificate %d", i+1)
			}
			err = fmt.Errorf("the key that is there does not belong to %s in %s", which, intermediateFile)
		}
		if err != nil && i == 0 {
			return err
		}
		if err != nil {
			a.log.Warn("a former intermediate's key is not here, so there is no revocation list of its certificates", "intermediate", c.Subject.CommonName, "error", err)
			continue
		}
		if t.keys[i] = key; original {
			t.original = i
		}
	}
	return nil
}

func matches(key crypto.Signer, c *x509.Certificate) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(c.PublicKey)
}

func (a *Authority) readKey(path string, passphrase []byte) (crypto.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		a.log.Warn("others than its owner can read the CA's key file", "file", path, "mode", info.Mode().Perm().String())
	}
	return ReadCAKey(path, passphrase)
}

// ReadCAKey reads an encrypted private key of a CA. The error wraps [ErrPassphrase]
// if the passphrase does not decrypt it.
func ReadCAKey(path string, passphrase []byte) (crypto.Signer, error) {
	data, err := readLimited(path)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if block, _ := pem.Decode(data); block == nil || block.Type != "ENCRYPTED PRIVATE KEY" {
		return nil, fmt.Errorf("key %s is not an encrypted PKCS#8 key in PEM form", path)
	}
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("key %s: %w: it is empty", path, ErrPassphrase)
	}
	parsed, err := pemutil.ParseKey(data, pemutil.WithPassword(passphrase))
	if err != nil {
		// The format has no check of its own: a wrong passphrase shows as bad
		// padding or as a malformed key.
		return nil, fmt.Errorf("key %s: %w", path, ErrPassphrase)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s is a %T, which cannot sign", path, parsed)
	}
	return signer, nil
}
