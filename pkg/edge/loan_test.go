package edge

import (
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TestALoansEndHoldsByTheClock: whether or not anybody has written it down, a
// device whose loan cut it off has no session and gets none; one that goes home
// has.
func TestALoansEndHoldsByTheClock(t *testing.T) {
	f := newFixture(t, nil)
	c := f.client(f.enrol("monitor-1", time.Hour))
	conn, _, err := f.hello(c)
	if err != nil {
		t.Fatal(err)
	}
	s := <-f.echo.sessions
	loan := func(until time.Time, cut bool) {
		f.reg.update("monitor-1", func(r *device.Record) {
			r.Loan = &device.Loan{To: "ward 5", Until: until, ThenQuarantine: cut}
		})
	}
	loan(time.Now().Add(time.Hour), true)
	if line, err := say(conn, "on loan"); err != nil || line != "monitor-1 on loan" {
		t.Errorf("on loan: %q, %v", line, err)
	}
	loan(time.Now().Add(-time.Minute), false)
	if s.Context().Err() != nil {
		t.Error("the end of a loan at home ends the session")
	}
	loan(time.Now().Add(-time.Second), true)
	if s.Context().Err() == nil {
		t.Error("the session outlives the loan")
	}
	gone(t, conn)
	if conn, _, err := f.hello(c); err == nil {
		gone(t, conn)
	}
	eventually(t, "a record", func() bool { return len(f.log.events("tls.refused")) == 1 })
	if code := f.log.events("tls.refused")[0].Detail[0].Value.Text(); code != refusedLoan {
		t.Errorf("refused with %s", code)
	}
}
