package gateway

import (
	"context"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/edge"
	"github.com/anteroom-iomt/anteroom/pkg/revocation"
)

// openRevocation opens the revocation listener, if there is to be one.
func (g *Gateway) openRevocation(ctx context.Context, cfg config.Revocation) (err error) {
	if cfg.Address == "off" {
		return nil
	}
	g.revocation, err = revocation.Serve(ctx, revocation.ServerConfig{
		Book: g.state.Revocations, Settings: cfg, Clock: g.clock, Logger: g.log, Neighbourhood: edge.Neighbourhood,
	})
	if err != nil {
		return err
	}
	g.log.Info("others can ask about revocations", "address", g.revocation.Addr().String())
	return nil
}

// describeRevocation fills in the listener's row of a status page.
func (g *Gateway) describeRevocation(st *admin.Status) {
	if g.revocation == nil {
		return
	}
	st.Listeners = append(st.Listeners, admin.ListenerStatus{
		Name: config.RevocationListener, Address: g.revocation.Addr().String(), Protocol: "revocation", Profile: "no",
		Connections: g.revocation.Connections(),
	})
}
