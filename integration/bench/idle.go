package main

import (
	"context"
	"fmt"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
)

// idle measures what a connection costs that does nothing: the memory gained
// after so many devices connected, sent one request each, and stayed.
func idle(ctx context.Context, r *rig, t *running) (sample, error) {
	plan := t.plan(r, fleet.Idle)
	plan.Connections = r.opt.idle
	plan.Devices, plan.Count = t.devices, r.opt.idle
	c, err := r.man(plan)
	if err != nil {
		return sample{}, err
	}
	defer c.dismiss()
	within := loadGrace + fleetTime(plan.Connections)
	if _, err := c.await(ctx, "ready", within); err != nil {
		return sample{}, err
	}
	before, err := r.restingMemory(t)
	if err != nil {
		return sample{}, err
	}
	if err := c.say(fleet.Go); err != nil {
		return sample{}, err
	}
	e, err := c.await(ctx, "done", within)
	if err != nil {
		return sample{}, err
	}
	after, err := r.restingMemory(t)
	if err != nil {
		return sample{}, err
	}
	rep := e.Report
	return sample{
		figure: kilo(after-before) / float64(max(rep.Requests, 1)),
		note:   fmt.Sprintf("%d connections, %.1f MB before, %.1f MB after, %s", rep.Requests, kilo(before)/1e3, kilo(after)/1e3, rep.TLS),
		faults: faultsOf(rep),
	}, nil
}

func kilo(bytes int64) float64 { return float64(bytes) / 1e3 }
