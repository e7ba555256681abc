package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// A Finding is what became of one check of the CA.
type Finding struct {
	What  string `json:"what"`
	Error string `json:"error,omitempty"` // why it is not as it should be
	Note  string `json:"note,omitempty"`  // what is worth knowing
	Warn  bool   `json:"warn,omitempty"`  // the note is a warning
}

// Check looks at every certificate and key of the CA as if for the first time: the
// chain, that each key is the certificate's and signs, constraints, and time.
func (a *Authority) Check(ctx context.Context) (out []Finding, err error) {
	if err := a.enter(ctx); err != nil {
		return nil, fmt.Errorf("check CA: %w", err)
	}
	defer a.leave()
	t, now := a.trust.Load(), a.clock()
	for _, c := range t.roots {
		f := Finding{What: c.Subject.CommonName}
		f.say(a.rootWrong(c), ends(c, now))
		out = append(out, f)
	}
	for i, c := range t.intermediates {
		f := Finding{What: c.Subject.CommonName}
		if i > 0 {
			f.What += " (former)"
		}
		f.say(a.intermediateWrong(t, i, now), ends(c, now))
		if c.PermittedURIDomains != nil {
			f.Note = join(f.Note, "URIs of "+strings.Join(c.PermittedURIDomains, ", ")+" only")
		}
		out = append(out, f)
		k := Finding{What: "key of " + f.What}
		switch {
		case t.keys[i] != nil:
			k.say(signs(t.keys[i], c), "")
		case i == 0:
			k.Error = "it is not here"
		case now.Before(c.NotAfter):
			k.Note, k.Warn = "it is not here, so that there is no revocation list of what it signed", true
		default:
			continue
		}
		out = append(out, k)
	}
	return out, nil
}

func (f *Finding) say(wrong error, note string) {
	if wrong != nil {
		f.Error = wrong.Error()
	}
	f.Note, f.Warn = note, note != ""
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// ends warns of a CA certificate that ends within a year, or has ended.
func ends(c *x509.Certificate, now time.Time) string {
	switch left := c.NotAfter.Sub(now); {
	case left <= 0:
		return "ended " + c.NotAfter.UTC().Format(time.RFC3339)
	case left < warnBefore:
		return fmt.Sprintf("ends %s, in %d days", c.NotAfter.UTC().Format(time.RFC3339), int(left.Hours()/24))
	}
	return ""
}

func (a *Authority) caWrong(c *x509.Certificate) error {
	if uri, err := onlyURI(c); err != nil {
		return err
	} else if uri != scheme+"://"+a.trustDomain {
		return fmt.Errorf("it is for the trust domain %q", uri)
	}
	switch {
	case !c.IsCA || !c.BasicConstraintsValid:
		return errors.New("it is not a CA's")
	case c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign:
		return errors.New("its key is for something else than signing certificates and lists")
	case len(c.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("it has a critical extension that is not understood: %v", c.UnhandledCriticalExtensions[0])
	}
	return checkKey(c.PublicKey)
}

func (a *Authority) rootWrong(c *x509.Certificate) error {
	if err := c.CheckSignatureFrom(c); err != nil {
		return fmt.Errorf("its own key did not sign it: %w", err)
	}
	return a.caWrong(c)
}

func (a *Authority) intermediateWrong(t *trust, i int, now time.Time) error {
	c := t.intermediates[i]
	if err := a.caWrong(c); err != nil {
		return err
	}
	if c.MaxPathLen != 0 || !c.MaxPathLenZero {
		return errors.New("it may sign further CAs")
	}
	at := now
	if i > 0 && now.After(c.NotAfter) {
		at = c.NotAfter // it is former, and may have ended
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: t.rootPool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("it does not chain to a root: %w", err)
	}
	if c.PermittedURIDomains != nil && !slices.Contains(c.PermittedURIDomains, a.trustDomain) {
		return fmt.Errorf("its name constraint permits %v and not this trust domain", c.PermittedURIDomains)
	}
	return nil
}

// signs has a key sign something, and checks it with the certificate.
func signs(key crypto.Signer, c *x509.Certificate) error {
	if !matches(key, c) {
		return errors.New("it is another certificate's")
	}
	text := []byte("anteroom ca verify")
	sum := sha256.Sum256(text)
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return fmt.Errorf("it does not sign: %w", err)
	}
	for _, alg := range []x509.SignatureAlgorithm{x509.ECDSAWithSHA256, x509.SHA256WithRSA} {
		if c.CheckSignature(alg, text, sig) == nil {
			return nil
		}
	}
	return errors.New("what it signs does not verify with the certificate")
}

// TrustStore returns certificates as a PKCS#12 trust store, as Java and some
// devices want roots. The password protects nothing secret.
func TrustStore(certs []*x509.Certificate, password string) ([]byte, error) {
	out, err := pkcs12.Modern2023.EncodeTrustStore(certs, password)
	if err != nil {
		return nil, fmt.Errorf("encode PKCS#12: %w", err)
	}
	return out, nil
}
