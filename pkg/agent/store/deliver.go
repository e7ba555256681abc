package store

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
)

const (
	// firstPause and lastPause bound the time between two tries of a message that
	// the gateway answers with an error, or that can not be taken off the store.
	firstPause = time.Second
	lastPause  = time.Minute
	// connectTime bounds one attempt to connect; the next follows at once.
	connectTime = 30 * time.Second
)

// step is how the loop goes on.
type step int

const (
	next   step = iota // with the next message
	again              // with the same; the gateway's own back-off is pause enough
	paused             // with the same, after a pause
)

// deliver delivers one message after the other: what is stored first, and then
// errands.
func (p *Port[M]) deliver(ctx context.Context) {
	w := &way[M]{port: p}
	defer func() { w.close() }()
	tries := 0
	for ctx.Err() == nil {
		it, err := p.queue.First()
		if err != nil {
			p.Log.Error("reading the store", "error", err)
			tries = pause(ctx, tries)
			continue
		}
		if it != nil {
			switch p.stored(ctx, w, it, tries) {
			case next:
				tries = 0
			case paused:
				tries = pause(ctx, tries)
			}
			continue
		}
		select {
		case <-p.queue.Came():
		case e := <-p.errands:
			if e.Do(ctx, func(ctx context.Context) (Session[M], error) { return w.errand(ctx, e) }) != nil {
				w.close()
			}
		case <-w.ended():
			w.close()
		case <-ctx.Done():
		}
	}
}

// pause waits, longer each time, and returns how many times it did.
func pause(ctx context.Context, tries int) int {
	wait := min(firstPause<<min(tries, 10), lastPause)
	select {
	case <-time.After(wait - rand.N(wait/2)):
	case <-ctx.Done():
	}
	return tries + 1
}

// stored delivers the first message of the store, or comes as far as it gets.
func (p *Port[M]) stored(ctx context.Context, w *way[M], it *queue.Item, tries int) step {
	if it.Seq == p.given {
		return p.off(it.Seq, nil)
	}
	m, err := p.protocol.Read(it.Body)
	if err != nil { // it was one when it was put there
		p.Log.Error("a stored message can not be read", "message", it.Seq)
		return p.aside(it)
	}
	session, err := w.open(ctx, m)
	if err != nil {
		return again
	}
	s := &Stored[M]{Item: it, Message: m, Sent: p.tried == it.Seq, Try: tries}
	p.tried = it.Seq
	outcome, err := session.Deliver(ctx, s)
	if err != nil {
		w.close()
		if ctx.Err() == nil {
			p.Log.Warn("a message has no answer and is sent again", "message", it.Seq, "error", err)
			p.Count(func(c *queue.Counts) { c.Again++ })
			p.cfg.Gateway.Refused(err)
		}
		return again
	}
	on := paused
	switch outcome {
	case Delivered:
		on = p.off(it.Seq, func(c *queue.Counts) { c.Delivered++ })
	case Expired:
		on = p.off(it.Seq, func(c *queue.Counts) { c.Expired++ })
	case Rejected:
		on = p.aside(it)
	}
	if on == next && s.Then != nil {
		s.Then()
	}
	return on
}

// off takes a message that is done with off the store.
func (p *Port[M]) off(seq uint64, count func(*queue.Counts)) step {
	p.given = seq
	if count != nil {
		p.Count(count)
	}
	if err := p.queue.Done(seq); err != nil {
		// It is not sent again, unless the agent dies; no other is sent either.
		p.Log.Error("a message that is done with can not be taken off the store", "message", seq, "error", err)
		return paused
	}
	return next
}

// Begin notes that the delivery of a message has come to a point that must not be
// forgotten. When it returns nil that is on disk.
func (p *Port[M]) Begin(seq uint64) error { return p.queue.Begin(seq) }

// A way is the loop's session, while there is one.
type way[M any] struct {
	port    *Port[M]
	session Session[M]
}

// open returns a session that takes m and was good a moment ago.
func (w *way[M]) open(ctx context.Context, m M) (Session[M], error) {
	if w.session != nil {
		select {
		case <-w.session.Ended():
			w.close()
		default:
			if w.session.Takes(m) {
				return w.session, nil
			}
			w.close()
		}
	}
	dial, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := w.port.cfg.Gateway.Dial(dial)
	if err != nil {
		return nil, err
	}
	session, err := w.port.protocol.Connect(ctx, conn, m)
	if err != nil {
		if ctx.Err() == nil {
			w.port.cfg.Gateway.Refused(err)
		}
		return nil, err
	}
	w.session = session
	return session, nil
}

// errand returns a session for an errand.
func (w *way[M]) errand(ctx context.Context, e *Errand[M]) (Session[M], error) {
	if err := w.port.cfg.Gateway.Failed(); err != nil && e.Hurried && w.session == nil {
		return nil, err
	}
	return w.open(ctx, e.Message)
}

func (w *way[M]) close() {
	if w.session != nil {
		w.session.Close()
		w.session = nil
	}
}

// ended is closed when the session has ended. It is nil for none.
func (w *way[M]) ended() <-chan struct{} {
	if w.session == nil {
		return nil
	}
	return w.session.Ended()
}
