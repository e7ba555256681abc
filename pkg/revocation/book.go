package revocation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// pause is the shortest time between two lists. A thousand devices that are
// revoked in a minute make a few hundred lists, not a thousand, and a revocation
// is on the list within it.
const pause = 200 * time.Millisecond

// Config is what a [Book] is made from. Every field is required.
type Config struct {
	CA         *ca.Authority
	Devices    *device.Registry
	NextUpdate func() time.Duration // how long a list is valid
	Clock      func() time.Time
	Logger     *slog.Logger
}

// A Book knows which certificates were revoked.
type Book struct {
	cfg Config

	mu    sync.Mutex       // held while a list is made
	lists map[string]*list // by the fingerprint of the intermediate whose they are
	// reconciled is when registry and CA were last compared.
	reconciled time.Time
}

// A list is what an intermediate's last list was.
type list struct {
	*ca.RevocationList
	made time.Time
	has  uint64 // how many revocations of this process it has
}

// NewBook returns a book.
func NewBook(cfg Config) *Book { return &Book{cfg: cfg, lists: map[string]*list{}} }

// List returns the list in force of the certificates that an intermediate of the
// CA signed. It lacks no revocation that was made more than a fifth of a second
// ago.
func (b *Book) List(ctx context.Context, issuer *x509.Certificate) (*ca.RevocationList, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Clock()
	validity := b.cfg.NextUpdate()
	of := ca.Fingerprint(issuer)
	if l := b.lists[of]; l != nil {
		age := now.Sub(l.made)
		if age >= 0 && age < validity/2 && (l.has == b.cfg.CA.Revocations() || age < pause) {
			return l.RevocationList, nil
		}
	}
	if age := now.Sub(b.reconciled); b.reconciled.IsZero() || age < 0 || age >= validity/2 {
		if err := b.reconcile(ctx, now); err != nil {
			return nil, err
		}
		b.reconciled = now
	}
	has := b.cfg.CA.Revocations()
	l, err := b.cfg.CA.RevocationList(ctx, issuer, validity)
	if err != nil {
		return nil, err
	}
	b.lists[of] = &list{l, now, has}
	b.cfg.Logger.Info("made a revocation list", "of", issuer.Subject.CommonName, "number", l.Number, "certificates", l.Entries, "next_update", l.NextUpdate)
	return l, nil
}

// reconcile tells the CA of revocations that the registry has and it does not:
// those that a crash cut off between the two.
func (b *Book) reconcile(ctx context.Context, now time.Time) error {
	if err := b.cfg.Devices.Loaded(ctx); err != nil {
		return err
	}
	for _, rec := range b.cfg.Devices.List(device.Filter{}) {
		for i := range rec.Certificates {
			c := &rec.Certificates[i]
			if c.RevokedAt.IsZero() || !now.Before(c.NotAfter) {
				continue
			}
			done, err := b.cfg.CA.IsRevoked(c.Serial)
			if err == nil && !done {
				err = b.cfg.CA.Revoke(ctx, c.Serial, reason(rec, c))
			}
			if errors.Is(err, ca.ErrUnknownSerial) {
				continue // another CA's
			}
			if err != nil {
				return fmt.Errorf("device %s: %w", rec.ID, err)
			}
		}
	}
	return nil
}

// reason is why a certificate was revoked, as far as its device's record says.
func reason(rec *device.Record, c *device.Certificate) string {
	if c.RevokedFor != "" {
		return c.RevokedFor
	}
	if rec.Status == device.Revoked || rec.Status == device.Retired {
		return string(rec.Status)
	}
	return "revoked in the registry"
}

// Status returns what is known of the certificate with a serial number, given in
// decimal. The registry's word counts where the CA does not know yet.
func (b *Book) Status(ctx context.Context, serial string) (*ca.CertificateStatus, error) {
	s, err := b.cfg.CA.Status(ctx, serial)
	if err != nil || s.Certificate == nil || s.Revoked {
		return s, err
	}
	sum := sha256.Sum256(s.Certificate.Raw)
	fp := hex.EncodeToString(sum[:])
	if err := b.cfg.Devices.Loaded(ctx); err != nil {
		return nil, err
	}
	if rec, ok := b.cfg.Devices.ByFingerprint(fp); ok {
		if c := rec.Certificate(fp); c != nil && !c.RevokedAt.IsZero() {
			s.Revoked, s.RevokedAt, s.Reason = true, c.RevokedAt.UTC(), ca.ReasonCode(reason(rec, c))
		}
	}
	return s, nil
}
