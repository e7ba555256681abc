package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A scenario is one thing that is measured of every target.
type scenario struct {
	name  string
	title string
	unit  string // of its figure; less is better
	run   func(ctx context.Context, r *rig, t *running) (sample, error)
}

// scenarios lists all of them, in the order they are measured and reported.
// Another one is another function of the same form and a line here.
func scenarios() []scenario {
	return []scenario{{
		name:  "keepalive",
		title: "CPU per HTTP/1.1 keep-alive request, 1 kB FHIR POST, mutual TLS 1.3",
		unit:  "µs",
		run:   keepAlive,
	}}
}

func scenarioNames() []string {
	var ns []string
	for _, s := range scenarios() {
		ns = append(ns, s.name)
	}
	return ns
}

// selectScenarios returns those named in the comma-separated list.
func selectScenarios(list string) ([]scenario, error) {
	all := scenarios()
	var picked []scenario
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(s scenario) bool { return s.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("no scenario %q; there are %s", name, strings.Join(scenarioNames(), ", "))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

// A sample is the outcome of one scenario with one target in one round.
type sample struct {
	figure float64 // in the scenario's unit
	note   string  // what else was seen: rate, latency
	faults []string
}

// String describes the sample in one line.
func (s sample) String() string {
	if len(s.faults) > 0 {
		return "INVALID: " + strings.Join(s.faults, "; ")
	}
	return fmt.Sprintf("%.2f  (%s)", s.figure, s.note)
}

// measure starts the target, proves that it works, measures, and stops it.
// What goes wrong is in the sample.
func (r *rig) measure(ctx context.Context, s scenario, t target) sample {
	run, err := t.start(ctx, r)
	if err != nil {
		return sample{faults: []string{err.Error()}}
	}
	defer run.stop()
	if err := run.check(ctx, r); err != nil {
		return sample{faults: []string{err.Error()}}
	}
	smp, err := s.run(ctx, r, run)
	if err != nil {
		smp.faults = append(smp.faults, err.Error())
	}
	if r.opt.verbose {
		r.progress("%s: %s", t.name(), run.out)
	}
	return smp
}

// keepAlive measures the CPU time of a request on connections that stay open.
// The few handshakes of the run are in the figure, of every target alike.
func keepAlive(ctx context.Context, r *rig, t *running) (sample, error) {
	if r.opt.warmup > 0 {
		if _, err := r.post(ctx, t, r.opt.warmup); err != nil {
			return sample{}, fmt.Errorf("warm up: %w", err)
		}
	}
	servedBefore, err := r.backend.served(ctx)
	if err != nil {
		return sample{}, err
	}
	before, err := t.cpu()
	if err != nil {
		return sample{}, err
	}
	l, err := r.post(ctx, t, r.opt.duration)
	if err != nil {
		return sample{}, err
	}
	after, err := t.cpu()
	if err != nil {
		return sample{}, err
	}
	servedAfter, err := r.backend.served(ctx)
	if err != nil {
		return sample{}, err
	}
	used := after - before
	smp := sample{
		figure: float64(used) / float64(time.Microsecond) / float64(l.requests),
		note: fmt.Sprintf("%.0f/s, p50 %s, p99 %s, core %.0f %% busy", float64(l.requests)/l.duration.Seconds(),
			l.p50.Round(10*time.Microsecond), l.p99.Round(10*time.Microsecond), 100*used.Seconds()/l.duration.Seconds()),
	}
	for kind, n := range l.errors {
		smp.faults = append(smp.faults, fmt.Sprintf("%d × %s error", n, kind))
	}
	slices.Sort(smp.faults)
	if got := servedAfter - servedBefore; got < l.requests {
		smp.faults = append(smp.faults, fmt.Sprintf("%d answers but only %d requests at the backend", l.requests, got))
	}
	return smp, nil
}
