package edge

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// yard is a finder of doubles with a clock that is set.
type yard struct {
	*doubles
	at    time.Time
	found []Double
	live  []*protocol.Session
	n     int
}

func newYard(same ...string) *yard {
	y := &yard{at: time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)}
	y.doubles = newDoubles(func() time.Time { return y.at })
	var ps []netip.Prefix
	for _, s := range same {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	y.same.Store(&ps)
	report := func(d Double) { y.found = append(y.found, d) }
	y.doubles.found.Store(&report)
	return y
}

// connect begins a session of the device's one certificate.
func (y *yard) connect(from string) *protocol.Session {
	y.n++
	s := protocol.NewSession(&device.Record{ID: "monitor-1"})
	s.ID, s.Fingerprint, s.Remote = fmt.Sprint(y.n), "f", netip.AddrPortFrom(netip.MustParseAddr(from), 4711)
	y.began(s, slices.Clone(y.live))
	y.live = append(y.live, s)
	return s
}

func (y *yard) use(s *protocol.Session) {
	y.at = y.at.Add(time.Second)
	y.usedBy(s)
}

func (y *yard) end(s *protocol.Session) {
	y.live = slices.DeleteFunc(y.live, func(o *protocol.Session) bool { return o == s })
	y.ended(s)
}

// TestWhatIsTwoPlacesAtOnce, and what is not.
func TestWhatIsTwoPlacesAtOnce(t *testing.T) {
	t.Parallel()
	const here, there = "192.0.2.7", "198.51.100.9"
	for what, c := range map[string]struct {
		same []string
		do   func(*yard)
		want int
	}{
		"two that use one certificate in turn": {nil, func(y *yard) {
			a, b := y.connect(here), y.connect(there)
			for range 4 {
				y.use(a)
				y.use(b)
			}
		}, 2},
		"one that came before the other, seldom": {nil, func(y *yard) {
			a := y.connect(here)
			y.use(a)
			y.at = y.at.Add(time.Hour)
			b := y.connect(there)
			for range 4 {
				y.at = y.at.Add(time.Minute)
				y.use(b)
				y.use(a)
			}
		}, 2},
		"one address": {nil, func(y *yard) {
			a, b := y.connect(here), y.connect(here)
			for range 20 {
				y.use(a)
				y.use(b)
			}
		}, 0},
		"one IPv6 network": {nil, func(y *yard) {
			a, b := y.connect("2001:db8::1"), y.connect("2001:db8::2")
			for range 20 {
				y.use(a)
				y.use(b)
			}
		}, 0},
		"a NAT with several addresses": {[]string{"192.0.2.0/29"}, func(y *yard) {
			a, b := y.connect("192.0.2.1"), y.connect("192.0.2.6")
			for range 20 {
				y.use(a)
				y.use(b)
			}
		}, 0},
		"a monitor on its way through the house": {nil, func(y *yard) {
			// It leaves its connections behind, which the gateway has for a while.
			for n := range 10 {
				s := y.connect(fmt.Sprintf("10.0.%d.5", n))
				for range 50 {
					y.use(s)
				}
			}
		}, 0},
		"one that is docked and undocked": {nil, func(y *yard) {
			wired := y.connect(here)
			y.use(wired)
			radio := y.connect(there)
			for range 3 {
				y.at = y.at.Add(20 * time.Minute)
				y.use(radio)
				y.use(wired)
			}
		}, 0},
		"an answer that was long on its way": {nil, func(y *yard) {
			old := y.connect(here)
			y.use(old)
			now := y.connect(there)
			y.use(now)
			y.use(old)
			y.end(old)
			for range 20 {
				y.use(now)
			}
		}, 0},
		"a connection for each request, from two": {nil, func(y *yard) {
			for range 13 {
				for _, from := range []string{here, there} {
					s := y.connect(from)
					y.use(s)
					y.end(s)
				}
			}
		}, 2},
		"a connection for each request, moving sometimes": {nil, func(y *yard) {
			for n := range 100 {
				s := y.connect([]string{here, there}[n/5%2])
				y.use(s)
				y.end(s)
				y.at = y.at.Add(20 * time.Second)
			}
		}, 0},
	} {
		y := newYard(c.same...)
		c.do(y)
		if len(y.found) != c.want {
			t.Errorf("%s: found %d times, want %d: %+v", what, len(y.found), c.want, y.found)
		}
		for _, d := range y.found {
			if d.Device != "monitor-1" || d.Places != [2]string{here, there} {
				t.Errorf("%s: %+v", what, d)
			}
		}
		for _, s := range slices.Clone(y.live) {
			y.end(s)
		}
		if y.doubles.n.Load() != 0 {
			t.Errorf("%s: it is followed on after its sessions", what)
		}
	}
}

func TestOldTrailsAreDropped(t *testing.T) {
	t.Parallel()
	y := newYard()
	for n := range 5 * trailsFew {
		s := protocol.NewSession(&device.Record{ID: fmt.Sprint(n)})
		s.ID, s.Fingerprint, s.Remote = fmt.Sprint(n), fmt.Sprint(n), netip.MustParseAddrPort("192.0.2.7:1")
		y.began(s, nil)
		y.ended(s)
		y.at = y.at.Add(time.Hour)
	}
	if n := len(y.trails); n > trailsFew+1 {
		t.Errorf("%d trails of certificates that nobody uses", n)
	}
	if ids := y.lastAt("192.0.2.7"); len(ids) != 2 {
		t.Errorf("who came from there last: %v", ids)
	}
	y.at = y.at.Add(2 * trailKept)
	if ids := y.lastAt("192.0.2.7"); ids != nil {
		t.Errorf("who came from there long ago: %v", ids)
	}
}
