package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

const (
	// recheck is the further figure of sessions: how long it took after a policy
	// change until all held transactions were judged anew, in seconds.
	recheck = "recheck"
	// perDevice is how many connections a device of the scenario has: fewer than
	// the gateway lets it have.
	perDevice = 40
	// endsWithin is how long the end of a session is waited for.
	endsWithin = 30 * time.Second
)

// sessions measures how fast a withdrawal reaches sessions that are open, with
// as many of them as the machine can hold.
func sessions(ctx context.Context, r *rig, t *running) (sample, error) {
	limit, err := openFiles(filesFor(r.opt.sessions))
	if err != nil {
		return sample{}, err
	}
	s := sample{more: map[string]float64{}}
	idle := min(r.opt.sessions, limit-spare)
	ended, memory, err := r.revocation(ctx, t, idle)
	if err != nil {
		return s, err
	}
	// A held transaction has a connection to the backend too; the backend that
	// holds it is one process.
	held := min(r.opt.sessions, (limit-spare)/2)
	judged, all, err := r.policyChange(ctx, t, held)
	if err != nil {
		return s, err
	}
	s.figure, s.more[recheck] = milli(ended), judged.Seconds()
	s.note = fmt.Sprintf("%d idle sessions, %.0f MB; %d held WebSockets judged anew within %s of a policy's being saved that ends a device's; ended within %s of one that ends all",
		idle, kilo(memory)/1e3, held, tenth(judged), tenth(all))
	if held < r.opt.sessions {
		s.short = fmt.Sprintf("with %d idle sessions and %d held", idle, held)
		s.note += fmt.Sprintf("; asked for %d of each, but a process may have only %d files open here (ulimit -Hn, needed are %d), and the gateway that has all sessions is one process",
			r.opt.sessions, limit, filesFor(r.opt.sessions))
	}
	return s, nil
}

// filesFor is how many files a process has open that has so many sessions, each with
// a connection to the backend too, and other things.
func filesFor(sessions int) int { return 2*sessions + spare }

// sessionDevices is how many devices so many sessions are spread over.
func sessionDevices(sessions int) int { return (sessions + perDevice - 1) / perDevice }

// revocation opens idle sessions, revokes one device, and returns how long it
// took from asking for that to the end of the device's last connection.
func (r *rig) revocation(ctx context.Context, t *running, n int) (took time.Duration, memory int64, err error) {
	plan := t.plan(r, fleet.Idle)
	// Those revoked in rounds before are gone for good; the next one goes now.
	plan.Devices, plan.Count, plan.Skip = t.devices, sessionDevices(n), t.revoked
	cs, err := r.openSessions(ctx, plan, n)
	defer cs.dismiss()
	if err != nil {
		return 0, 0, err
	}
	if memory, err = t.memory(); err != nil {
		return 0, 0, err
	}
	api, err := admin.Dial(ctx, filepath.Join(t.home, "state", admin.SocketName))
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if _, err := api.SetStatus(ctx, admin.StatusRequest{ID: fmt.Sprintf("%s%d", fleetPrefix, t.revoked), To: device.Revoked, Reason: "benchmark"}); err != nil {
		return 0, 0, err
	}
	first, last, err := cs.closed(ctx, (n+plan.Count-1)/plan.Count, func(d int) bool { return d%plan.Count == 0 })
	if err == nil && first.Before(began) {
		err = errors.New("a session ended before its device was revoked")
	}
	return last.Sub(began), memory, err
}

// policyChange opens sessions that each hold a transaction, a WebSocket. It puts a
// policy into force by which one device may not go on, whose sessions are among the
// last that were opened and so the last to be judged, and returns how long it took
// from saving that to their end, while all others go on; and the same of a policy that
// denies everything, to the end of all.
func (r *rig) policyChange(ctx context.Context, t *running, n int) (judged, all time.Duration, err error) {
	plan := t.plan(r, fleet.Idle)
	plan.Devices, plan.Count, plan.WebSocket = t.devices, sessionDevices(n), true
	plan.Method, plan.Path, plan.ContentType, plan.Body = "GET", dicomPath+"/1/series", "", ""
	plan.Skip = t.revoked + 1
	cs, err := r.openSessions(ctx, plan, n)
	defer cs.dismiss()
	if err != nil {
		return 0, 0, err
	}
	last := plan.Count - 1
	narrow := filepath.Join(t.home, "policies", "authz", "benchmark.rego")
	rule := fmt.Sprintf("package anteroom.authz\n\n# METADATA\n# title: The benchmark ends one device's sessions\ndeny contains \"the benchmark\" if input.device.id == \"%s%d\"\n", fleetPrefix, plan.Skip+last)
	defer func() { err = errors.Join(err, os.Remove(narrow)) }()
	theirs := (n-last-1)/plan.Count + 1
	if judged, err = cs.endBy(ctx, narrow, rule, theirs, func(c int) bool { return c%plan.Count == last }); err != nil {
		return 0, 0, err
	}
	standing := filepath.Join(t.home, "policies", "standing.yaml")
	was, err := os.ReadFile(standing)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.WriteFile(standing, was, 0o600)) }()
	all, err = cs.endBy(ctx, standing, "closed: [the benchmark closes everything]\nobligations: []\n", n-theirs, func(int) bool { return true })
	return judged, all, err
}

// endBy writes a policy's file, and returns how long it took from then until the last
// of n connections was closed, which must be some that may be.
func (cs crews) endBy(ctx context.Context, file, text string, n int, may func(connection int) bool) (time.Duration, error) {
	began := time.Now()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return 0, err
	}
	first, last, err := cs.closed(ctx, n, may)
	if err == nil && first.Before(began) {
		err = errors.New("a session ended before the policy was saved")
	}
	return last.Sub(began), err
}

// openSessions opens n sessions by a plan. The caller dismisses the crews, after
// an error too.
func (r *rig) openSessions(ctx context.Context, plan fleet.Plan, n int) (crews, error) {
	cs, err := r.manMany(ctx, plan, n)
	if err != nil {
		return cs, err
	}
	if err := cs.say(fleet.Go); err != nil {
		return cs, err
	}
	reports, err := cs.done(ctx, loadGrace+fleetTime(n))
	if err != nil {
		return cs, err
	}
	for _, rep := range reports {
		if fs := countFaults(rep.Failed); len(fs) > 0 {
			return cs, fmt.Errorf("opening %d sessions: %v", n, fs)
		}
	}
	return cs, nil
}

// closed waits until n connections have been closed, which must be some that may
// be, and returns when the first and the last were.
func (cs crews) closed(ctx context.Context, n int, may func(device int) bool) (first, last time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, endsWithin)
	var wg sync.WaitGroup
	defer wg.Wait() // nobody takes an event that is another's
	defer cancel()
	events := make(chan fleet.Event)
	for _, c := range cs {
		wg.Go(func() {
			for {
				e, err := c.await(ctx, "closed", endsWithin)
				if err != nil {
					e = fleet.Event{Error: err.Error()}
				}
				select {
				case events <- e:
				case <-ctx.Done():
					return
				}
				if err != nil {
					return
				}
			}
		})
	}
	for seen := range n {
		var e fleet.Event
		select {
		case e = <-events:
		case <-ctx.Done():
			e.Error = context.Cause(ctx).Error()
		}
		switch {
		case e.Error != "":
			return first, last, fmt.Errorf("%d of %d sessions ended: %s", seen, n, e.Error)
		case !may(e.Device):
			return first, last, fmt.Errorf("session %d ended, which nothing was wrong with", e.Device)
		}
		if first.IsZero() || e.At.Before(first) {
			first = e.At
		}
		if e.At.After(last) {
			last = e.At
		}
	}
	return first, last, nil
}
