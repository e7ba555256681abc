package edge

import (
	"hash/maphash"
	"math"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

const (
	// burst is how much of a limit a device may use at once after a rest: what it
	// may have in a second.
	burst = time.Second
	// maxDebt bounds how long a device waits for what it had beyond its limit. An
	// answer may be larger than anybody thought of.
	maxDebt = time.Hour
	// limitShards spreads devices over locks, so that sessions seldom share one.
	limitShards = 64
	// maxAccounts bounds the devices of a shard whose use is remembered: together
	// a quarter of a million, of which only those count that did something just now.
	maxAccounts = 1 << 12
	// maxMeters bounds the limits that are counted for one device. A policy that
	// makes its limits of the request could have any number of them.
	maxMeters = 64
	// evictions is how many accounts are looked at to find room for another.
	evictions = 32
)

// A meter says how much of one limit a device has used: everything is paid for at
// the limit's rate, and until is when all of it will be. It may be in the future
// by the burst; beyond that the device waits.
type meter struct {
	kind  limitKind
	rate  int64
	until time.Duration // since the limiter's start
}

type limitKind uint8

const (
	perTransaction limitKind = iota
	perByte
)

// An account holds a device's meters.
type account []meter

// A limiter holds devices to limit_rps and limit_bytes. What a device used counts
// over all its sessions and listeners, and whatever policy set is in force: a
// limit is its device, its kind and its rate. It is safe for concurrent use.
type limiter struct {
	start  time.Time
	seed   maphash.Seed
	shards [limitShards]limitShard
}

type limitShard struct {
	mu       sync.Mutex
	accounts map[string]account
	_        [40]byte // fills a cache line
}

func newLimiter(start time.Time) *limiter {
	l := &limiter{start: start, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].accounts = map[string]account{}
	}
	return l
}

func (l *limiter) shard(device string) *limitShard {
	return &l.shards[maphash.String(l.seed, device)%limitShards]
}

// admit takes one transaction with n bytes declared into account, or returns the
// kind of the limit in its way and how long the device should wait. A part of a
// transaction that was admitted is taken into account and not refused: what it is
// a part of could otherwise never pass.
func (l *limiter) admit(device string, o *protocol.Obligations, n int64, part bool, now time.Time) (kind string, wait time.Duration) {
	at := now.Sub(l.start)
	s := l.shard(device)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(device, at)
	defer func() { s.accounts[device] = a }()
	if !part {
		for _, r := range o.RPS {
			if w := a.meter(perTransaction, r, at).wait(at, cost(1, r)); w > wait {
				kind, wait = protocol.KindRPS, w
			}
		}
		for _, r := range o.Bytes {
			// However large it is: it is paid for afterwards.
			if w := a.meter(perByte, r, at).wait(at, 0); w > wait {
				kind, wait = protocol.KindBytes, w
			}
		}
		if wait > 0 {
			return kind, wait
		}
	}
	for _, r := range o.RPS {
		a.meter(perTransaction, r, at).charge(at, cost(1, r))
	}
	for _, r := range o.Bytes {
		a.meter(perByte, r, at).charge(at, cost(n, r))
	}
	return "", 0
}

// spend takes bytes into account that went their way already, and returns how
// long to wait before the next ones may.
func (l *limiter) spend(device string, rates []int64, n int64, now time.Time) (wait time.Duration) {
	at := now.Sub(l.start)
	s := l.shard(device)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(device, at)
	for _, r := range rates {
		m := a.meter(perByte, r, at)
		m.charge(at, cost(n, r))
		wait = max(wait, m.wait(at, 0))
	}
	s.accounts[device] = a
	return wait
}

// cost is how long n of something takes at a rate. It is at least a nanosecond,
// and never more than any debt may be.
func cost(n, rate int64) time.Duration {
	if n <= 0 {
		return 0
	}
	d := math.Ceil(float64(n) / float64(rate) * float64(time.Second))
	return time.Duration(min(d, float64(maxDebt+burst)))
}

// wait is how long it takes until something of that cost is within the limit.
func (m *meter) wait(at, cost time.Duration) time.Duration {
	return max(0, max(m.until, at)+cost-at-burst)
}

func (m *meter) charge(at, cost time.Duration) {
	m.until = min(max(m.until, at)+cost, at+maxDebt+burst)
}

// meter returns the account's meter of a limit, a new one if need be. It is valid
// until the next call.
func (a *account) meter(kind limitKind, rate int64, at time.Duration) *meter {
	least := 0
	for i := range *a {
		m := &(*a)[i]
		if m.kind == kind && m.rate == rate {
			return m
		}
		if m.until < (*a)[least].until {
			least = i
		}
	}
	fresh := meter{kind: kind, rate: rate, until: at}
	if len(*a) > 0 && (len(*a) == maxMeters || (*a)[least].until <= at) {
		// One that is paid for is as good as none.
		(*a)[least] = fresh
		return &(*a)[least]
	}
	*a = append(*a, fresh)
	return &(*a)[len(*a)-1]
}

// owes reports whether anything of the account still counts, and until when.
func (a account) owes(at time.Duration) (until time.Duration) {
	for i := range a {
		until = max(until, a[i].until)
	}
	return max(0, until-at)
}

// account returns a device's account, and makes room for it first if there is
// none: accounts that owe nothing are dropped without a loss, else the one that
// owes least. The caller holds mu.
func (s *limitShard) account(device string, at time.Duration) account {
	a, ok := s.accounts[device]
	if ok || len(s.accounts) < maxAccounts {
		return a
	}
	victim, least, seen, room := "", time.Duration(math.MaxInt64), 0, false
	for id, o := range s.accounts {
		if d := o.owes(at); d == 0 {
			delete(s.accounts, id)
			room = true
		} else if d < least {
			victim, least = id, d
		}
		if seen++; seen == evictions {
			break
		}
	}
	if !room {
		delete(s.accounts, victim)
	}
	return a
}
