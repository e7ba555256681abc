package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
)

// addedP99 is the further figure of latency: the 99th percentile added, in µs.
const addedP99 = "p99"

// latency measures how much later an answer comes because the target stands
// between device and backend, at half the rate that it is able to. The rate is
// constant and does not wait for answers, and the backend is asked directly at
// the same rate, over TLS, just before.
func latency(ctx context.Context, r *rig, t *running) (sample, error) {
	able, err := r.post(ctx, t, r.opt.duration)
	if err != nil {
		return sample{}, fmt.Errorf("what the target is able to: %w", err)
	}
	plan := t.plan(r, fleet.Rate)
	plan.Connections = r.opt.connections
	plan.Rate = math.Floor(float64(able.requests) / able.duration.Seconds() / 2)
	straight := plan
	straight.Addr, straight.ServerName = fmt.Sprintf("127.0.0.1:%d", r.backend.port), backendName
	straight.Roots, straight.Cert, straight.Key = r.pki.backendCA, "", ""
	within := 2*r.opt.duration + loadGrace
	direct, _, err := r.perform(ctx, t, straight, within)
	if err != nil {
		return sample{}, fmt.Errorf("the backend alone: %w", err)
	}
	through, used, err := r.perform(ctx, t, plan, within)
	if err != nil {
		return sample{}, err
	}
	s := sample{faults: append(faultsOf(direct), faultsOf(through)...)}
	if direct.Latency == nil || through.Latency == nil || len(s.faults) > 0 {
		return s, nil
	}
	d, g := direct.Latency, through.Latency
	s.figure = micro(g.P50 - d.P50)
	s.more = map[string]float64{addedP99: micro(g.P99 - d.P99)}
	s.note = fmt.Sprintf("at %.0f/s, core %.0f %% busy; added p50 %s, p99 %s, p99.9 %s; itself %s, %s, %s; direct %s, %s, %s",
		plan.Rate, 100*used.Seconds()/through.Elapsed.Seconds(), tenth(g.P50-d.P50), tenth(g.P99-d.P99), tenth(g.P999-d.P999),
		tenth(g.P50), tenth(g.P99), tenth(g.P999), tenth(d.P50), tenth(d.P99), tenth(d.P999))
	return s, nil
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// tenth rounds to what is worth reading.
func tenth(d time.Duration) time.Duration {
	if d.Abs() < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(10 * time.Microsecond)
}
