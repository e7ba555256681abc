package revocation

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha1" // how most requests name the issuer (RFC 5019 §2.1.1); nothing rests on it
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
)

// responderTTL is how long the responder's certificate lives; a new one is made
// after half of it. It can not be revoked, so it is short.
const responderTTL = 24 * time.Hour

// A Responder answers OCSP requests (RFC 6960), with a key that the CA delegated
// to it and that rests nowhere. It is safe for concurrent use.
type Responder struct {
	ca     *ca.Authority
	book   *Book
	valid  func() time.Duration
	clock  func() time.Time
	log    *slog.Logger
	issuer *x509.Certificate
	names  map[crypto.Hash]issuerHash

	mu  sync.Mutex
	who *ca.Responder
}

// An issuerHash is how a request names the issuer.
type issuerHash struct{ name, key []byte }

// NewResponder returns a responder for the book's CA. valid says how long an
// answer is.
func NewResponder(b *Book, valid func() time.Duration) (*Responder, error) {
	issuer := b.cfg.CA.Intermediates()[0]
	key, err := keyBits(issuer.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, fmt.Errorf("OCSP responder: %w", err)
	}
	name1, key1 := sha1.Sum(issuer.RawSubject), sha1.Sum(key)
	name256, key256 := sha256.Sum256(issuer.RawSubject), sha256.Sum256(key)
	return &Responder{
		ca: b.cfg.CA, book: b, valid: valid, clock: b.cfg.Clock, log: b.cfg.Logger, issuer: issuer,
		names: map[crypto.Hash]issuerHash{crypto.SHA1: {name1[:], key1[:]}, crypto.SHA256: {name256[:], key256[:]}},
	}, nil
}

// keyBits returns the public key in a SubjectPublicKeyInfo, without tag, length
// and the number of unused bits (RFC 6960 §4.1.1).
func keyBits(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var key []byte
	if !in.ReadASN1(&in, casn1.SEQUENCE) || !in.SkipASN1(casn1.SEQUENCE) || !in.ReadASN1BitStringAsBytes(&key) {
		return nil, errors.New("malformed public key")
	}
	return key, nil
}

// An Answer is what a responder says.
type Answer struct {
	DER []byte
	// Produced and NextUpdate are zero if the answer says that there is none.
	Produced, NextUpdate time.Time
	// Fresh says that the answer is to one request only, because that had a nonce.
	Fresh bool
}

// Answer answers a request in DER form. What can not be answered has an answer
// too, which says so.
func (r *Responder) Answer(ctx context.Context, der []byte) Answer {
	req, err := parseRequest(der)
	if err != nil {
		return refusal(malformedRequest)
	}
	now := r.clock().UTC().Truncate(time.Second)
	who, err := r.identity(ctx, now)
	if errors.Is(err, ca.ErrIntermediateEnded) {
		return refusal(unauthorized)
	}
	if err != nil {
		r.log.Error("an OCSP request can not be answered", "error", err)
		return refusal(tryLater)
	}
	b := &basic{who: who, chain: r.issuer, produced: now, nonce: req.nonce, next: now.Add(r.valid())}
	if end := who.Certificate.NotAfter; b.next.After(end) {
		b.next = end
	}
	for i := range req.asked {
		s, err := r.status(ctx, &req.asked[i])
		if err != nil {
			r.log.Error("an OCSP request can not be answered", "error", err)
			return refusal(tryLater)
		}
		b.singles = append(b.singles, single{req.asked[i].raw, s})
	}
	out, err := b.sign()
	if err != nil {
		r.log.Error("an OCSP answer can not be signed", "error", err)
		return refusal(tryLater)
	}
	return Answer{DER: out, Produced: now, NextUpdate: b.next, Fresh: req.nonce != nil}
}

// status returns what is known of a certificate. One of another issuer, or that
// was never issued, is unknown.
func (r *Responder) status(ctx context.Context, id *certID) (*ca.CertificateStatus, error) {
	n, ok := r.names[id.hash]
	if !ok || id.serial == "" || !bytes.Equal(n.name, id.issuer.name) || !bytes.Equal(n.key, id.issuer.key) {
		return &ca.CertificateStatus{}, nil
	}
	return r.book.Status(ctx, id.serial)
}

// identity returns the key and certificate to sign with.
func (r *Responder) identity(ctx context.Context, now time.Time) (*ca.Responder, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.who != nil {
		c := r.who.Certificate
		// One that ends with the intermediate is the last there is.
		last := c.NotAfter.Equal(r.issuer.NotAfter) && now.Before(c.NotAfter)
		if !now.Before(c.NotBefore) && (now.Add(responderTTL/2).Before(c.NotAfter) || last) {
			return r.who, nil
		}
	}
	who, err := r.ca.NewResponder(ctx, responderTTL)
	if err != nil {
		return nil, err
	}
	r.who = who
	return who, nil
}
