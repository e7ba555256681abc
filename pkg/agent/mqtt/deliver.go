package mqtt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
)

const (
	// connectTime bounds one attempt to connect; the next follows at once.
	connectTime = 30 * time.Second
	// storePause is how long a store that fails is left alone.
	storePause = 10 * time.Second
)

// deliver publishes one message after the other: what is stored first.
func (p *Port) deliver(ctx context.Context) {
	var up *upstream
	defer func() { up.close() }()
	for ctx.Err() == nil {
		it, err := p.queue.First()
		if err == nil && it != nil {
			up, err = p.stored(ctx, up, it)
		}
		if err != nil {
			p.log.Error("the store", "error", err)
			select {
			case <-time.After(storePause):
			case <-ctx.Done():
			}
			continue
		}
		if it != nil {
			continue
		}
		select {
		case <-p.queue.Came():
		case m := <-p.direct:
			up = p.passing(ctx, up, m)
		case <-up.ended():
			up.close()
			up = nil
		case <-ctx.Done():
		}
	}
}

// connected returns a session that was good a moment ago.
func (p *Port) connected(ctx context.Context, up *upstream) (*upstream, error) {
	if up != nil {
		select {
		case <-up.ended():
			up.close()
		default:
			return up, nil
		}
	}
	dial, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := p.cfg.Gateway.Dial(dial)
	if err != nil {
		return nil, err
	}
	up, err = openUpstream(ctx, conn, p.cfg.Client(), p.cfg.Settings.Store.Wait.D())
	if err != nil {
		if ctx.Err() == nil {
			p.cfg.Gateway.Refused(err)
		}
		return nil, err
	}
	p.cfg.Gateway.Served()
	return up, nil
}

// stored delivers the first message of the store, or comes as far as it gets. An
// error is the store's.
func (p *Port) stored(ctx context.Context, up *upstream, it *queue.Item) (*upstream, error) {
	if it.Seq == p.given {
		return up, p.off(it.Seq)
	}
	m, err := unrest(it.Body, p.most())
	if err != nil { // it was one when it was put there
		return up, fmt.Errorf("message %d can not be read: %w", it.Seq, err)
	}
	if up, err = p.connected(ctx, up); err != nil {
		return nil, nil
	}
	if err := p.publish(ctx, up, it, &m); err != nil {
		if _, store := errors.AsType[*storeError](err); store {
			return up, err
		}
		if ctx.Err() == nil {
			p.log.Warn("a message has no answer and is sent again", "message", it.Seq, "error", err)
			p.count(func(c *queue.Counts) { c.Again++ })
			p.cfg.Gateway.Refused(err)
		}
		up.close()
		return nil, nil
	}
	return up, p.off(it.Seq)
}

// storeError is a failure of the store's in the middle of a delivery.
type storeError struct{ error }

// publish sends a message by its quality (§4.3). Its identifier is the same for as
// long as it is in the store, and no other message's.
func (p *Port) publish(ctx context.Context, up *upstream, it *queue.Item, m *message) error {
	id, again := uint16(it.Seq%65535)+1, it.Seq == p.tried
	p.tried = it.Seq
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Settings.Store.Wait.D())
	defer cancel()
	if m.qos == 1 {
		return up.exchange(ctx, m.packet(id, again), typePuback, id)
	}
	if !it.Begun {
		if err := up.exchange(ctx, m.packet(id, again), typePubrec, id); err != nil {
			return err
		}
		// From here on the message is the gateway's: it must never be sent again,
		// only released.
		if err := p.queue.Begin(it.Seq); err != nil {
			return &storeError{err}
		}
	}
	return up.exchange(ctx, withID(typePubrel, 2, id), typePubcomp, id)
}

// off takes a message that was delivered off the store.
func (p *Port) off(seq uint64) error {
	p.given = seq
	if err := p.queue.Done(seq); err != nil {
		return err
	}
	p.count(func(c *queue.Counts) { c.Delivered++ })
	return nil
}

// passing publishes a message of quality 0 if there is a session, or opens one for
// the next.
func (p *Port) passing(ctx context.Context, up *upstream, m *message) *upstream {
	if up == nil && p.cfg.Gateway.Failed() != nil {
		p.count(func(c *queue.Counts) { c.Dropped++ })
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Settings.Connect.D())
	defer cancel()
	up, err := p.connected(ctx, up)
	if err == nil {
		err = up.send(ctx, m.packet(0, false))
	}
	if err != nil {
		p.count(func(c *queue.Counts) { c.Dropped++ })
		up.close()
		return nil
	}
	p.count(func(c *queue.Counts) { c.Delivered++ })
	return up
}
