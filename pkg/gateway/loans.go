package gateway

import (
	"context"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// endLoans ends devices' loans at their time: location and owner are those of home
// again, or the device goes into quarantine. Nothing waits for it where a device is
// cut off: that holds by the clock, in every handshake and before every decision.
func (g *Gateway) endLoans(ctx context.Context) {
	g.atDue(ctx, "ending loans of devices", g.service.EndLoans, func(rec *device.Record) []time.Time {
		if rec.Loan == nil {
			return nil
		}
		return []time.Time{rec.Loan.Until}
	})
}
