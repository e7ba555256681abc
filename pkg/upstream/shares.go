package upstream

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"time"
)

const (
	// sharePart is the part of a backend's connections that one device can have: a
	// fleet that went mad takes eight to leave the others nothing. shareLeast is
	// what it can have at least, for a small backend.
	sharePart  = 8
	shareLeast = 4
	// shareParts is into how many parts the devices are divided, so that two seldom
	// meet at a lock.
	shareParts = 16
	// idleMost is how many devices that have nothing are remembered in each part, and
	// how many shares that are nobody's are kept: asking one thing after another takes
	// no memory each time.
	idleMost = 64
)

// defaultShare is what one device can have of so many connections. One is always
// left for the others, if there are two.
func defaultShare(connections int) int {
	return max(1, min(max(connections/sharePart, shareLeast), connections-1))
}

// errShare says that a request waited for others of its device until its time was
// over.
var errShare = errors.New("the device has as many requests under way as one may have")

// What came of waiting for a share.
const (
	shareServed  = "served"
	shareRefused = "refused" // in time there was none
	shareGone    = "gone"    // the device gave up
)

// Shares bound how many requests of one device are at a backend at a time, each of
// which holds a connection. What is more waits for the device's own to end, in
// order of arrival; so a device that asks for too much waits for itself, and no
// more of its requests are among those who wait for a connection.
type shares struct {
	most int
	seed maphash.Seed
	part [shareParts]shareOf
}

// A shareOf is the shares of some of the devices.
type shareOf struct {
	mu    sync.Mutex
	of    map[string]*share // by device
	spare *share
	kept  int // how many are spare
}

// A share is what one device has.
type share struct {
	in     *shareOf
	device string
	held   int
	line   line   // its requests that wait
	next   *share // among those that are spare
}

func newShares(most int) *shares {
	s := &shares{most: most, seed: maphash.MakeSeed()}
	for i := range s.part {
		s.part[i].of = map[string]*share{}
	}
	return s
}

// take takes from a device's share, or returns the place in which to wait for it.
func (s *shares) take(device string) (*share, *waiter) {
	p := &s.part[maphash.String(s.seed, device)%shareParts]
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.of[device]
	if h == nil {
		h = p.add(device)
	}
	if h.held < s.most {
		h.held++
		return h, nil
	}
	return h, h.line.join()
}

func (p *shareOf) add(device string) *share {
	h := p.spare
	if h == nil {
		h = &share{in: p}
	} else {
		p.spare, h.next = h.next, nil
		p.kept--
	}
	h.device = device
	p.of[device] = h
	return h
}

// wait waits until what was taken comes. The error is the context's, and then
// nothing came.
func (h *share) wait(ctx context.Context, w *waiter) error {
	select {
	case <-w.come:
		return nil
	case <-ctx.Done():
	}
	h.in.mu.Lock()
	late := false
	select {
	case <-w.come:
		late = true
	default:
		h.line.remove(w)
	}
	h.in.mu.Unlock()
	if late {
		h.give()
	}
	return ctx.Err()
}

// give gives back what was taken: to who waits, or to nobody.
func (h *share) give() {
	p := h.in
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := h.line.take(); w != nil {
		w.come <- nil
		return
	}
	if h.held--; h.held > 0 || len(p.of) <= idleMost {
		return
	}
	delete(p.of, h.device)
	if p.kept < idleMost {
		h.device, h.next = "", p.spare
		p.spare = h
		p.kept++
	}
}

// enter takes from the share of the request's device, and waits for it no longer
// than for an answer. What it returns is given back when the request is over;
// nobody's is nil.
func (b *Backend) enter(r *Request) (*share, error) {
	if r.Device == "" {
		return nil, nil
	}
	h, w := b.shares.take(r.Device)
	if w == nil {
		return h, nil
	}
	ctx, cancel := context.WithTimeout(r.Context, b.cfg.Timeout.D())
	defer cancel()
	if !r.Stopper.with(cancel) {
		cancel()
	}
	defer r.Stopper.with(nil)
	began, came := time.Now(), shareServed
	err := h.wait(ctx, w)
	switch {
	case err == nil:
	case r.ended() != nil:
		err, came = r.ended(), shareGone
	default:
		err, came = errShare, shareRefused
	}
	if b.opt.OnShare != nil {
		b.opt.OnShare(came, time.Since(began))
	}
	return h, err
}

// leave gives a request's share back, if it has one.
func (h *share) leave() {
	if h != nil {
		h.give()
	}
}
