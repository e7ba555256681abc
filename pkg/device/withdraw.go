package device

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrWithdrawn is wrapped by the error of [Registry.Withdraw] for a certificate that
// was revoked before.
var ErrWithdrawn = errors.New("the certificate was revoked before")

// unspecified is why a certificate was revoked if nobody said it.
const unspecified = "unspecified"

// Withdraw revokes one certificate of a device, for ever; the device stays what it
// is, and its other certificates are as good as before. When Withdraw returns, the
// revocation is durable and everybody who subscribed knows of it. check may refuse it,
// and is given what is withdrawn; it runs as f of [Registry.Update] does.
func (g *Registry) Withdraw(ctx context.Context, id, fingerprint, reason string, check func(*Record, *Certificate) error) (*Record, error) {
	return g.one(ctx, id, nil, func() (old, new *Record, err error) {
		old, ok := g.Get(id)
		if !ok {
			return nil, nil, fmt.Errorf("%s: %w", id, ErrNotFound)
		}
		r := old.clone()
		c := r.Certificate(fingerprint)
		if c == nil {
			return nil, nil, fmt.Errorf("a certificate of %s with this fingerprint: %w", id, ErrNotFound)
		}
		if check != nil {
			if err := check(old, old.Certificate(fingerprint)); err != nil {
				return nil, nil, err
			}
		}
		if !c.RevokedAt.IsZero() {
			return nil, nil, fmt.Errorf("%w, at %s", ErrWithdrawn, c.RevokedAt.Format(time.RFC3339))
		}
		c.RevokedAt, c.RevokedFor = g.now().UTC(), cmp.Or(reason, unspecified)
		return old, r, nil
	})
}
