package protocol

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWhoCannotBeStoppedAtOnceHoldsUpNobody: a device that reads nothing takes a
// second to be told, and the others are judged and stopped meanwhile.
func TestWhoCannotBeStoppedAtOnceHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := aged(time.Now())
		began := time.Now()
		stopped := make(chan time.Duration, 3)
		deny := func() bool { return false }
		for range 3 {
			defer s.Hold(deny, func() {
				stopped <- time.Since(began)
				time.Sleep(time.Second)
			})()
		}
		defer s.Hold(func() bool { return true }, func() { t.Error("what was allowed is stopped") })()
		s.Recheck()
		if took := time.Since(began); took != 0 {
			t.Errorf("judging anew took %v", took)
		}
		synctest.Wait()
		for range 3 {
			if at := <-stopped; at != 0 {
				t.Errorf("stopped after %v", at)
			}
		}
		time.Sleep(2 * time.Second)
	})
}

// TestWhatInterruptsAnAdapterIsCalledOnce: by the first end, whichever came first
// of that and of asking for it, and not where the adapter was done.
func TestWhatInterruptsAnAdapterIsCalledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls [4]atomic.Int32
		s := NewSession(nil)
		s.OnEnd(func() { calls[0].Add(1) })
		s.OnEnd(func() { calls[1].Add(1) })
		first := errors.New("first")
		s.End(first)
		s.End(errors.New("second"))
		s.OnEnd(func() { calls[2].Add(1) })
		s.Close(errors.New("third"))
		done := NewSession(nil)
		done.OnEnd(func() { calls[3].Add(1) })
		done.Close(first)
		done.End(errors.New("second"))
		synctest.Wait()
		for i, want := range []int32{1, 1, 1, 0} {
			if got := calls[i].Load(); got != want {
				t.Errorf("%d was called %d times, want %d", i, got, want)
			}
		}
		for _, s := range []*Session{s, done} {
			if err := context.Cause(s.Context()); err != first {
				t.Errorf("ended by %v", err)
			}
		}
	})
}

// TestASessionIsAskedToFinishOnce: whether that or who listens came first.
func TestASessionIsAskedToFinishOnce(t *testing.T) {
	for range 2000 {
		s, calls := NewSession(nil), atomic.Int32{}
		var wg sync.WaitGroup
		wg.Go(s.Drain)
		wg.Go(s.Drain)
		wg.Go(func() { s.OnDrain(func() { calls.Add(1) }) })
		wg.Wait()
		if n := calls.Load(); n != 1 {
			t.Fatalf("asked %d times", n)
		}
	}
}
