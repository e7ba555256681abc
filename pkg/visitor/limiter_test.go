package visitor

import (
	"net/netip"
	"testing"
	"time"
)

func testLimiter() (*Limiter, *time.Time) {
	now := time.Date(2026, 2, 16, 9, 0, 0, 0, time.UTC)
	limits := Limits{Requests: 60, Failures: 5, Lockout: time.Minute}
	return NewLimiter(func() Limits { return limits }, func() time.Time { return now }), &now
}

func addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

func TestAnAddressMayAskSoOften(t *testing.T) {
	l, now := testLimiter()
	n := 0
	for ; n < 1000; n++ {
		if _, ok := l.Allow(addr(1)); !ok {
			break
		}
	}
	if n != 30 {
		t.Errorf("%d requests at once", n)
	}
	if wait, ok := l.Allow(addr(1)); ok || wait <= 0 || wait > time.Second {
		t.Errorf("then it waits %v, %v", wait, ok)
	}
	if _, ok := l.Allow(addr(2)); !ok {
		t.Error("another address waits with it")
	}
	*now = now.Add(time.Second)
	if _, ok := l.Allow(addr(1)); !ok {
		t.Error("a second later it still waits")
	}
	if _, ok := l.Allow(addr(1)); ok {
		t.Error("a second brings more than one")
	}
}

func TestWhoGuessesIsLockedOutForLongerEachTime(t *testing.T) {
	l, now := testLimiter()
	for range 4 {
		if out := l.Failed(addr(1)); out != 0 {
			t.Fatalf("locked out early, for %v", out)
		}
	}
	want := time.Minute
	for range 15 {
		if out := l.Failed(addr(1)); out != want {
			t.Fatalf("locked out for %v, want %v", out, want)
		}
		if _, ok := l.Allow(addr(1)); ok {
			t.Fatal("it may ask all the same")
		}
		*now = now.Add(want - time.Second)
		if wait, ok := l.Allow(addr(1)); ok || wait != time.Second {
			t.Fatalf("a second before the end: %v, %v", wait, ok)
		}
		*now = now.Add(time.Second)
		if _, ok := l.Allow(addr(1)); !ok {
			t.Fatal("it is still locked out")
		}
		want = min(2*want, longestLockout)
	}
	if want != longestLockout {
		t.Errorf("the test did not come to the longest lockout, only to %v", want)
	}
	*now = now.Add(longestLockout + time.Second)
	if out := l.Failed(addr(1)); out != 0 {
		t.Errorf("a day later it is locked out for %v", out)
	}
}

// TestManyAddressesTakeNoMemory, and nobody is let off by their number.
func TestManyAddressesTakeNoMemory(t *testing.T) {
	l, now := testLimiter()
	for range 5 {
		l.Failed(addr(0))
	}
	for n := range 2 * mostVisitors {
		l.Allow(addr(n + 1))
	}
	if len(l.seen) > mostVisitors {
		t.Errorf("%d addresses are remembered", len(l.seen))
	}
	if _, ok := l.Allow(addr(0)); ok {
		t.Error("who was locked out is forgotten")
	}
	if _, ok := l.Allow(addr(5 * mostVisitors)); ok {
		t.Error("newcomers do not share")
	}
	*now = now.Add(2 * time.Minute)
	if _, ok := l.Allow(addr(5 * mostVisitors)); !ok {
		t.Error("room is not made again")
	}
}
