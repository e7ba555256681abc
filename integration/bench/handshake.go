package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
)

// churners is how many devices come and go at a time.
const churners = 16

// handshake measures what it costs to let a device in: TCP, the full TLS 1.3
// handshake with its certificate, one request, and the end of it all.
func handshake(ctx context.Context, r *rig, t *running) (sample, error) {
	return r.churn(ctx, t, t.plan(r, fleet.Churn))
}

// hybrid is the group of handshakeHybrid.
const hybrid = "X25519MLKEM768"

// handshakeHybrid is the same with the hybrid post-quantum group.
func handshakeHybrid(ctx context.Context, r *rig, t *running) (sample, error) {
	plan := t.plan(r, fleet.Churn)
	plan.Group = hybrid
	s, err := r.churn(ctx, t, plan)
	if err != nil && strings.Contains(err.Error(), "handshake failure") {
		return sample{skip: "does not speak " + hybrid}, nil
	}
	return s, err
}

// resumption measures a device that comes back with a ticket.
func resumption(ctx context.Context, r *rig, t *running) (sample, error) {
	plan := t.plan(r, fleet.Churn)
	plan.Resume = true
	return r.churn(ctx, t, plan)
}

// churn measures devices that come and go, after a warm-up.
func (r *rig) churn(ctx context.Context, t *running, plan fleet.Plan) (sample, error) {
	if err := r.warm(ctx, t, plan); err != nil {
		return sample{}, err
	}
	return r.come(ctx, t, plan)
}

// warm has devices come and go uncounted.
func (r *rig) warm(ctx context.Context, t *running, plan fleet.Plan) error {
	if plan.Duration = r.opt.warmup; plan.Duration <= 0 {
		return nil
	}
	if _, _, err := r.perform(ctx, t, plan, plan.Duration+loadGrace); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	return nil
}

func (r *rig) come(ctx context.Context, t *running, plan fleet.Plan) (sample, error) {
	rep, used, err := r.perform(ctx, t, plan, plan.Duration+loadGrace)
	if err != nil {
		return sample{}, err
	}
	s := sample{
		figure: float64(used) / float64(time.Microsecond) / float64(max(rep.Requests, 1)),
		note: fmt.Sprintf("%.0f/s, %s, core %.0f %% busy", float64(rep.Requests)/rep.Elapsed.Seconds(), rep.TLS,
			100*used.Seconds()/rep.Elapsed.Seconds()),
		faults: faultsOf(rep),
	}
	// What is said to be resumed must be, and what is said to be whole too: a
	// cheap handshake among the dear ones would be a wrong figure.
	switch {
	case plan.Resume && rep.Resumed == 0 && t.home == "":
		// Nothing to compare with; of Anteroom it would be a fault.
		return sample{skip: "resumes no session of a device with a certificate"}, nil
	case plan.Resume && rep.Resumed < rep.Requests:
		s.faults = append(s.faults, fmt.Sprintf("only %d of %d sessions were resumed", rep.Resumed, rep.Requests))
	case !plan.Resume && rep.Resumed > 0:
		s.faults = append(s.faults, fmt.Sprintf("%d of %d sessions were resumed", rep.Resumed, rep.Requests))
	}
	return s, nil
}
