package protocol

import (
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
