package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// bedsidePoll is how often the clock is looked at while something is to end, so that a step of it is seen, and when a change that failed is tried again.
const bedsidePoll = time.Minute

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

// endAssociations ends devices' associations with patients at their time. No
// decision waits for it, because each is made by the time of its question; what
// was decided before and goes on, such as a WebSocket, is judged anew by it.
func (g *Gateway) endAssociations(ctx context.Context) {
	g.atDue(ctx, "ending associations with patients", g.service.EndAssociations, func(rec *device.Record) (ends []time.Time) {
		for i := range rec.Patients {
			ends = append(ends, rec.Patients[i].Until)
		}
		return ends
	})
}

// atDue has something done that is due at times which records name, until ctx ends.
// do does what is due and returns when something will be next.
func (g *Gateway) atDue(ctx context.Context, what string, do func(context.Context) (next time.Time, err error), times func(*device.Record) []time.Time) {
	d := &due{moved: make(chan struct{}, 1)}
	cancel := g.state.Devices.Subscribe(func(_, rec *device.Record) {
		if rec == nil {
			return
		}
		for _, at := range times(rec) {
			d.sooner(at)
		}
	})
	defer cancel()
	for ctx.Err() == nil {
		d.forget() // what is changed from here on is told, and the rest is looked at
		next, err := do(ctx)
		if err != nil {
			g.log.Error(what, "error", err)
			next = g.clock().Add(bedsidePoll)
		}
		d.sooner(next)
		for at := d.get(); ctx.Err() == nil && (at.IsZero() || g.clock().Before(at)); at = d.get() {
			var timer <-chan time.Time
			if !at.IsZero() {
				timer = time.After(min(at.Sub(g.clock()), bedsidePoll))
			}
			select {
			case <-ctx.Done():
			case <-timer:
			case <-d.moved:
			}
		}
	}
}
