package fleet

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestAScheduleDoesNotDrift(t *testing.T) {
	start := time.Now()
	for _, rate := range []float64{1, 3, 7777.7, 1e6} {
		s := schedule{start, rate}
		last := start.Add(-1)
		for i := range int64(10_000) {
			due := s.due(i)
			if !due.After(last) {
				t.Fatalf("rate %v: request %d is due before the one before it", rate, i)
			}
			last = due
		}
		hour := int64(rate * 3600)
		want := time.Duration(float64(hour) / rate * float64(time.Second))
		if off := s.due(hour).Sub(start) - want; off.Abs() > time.Microsecond {
			t.Errorf("rate %v: after an hour it is %v off", rate, off)
		}
	}
}

func TestBucketsAreNarrowAndComplete(t *testing.T) {
	for _, v := range []uint64{0, 1, 255, 256, 257, 1000, 1 << 20, 1<<20 + 1, 1<<63 - 1, 1<<64 - 1} {
		b := bucket(v)
		if b >= buckets {
			t.Fatalf("%d is in bucket %d of %d", v, b, buckets)
		}
		if hi := top(b); hi < v || float64(hi-v) > float64(v)/steps {
			t.Errorf("%d is in bucket %d, which ends at %d", v, b, hi)
		}
		if b > 0 && top(b-1) >= v {
			t.Errorf("%d is in bucket %d, but fits into the one before", v, b)
		}
	}
}

func TestQuantilesAreThoseOfTheValues(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var whole, part histogram
	var values []time.Duration
	for i := range 10_000 {
		d := time.Duration(rnd.ExpFloat64() * float64(time.Millisecond))
		values = append(values, d)
		if i%2 == 0 {
			whole.record(d)
		} else {
			part.record(d)
		}
	}
	whole.add(&part)
	slices.Sort(values)
	for _, q := range []float64{0, .5, .99, .999, 1} {
		want := values[max(int(q*float64(len(values)))-1, 0)]
		got := whole.quantile(q)
		if got < want || float64(got-want) > float64(want)/steps+1 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if s := whole.spread(); s.N != 10_000 || s.Max != values[len(values)-1] || s.P50 > s.P99 || s.P99 > s.P999 {
		t.Errorf("%+v", s)
	}
	if (&histogram{}).quantile(.5) != 0 {
		t.Error("nothing has a median")
	}
}

// TestAStallCountsForEveryRequestThatWasDue is what coordinated omission would
// get wrong: one answer that takes long makes many others late.
func TestAStallCountsForEveryRequestThatWasDue(t *testing.T) {
	const stall = 300 * time.Millisecond
	var served atomic.Int64
	p := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if served.Add(1) == 3 {
			time.Sleep(stall)
		}
		created(w, r)
	}))
	p.Mode, p.Connections, p.Rate, p.Duration = Rate, 1, 1000, 600*time.Millisecond
	c := start(t, p)
	c.await("ready")
	c.say(Go)
	rep := c.await("done").Report
	if rep.Requests != 600 || len(rep.Failed) > 0 {
		t.Fatalf("%+v", rep)
	}
	// 300 requests were due during the stall, and waited for what was left of it;
	// a closed loop would see one.
	if rep.Latency.P99 < stall/2 || rep.Latency.Max < stall {
		t.Errorf("99 %% of the requests took under %v, the slowest %v", rep.Latency.P99, rep.Latency.Max)
	}
}

func TestAFailedRequestIsCountedAndTheLaneGoesOn(t *testing.T) {
	var served atomic.Int64
	p := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if served.Add(1) == 5 {
			panic(http.ErrAbortHandler)
		}
		created(w, r)
	}))
	p.Mode, p.Connections, p.Rate, p.Duration = Rate, 2, 500, 100*time.Millisecond
	c := start(t, p)
	c.await("ready")
	c.say(Go)
	rep := c.await("done").Report
	var failed int64
	for why, n := range rep.Failed {
		if !strings.Contains(why, "cut short") && !strings.Contains(why, "EOF") {
			t.Errorf("failed with %q", why)
		}
		failed += n
	}
	if failed != 1 || rep.Requests != 49 {
		t.Errorf("%d failed, %d answered: %+v", failed, rep.Requests, rep)
	}
}
