package acme

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// mostAtOnce bounds the orders that somebody is at, and so the connections that
	// all accounts together have the gateway make.
	mostAtOnce = 8
	// mostOfOne bounds those of one account, with those that wait.
	mostOfOne = 2
	// mostOfSource bounds those that wait from one source, and mostWaiting all.
	mostOfSource = 8
	mostWaiting  = 64
	// waitTime is how long one waits. Whatever is under way has ended before, so that
	// only who is behind others can wait for nothing.
	waitTime = tryTime + 2*time.Second
	// forgetTime is after which nobody remembers who had turns.
	forgetTime = time.Minute
)

// A turn is an order that somebody wants to be at.
type turn struct {
	order, account string
	source         netip.Addr
	come           chan struct{} // closed, with mu held, when it is theirs
	began          time.Time
}

func newTurn(order, account string, source netip.Addr) *turn {
	return &turn{order: order, account: account, source: source, come: make(chan struct{})}
}

func (c *call) turn(o *order) *turn { return newTurn(o.ID, o.Account, c.Source()) }

// busy says which orders somebody is at, so that no two requests work on one, and
// whose turn it is when there are too many. The place that becomes free is that of
// the source that has the fewest and had them for the shortest time, and there of
// such an account; among equals, of who came first. So accounts whose servers do not
// answer can have all the places, and not keep them from whoever else comes.
type busy struct {
	clock func() time.Time

	mu          sync.Mutex
	at, waiting []*turn
	had         map[any]*share // by accounts and sources
}

// A share is for how long somebody had turns lately.
type share struct {
	time.Duration
	last time.Time
}

func newBusy(clock func() time.Time) *busy { return &busy{clock: clock, had: map[any]*share{}} }

// take reports whether an order is the caller's, until it leaves it. It may wait.
func (b *busy) take(ctx context.Context, t *turn) bool {
	b.mu.Lock()
	if !b.may(t) {
		b.mu.Unlock()
		return false
	}
	b.waiting = append(b.waiting, t)
	b.next()
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	select {
	case <-t.come:
		return true
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-t.come: // meanwhile
		return true
	default:
	}
	b.waiting = slices.DeleteFunc(b.waiting, func(o *turn) bool { return o == t })
	return false
}

// may reports whether a turn may be waited for.
func (b *busy) may(t *turn) bool {
	of := 0
	for _, o := range slices.Concat(b.at, b.waiting) {
		if o.order == t.order {
			return false
		}
		if o.account == t.account {
			of++
		}
	}
	_, source := t.among(b.waiting)
	return of < mostOfOne && (len(b.at) < mostAtOnce || len(b.waiting) < mostWaiting && source < mostOfSource)
}

// among counts the turns of the same account, and of the same source.
func (t *turn) among(list []*turn) (account, source int) {
	for _, o := range list {
		if o.account == t.account {
			account++
		}
		if o.source == t.source {
			source++
		}
	}
	return account, source
}

// next gives the places that are free. The caller holds mu.
func (b *busy) next() {
	for len(b.at) < mostAtOnce && len(b.waiting) > 0 {
		first := slices.MinFunc(b.waiting, func(x, y *turn) int { return slices.Compare(b.claims(x), b.claims(y)) })
		b.waiting = slices.DeleteFunc(b.waiting, func(o *turn) bool { return o == first })
		b.at, first.began = append(b.at, first), b.clock()
		close(first.come)
	}
}

// claims says what speaks against a turn, the heaviest first.
func (b *busy) claims(t *turn) []time.Duration {
	account, source := t.among(b.at)
	out := []time.Duration{time.Duration(source), 0, time.Duration(account), 0}
	if h := b.had[t.source]; h != nil {
		out[1] = h.Duration
	}
	if h := b.had[t.account]; h != nil {
		out[3] = h.Duration
	}
	return out
}

func (b *busy) leave(t *turn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = slices.DeleteFunc(b.at, func(o *turn) bool { return o == t })
	now := b.clock()
	maps.DeleteFunc(b.had, func(_ any, h *share) bool { return now.Sub(h.last) > forgetTime })
	for _, of := range []any{t.source, t.account} {
		if b.had[of] == nil {
			b.had[of] = &share{}
		}
		b.had[of].Duration += max(now.Sub(t.began), 0)
		b.had[of].last = now
	}
	b.next()
}
