package mqtt

import (
	"context"
	"crypto/tls"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/agent/store"
)

type (
	session = store.Session[*message]
	stored  = store.Stored[*message]
)

// Read implements [store.Protocol].
func (p *Port) Read(body []byte) (*message, error) {
	m, err := unrest(body, p.most())
	return &m, err
}

// Extension implements [store.Protocol].
func (p *Port) Extension() string { return ".mqtt" }

// Connect implements [store.Protocol].
func (p *Port) Connect(ctx context.Context, conn *tls.Conn, _ *message) (session, error) {
	u, err := openUpstream(ctx, conn, p.cfg.Device, p.cfg.Settings.Store.Wait.D())
	if err != nil {
		return nil, err
	}
	u.port = p
	p.cfg.Gateway.Served()
	return u, nil
}

// Takes implements [store.Session].
func (u *upstream) Takes(*message) bool { return true }

// Deliver implements [store.Session]. It sends a message by its quality (§4.3). Its
// identifier is the same for as long as it is in the store, and no other message's.
func (u *upstream) Deliver(ctx context.Context, s *stored) (store.Outcome, error) {
	p, m := u.port, s.Message
	id := uint16(s.Seq%65535) + 1
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Settings.Store.Wait.D())
	defer cancel()
	if m.qos == 1 {
		return store.Delivered, u.exchange(ctx, m.packet(id, s.Sent), typePuback, id)
	}
	if !s.Begun {
		if err := u.exchange(ctx, m.packet(id, s.Sent), typePubrec, id); err != nil {
			return 0, err
		}
		// From here on the message is the gateway's: it must never be sent again,
		// only released.
		if err := p.Begin(s.Seq); err != nil {
			p.Log.Error("the store", "message", s.Seq, "error", err)
			return store.Failed, nil
		}
	}
	return store.Delivered, u.exchange(ctx, withID(typePubrel, 2, id), typePubcomp, id)
}

// errand is the delivery of a message of quality 0 if there is a session, or if one
// can be opened at once.
func (p *Port) errand(m *message, large bool) *store.Errand[*message] {
	return &store.Errand[*message]{Message: m, Do: func(ctx context.Context, open func(context.Context) (session, error)) error {
		if large {
			defer p.bulky.Store(false)
		}
		if err := p.cfg.Gateway.Failed(); err != nil {
			p.Count(func(c *queue.Counts) { c.Dropped++ })
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, p.cfg.Settings.Connect.D())
		defer cancel()
		s, err := open(ctx)
		if err == nil {
			err = s.(*upstream).send(ctx, m.packet(0, false))
		}
		if err != nil {
			p.Count(func(c *queue.Counts) { c.Dropped++ })
			return err
		}
		p.Count(func(c *queue.Counts) { c.Delivered++ })
		return nil
	}}
}
