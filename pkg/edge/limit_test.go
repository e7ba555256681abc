package edge

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

func limits(rps, bytes []int64) *protocol.Obligations {
	return &protocol.Obligations{RPS: rps, Bytes: bytes}
}

// TestADeviceHasASecondOfItsLimitAtOnceAndTheRestInTime: what it is told to wait
// is what it takes.
func TestADeviceHasASecondOfItsLimitAtOnceAndTheRestInTime(t *testing.T) {
	now := time.Now()
	l, o := newLimiter(now), limits([]int64{5}, nil)
	for i := range 5 {
		if kind, wait := l.admit("a", o, 0, false, now); wait != 0 {
			t.Fatalf("transaction %d: %s, %v", i, kind, wait)
		}
	}
	kind, wait := l.admit("a", o, 0, false, now)
	if kind != protocol.KindRPS || wait != 200*time.Millisecond {
		t.Fatalf("the sixth: %q, %v", kind, wait)
	}
	if _, again := l.admit("a", o, 0, false, now.Add(wait-1)); again != 1 {
		t.Errorf("a nanosecond early: %v", again)
	}
	if _, again := l.admit("a", o, 0, false, now.Add(wait)); again != 0 {
		t.Errorf("at the time it was told: %v", again)
	}
	if _, again := l.admit("b", o, 0, false, now); again != 0 {
		t.Errorf("another device waits for it: %v", again)
	}
}

// TestEveryLimitCountsWhatItIsAskedFor: two limits of one transaction both hold,
// and one refused is charged to neither.
func TestEveryLimitCountsWhatItIsAskedFor(t *testing.T) {
	now := time.Now()
	l := newLimiter(now)
	both, all := limits([]int64{2, 10}, nil), limits([]int64{10}, nil)
	for range 2 {
		if _, wait := l.admit("a", both, 0, false, now); wait != 0 {
			t.Fatal(wait)
		}
	}
	for range 3 {
		if _, wait := l.admit("a", both, 0, false, now); wait == 0 {
			t.Fatal("a third of what may be two a second")
		}
	}
	// Of the ten a second, two are used.
	for i := range 8 {
		if _, wait := l.admit("a", all, 0, false, now); wait != 0 {
			t.Fatalf("%d: %v", i, wait)
		}
	}
	if _, wait := l.admit("a", all, 0, false, now); wait == 0 {
		t.Error("an eleventh of what may be ten a second")
	}
}

// TestBytesArePaidForAfterwards: a body larger than the limit passes, once.
func TestBytesArePaidForAfterwards(t *testing.T) {
	now := time.Now()
	l, o := newLimiter(now), limits(nil, []int64{1000})
	if _, wait := l.admit("a", o, 5000, false, now); wait != 0 {
		t.Fatal(wait)
	}
	kind, wait := l.admit("a", o, 0, false, now)
	if kind != protocol.KindBytes || wait.Round(time.Millisecond) != 4*time.Second {
		t.Fatalf("%q %v", kind, wait)
	}
	now = now.Add(wait)
	if _, wait := l.admit("a", o, 0, false, now); wait != 0 {
		t.Fatal(wait)
	}
	if wait := l.spend("a", o.Bytes, 3000, now); wait.Round(time.Millisecond) != 3*time.Second {
		t.Errorf("an answer of three seconds is waited for %v", wait)
	}
	if wait := l.spend("a", o.Bytes, 1<<62, now); wait > maxDebt {
		t.Errorf("waits %v", wait)
	}
	if _, wait := l.admit("a", o, 1<<62, false, now.Add(maxDebt)); wait != 0 {
		t.Errorf("waits longer than any debt may be: %v", wait)
	}
}

// TestAPartIsCountedAndNotRefused: a batch with more entries than a limit has
// would never pass otherwise; the next request pays for it.
func TestAPartIsCountedAndNotRefused(t *testing.T) {
	now := time.Now()
	l, o := newLimiter(now), limits([]int64{10}, nil)
	if _, wait := l.admit("a", o, 0, false, now); wait != 0 {
		t.Fatal(wait)
	}
	for range 49 {
		if _, wait := l.admit("a", o, -1, true, now); wait != 0 {
			t.Fatal(wait)
		}
	}
	if _, wait := l.admit("a", o, 0, false, now); wait != 4100*time.Millisecond {
		t.Errorf("after fifty of ten a second it waits %v", wait)
	}
}

// TestWhatPassesIsExactlyWhatTheLimitLets compares the limiter with counting, at
// random times and rates: something is refused if and only if with it there would
// be a span in which more passed than the rate in that span and a second of it.
func TestWhatPassesIsExactlyWhatTheLimitLets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		start := time.Now()
		rate := 1 + rnd.Int64N(100)
		l, o := newLimiter(start), limits([]int64{rate}, nil)
		var passed []time.Duration
		var at time.Duration
		refused := 0
		for range 500 {
			at += time.Duration(rnd.ExpFloat64() * float64(time.Second) / float64(rate) / 2)
			_, wait := l.admit("a", o, 0, false, start.Add(at))
			// How far beyond the limit it would be in the worst span.
			beyond := 1 - float64(rate)
			for i, from := range passed {
				beyond = max(beyond, float64(len(passed)-i+1)-float64(rate)*((at-from).Seconds()+1))
			}
			// Costs are rounded up by less than a nanosecond each.
			if beyond > 1e-4 && wait == 0 || beyond < -1e-4 && wait != 0 {
				t.Fatalf("after %d at %d a second, with %f beyond it: waits %v", len(passed), rate, beyond, wait)
			}
			if wait == 0 {
				passed = append(passed, at)
			} else {
				refused++
			}
		}
		if refused == 0 || len(passed) == 0 {
			t.Errorf("%d passed, %d refused", len(passed), refused)
		}
	}
}

// TestWhatIsRememberedIsBounded: devices and limits without end take no memory
// without end, and who owes most is remembered longest.
func TestWhatIsRememberedIsBounded(t *testing.T) {
	now := time.Now()
	l := newLimiter(now)
	debtor := limits(nil, []int64{1})
	l.admit("debtor", debtor, 1<<40, false, now)
	full, one := l.shard("debtor"), limits([]int64{1}, nil)
	for i, n := 0, 0; n < maxAccounts*5/4; i++ {
		if id := strconv.Itoa(i); l.shard(id) == full {
			l.admit(id, one, 0, false, now)
			n++
		}
	}
	if n := len(full.accounts); n > maxAccounts {
		t.Errorf("%d accounts", n)
	}
	if _, wait := l.admit("debtor", debtor, 0, false, now); wait == 0 {
		t.Error("a debt was forgotten before those that owe nothing")
	}
	for r := range int64(10 * maxMeters) {
		l.admit("many", limits([]int64{r + 1}, nil), 0, false, now)
	}
	if n := len(l.shard("many").accounts["many"]); n > maxMeters {
		t.Errorf("%d limits of one device", n)
	}
}

func BenchmarkAdmit(b *testing.B) {
	now := time.Now()
	l, o := newLimiter(now), limits([]int64{1_000_000}, []int64{1_000_000_000})
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Microsecond)
		l.admit("device", o, 100, false, now)
	}
}
