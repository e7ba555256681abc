package gateway

import (
	"context"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
)

// noteRestored says, in log and record, that the gateway runs on a backup's state
// and nobody has seen to what that can not know.
func (g *Gateway) noteRestored(ctx context.Context) error {
	r := g.state.Restored()
	if r == nil {
		return nil
	}
	g.log.Warn(r.Warning())
	return g.note(ctx, audit.KindSystem, "gateway.restored", "", field("taken", r.Taken.UTC().Format(time.RFC3339)), field("restored", r.Restored.UTC().Format(time.RFC3339)))
}

// restored is 1 until a restored backup was acknowledged.
func (g *Gateway) restored() float64 {
	if g.state.Restored() != nil {
		return 1
	}
	return 0
}
