package gateway

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/edge"
	"github.com/anteroom-iomt/anteroom/pkg/finding"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

const (
	// mostSightings is how many wait to be written down. What is more is lost, and
	// seen again.
	mostSightings = 256
	// clockAgain is how many readings in a row say that a clock is wrong, or right
	// again: one can be of a request that was long on its way.
	clockAgain = 2
)

// A sighting is something that was seen of a device, or that is not so any more.
type sighting struct {
	device, what string
	kind         finding.Kind
	places       []string
	over         bool
}

// saw has a sighting written down. It does not wait: it is called where devices are
// served.
func (g *Gateway) saw(s sighting) {
	select {
	case g.sightings <- s:
	default:
	}
}

// writeFindings writes down what was seen, until ctx ends.
func (g *Gateway) writeFindings(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-g.sightings:
			if err := g.write(ctx, s); err != nil && ctx.Err() == nil {
				g.log.Error("writing down a finding", "device", s.device, "kind", s.kind, "error", err)
			}
		}
	}
}

func (g *Gateway) write(ctx context.Context, s sighting) error {
	if s.over {
		over, err := g.state.Findings.End(ctx, s.device, s.kind)
		if err != nil || !over {
			return err
		}
		g.log.Info("a finding is over", "device", s.device, "kind", s.kind, "what", s.what)
		return g.noteFinding(ctx, "finding.over", s)
	}
	f, news, err := g.state.Findings.See(ctx, s.device, s.kind, s.what, s.places...)
	if err != nil || !news {
		return err
	}
	g.metrics.Found(string(s.kind))
	g.log.Warn("found out about a device", "device", s.device, "kind", s.kind, "what", s.what, "advice", f.Kind.Advice(s.device))
	return g.noteFinding(ctx, "finding.opened", s)
}

func (g *Gateway) noteFinding(ctx context.Context, event string, s sighting) error {
	r := &audit.Record{Kind: audit.KindDevice, Event: event, Device: s.device, Error: s.what, Detail: []protocol.Field{field("kind", string(s.kind))}}
	if rec, ok := g.state.Devices.Get(s.device); ok {
		r.Class, r.DeviceStatus = rec.Class, string(rec.Status)
	}
	return g.state.Audit.Append(ctx, r)
}

// doubled follows certificates that are used at two places at once.
func (g *Gateway) doubled(d edge.Double) {
	g.saw(sighting{device: d.Device, kind: finding.Clone, places: d.Places[:],
		what: "certificate SHA-256 " + d.Fingerprint[:16] + "… is in use at two places at once: " + d.Why})
}

// samePlaces returns the ranges that are one place each; the configuration has been
// checked.
func samePlaces(cfg config.Findings) (out []netip.Prefix) {
	for _, s := range cfg.SamePlace {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		} else if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// clocks are what devices last said of the time.
type clocks struct{ by sync.Map } // id: *reading

// A reading is of one device's clock.
type reading struct {
	ahead, at atomic.Int64 // nanoseconds; Unix nanoseconds
	wrong     atomic.Int32 // readings in a row: more than nothing wrong ones, less right ones
}

func (c *clocks) of(id string) *admin.ClockReading {
	v, ok := c.by.Load(id)
	if !ok {
		return nil
	}
	r, ok := v.(*reading)
	if !ok {
		return nil
	}
	return &admin.ClockReading{Error: time.Duration(r.ahead.Load()), At: time.Unix(0, r.at.Load()).UTC()}
}

// dated reads a device's clock from the Date of its request. What can not be read
// says nothing.
func (g *Gateway) dated(s *protocol.Session, date string) {
	said, err := http.ParseTime(date)
	if err != nil {
		return
	}
	id, now := s.Device().ID, g.clock()
	v, ok := g.clocks.by.Load(id)
	if !ok {
		v, _ = g.clocks.by.LoadOrStore(id, new(reading))
	}
	r, ok := v.(*reading)
	if !ok {
		return
	}
	ahead := said.Sub(now)
	if ahead < 0 && ahead > -time.Second {
		ahead = 0 // Date has whole seconds
	}
	r.ahead.Store(int64(ahead))
	r.at.Store(now.UnixNano())
	switch limit := g.state.Config().Findings.ClockError.D(); {
	case ahead.Abs() >= limit:
		if r.inRow(1) {
			g.saw(sighting{device: id, kind: finding.Clock, what: "the device clock is " + admin.ClockError(ahead) + ", by the Date of its requests"})
		}
	case ahead.Abs() < limit/2: // what is between says nothing new
		if r.inRow(-1) {
			g.saw(sighting{device: id, kind: finding.Clock, over: true, what: "the device clock is right again"})
		}
	}
}

// inRow counts a reading like the last one, and reports whether it makes the row
// long enough to say so. Readings that cross cost one more at most.
func (r *reading) inRow(by int32) bool {
	n := r.wrong.Load()
	if n*by < 0 {
		n = 0
	}
	if n*by >= clockAgain {
		return false
	}
	r.wrong.Store(n + by)
	return n*by+1 == clockAgain
}

// guessEvery is how often it is looked up which device an address may be.
const guessEvery = time.Second

// disbelieved follows devices that do not believe the gateway's certificate to be in
// its validity. They have not said who they are by then; who last came from there is
// a guess that is said to be one.
func (g *Gateway) disbelieved(from netip.Addr) {
	now := g.clock()
	if last := g.guessed.Load(); now.UnixNano()-last < int64(guessEvery) || !g.guessed.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	id, ok := g.edge.Sessions.LastAt(from)
	if !ok {
		return
	}
	for _, l := range g.edge.Listeners() {
		for _, c := range l.Certificates {
			if now.Before(c.NotBefore) || !now.Before(c.NotAfter) {
				return // it may well be right
			}
		}
	}
	g.saw(sighting{device: id, kind: finding.Clock, what: "a device at " + from.String() + ", from where only this one came in the last day, says that the gateway's certificate is not in its validity: the device clock is wrong"})
}
