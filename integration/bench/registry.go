package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
	"github.com/anteroom-iomt/anteroom/pkg/admin"
)

// The further figures of registry.
const (
	perRecord = "record" // memory per device, in bytes
	lookup    = "lookup" // CPU per connection of many devices, in µs
)

// registry measures a gateway that knows very many devices: how long after its
// start the first request was answered, and all of them were in memory, what a
// device takes, and what it costs to look one up.
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
	plan := t.plan(r, fleet.Churn)
	plan.Devices, plan.Count = t.devices, churners
	s, err := r.churn(ctx, t, plan)
	if err != nil {
		return s, err
	}
	s.more = map[string]float64{perRecord: float64(memory) / float64(r.opt.registry), lookup: s.figure}
	s.note = fmt.Sprintf("%d devices, all in memory after %.1f s, %.0f bytes each of %.0f MB resident in all; %.1f µs per connection, %s",
		r.opt.registry, whole.Seconds(), s.more[perRecord], kilo(memory)/1e3, s.figure, s.note)
	s.figure = t.accepted.Sub(t.began).Seconds()
	return s, nil
}
