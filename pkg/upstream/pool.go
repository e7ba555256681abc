package upstream

import (
	"sync"
	"time"
)

// A pool holds the idle connections of one address, the one that was used last on
// top: it is the least likely to have been closed meanwhile.
type pool struct {
	limit time.Duration // how long one may be idle; 0 for as long as it lasts
	most  int

	mu     sync.Mutex
	idle   []*conn
	sweep  *time.Timer // nil unless there is something to sweep
	closed bool
}

// take returns an idle connection, or nil.
func (p *pool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	return c
}

// put takes a connection back, unless there are most of them already.
func (p *pool) put(c *conn, now time.Time) {
	c.idle = now
	p.mu.Lock()
	keep := len(p.idle) < p.most && !p.closed
	if keep {
		p.idle = append(p.idle, c)
		if p.limit > 0 && p.sweep == nil {
			p.sweep = time.AfterFunc(p.limit, p.clean)
		}
	}
	p.mu.Unlock()
	if !keep {
		c.close()
	}
}

// clean closes what was idle for too long.
func (p *pool) clean() {
	p.mu.Lock()
	old := 0
	for old < len(p.idle) && time.Since(p.idle[old].idle) >= p.limit {
		old++
	}
	gone := append([]*conn(nil), p.idle[:old]...)
	p.idle = append(p.idle[:0], p.idle[old:]...)
	p.sweep = nil
	if len(p.idle) > 0 && !p.closed {
		p.sweep = time.AfterFunc(p.limit-time.Since(p.idle[0].idle), p.clean)
	}
	p.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
}

// drain closes all idle connections; with closing none is kept from now on.
func (p *pool) drain(closing bool) {
	p.mu.Lock()
	gone := p.idle
	p.idle = nil
	p.closed = p.closed || closing
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	p.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
}
