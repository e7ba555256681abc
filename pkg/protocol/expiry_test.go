package protocol

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func aged(started time.Time) *Session {
	s := NewSession(nil)
	s.Started = started
	return s
}

// TestASessionExpiresAtItsAge: it takes nothing new, what it holds stops, and it
// ends if it does not finish.
func TestASessionExpiresAtItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := aged(time.Now())
		draining := make(chan struct{})
		s.OnDrain(func() { close(draining) })
		stopped := make(chan time.Time, 1)
		defer s.Hold(func() bool { return true }, func() { stopped <- time.Now() })()
		time.Sleep(10 * time.Second)
		s.Expire(time.Hour, time.Now())
		s.Expire(time.Minute, time.Now())
		s.Expire(2*time.Hour, time.Now())
		time.Sleep(50*time.Second - time.Nanosecond)
		synctest.Wait()
		if s.IsDraining() {
			t.Fatal("it expired early")
		}
		<-draining
		if at := <-stopped; at.Sub(s.Started) != time.Minute {
			t.Errorf("what it held stopped after %v", at.Sub(s.Started))
		}
		if s.Context().Err() != nil {
			t.Error("it ended without a chance to finish")
		}
		s.Expire(time.Second, time.Now()) // changes nothing any more
		<-s.Context().Done()
		if age := time.Since(s.Started); age != time.Minute+ExpiryGrace || !errors.Is(context.Cause(s.Context()), ErrAged) {
			t.Errorf("ended after %v: %v", age, context.Cause(s.Context()))
		}
	})
}

// TestASessionThatIsOlderExpiresAtOnce: before Expire returns.
func TestASessionThatIsOlderExpiresAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := aged(time.Now().Add(-time.Hour))
		held := false
		defer s.Hold(func() bool { return true }, func() { held = true })()
		s.Expire(time.Minute, time.Now())
		if !s.IsDraining() {
			t.Error("it takes new transactions")
		}
		synctest.Wait()
		if !held {
			t.Error("what it holds goes on")
		}
		s.End(errors.New("finished"))
		time.Sleep(time.Hour)
		if err := context.Cause(s.Context()); err.Error() != "finished" {
			t.Errorf("ended by %v", err)
		}
	})
}

// TestASessionThatEndsLeavesNoTimer: nothing fires after the end.
func TestASessionThatEndsLeavesNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := aged(time.Now())
		s.Expire(time.Minute, time.Now())
		s.End(errors.New("finished"))
		time.Sleep(time.Hour)
		synctest.Wait()
		if s.IsDraining() {
			t.Error("a session that had ended expired")
		}
		s.Expire(time.Second, time.Now())
		if s.expired {
			t.Error("a session that had ended expired")
		}
	})
}
