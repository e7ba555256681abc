package edge

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// What counts as a certificate in use at two places at once. A place is an address
// ([Neighbourhood]), or a range in which addresses are one place by configuration.
//
// A device that moves (a monitor on the way to another ward) leaves its old
// connections behind: their address is not its own any more, and nothing can come
// from it. So a connection that is used again *after* the certificate was used from
// somewhere else has another end than the one that moved. That it happens more than
// once keeps a request that was long on its way from being taken for it. Where each
// connection carries one request only there is none to come back to; there, so many
// changes of place in a short time count that no device moves so often.
//
// Two devices behind one address (NAT, a load balancer without the PROXY protocol)
// are one place, and are not told apart. A device with several addresses at once
// looks like two; that is for a person to say.
const (
	doubleWindow = 10 * time.Minute
	doubleBacks  = 3  // returns to a connection after use elsewhere
	doubleMoves  = 12 // changes of place from connection to connection
	// trailKept is how long it is known from where a certificate was used last.
	trailKept = 24 * time.Hour
	// trailsFew is how many certificates are followed before old trails are dropped.
	trailsFew = 1024
)

// A Double is a certificate that was found in use at two places at once.
type Double struct {
	Device      string
	Fingerprint string
	Places      [2]string // in order
	Why         string
}

// doubles finds them. Most certificates have one place: they cost a map entry for a
// day after each connect, and a load in each transaction.
type doubles struct {
	now   func() time.Time
	same  atomic.Pointer[[]netip.Prefix] // addresses in one of these are one place
	found atomic.Pointer[func(Double)]

	contested sync.Map // fingerprint: *trail, of certificates with sessions from two places
	n         atomic.Int64

	mu     sync.Mutex
	trails map[string]*trail // by fingerprint
	prune  int
}

// A trail is where one certificate was used.
type trail struct {
	mu    sync.Mutex
	id    string    // the device's
	at    time.Time // of the last connect
	place string
	moves []time.Time
	// What follows is of a certificate with live sessions from two places.
	live  map[string]string // session: place
	used  map[string]bool   // session: it was used
	last  string            // place of the last use
	backs []time.Time
}

func newDoubles(now func() time.Time) *doubles {
	return &doubles{now: now, trails: map[string]*trail{}, prune: trailsFew}
}

func (d *doubles) placeOf(a netip.Addr) string {
	a = Neighbourhood(a)
	if same := d.same.Load(); same != nil {
		for _, p := range *same {
			if p.Contains(a) {
				return p.String()
			}
		}
	}
	return a.String()
}

// began follows a session that begins. others are the live sessions of the same
// certificate.
func (d *doubles) began(s *protocol.Session, others []*protocol.Session) {
	now, place := d.now(), d.placeOf(s.Remote.Addr())
	tr := d.trail(s.Fingerprint, now)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if from := tr.place; from != "" && from != place {
		tr.moves = recent(append(tr.moves, now), now)
		if len(tr.moves) >= doubleMoves {
			tr.moves = nil
			d.report(s, from, place, fmt.Sprintf("it connected from %s and %s in turn, %d times within %v", from, place, doubleMoves, doubleWindow))
		}
	}
	tr.id, tr.at, tr.place = s.Device().ID, now, place
	apart := tr.live != nil
	for _, o := range others {
		apart = apart || d.placeOf(o.Remote.Addr()) != place
	}
	if !apart {
		return
	}
	if tr.live == nil {
		tr.live, tr.used = map[string]string{}, map[string]bool{}
		d.contested.Store(s.Fingerprint, tr)
		d.n.Add(1)
	}
	for _, o := range others {
		// That it was used before now is all that is known of it.
		if _, known := tr.live[o.ID]; !known {
			tr.live[o.ID], tr.used[o.ID] = d.placeOf(o.Remote.Addr()), true
		}
	}
	tr.live[s.ID] = place
}

// trail returns the trail of a certificate.
func (d *doubles) trail(fp string, now time.Time) *trail {
	d.mu.Lock()
	defer d.mu.Unlock()
	tr := d.trails[fp]
	if tr != nil {
		return tr
	}
	if len(d.trails) >= d.prune {
		for k, old := range d.trails {
			old.mu.Lock()
			if old.live == nil && now.Sub(old.at) > trailKept {
				delete(d.trails, k)
			}
			old.mu.Unlock()
		}
		d.prune = max(trailsFew, 2*len(d.trails))
	}
	tr = &trail{at: now}
	d.trails[fp] = tr
	return tr
}

// contest returns the trail of a session's certificate if it has sessions from two
// places, else nil.
func (d *doubles) contest(s *protocol.Session) *trail {
	if d.n.Load() == 0 {
		return nil
	}
	v, _ := d.contested.Load(s.Fingerprint)
	tr, _ := v.(*trail)
	return tr
}

// usedBy follows a transaction of a session.
func (d *doubles) usedBy(s *protocol.Session) {
	tr := d.contest(s)
	if tr == nil {
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	place, ok := tr.live[s.ID]
	if !ok {
		return
	}
	if from := tr.last; from != "" && from != place && tr.used[s.ID] {
		now := d.now()
		tr.backs = recent(append(tr.backs, now), now)
		if len(tr.backs) >= doubleBacks {
			tr.backs = nil
			d.report(s, from, place, fmt.Sprintf("connections from %s and from %s were used in turn", from, place))
		}
	}
	tr.used[s.ID], tr.last = true, place
}

// ended forgets a session.
func (d *doubles) ended(s *protocol.Session) {
	tr := d.contest(s)
	if tr == nil {
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.live == nil {
		return
	}
	delete(tr.live, s.ID)
	delete(tr.used, s.ID)
	one := ""
	for _, place := range tr.live {
		if one != "" && place != one {
			return
		}
		one = place
	}
	tr.live, tr.used, tr.last = nil, nil, ""
	d.contested.Delete(s.Fingerprint)
	d.n.Add(-1)
}

func (d *doubles) report(s *protocol.Session, a, b, why string) {
	if f := d.found.Load(); f != nil {
		places := []string{a, b}
		slices.Sort(places)
		(*f)(Double{Device: s.Device().ID, Fingerprint: s.Fingerprint, Places: [2]string{places[0], places[1]}, Why: why})
	}
}

// recent returns the times that are within the window, the oldest first.
func recent(times []time.Time, now time.Time) []time.Time {
	return slices.DeleteFunc(times, func(t time.Time) bool { return now.Sub(t) > doubleWindow })
}

// lastAt returns the devices, two at most, that connected from a place last.
func (d *doubles) lastAt(place string) (ids []string) {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, tr := range d.trails {
		tr.mu.Lock()
		if tr.place == place && now.Sub(tr.at) <= trailKept && !slices.Contains(ids, tr.id) {
			ids = append(ids, tr.id)
		}
		tr.mu.Unlock()
		if len(ids) > 1 {
			break
		}
	}
	return ids
}

// LastAt returns the device that connected from an address within the last day, if
// it is one and no other did. It says who may have been meant, and is nobody's
// identity.
func (t *Sessions) LastAt(a netip.Addr) (id string, ok bool) {
	ids := t.doubles.lastAt(t.doubles.placeOf(a))
	if len(ids) != 1 {
		return "", false
	}
	return ids[0], true
}

// OnDouble has f called when a certificate is found in use at two places at once.
// Addresses within one of the ranges are one place. f must not wait.
func (t *Sessions) OnDouble(same []netip.Prefix, f func(Double)) {
	t.doubles.same.Store(&same)
	t.doubles.found.Store(&f)
}

// Used says that a session had a transaction.
func (t *Sessions) Used(s *protocol.Session) { t.doubles.usedBy(s) }
