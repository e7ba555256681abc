package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// duePoll is how often the clock is looked at while something is to end, so that a step of it is seen, and when a change that failed is tried again.
const duePoll = time.Minute

// A due is when the next of something ends; the zero time if nothing does.
type due struct {
	mu    sync.Mutex
	at    time.Time
	moved chan struct{} // it may be another
}

func (d *due) get() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at
}

func (d *due) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = time.Time{}
}

// sooner takes a time if it is before the one there is.
func (d *due) sooner(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at.IsZero() || !d.at.IsZero() && !at.Before(d.at) {
		return
	}
	d.at = at
	select {
	case d.moved <- struct{}{}:
	default:
	}
}

// endDue ends what records say the end of, at its time, until ctx ends: devices'
// associations with patients, and their loans, after which location and owner are
// those of home again or the device is in quarantine. No decision waits for it,
// because each is made by the time of its question, and where a device is cut off
// that holds by the clock, too; what was decided before and goes on, such as a
// WebSocket, is judged anew by it.
func (g *Gateway) endDue(ctx context.Context) {
	d := &due{moved: make(chan struct{}, 1)}
	cancel := g.state.Devices.Subscribe(func(_, rec *device.Record) {
		if rec == nil {
			return
		}
		for i := range rec.Patients {
			d.sooner(rec.Patients[i].Until)
		}
		if rec.Loan != nil {
			d.sooner(rec.Loan.Until)
		}
	})
	defer cancel()
	for ctx.Err() == nil {
		d.forget() // what is changed from here on is told, and the rest is looked at
		next, err := g.service.EndDue(ctx)
		if err != nil {
			g.log.Error("ending associations with patients and loans of devices", "error", err)
			next = g.clock().Add(duePoll)
		}
		d.sooner(next)
		for at := d.get(); ctx.Err() == nil && (at.IsZero() || g.clock().Before(at)); at = d.get() {
			var timer <-chan time.Time
			if !at.IsZero() {
				timer = time.After(min(at.Sub(g.clock()), duePoll))
			}
			select {
			case <-ctx.Done():
			case <-timer:
			case <-d.moved:
			}
		}
	}
}
