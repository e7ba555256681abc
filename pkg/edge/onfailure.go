package edge

import (
	"context"
	"errors"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// pass records what is allowed in the reserve of an audit log that has nearly no disk
// left, where the route asks for that; why is what the log said. It reports whether
// the transaction is recorded, durably, and may still go on.
func (j *Judge) pass(ctx context.Context, why error, rec *audit.Record, s *protocol.Session, on *device.Record, grant *breakglass.Grant, r *protocol.Route, tx *protocol.Transaction) bool {
	if r == nil || !r.PassOnFailure || !rec.Decision.Allow || !errors.Is(why, audit.ErrUnavailable) {
		return false
	}
	passed := false
	if tx.Report && !tx.Again && !rec.Decision.WouldDeny && on.LifeCritical && on.Status == device.Active {
		rec.Reserve, rec.Decision.OnFailure = true, true
		if j.cfg.Audit.Append(ctx, rec) == nil {
			// What was decided on may have changed while the disk was waited for.
			passed = s.Context().Err() == nil && s.Device() == on && j.grant(on, r) == grant &&
				admissible(on, s.Fingerprint, s.NotAfter, j.cfg.Clock(), s.InLane()) == nil
			if !passed && tx.Of == "" {
				j.Undelivered(s, rec.Decision.ID, "what it was decided on changed before it could go on")
			}
		}
	}
	if j.cfg.Passed != nil {
		j.cfg.Passed(r.Name, passed)
	}
	return passed
}
