package gateway

import (
	"context"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
)

const (
	// expiryPoll is how often devices' certificates are looked at for warnings.
	expiryPoll = 10 * time.Minute
	// expiryNamed is how many devices one line of the log names; the audit log
	// names them all.
	expiryNamed = 5
)

// watchExpiry warns of devices' certificates that end soon.
func (g *Gateway) watchExpiry(ctx context.Context) {
	tick := time.NewTicker(expiryPoll)
	defer tick.Stop()
	for {
		warned, err := g.service.WarnExpiring(ctx)
		if err != nil && ctx.Err() == nil {
			g.log.Error("warning of certificates that end soon", "error", err)
		}
		g.warnedOf(warned)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// warnedOf counts and logs warnings that are in the audit log.
func (g *Gateway) warnedOf(warned []admin.ExpiryWarning) {
	by := map[int][]string{}
	for _, w := range warned {
		g.metrics.ExpiryWarned(w.Days)
		by[w.Days] = append(by[w.Days], w.ID)
	}
	for _, days := range admin.ExpiryDays() {
		ids := by[days]
		if len(ids) == 0 {
			continue
		}
		text := "devices' certificates end soon"
		if days == 0 {
			text = "devices' certificates have ended: they are let in no more until they are renewed"
		}
		g.log.Warn(text, "days", days, "count", len(ids), "devices", strings.Join(ids[:min(len(ids), expiryNamed)], " "))
	}
}
