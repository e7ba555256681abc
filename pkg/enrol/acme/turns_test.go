package acme

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A crowd has orders tried, each for as long as one can take.
type crowd struct {
	busy *busy
	next int
}

func (c *crowd) turn(account, source string) *turn {
	c.next++
	return newTurn(fmt.Sprint(c.next), account, netip.MustParseAddr(source))
}

// insists has an account ask again and again, twice at a time, for servers that do
// not answer, until the test ends.
func (c *crowd) insists(ctx context.Context, account, source string) {
	for range mostOfOne {
		c.next++
		order := fmt.Sprint("order-", c.next)
		go func() {
			for ctx.Err() == nil {
				t := newTurn(order, account, netip.MustParseAddr(source))
				if c.busy.take(ctx, t) {
					time.Sleep(tryTime)
					c.busy.leave(t)
				} else {
					time.Sleep(time.Millisecond)
				}
			}
		}()
	}
}

// TestAFewAccountsCanNotKeepOthersOut: four have all the places at once, and many of
// one source want them; who comes has the next one.
func TestAFewAccountsCanNotKeepOthersOut(t *testing.T) {
	for name, c := range map[string]struct {
		accounts int
		source   func(i int) string
		from     string // where the other comes from
	}{
		"four accounts":                      {4, func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }, "198.51.100.1"},
		"four accounts, behind one address":  {4, func(int) string { return "192.0.2.1" }, "192.0.2.1"},
		"eight accounts":                     {8, func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }, "198.51.100.1"},
		"fifty accounts, behind one address": {50, func(int) string { return "192.0.2.1" }, "198.51.100.1"},
		"twenty accounts, behind a few":      {20, func(i int) string { return fmt.Sprintf("192.0.2.%d", i%4) }, "198.51.100.1"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			all := &crowd{busy: newBusy(time.Now)}
			for i := range c.accounts {
				all.insists(ctx, fmt.Sprint("slow-", i), c.source(i))
			}
			time.Sleep(3*tryTime + tryTime/3)
			for i := range 5 {
				began := time.Now()
				turn := all.turn("lis-1", c.from)
				if !all.busy.take(ctx, turn) {
					t.Errorf("%s: try %d had no turn within %v", name, i, time.Since(began))
					continue
				}
				time.Sleep(time.Second)
				all.busy.leave(turn)
			}
			cancel()
			time.Sleep(2 * tryTime)
			time.Sleep(forgetTime)
			last := all.turn("lis-1", c.from)
			if all.busy.take(t.Context(), last) {
				all.busy.leave(last)
			}
			all.busy.mu.Lock()
			defer all.busy.mu.Unlock()
			if len(all.busy.had) != 2 {
				t.Errorf("%s: of %d somebody remembers", name, len(all.busy.had))
			}
			if len(all.busy.at) != 0 || len(all.busy.waiting) != 0 {
				t.Errorf("%s: %d are at it and %d wait after the end", name, len(all.busy.at), len(all.busy.waiting))
			}
		})
	}
}

// TestTurnsAreBounded, of one order, of one account, of one source and of all.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ctx := &crowd{busy: newBusy(time.Now)}, t.Context()
		first := c.turn("a", "192.0.2.1")
		if !c.busy.take(ctx, first) || c.busy.take(ctx, newTurn(first.order, "b", first.source)) {
			t.Error("an order is tried twice at once")
		}
		if !c.busy.take(ctx, c.turn("a", "192.0.2.1")) || c.busy.take(ctx, c.turn("a", "192.0.2.2")) {
			t.Error("an account has more than two")
		}
		for i := range mostAtOnce - mostOfOne {
			if !c.busy.take(ctx, c.turn(fmt.Sprint("b", i), "192.0.2.2")) {
				t.Fatal("there is a place")
			}
		}
		waits := func(source string, n int) (began int) {
			for i := range n {
				go c.busy.take(ctx, c.turn(fmt.Sprint(source, i), source))
			}
			synctest.Wait()
			c.busy.mu.Lock()
			defer c.busy.mu.Unlock()
			return len(c.busy.waiting)
		}
		if n := waits("192.0.2.3", 2*mostOfSource); n != mostOfSource {
			t.Errorf("%d of one source wait", n)
		}
		for i := range 2 * mostWaiting {
			waits(fmt.Sprintf("198.51.100.%d", i), 1)
		}
		if n := waits("198.51.100.0", 0); n != mostWaiting {
			t.Errorf("%d wait", n)
		}
		// Nobody leaves, and nobody waits for ever.
		if began := time.Now(); c.busy.take(ctx, c.turn("late", "203.0.113.1")) || time.Since(began) > waitTime {
			t.Error("one more waits")
		}
		time.Sleep(waitTime)
		if waits("198.51.100.0", 0); len(c.busy.at) != mostAtOnce || len(c.busy.waiting) != 0 {
			t.Errorf("%d are at it and %d wait", len(c.busy.at), len(c.busy.waiting))
		}
		// Who gives up while waiting leaves no trace.
		gone, leave := context.WithCancel(ctx)
		leave()
		if c.busy.take(gone, c.turn("gone", "203.0.113.1")) || len(c.busy.waiting) != 0 {
			t.Error("one that has gone has a turn")
		}
		c.busy.leave(first)
		if !c.busy.take(ctx, c.turn("late", "203.0.113.1")) {
			t.Error("the place that became free is nobody's")
		}
	})
}
