package device

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// What is counted as devices change is what a walk through all of them counts,
// whenever the counting begins.
func TestCountsAreThoseOfAWalk(t *testing.T) {
	for seed := range uint64(4) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		g, ctx := registry(t), t.Context()
		base := time.Unix(1.9e9, 0)
		end := func() time.Time { return base.Add(time.Duration(rnd.IntN(5*hour)-2*hour) * time.Second) }
		check := func() {
			t.Helper()
			var by []time.Time
			for range 5 {
				by = append(by, end())
			}
			by = append(by, time.Time{}, time.Unix(-1, 0), time.Unix(9e9, 0))
			walked, ending := map[Status]int{}, make([]int, len(by))
			for _, r := range g.List(Filter{}) {
				walked[r.Status]++
				for i, moment := range by {
					if last := r.Expires(); r.Status == Active && !last.IsZero() && !last.After(moment) {
						ending[i]++
					}
				}
			}
			if got := g.Ending(by...); fmt.Sprint(got) != fmt.Sprint(ending) {
				t.Fatalf("seed %d: ending by %v are %v, want %v", seed, by, got, ending)
			}
			if got := g.Counts(); fmt.Sprint(got) != fmt.Sprint(walked) {
				t.Fatalf("seed %d: counted %v, want %v", seed, got, walked)
			}
		}
		n := 0
		for step := range 120 {
			id := fmt.Sprintf("pump-%d", rnd.IntN(n+1))
			switch rnd.IntN(4) {
			case 0:
				r := pump(fmt.Sprintf("pump-%d", n), 2*step)
				r.Certificates[0].NotAfter = end()
				if _, err := g.Create(ctx, r); err != nil {
					t.Fatal(err)
				}
				n++
			case 1:
				_, _ = g.SetStatus(ctx, id, []Status{Active, Quarantined, Revoked, Retired}[rnd.IntN(4)], "x")
			case 2:
				_, _ = g.Update(ctx, id, func(r *Record) error {
					r.Certificates = append(r.Certificates[:min(len(r.Certificates), 1)], Certificate{Fingerprint: fingerprint(2*step + 1), NotAfter: end()})
					return nil
				})
			case 3:
				// Some have no certificate.
				_, _ = g.Update(ctx, id, func(r *Record) error { r.Certificates = nil; return nil })
			}
			if seed == 0 || step > 60 { // else it is found out in the middle
				check()
			}
		}
	}
}

// TestWhatWasNeverCountedIsTakenFromNoCount, in an hour of which others were
// counted, and in one of which nobody was.
func TestWhatWasNeverCountedIsTakenFromNoCount(t *testing.T) {
	y := newTally()
	counted := pump("pump-1", 1)
	y.add(counted)
	for _, late := range []time.Duration{time.Second, 2 * hour * time.Second} {
		never := pump("pump-2", 2)
		never.Status = Active
		never.Certificates[0].NotAfter = counted.Certificates[0].NotAfter.Add(late)
		y.statuses[Active]++ // its status alone
		y.remove(never)
		at, sec, _ := counted.end()
		if len(y.ends) != 1 || len(y.ends[at]) != 1 || y.ends[at][0] != sec || y.statuses[Active] != 1 {
			t.Fatalf("%v later: counted %v, %v", late, y.statuses, y.ends)
		}
	}
	quarantined := &Record{Status: Quarantined}
	if y.remove(quarantined); len(y.statuses) != 1 {
		t.Errorf("counted %v", y.statuses)
	}
}

func TestTimesAreSplitIntoHours(t *testing.T) {
	for _, s := range []int64{0, 1, -1, 3599, 3600, -3600, -3601, 1.9e9, 253402300799} {
		at, sec := split(time.Unix(s, 999_999_999))
		if at*hour+int64(sec) != s || sec >= hour {
			t.Errorf("%d is in hour %d at %d", s, at, sec)
		}
	}
}

// BenchmarkCounts is what reading the metrics asks of a registry of a million
// devices, whose certificates end all over a year.
func BenchmarkCounts(b *testing.B) {
	g, err := Open(b.Context(), made{}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	const devices, year = 1_000_000, 365 * 24 * time.Hour
	now := time.Unix(1.9e9, 0)
	for i := range time.Duration(devices) {
		g.index().tally.add(&Record{Status: Active, Certificates: []Certificate{{NotAfter: now.Add(i * (year / devices))}}})
	}
	b.ReportAllocs()
	for b.Loop() {
		if n := g.Ending(now.Add(year / 10)); g.Counts()[Active] != devices || n[0] < devices/11 || n[0] > devices/9 {
			b.Fatal("miscounted", n)
		}
	}
}
