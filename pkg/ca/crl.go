package ca

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/smallstep/certificates/db"
	"github.com/smallstep/nosql"
)

const (
	// listBackdate is how far a list's thisUpdate lies in the past, for readers
	// whose clock is somewhat slow: OpenSSL grants none.
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

// RevocationList makes and signs a list of every certificate of the issuing
// intermediate that was revoked. Its number is higher than that of every list
// before, and on stable storage before RevocationList returns. A certificate that
// has expired stays on the list for as long as the list is valid, so that it is on
// one that was made after its end (RFC 5280 §3.3).
func (a *Authority) RevocationList(ctx context.Context, validity time.Duration) (*RevocationList, error) {
	l, err := a.revocationList(ctx, validity)
	if err != nil {
		return nil, fmt.Errorf("make revocation list: %w", err)
	}
	return l, nil
}

func (a *Authority) revocationList(ctx context.Context, validity time.Duration) (*RevocationList, error) {
	if validity < MinListValidity {
		return nil, fmt.Errorf("a validity of %v is shorter than %v", validity, MinListValidity)
	}
	if err := a.enter(ctx); err != nil {
		return nil, err
	}
	defer a.leave()
	lists, ok := a.db.(db.CertificateRevocationListDB)
	if !ok {
		return nil, errors.New("the database keeps no revocations")
	}
	a.listing.Lock()
	defer a.listing.Unlock()
	now := a.clock().UTC().Truncate(time.Second)
	number, err := nextNumber(lists, now)
	if err != nil {
		return nil, err
	}
	entries, err := a.listed(lists, now.Add(-validity))
	if err != nil {
		return nil, err
	}
	l := &RevocationList{Number: number, Entries: len(entries), ThisUpdate: now.Add(-listBackdate), NextUpdate: now.Add(validity)}
	l.DER, err = x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(number), ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate, RevokedCertificateEntries: entries,
	}, a.issuer(), a.signer)
	if err != nil {
		return nil, err
	}
	err = lists.StoreCRL(&db.CertificateRevocationListInfo{Number: number, ExpiresAt: l.NextUpdate, Duration: validity, DER: l.DER})
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

// listed returns the entries of a list: what was revoked and had not expired at a
// time.
func (a *Authority) listed(lists db.CertificateRevocationListDB, since time.Time) ([]x509.RevocationListEntry, error) {
	revoked, err := lists.GetRevokedCertificates()
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
		if mine, err := a.mine(r.Serial); err != nil {
			return nil, err
		} else if !mine {
			continue
		}
		out = append(out, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: r.RevokedAt.UTC(), ReasonCode: r.ReasonCode})
	}
	return out, nil
}

// mine reports whether the issuing intermediate signed a certificate. What a
// former one signed is not for this one's list.
func (a *Authority) mine(serial string) (bool, error) {
	if len(a.intermediateCerts) == 1 {
		return true, nil
	}
	cert, err := a.db.GetCertificate(serial)
	if err != nil {
		return false, fmt.Errorf("certificate %s: %w", serial, err)
	}
	return bytes.Equal(cert.AuthorityKeyId, a.issuer().SubjectKeyId), nil
}
