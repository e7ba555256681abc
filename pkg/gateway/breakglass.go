package gateway

import (
	"context"
	"time"
)

// grantRetry is how long the gateway waits when the end of an emergency grant could
// not be recorded. The grant is out of force all the same.
const grantRetry = 10 * time.Second

// grantPoll is how often the clock is looked at, so that what sessions hold under a
// grant sees a step of it too.
const grantPoll = time.Minute

// watchGrants records the emergency grants that are over, and has what live sessions
// hold decided anew: those of before the gateway was started first.
func (g *Gateway) watchGrants(ctx context.Context) {
	for _, text := range g.openGrants(ctx) {
		g.log.Warn(text)
	}
	poll := time.NewTicker(grantPoll)
	defer poll.Stop()
	var again <-chan time.Time
	for {
		if err := g.service.EndGrants(ctx); err != nil {
			g.log.Error("recording the end of an emergency grant", "error", err)
			again = time.After(grantRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-g.state.BreakGlass.Changed():
		case <-poll.C:
		case <-again:
			again = nil
		}
	}
}

// openGrants says which grants were in force already when the gateway started.
func (g *Gateway) openGrants(ctx context.Context) (out []string) {
	gs, err := g.state.BreakGlass.List(ctx, false)
	if err != nil {
		return []string{"the emergency grants can not be read: " + err.Error()}
	}
	for _, x := range gs {
		if x.ActiveAt(g.clock()) {
			out = append(out, "BREAK-GLASS "+x.ID+" is open for "+x.Terms.String()+" until "+x.Until.Format(time.RFC3339))
		}
	}
	return out
}
