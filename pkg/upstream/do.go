package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/wire"
)

// errUnfit is wrapped by the error of a request that can not be sent in HTTP. No
// address can be blamed for it.
var errUnfit = errors.New("it can not be sent in HTTP")

// Do sends a request to a healthy address and fills in the response, which the
// caller closes if there is no error.
//
// Addresses that can not be connected to are passed over until each had its try,
// for nothing was sent to them. Past that, there are no more tries than the
// configuration's retries say, and a request of which something may have been
// sent is sent again only if it is idempotent and its body is held.
//
// A request waits for others of its device before it waits for a connection: see
// Request.Device.
//
// A body that is not held is read by another goroutine, which may go on until
// the response is closed, and then until its reader is ended by its owner.
//
// The response is read strictly: one that two programs could read in two ways is
// ErrAnswer. The end of a body that broke off is an error of reading it.
func (b *Backend) Do(r *Request, resp *Response) error {
	if !r.fit() {
		return fmt.Errorf("request to %s: %w", b.cfg.Name, errUnfit)
	}
	share, err := b.enter(r)
	if err != nil {
		if errors.Is(err, errShare) {
			return fmt.Errorf("%w: %s: %w", ErrUnavailable, b.cfg.Name, err)
		}
		return fmt.Errorf("request to %s: %w", b.cfg.Name, err)
	}
	if err := b.send(r, resp); err != nil {
		share.leave()
		return err
	}
	switch body := resp.body.(type) { // it leaves at its end
	case *exchange:
		body.share = share
	case *body2:
		body.share = share
	}
	return nil
}

// send is Do for a request that entered.
func (b *Backend) send(r *Request, resp *Response) error {
	if b.transport != nil {
		return b.do2(r, resp)
	}
	a := b.addrs[0]
	var order []*address
	if len(b.addrs) > 1 {
		order = b.order()
		a = order[0]
	}
	for try := 0; ; try++ {
		if order != nil {
			a = order[try%len(order)]
		}
		sent, err := b.try(r, resp, a)
		if err == nil {
			b.note(a, nil)
			return nil
		}
		last, again := b.failed(r, a, sent, err)
		tries := 1 + b.cfg.Retries
		if !sent {
			tries = max(tries, len(order))
		}
		if !again || try+1 >= tries {
			return last
		}
	}
}

// A bodyError is the fault of a request's body, and so of who sends it.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }

// failed says what a failed try means: what to tell the caller, and whether the
// request may be tried again.
func (b *Backend) failed(r *Request, a *address, sent bool, err error) (last error, again bool) {
	var own bodyError
	if errors.As(err, &own) {
		return own.error, false // the device's fault, not the backend's
	}
	if cause := r.ended(); cause != nil {
		return fmt.Errorf("request to %s: %w", b.cfg.Name, cause), false
	}
	last = classify(b.cfg.Name, sent, err)
	if _, ours := errors.AsType[busyError](err); !ours {
		b.note(a, last)
	}
	switch {
	case errors.Is(err, errFull):
		return last, false
	case !sent:
		return last, true
	case errors.Is(last, ErrTimeout):
		return last, false // who waited once has waited long enough
	}
	return last, idempotent[r.Method] && (r.Length == 0 || r.Held != nil)
}

// ended returns why the request is no longer wanted, or nil.
func (r *Request) ended() error {
	if err := r.Context.Err(); err != nil {
		return err
	}
	if r.Stopper.Stopped() {
		return context.Canceled
	}
	return nil
}

// try sends r to one address. sent says that a connection was there, so that the
// request may have begun.
func (b *Backend) try(r *Request, resp *Response, a *address) (sent bool, err error) {
	for {
		c, place := a.pool.take()
		if c == nil {
			if c, err = b.fresh(r, a, place); err != nil {
				return false, err
			}
		}
		header := resp.Header[:0]
		*resp = Response{Header: header, x: exchange{c: c, r: r, resp: resp}}
		if err = resp.x.do(); err == nil {
			return true, nil
		}
		resp.x.end()
		if !errors.Is(err, wire.ErrStale) {
			return true, err
		}
		// Nothing was sent: the next idle connection, or a new one.
	}
}

// fresh waits for a connection for a request if there is a place to wait in, and
// makes one if that is what comes.
func (b *Backend) fresh(r *Request, a *address, place *waiter) (*conn, error) {
	if place != nil {
		if c, err := b.queue(r, a, place); c != nil || err != nil {
			return c, err
		}
	}
	ctx, cancel := context.WithTimeout(r.Context, b.cfg.Connect.D())
	defer cancel()
	if !r.Stopper.with(cancel) {
		a.pool.dialed(false)
		return nil, context.Canceled
	}
	defer r.Stopper.with(nil)
	began := time.Now()
	c, err := b.connect(ctx, a)
	a.pool.dialed(err == nil)
	if err != nil && a.ours(err, began) {
		err = busyError{err}
	}
	return c, err
}

// queue waits for a connection no longer than for an answer. The connection is
// nil if the request has leave to make one.
func (b *Backend) queue(r *Request, a *address, place *waiter) (*conn, error) {
	ctx, cancel := context.WithTimeout(r.Context, b.cfg.Timeout.D())
	defer cancel()
	if !r.Stopper.with(cancel) {
		cancel()
	}
	defer r.Stopper.with(nil)
	c, err := a.pool.wait(ctx, place)
	if err != nil {
		return nil, busyError{errFull}
	}
	return c, nil
}
