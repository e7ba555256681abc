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
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
)

// responderTTL is how long the responder's certificate lives; a new one is made
// after half of it. It can not be revoked, so it is short.
const responderTTL = 24 * time.Hour

// A Responder answers OCSP requests (RFC 6960), with keys that the CA delegated
// to it and that rest nowhere: one for each intermediate. It is safe for concurrent
// use.
type Responder struct {
	ca    *ca.Authority
	book  *Book
	valid func() time.Duration
	clock func() time.Time
	log   *slog.Logger

	mu   sync.Mutex
	seen []*issuer // those of the CA's intermediates that were looked at
}

// An issuer is one of the CA's intermediates, and who answers for it.
type issuer struct {
	cert  *x509.Certificate
	names map[crypto.Hash]issuerHash

	mu  sync.Mutex // held while an identity is made
	who *ca.Responder
}

// An issuerHash is how a request names the issuer.
type issuerHash struct{ name, key []byte }

// NewResponder returns a responder for the book's CA. valid says how long an
// answer is.
func NewResponder(b *Book, valid func() time.Duration) (*Responder, error) {
	r := &Responder{ca: b.cfg.CA, book: b, valid: valid, clock: b.cfg.Clock, log: b.cfg.Logger}
	if _, err := r.issuers(); err != nil {
		return nil, fmt.Errorf("OCSP responder: %w", err)
	}
	return r, nil
}

// issuers returns those that there are now, the issuing one first.
func (r *Responder) issuers() ([]*issuer, error) {
	now := r.ca.Intermediates()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(now) == len(r.seen) && now[0].Equal(r.seen[0].cert) {
		return r.seen, nil
	}
	var all []*issuer
	for _, c := range now {
		at := slices.IndexFunc(r.seen, func(i *issuer) bool { return i.cert.Equal(c) })
		if at >= 0 {
			all = append(all, r.seen[at])
			continue
		}
		key, err := keyBits(c.RawSubjectPublicKeyInfo)
		if err != nil {
			return nil, err
		}
		name1, key1 := sha1.Sum(c.RawSubject), sha1.Sum(key)
		name256, key256 := sha256.Sum256(c.RawSubject), sha256.Sum256(key)
		all = append(all, &issuer{cert: c, names: map[crypto.Hash]issuerHash{crypto.SHA1: {name1[:], key1[:]}, crypto.SHA256: {name256[:], key256[:]}}})
	}
	r.seen = all
	return all, nil
}

// named reports whether a request is about a certificate of the issuer's.
func (i *issuer) named(id *certID) bool {
	n, ok := i.names[id.hash]
	return ok && id.serial != "" && bytes.Equal(n.name, id.issuer.name) && bytes.Equal(n.key, id.issuer.key)
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
	issuers, err := r.issuers()
	if err != nil {
		r.log.Error("an OCSP request can not be answered", "error", err)
		return refusal(tryLater)
	}
	// An answer is signed for one issuer: that of the first certificate that is
	// ours. What another one signed is unknown to it (RFC 6960 §4.2.2.2).
	by := issuers[0]
	for n := len(req.asked) - 1; n >= 0; n-- {
		for _, i := range issuers {
			if i.named(&req.asked[n]) {
				by = i
			}
		}
	}
	who, err := by.identity(ctx, r.ca, now)
	if errors.Is(err, ca.ErrIntermediateEnded) {
		return refusal(unauthorized)
	}
	if err != nil {
		r.log.Error("an OCSP request can not be answered", "error", err)
		return refusal(tryLater)
	}
	b := &basic{who: who, chain: by.cert, produced: now, nonce: req.nonce, next: now.Add(r.valid())}
	if end := who.Certificate.NotAfter; b.next.After(end) {
		b.next = end
	}
	for i := range req.asked {
		s, err := r.status(ctx, by, &req.asked[i])
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
func (r *Responder) status(ctx context.Context, by *issuer, id *certID) (*ca.CertificateStatus, error) {
	if !by.named(id) {
		return &ca.CertificateStatus{}, nil
	}
	s, err := r.book.Status(ctx, id.serial)
	if err == nil && s.Certificate != nil && !s.Issuer.Equal(by.cert) {
		return &ca.CertificateStatus{}, nil
	}
	return s, err
}

// identity returns the key and certificate to sign with.
func (i *issuer) identity(ctx context.Context, authority *ca.Authority, now time.Time) (*ca.Responder, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.who != nil {
		c := i.who.Certificate
		// One that ends with the intermediate is the last there is.
		last := c.NotAfter.Equal(i.cert.NotAfter) && now.Before(c.NotAfter)
		if !now.Before(c.NotBefore) && (now.Add(responderTTL/2).Before(c.NotAfter) || last) {
			return i.who, nil
		}
	}
	who, err := authority.NewResponder(ctx, i.cert, responderTTL)
	if err != nil {
		return nil, err
	}
	i.who = who
	return who, nil
}
