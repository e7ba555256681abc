package edge

import (
	"context"
	"crypto/tls"
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
	if err := srv.turns.begin(ctx, Neighbourhood(from)); err != nil {
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
		return nil, err
	}
	return tc, raw.SetDeadline(time.Time{})
}

// A turnConn is a connection within its handshake, which has a turn but while it
// waits for its peer. Our own flights are never waited for: they are smaller than
// what the kernel takes at once. After the handshake it is the connection below.
type turnConn struct {
	net.Conn
	turns *turns // nil when the handshake is done
	ctx   context.Context
	has   bool
}

// Read implements [net.Conn].
func (c *turnConn) Read(p []byte) (int, error) {
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
