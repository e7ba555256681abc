package upstream

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/wire"
)

const (
	// readSize is the size of the buffer an answer is read through: a TLS record
	// whole, so that nothing of one is left inside TLS.
	readSize = 16<<10 + 1
	// slackPart is the part of a time limit by which it may be overrun, so that it
	// need not be set anew for each request.
	slackPart = 8
)

var (
	readers = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}
	writers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
)

// A conn is a connection to a backend that speaks HTTP/1.1. Whoever has it, has
// it alone.
type conn struct {
	b    *Backend
	addr *address
	net  net.Conn // TLS, unless the backend is insecure
	wire *wire.Conn
	used bool // it has carried a request
	idle time.Time

	heads http1.Heads // of its answers

	buf  *[]byte // what was read and not handed out is buf[r:w]; nil while idle
	r, w int
	full bool // the last read filled the buffer: TLS may hold more

	// interrupt ends whatever is done with the connection. It may be called by
	// anybody at any time.
	interrupt func()

	mu              sync.Mutex // over readBy, while a body is sent
	readBy, writeBy time.Time
}

// connect returns a new connection to an address, whose pool gave leave.
func (b *Backend) connect(ctx context.Context, a *address) (*conn, error) {
	nc, err := b.dialer.DialContext(ctx, "tcp", a.name)
	if err != nil {
		return nil, err
	}
	w, err := wire.New(nc.(*net.TCPConn), b.tls != nil)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c := &conn{b: b, addr: a, net: w, wire: w, interrupt: func() { w.Close() }}
	if b.tls != nil {
		if c.net, err = b.secure(ctx, w, a.name); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// secure speaks TLS over raw, which it closes if that fails.
func (b *Backend) secure(ctx context.Context, raw net.Conn, addr string) (*tls.Conn, error) {
	c := b.tls.Clone()
	c.NextProtos = nil
	if c.ServerName == "" {
		var err error
		if c.ServerName, _, err = net.SplitHostPort(addr); err != nil {
			raw.Close()
			return nil, err
		}
	}
	tc := tls.Client(raw, c)
	if err := tc.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return tc, nil
}

// close ends the connection at once; TLS's closing alert could have to wait. It
// is called once.
func (c *conn) close() {
	c.wire.Close()
	c.drop()
	c.addr.pool.gone()
}

// drop gives the buffer away.
func (c *conn) drop() {
	if c.buf != nil {
		if len(*c.buf) == readSize {
			readers.Put(c.buf)
		}
		c.buf = nil
	}
	c.r, c.w, c.full = 0, 0, false
}

// patience gives the backend time to answer, and later to go on answering. Its
// limit is not set anew while it is no nearer than it may be.
func (c *conn) patience(now time.Time, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !near(&c.readBy, now, d) {
		return nil
	}
	return c.net.SetReadDeadline(c.readBy)
}

// endless takes the limit of reading away: an answer may come at any time while
// a body is sent. The sender sets it when that is done.
func (c *conn) endless() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = time.Time{}
	return c.net.SetReadDeadline(time.Time{})
}

func (c *conn) writeLimit(now time.Time) error {
	if !near(&c.writeBy, now, c.b.cfg.Timeout.D()) {
		return nil
	}
	return c.net.SetWriteDeadline(c.writeBy)
}

// near moves a limit that is to be d away if it is nearer, or much farther, and
// reports that.
func near(by *time.Time, now time.Time, d time.Duration) bool {
	if left := by.Sub(now); left >= d && left <= d+d/slackPart {
		return false
	}
	*by = now.Add(d + d/slackPart)
	return true
}

// fill reads more of an answer behind what is there.
func (c *conn) fill() error {
	if c.buf == nil {
		c.buf = readers.Get().(*[]byte)
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(*c.buf) {
		if c.r > 0 {
			copy(*c.buf, (*c.buf)[c.r:c.w])
			c.w -= c.r
			c.r = 0
		} else {
			larger := make([]byte, min(2*len(*c.buf), maxResponseHeader+1))
			if len(larger) <= c.w {
				return io.ErrShortBuffer
			}
			copy(larger, *c.buf)
			if len(*c.buf) == readSize {
				readers.Put(c.buf)
			}
			c.buf = &larger
		}
	}
	n, err := c.net.Read((*c.buf)[c.w:])
	c.full = n == len(*c.buf)-c.w
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// refill reads more of a body, of which all that is there was handed out. The
// buffer is then free, and may be exchanged for one of the usual size.
func (c *conn) refill(patience time.Duration) error {
	if c.buf != nil && len(*c.buf) != readSize {
		c.buf = nil
	}
	c.r, c.w = 0, 0
	if err := c.patience(time.Now(), patience); err != nil {
		return err
	}
	return c.fill()
}

// clean reports whether nothing is left over that was received.
func (c *conn) clean() bool { return c.r == c.w && !c.full && !c.wire.Buffered() }
