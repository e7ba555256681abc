package visitor

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// mostVisitors bounds the addresses that are told apart. When there are more,
	// new ones share what one address may have: a flood from many addresses slows
	// newcomers down and takes no memory.
	mostVisitors = 1 << 14
	// forgetEvery is how often room is made, at most.
	forgetEvery = 10 * time.Second
	// burst is the part of a minute's requests that may come at once, and the
	// whole of what a quiet address has.
	burst = 0.5
	// longestLockout bounds what doubling makes of a lockout, and forgets wrong
	// secrets when none has come for as long.
	longestLockout = 24 * time.Hour
)

// Limits are what one address may do.
type Limits struct {
	Requests int           // in a minute, at least 1
	Failures int           // wrong secrets after which it is locked out
	Lockout  time.Duration // the first time; twice as long each time after
}

// A Limiter says how often an address may ask. It is safe for concurrent use.
type Limiter struct {
	limits func() Limits
	clock  func() time.Time

	mu     sync.Mutex
	seen   map[netip.Addr]*visitor
	rest   visitor   // everybody there is no room for
	looked time.Time // when room was last looked for
}

// A visitor is what is remembered of an address.
type visitor struct {
	left     float64 // requests it may make at once, at the time of at
	at       time.Time
	failures int
	failed   time.Time // the last one
	locked   time.Time // until then
}

// NewLimiter returns a limiter. The limits are asked for with every request.
func NewLimiter(limits func() Limits, clock func() time.Time) *Limiter {
	return &Limiter{limits: limits, clock: clock, seen: map[netip.Addr]*visitor{}}
}

// visitor returns what is remembered of an address, at now. l.mu is held.
func (l *Limiter) visitor(addr netip.Addr, now time.Time) *visitor {
	v := l.seen[addr]
	if v == nil {
		if len(l.seen) >= mostVisitors {
			l.forget(now)
		}
		if len(l.seen) >= mostVisitors {
			v = &l.rest
		} else {
			v = &visitor{}
			l.seen[addr] = v
		}
	}
	lim := l.limits()
	full := max(1, float64(lim.Requests)*burst)
	if v.at.IsZero() {
		v.left = full
	} else if d := now.Sub(v.at); d > 0 {
		v.left = min(full, v.left+d.Minutes()*float64(lim.Requests))
	}
	v.at = now
	if v.failures > 0 && now.Sub(v.failed) > longestLockout {
		v.failures = 0
	}
	return v
}

// forget drops addresses of which nothing has to be remembered. It looks at all of
// them, and so not for every newcomer. l.mu is held.
func (l *Limiter) forget(now time.Time) {
	if now.Sub(l.looked) < forgetEvery {
		return
	}
	l.looked = now
	for addr, v := range l.seen {
		if now.Sub(v.at) > time.Minute && (v.failures == 0 || now.Sub(v.failed) > longestLockout) {
			delete(l.seen, addr)
		}
	}
}

// Allow takes one request of an address. If it may not make one, wait says for
// how long.
func (l *Limiter) Allow(addr netip.Addr) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	v := l.visitor(addr, now)
	if now.Before(v.locked) {
		return v.locked.Sub(now), false
	}
	if v.left < 1 {
		return time.Duration((1 - v.left) / float64(l.limits().Requests) * float64(time.Minute)), false
	}
	v.left--
	return 0, true
}

// Failed takes a wrong secret of an address. It returns for how long the address
// is locked out from now on, or zero.
func (l *Limiter) Failed(addr netip.Addr) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, lim := l.clock(), l.limits()
	v := l.visitor(addr, now)
	v.failures++
	v.failed = now
	over := v.failures - lim.Failures
	if over < 0 {
		return 0
	}
	out := lim.Lockout
	for range min(over, 32) {
		if out *= 2; out >= longestLockout {
			out = longestLockout
			break
		}
	}
	v.locked = now.Add(out)
	return out
}
