package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/wire"
)

// errGone says that a peer closed its connection before its turn came.
var errGone = &Refusal{Code: "gone", Why: "the device gave up before its handshake began"}

// longAgo is a deadline that ends whatever waits.
var longAgo = time.Unix(1, 0)

// handshake takes a connection through its TLS handshake when its turn has come.
// raw is what conn is made over. The limit is for the peer: it is how long it may
// take to begin, and from its turn on to finish; what it waits for others does
// not count. It leaves no deadline.
func (srv *Server) handshake(ctx context.Context, raw, conn net.Conn, from netip.Addr, cfg *tls.Config, limit time.Duration) (*tls.Conn, error) {
	tcp, _ := raw.(*net.TCPConn)
	if tcp != nil && !buffered(conn) {
		// Nobody waits for a turn who has nothing to say, and nobody who does has
		// a buffer meanwhile.
		if err := raw.SetDeadline(time.Now().Add(limit)); err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(longAgo) })
		err := wire.Await(tcp)
		stop()
		if err != nil {
			return nil, err
		}
	}
	if err := srv.turn(ctx, from); err != nil {
		return nil, err
	}
	c := &turnConn{Conn: conn, turns: srv.turns, ctx: ctx, has: true}
	defer c.done()
	if tcp != nil && wire.Gone(tcp) {
		return nil, errGone
	}
	if err := raw.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	tc := tls.Server(c, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, c.alert(err)
	}
	return tc, raw.SetDeadline(time.Time{})
}

// turn waits for a turn to begin a handshake, and tells how long that took.
func (srv *Server) turn(ctx context.Context, from netip.Addr) error {
	began := srv.cfg.Clock()
	srv.waiting.Add(1)
	err := srv.turns.begin(ctx, Neighbourhood(from))
	srv.waiting.Add(-1)
	if err == nil && srv.cfg.Hooks.Turn != nil {
		srv.cfg.Hooks.Turn(srv.cfg.Clock().Sub(began))
	}
	return err
}

// Waiting returns how many connections wait for their turn to begin a handshake.
func (srv *Server) Waiting() int { return int(srv.waiting.Load()) }

// A turnConn is a connection within its handshake, which has a turn but while it
// waits for its peer. Our own flights are never waited for: they are smaller than
// what the kernel takes at once. After the handshake it is the connection below.
type turnConn struct {
	net.Conn
	turns *turns // nil when the handshake is done
	ctx   context.Context
	has   bool
	tail  [7]byte // what the peer sent last
}

// alertHead begins the record of a fatal alert that is not encrypted (RFC 8446
// sections 5.1 and 6).
const alertHead = "\x15\x03\x03\x00\x02\x02"

// A plainAlert is the number of such an alert.
type plainAlert uint8

func (a plainAlert) Error() string { return fmt.Sprintf("tls: alert %d", uint8(a)) }

// alert finds out why a peer broke a handshake off that did so in the clear: OpenSSL
// refuses a certificate before it has taken up the keys of TLS 1.3, and what it says
// has a wrong MAC to who has. What is found is for a record; the handshake has failed.
func (c *turnConn) alert(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "local error" || string(c.tail[:len(alertHead)]) != alertHead {
		return err
	}
	return &net.OpError{Op: "remote error", Err: plainAlert(c.tail[len(alertHead)])}
}

// NetConn returns the connection below, for whoever waits there once the handshake is
// done.
func (c *turnConn) NetConn() net.Conn { return c.Conn }

// Read implements [net.Conn].
func (c *turnConn) Read(p []byte) (int, error) {
	n, err := c.read(p)
	if c.turns != nil {
		for _, b := range p[max(0, n-len(c.tail)):n] {
			copy(c.tail[:], c.tail[1:])
			c.tail[len(c.tail)-1] = b
		}
	}
	return n, err
}

func (c *turnConn) read(p []byte) (int, error) {
	if c.turns == nil || !c.has || buffered(c.Conn) {
		return c.Conn.Read(p)
	}
	c.has = false
	c.turns.end()
	n, err := c.Conn.Read(p)
	if err != nil {
		return n, err // there is nothing left to compute
	}
	if err := c.turns.resume(c.ctx); err != nil {
		return 0, err
	}
	c.has = true
	return n, nil
}

// buffered reports whether the next Read of a connection need not wait.
func buffered(conn net.Conn) bool {
	b, ok := conn.(interface{ Buffered() bool })
	return ok && b.Buffered()
}

// done ends what has to do with turns.
func (c *turnConn) done() {
	if c.has {
		c.turns.end()
	}
	c.turns, c.ctx, c.has = nil, nil, false
}

// SetLinger says what becomes of unsent bytes when the connection is closed.
func (c *turnConn) SetLinger(sec int) error {
	if t, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return t.SetLinger(sec)
	}
	return nil
}
