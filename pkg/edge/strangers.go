package edge

import (
	"net/netip"
	"sync"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

const (
	// strangersPart is the part of a listener's connections that one address can
	// have without showing who it is: who has no certificate could otherwise take
	// all of them, and say nothing for as long as a handshake may take.
	strangersPart = 8
	// strangersLeast is what an address can have at least, for a small listener.
	strangersLeast = 64
)

// strangersMost is how many an address can have on a listener. One is always left
// for the others, if there are two.
func strangersMost(l *config.Limits) int {
	if l.PerAddress > 0 {
		return l.PerAddress
	}
	return max(1, min(max(l.Connections/strangersPart, strangersLeast), l.Connections-1))
}

// A crowd counts connections by where they come from (see [Neighbourhood]).
type crowd struct {
	mu   sync.Mutex
	from map[netip.Addr]int
}

// enter counts one more from an address, unless there are most of them.
func (c *crowd) enter(a netip.Addr, most int) bool {
	a = Neighbourhood(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from[a] >= most {
		return false
	}
	if c.from == nil {
		c.from = map[netip.Addr]int{}
	}
	c.from[a]++
	return true
}

// leave takes back what enter counted.
func (c *crowd) leave(a netip.Addr) {
	a = Neighbourhood(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from[a]--; c.from[a] == 0 {
		delete(c.from, a)
	}
}
