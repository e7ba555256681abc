package gateway

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

// trialRetry is how long the end of a failed trial waits before it is written
// down again, if it could not be.
const trialRetry = time.Second

// given returns the set to begin with that is not the directory's, or nil.
func (g *Gateway) given(ctx context.Context, cfg *config.File) (*policy.Source, error) {
	switch cfg.Policy.Source {
	case "bundle":
		return g.fetched(ctx, cfg)
	case "directory":
		return nil, nil
	}
	e, ok := g.state.Policies.InForce()
	if !ok {
		return nil, nil
	}
	src, err := g.state.PolicySource(e.Number)
	if err != nil {
		return nil, fmt.Errorf("%w; with the gateway stopped, anteroom policy rollback puts another one in force", err)
	}
	return src, nil
}

// resumeTrial goes on with a trial that was under way. What was counted of it
// before is not known any more.
func (g *Gateway) resumeTrial(ctx context.Context) error {
	c, e, ok := g.state.Policies.Canary()
	if !ok || g.cfg.Policy.Source != "pushed" {
		return nil
	}
	err := g.service.Enforce(ctx)
	if err == nil {
		g.log.Warn("a policy revision is on trial", "number", c.Number, "revision", e.Revision, "devices", c.Devices, "classes", c.Classes)
		return nil
	}
	// What can not be tried is not a reason to serve nobody.
	return g.endTrial(ctx, "it could not be taken up again: "+err.Error())
}

// trialFailed is called by the engine, within a transaction.
func (g *Gateway) trialFailed() {
	select {
	case g.tripped <- struct{}{}:
	default:
	}
}

// watchTrial writes down that a trial has failed. Its devices are decided on by
// the set in force since the transaction that was one too many.
func (g *Gateway) watchTrial(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.tripped:
		}
		c, _, ok := g.state.Policies.Canary()
		if _, another := g.engine.OnTrial(); !ok || another {
			continue
		}
		why := fmt.Sprintf("rolled back by itself: it denied life-critical devices more than %d transactions within %v that the set in force allows", c.MaxDenials, c.Window)
		for g.endTrial(ctx, why) != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(trialRetry):
			}
		}
	}
}

// endTrial writes down, shows and records that a trial is over.
func (g *Gateway) endTrial(ctx context.Context, why string) error {
	c, e, ok := g.state.Policies.Canary()
	if !ok {
		return nil
	}
	if err := g.state.Policies.EndCanary(why); err != nil {
		g.log.Error("writing down that the trial of a policy revision is over", "number", c.Number, "error", err)
		return err
	}
	g.log.Error("the trial of a policy revision is over", "number", c.Number, "revision", e.Revision, "reason", why)
	g.edge.Sessions.Recheck()
	if err := g.note(context.WithoutCancel(ctx), audit.KindPolicy, "policy.canary-failed", why,
		field("number", strconv.Itoa(c.Number)), field("revision", e.Revision), field("author", e.Author)); err != nil {
		g.log.Error("recording that a trial is over", "error", err)
	}
	return nil
}
