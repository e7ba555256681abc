package upstream

import (
	"context"
	"sync"
	"time"
)

// dialsMost is how many connections to one address are made at once. More would
// make each of them slower, and a backend that is slow to accept is not helped by
// asking it harder.
const dialsMost = 32

// A pool holds the connections of one address. Of the idle ones the one that was
// used last is on top: it is the least likely to have been closed meanwhile.
//
// There are never more than bound connections, idle, busy or being made. Who
// finds none idle and may make none waits, in order of arrival, for whichever
// comes first: one that another request is done with, or leave to make one.
type pool struct {
	limit time.Duration // how long one may be idle; 0 for as long as it lasts
	most  int           // idle ones
	bound int           // all of them

	mu      sync.Mutex
	idle    []*conn
	sweep   *time.Timer // nil unless there is something to sweep
	closed  bool
	open    int // connections there are, those being made among them
	dialing int
	line    line      // who waits; nobody while a connection is idle
	good    time.Time // when the address was last seen to be well
}

// take returns an idle connection, or the place in which to wait for one, or
// neither: that is leave to make one.
func (p *pool) take() (*conn, *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		return c, nil
	}
	if p.open < p.bound && p.dialing < dialsMost {
		p.open++
		p.dialing++
		return nil, nil
	}
	return nil, p.line.join()
}

// wait returns what comes to a waiter: a connection, or nil for leave to make
// one. The error is the context's, and then nothing came.
func (p *pool) wait(ctx context.Context, w *waiter) (*conn, error) {
	select {
	case c := <-w.come:
		return c, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	select {
	case c := <-w.come: // too late
		p.mu.Unlock()
		if c == nil {
			p.dialed(false)
		} else {
			p.put(c, c.idle)
		}
	default:
		p.line.remove(w)
		p.mu.Unlock()
	}
	return nil, ctx.Err()
}

// serve gives those who wait leave to make connections, while there is any.
func (p *pool) serve() {
	for p.open < p.bound && p.dialing < dialsMost {
		w := p.line.take()
		if w == nil {
			return
		}
		p.open++
		p.dialing++
		w.come <- nil
	}
}

// dialed says what came of leave to make a connection.
func (p *pool) dialed(well bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing--
	if well {
		p.good = time.Now()
	} else {
		p.open--
	}
	p.serve()
}

// gone takes a connection that was closed out of account.
func (p *pool) gone() {
	p.mu.Lock()
	p.open--
	p.serve()
	p.mu.Unlock()
}

// wellSince reports whether the address took a connection after a time, or
// answered a request that was sent after it.
func (p *pool) wellSince(at time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.good.After(at)
}

// put takes a connection back: for who waits, or to be idle, unless there are
// most of them already.
func (p *pool) put(c *conn, now time.Time) {
	c.idle = now
	p.mu.Lock()
	if now.After(p.good) {
		p.good = now
	}
	keep := !p.closed
	if keep && p.line.first != nil {
		if w := p.line.take(); w != nil {
			w.come <- c
			p.mu.Unlock()
			return
		}
	}
	if keep = keep && len(p.idle) < p.most; keep {
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
