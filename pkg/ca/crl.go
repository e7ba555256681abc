package ca

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/smallstep/certificates/db"
	"github.com/smallstep/nosql"
)

const (
	// listBackdate is how far a list's thisUpdate lies in the past, for readers
	// whose clock is somewhat slow: OpenSSL grants none. A list can not know of what
	// comes after it, so that every revocation on it is as much earlier than it was;
	// always, because what one list says of a certificate each later one says.
	listBackdate = 5 * time.Minute
	// MinListValidity is the shortest time that a list can be valid for.
	MinListValidity = 10 * time.Minute
)

// A RevocationList is a signed list of the certificates that were revoked (RFC
// 5280 §5). It must not be changed.
type RevocationList struct {
	DER        []byte
	Number     int64
	Entries    int
	ThisUpdate time.Time
	NextUpdate time.Time
}

// PEM returns the list in PEM form.
func (l *RevocationList) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.DER})
}

// Revocations counts the revocations that were made since the CA was opened. A
// list that was made at the present count lacks none.
func (a *Authority) Revocations() uint64 { return a.revocations.Load() }

// RevocationList makes and signs a list of every certificate of an intermediate
// that was revoked: the issuing one's, or a former one's that is still among
// [Authority.Intermediates]. Its number is higher than that of every list
// before, and on stable storage before RevocationList returns. A certificate that
// has expired stays on the list for as long as the list is valid, so that it is on
// one that was made after its end (RFC 5280 §3.3).
func (a *Authority) RevocationList(ctx context.Context, issuer *x509.Certificate, validity time.Duration) (*RevocationList, error) {
	l, err := a.revocationList(ctx, issuer, validity)
	if err != nil {
		return nil, fmt.Errorf("make revocation list: %w", err)
	}
	return l, nil
}

func (a *Authority) revocationList(ctx context.Context, issuer *x509.Certificate, validity time.Duration) (*RevocationList, error) {
	if validity < MinListValidity {
		return nil, fmt.Errorf("a validity of %v is shorter than %v", validity, MinListValidity)
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
	a.listing.Lock()
	defer a.listing.Unlock()
	now := a.clock().UTC().Truncate(time.Second)
	number, err := nextNumber(a.db, now)
	if err != nil {
		return nil, err
	}
	l := &RevocationList{Number: number, ThisUpdate: now.Add(-listBackdate), NextUpdate: now.Add(validity)}
	entries, err := a.listed(t, i, now.Add(-validity))
	if err != nil {
		return nil, err
	}
	l.Entries = len(entries)
	l.DER, err = x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(number), ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate, RevokedCertificateEntries: entries,
	}, issuer, t.keys[i])
	if err != nil {
		return nil, err
	}
	err = a.db.StoreCRL(&db.CertificateRevocationListInfo{Number: number, ExpiresAt: l.NextUpdate, Duration: validity, DER: l.DER})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// nextNumber returns the number of the list after the last. It follows the
// clock, so that a CA that was restored from a backup does not give the numbers
// since then to other lists; and it never goes back with the clock.
func nextNumber(lists db.CertificateRevocationListDB, now time.Time) (int64, error) {
	last, err := lists.GetCRL()
	switch {
	case nosql.IsErrNotFound(err):
		return max(1, now.Unix()), nil
	case err != nil:
		return 0, fmt.Errorf("the number of the last list: %w", err)
	}
	return max(last.Number+1, now.Unix()), nil
}

// listed returns the entries of an intermediate's list: what was revoked and had
// not expired at a time. When each was revoked follows from the time that was kept
// with its revocation here, and that is never written again.
func (a *Authority) listed(t *trust, i int, since time.Time) ([]x509.RevocationListEntry, error) {
	revoked, err := a.db.GetRevokedCertificates()
	if err != nil {
		return nil, err
	}
	var out []x509.RevocationListEntry
	for _, r := range *revoked {
		if !r.ExpiresAt.IsZero() && r.ExpiresAt.Before(since) {
			continue
		}
		serial, ok := new(big.Int).SetString(r.Serial, 10)
		if !ok {
			return nil, fmt.Errorf("a revoked certificate has the serial number %.60q", r.Serial)
		}
		if mine, err := a.signedBy(t, i, r.Serial); err != nil {
			return nil, err
		} else if !mine {
			continue
		}
		out = append(out, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: r.RevokedAt.UTC().Add(-listBackdate), ReasonCode: r.ReasonCode})
	}
	return out, nil
}

// signedBy reports whether an intermediate signed a certificate. What another one
// signed is for that one's list.
func (a *Authority) signedBy(t *trust, i int, serial string) (bool, error) {
	if len(t.intermediates) == 1 {
		return true, nil
	}
	cert, err := a.db.GetCertificate(serial)
	if err != nil {
		return false, fmt.Errorf("certificate %s: %w", serial, err)
	}
	return t.of(cert) == i, nil
}

// listURL returns where the list of an intermediate is, if lists are at a URL:
// there, for the one that Init made; each later one's has its name in the file's.
// A certificate names one list, and only its own issuer can sign that.
func (t *trust) listURL(u string, i int) string {
	if u == "" || i == t.original {
		return u
	}
	dot := strings.LastIndexByte(u, '.')
	if dot <= strings.LastIndexByte(u, '/') {
		dot = len(u)
	}
	return u[:dot] + "-" + ListName(t.intermediates[i]) + u[dot:]
}

// ListName is what tells an intermediate's list from others': the beginning of
// its key's identifier, in lower-case hex, as it is in its name.
func ListName(c *x509.Certificate) string {
	return hex.EncodeToString(c.SubjectKeyId[:min(len(c.SubjectKeyId), 4)])
}

// Original returns the intermediate that Init made, whose list has the plain name;
// the issuing one if that is none of the intermediates any more.
func (a *Authority) Original() *x509.Certificate {
	t := a.trust.Load()
	return t.intermediates[max(t.original, 0)]
}
