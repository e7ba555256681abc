package scep

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

const (
	// recipientBits is the size of the key that messages are encrypted to.
	recipientBits = 2048
	// recipientTTL is how long its certificate lives, recipientLeft what is left of it
	// when the next one is made: devices fetch it anew each time, but not those that
	// were given it by hand.
	recipientTTL  = 2 * 365 * 24 * time.Hour
	recipientLeft = 30 * 24 * time.Hour
)

// A Recipient is what messages are encrypted to and answers are signed with: an RSA
// key and the certificate that the CA gave it for this and nothing else (a
// registration authority's, RFC 8894 §2.1.3). The CA's own key may be of another kind,
// and decrypts nothing. It is safe for concurrent use.
type Recipient struct {
	ca    *ca.Authority
	path  string
	clock func() time.Time
	key   *rsa.PrivateKey

	mu   sync.Mutex
	cert *x509.Certificate
}

// OpenRecipient opens the recipient whose key and certificate are in a file, or makes
// it. The file is its owner's alone, like the keys of the gateway's listeners: who has
// it can read tokens that are used already, and be taken for the gateway by a device
// that enrols, and can issue nothing.
func OpenRecipient(ctx context.Context, authority *ca.Authority, path string, clock func() time.Time) (*Recipient, error) {
	to := &Recipient{ca: authority, path: path, clock: clock}
	err := to.load()
	if errors.Is(err, fs.ErrNotExist) {
		to.key, err = rsa.GenerateKey(rand.Reader, recipientBits)
	}
	if err == nil {
		err = to.renew(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("SCEP's key and certificate: %w", err)
	}
	return to, nil
}

func (to *Recipient) load() error {
	data, err := os.ReadFile(to.path)
	if err != nil {
		return err
	}
	key, rest := pem.Decode(data)
	cert, rest := pem.Decode(rest)
	if key == nil || cert == nil || len(bytes.TrimSpace(rest)) > 0 {
		return fmt.Errorf("%s does not hold a key and a certificate", to.path)
	}
	k, err := x509.ParsePKCS8PrivateKey(key.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", to.path, err)
	}
	var ok bool
	if to.key, ok = k.(*rsa.PrivateKey); !ok {
		return fmt.Errorf("%s holds no RSA key", to.path)
	}
	if to.cert, err = x509.ParseCertificate(cert.Bytes); err != nil {
		return fmt.Errorf("%s: %w", to.path, err)
	}
	if !to.key.PublicKey.Equal(to.cert.PublicKey) {
		return fmt.Errorf("%s: the key is not the certificate's", to.path)
	}
	return nil
}

// Certificate returns the certificate in force.
func (to *Recipient) Certificate() *x509.Certificate {
	to.mu.Lock()
	defer to.mu.Unlock()
	return to.cert
}

// renew has the CA make the certificate, if it is not there, ends soon, or is from a
// former intermediate.
func (to *Recipient) renew(ctx context.Context) error {
	to.mu.Lock()
	defer to.mu.Unlock()
	issuer := to.ca.Intermediates()[0]
	if c := to.cert; c != nil && c.CheckSignatureFrom(issuer) == nil &&
		(to.clock().Add(recipientLeft).Before(c.NotAfter) || c.NotAfter.Equal(issuer.NotAfter)) {
		return nil
	}
	cert, err := to.ca.NewRecipient(ctx, &to.key.PublicKey, recipientTTL)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(to.key)
	if err != nil {
		return err
	}
	data := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	if err := durable.Replace(to.path, data, 0o600); err != nil {
		return err
	}
	to.cert = cert
	return nil
}
