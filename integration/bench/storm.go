package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
)

const (
	// crewSize is how many devices one process of the fleet is, at most: each
	// needs a descriptor.
	crewSize = 8000
	// establishedRate is the traffic, in requests a second, that goes on while
	// others storm.
	establishedRate = 200
	// calm is how long it goes on before.
	calm = time.Second
	// stormWithin is how long a storm may take; a device that was not served by
	// then was refused for good.
	stormWithin = 3 * time.Minute
	// spare is how many descriptors a gateway needs for other things.
	spare = 1000
)

// storm measures what devices that are connected notice when all others come
// back at once.
func storm(ctx context.Context, r *rig, t *running) (sample, error) {
	limit, err := openFiles(r.opt.storm + spare)
	if err != nil {
		return sample{}, err
	}
	plan := t.plan(r, fleet.Rate)
	plan.Connections, plan.Rate, plan.Duration = r.opt.connections, establishedRate, stormWithin
	established, err := r.man(plan)
	if err != nil {
		return sample{}, err
	}
	defer established.dismiss()
	if _, err := established.await(ctx, "ready", loadGrace); err != nil {
		return sample{}, err
	}

	plan = t.plan(r, fleet.Storm)
	plan.Devices, plan.Duration, plan.Stay = t.devices, stormWithin, r.opt.storm+spare <= limit
	crews, err := r.manMany(ctx, plan, r.opt.storm)
	defer crews.dismiss()
	if err != nil {
		return sample{}, err
	}
	if err := established.say(fleet.Go); err != nil {
		return sample{}, err
	}
	time.Sleep(calm)
	var reports []*fleet.Report
	used, err := t.spends(func() (err error) {
		if err = crews.say(fleet.Go); err == nil {
			reports, err = crews.done(ctx, stormWithin+loadGrace)
		}
		return err
	})
	if err == nil {
		err = established.say(fleet.Stop)
	}
	if err != nil {
		return sample{}, err
	}
	e, err := established.await(ctx, "done", loadGrace)
	if err != nil {
		return sample{}, err
	}
	return stormSample(e.Report, reports, used, plan.Stay), nil
}

// stormSample makes a sample of what the devices that were connected saw, and
// what those that came back did.
func stormSample(established *fleet.Report, back []*fleet.Report, used time.Duration, stay bool) sample {
	s := sample{}
	for _, f := range countFaults(established.Failed) {
		s.faults = append(s.faults, "established: "+f)
	}
	var in, tries, again int64
	var half, last, took time.Duration
	for _, rep := range back {
		for _, f := range countFaults(rep.Failed) {
			s.faults = append(s.faults, "refused for good: "+f)
		}
		in, tries, took = in+rep.Requests, max(tries, rep.Tries), max(took, rep.Elapsed)
		for n := range maps.Values(rep.Refused) {
			again += n
		}
		if rep.Latency != nil {
			half, last = max(half, rep.Latency.P50), max(last, rep.Latency.Max)
		}
	}
	if established.Latency == nil || in == 0 {
		s.faults = append(s.faults, "nothing was measured")
		return s
	}
	s.figure = milli(established.Latency.P99)
	closing := "who then closed, for want of descriptors"
	if stay {
		closing = "who stayed"
	}
	s.note = fmt.Sprintf("%d devices, %s; half served within %s, the last after %s; %d tries repeated, at most %d for one device; established p50 %s, p99 %s, slowest %s; core %.0f %% busy",
		in, closing, tenth(half), tenth(last), again, tries, tenth(established.Latency.P50), tenth(established.Latency.P99), tenth(established.Latency.Max), 100*used.Seconds()/took.Seconds())
	return s
}

func milli(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// openFiles returns how many files a process may have open here, at most. If that
// is fewer than are wanted it asks for more, which root may have who has the
// capability (CAP_SYS_RESOURCE); the programs that are started after that have it
// too.
func openFiles(want int) (int, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if more := uint64(want); l.Max < more && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: more, Max: more}) == nil {
		l.Max = more
	}
	return int(min(l.Max, 1<<30)), nil
}

// crews are several processes of one fleet.
type crews []*crew

// manMany mans a plan with so many connections, in as many processes as that
// takes, and waits until they are ready. The caller dismisses them, after an
// error too.
func (r *rig) manMany(ctx context.Context, plan fleet.Plan, connections int) (cs crews, err error) {
	all := connections
	if plan.Count == 0 {
		plan.Count = all
	}
	for first := 0; first < all; first += crewSize {
		plan.First, plan.Connections = first, min(crewSize, all-first)
		c, err := r.man(plan)
		if err != nil {
			return cs, err
		}
		cs = append(cs, c)
	}
	for _, c := range cs {
		if _, err := c.await(ctx, "ready", loadGrace+fleetTime(all)); err != nil {
			return cs, err
		}
	}
	return cs, nil
}

func (cs crews) say(word string) error {
	for _, c := range cs {
		if err := c.say(word); err != nil {
			return err
		}
	}
	return nil
}

// done waits until all have reported.
func (cs crews) done(ctx context.Context, within time.Duration) ([]*fleet.Report, error) {
	var reports []*fleet.Report
	for _, c := range cs {
		e, err := c.await(ctx, "done", within)
		if err != nil {
			return nil, err
		}
		reports = append(reports, e.Report)
	}
	return reports, nil
}

func (cs crews) dismiss() {
	for _, c := range slices.Backward(cs) {
		c.dismiss()
	}
}
