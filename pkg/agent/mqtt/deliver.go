package mqtt

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

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
func (p *Port) Connect(ctx context.Context, conn *tls.Conn, m *message) (session, error) {
	u, err := openUpstream(ctx, conn, p, m.level)
	if err != nil {
		return nil, err
	}
	p.cfg.Gateway.Served()
	return u, nil
}

// Takes implements [store.Session]: a message is published in the version that it
// came by, with all that is said beside it.
func (u *upstream) Takes(m *message) bool { return m.level == u.level }

// Deliver implements [store.Session]. It sends a message by its quality (§4.3). Its
// identifier is the same for as long as it is in the store, and no other message's.
func (u *upstream) Deliver(ctx context.Context, s *stored) (store.Outcome, error) {
	p, m := u.port, s.Message
	id := uint16(s.Seq%65535) + 1
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Settings.Store.Wait.D())
	defer cancel()
	if !s.Begun {
		waited := time.Duration(0)
		if !s.Since.IsZero() {
			waited = p.cfg.Clock().Sub(s.Since)
		}
		if m = m.aged(waited); m == nil {
			return store.Expired, nil
		}
		packet := m.packet(id, s.Sent)
		if why := u.can(m, len(packet)); why != "" {
			p.Log.Error("the gateway does not take a message that was taken from the device", "message", s.Seq, "reason", why)
			return store.Rejected, nil
		}
		kind := typePuback
		if m.qos == 2 {
			kind = typePubrec
		}
		reason, err := u.exchange(ctx, packet, byte(kind), id)
		if err != nil {
			return 0, err
		}
		p.cfg.Gateway.Served()
		switch {
		case reason >= 0x80:
			return u.rejected(s, reason), nil
		case m.qos == 1:
			return store.Delivered, nil
		}
		// From here on the message is the gateway's: it must never be sent again,
		// only released.
		if err := p.Begin(s.Seq); err != nil {
			p.Log.Error("the store", "message", s.Seq, "error", err)
			return store.Failed, nil
		}
	}
	// Whether the gateway still knows the identifier or not, the message is its own.
	_, err := u.exchange(ctx, withID(typePubrel, 2, id), typePubcomp, id)
	return store.Delivered, err
}

// can says why the gateway can not take a message, by what it said of itself
// (version 5 §3.2.2.3), or "".
func (u *upstream) can(m *message, size int) string {
	switch props := u.takes.props; {
	case uint32(m.qos) > props.number(propMaxQuality, 2):
		return "it takes no messages of that quality"
	case m.retain && props.number(propRetain, 1) == 0:
		return "it retains no messages"
	case uint64(size) > uint64(props.number(propMaxPacket, 1<<32-1)):
		return "it is too large"
	}
	return ""
}

// rejected is what becomes of a message that the gateway answers with an error
// (version 5 §3.4.2.1): one that will always be one sets it aside at once.
func (u *upstream) rejected(s *stored, reason byte) store.Outcome {
	u.port.Log.Warn("the gateway answers with an error", "message", s.Seq, "reason", fmt.Sprintf("%#02x", reason), "try", s.Try+1)
	switch reason {
	case 0x87, 0x90, 0x95, 0x99: // not authorized, topic, size, format
		return store.Rejected
	}
	if s.Try+1 >= u.port.cfg.Settings.Store.Tries {
		return store.Rejected
	}
	return store.Failed
}

// errand is the delivery of a message of quality 0 if there is a session, or if one
// can be opened at once.
func (p *Port) errand(m *message, large bool) *store.Errand[*message] {
	return &store.Errand[*message]{Message: m, Hurried: true, Do: func(ctx context.Context, open func(context.Context) (session, error)) error {
		if large {
			defer p.bulky.Store(false)
		}
		ctx, cancel := context.WithTimeout(ctx, p.cfg.Settings.Connect.D())
		defer cancel()
		s, err := open(ctx)
		if err == nil {
			u, packet := s.(*upstream), m.packet(0, false)
			if u.can(m, len(packet)) != "" {
				p.Count(func(c *queue.Counts) { c.Dropped++ })
				return nil
			}
			err = u.send(ctx, packet)
		}
		if err != nil {
			p.Count(func(c *queue.Counts) { c.Dropped++ })
			return err
		}
		p.Count(func(c *queue.Counts) { c.Delivered++ })
		return nil
	}}
}
