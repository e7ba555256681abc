package identity

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// look is how often it is looked at whether a certificate is due. Not once at
	// its time: clocks are set, machines sleep, and another process may have brought
	// a new certificate.
	look = time.Minute
	// firstRetry and lastRetry bound the time between two tries that fail. Each is
	// twice the one before, less up to a half.
	firstRetry = time.Minute
	lastRetry  = time.Hour
)

// A Renewer has the certificate renewed when it is due, for as long as it runs.
// It goes on after the certificate has expired: whether that still opens anything
// is the gateway's to say.
type Renewer struct {
	Current func() *Identity
	Ask     func(context.Context, *Identity) (*Identity, error)
	Log     *slog.Logger
	Clock   func() time.Time

	mu     sync.Mutex
	failed error
}

// Failed returns why the last try failed, or nil.
func (r *Renewer) Failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Run renews until ctx ends.
func (r *Renewer) Run(ctx context.Context) {
	for tries := 0; ; {
		id := r.Current()
		wait := min(id.Due().Sub(r.Clock()), look)
		if wait <= 0 {
			next, err := r.Ask(ctx, id)
			if ctx.Err() != nil {
				return
			}
			r.mu.Lock()
			r.failed = err
			r.mu.Unlock()
			if err == nil {
				tries = 0
				r.Log.Info("the certificate is renewed", "not_after", next.Leaf().NotAfter.UTC().Format(time.RFC3339))
				continue
			}
			wait = r.pause(id, tries, err)
			tries++
			r.Log.Warn("renewing the certificate", "error", err, "not_after", id.Leaf().NotAfter.UTC().Format(time.RFC3339), "again_in", wait.Round(time.Second))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// pause is how long to wait after a try that failed.
func (r *Renewer) pause(id *Identity, tries int, err error) time.Duration {
	longest := lastRetry
	// A certificate with a short life has no hour to lose.
	if left := id.Leaf().NotAfter.Sub(r.Clock()); left > 0 {
		longest = max(min(longest, left/8), firstRetry/6)
	}
	wait := min(firstRetry<<min(tries, 10), longest)
	wait -= rand.N(wait/2 + 1)
	if why, ok := errors.AsType[*Refusal](err); ok {
		wait = max(wait, why.RetryAfter)
	}
	return wait
}
