package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
	"github.com/anteroom-iomt/anteroom/pkg/admin"
)

// The further figures of registry.
const (
	perRecord = "record" // memory per device, in bytes
	lookup    = "lookup" // CPU per connection, to that of a gateway of few devices
)

// turns is how often each of two gateways is measured to compare them.
const turns = 3

// registry measures a gateway that knows very many devices: how long after its
// start the first request was answered, and all of them were in memory, what a
// device takes, and what it costs to look one up among them.
func registry(ctx context.Context, r *rig, t *running) (sample, error) {
	api, err := admin.Dial(ctx, filepath.Join(t.home, "state", admin.SocketName))
	if err != nil {
		return sample{}, err
	}
	if _, err := api.Status(ctx); err != nil { // counts devices, and so waits for all
		return sample{}, err
	}
	whole := time.Since(t.began)
	memory, err := r.restingMemory(t)
	if err != nil {
		return sample{}, err
	}
	many, few, err := r.compare(ctx, t, t.beside)
	if err != nil {
		return sample{}, err
	}
	s := sample{faults: slices.Concat(many.faults, few.faults)}
	s.more = map[string]float64{perRecord: float64(memory) / float64(r.opt.registry), lookup: many.figure / few.figure}
	s.note = fmt.Sprintf("%d devices, all in memory after %.1f s, %.0f bytes each of %.0f MB resident in all; %.1f µs per connection, %s; %.1f µs with no others",
		r.opt.registry, whole.Seconds(), s.more[perRecord], kilo(memory)/1e3, many.figure, many.note, few.figure)
	s.figure = t.accepted.Sub(t.began).Seconds()
	return s, nil
}

// compare has devices come and go at two gateways by turns, so that a machine that
// becomes slower does so for both, and returns of each the median of its turns.
func (r *rig) compare(ctx context.Context, a, b *running) (at, beside sample, err error) {
	both := [2]*running{a, b}
	var samples [2][]sample
	for turn := range turns + 1 {
		for i, t := range both {
			plan := t.plan(r, fleet.Churn)
			plan.Devices, plan.Count = t.devices, churners
			if turn == 0 {
				err = r.warm(ctx, t, plan)
			} else {
				var s sample
				s, err = r.come(ctx, t, plan)
				samples[i] = append(samples[i], s)
			}
			if err != nil {
				return sample{}, sample{}, err
			}
		}
	}
	return middle(samples[0]), middle(samples[1]), nil
}

// middle returns the sample of the median figure, with the faults of all.
func middle(samples []sample) sample {
	var faults []string
	for _, s := range samples {
		faults = append(faults, s.faults...)
	}
	slices.SortFunc(samples, func(a, b sample) int { return cmp.Compare(a.figure, b.figure) })
	m := samples[len(samples)/2]
	m.faults = faults
	return m
}
