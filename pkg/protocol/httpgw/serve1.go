package httpgw

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
	"github.com/anteroom-iomt/anteroom/pkg/wire"
)

const (
	// drainMax is how much of a body is read and dropped to keep a connection
	// after an answer that did not need it.
	drainMax = 256 << 10
	// lingerTime is how long a connection that is being closed is read, so that
	// the device sees the answer before it sees the reset its own unread bytes
	// would cause.
	lingerTime = 2 * time.Second
	// lingerMax bounds what is read meanwhile. A device that sends a body of some
	// megabytes before it looks for an answer finds it.
	lingerMax = 64 << 20
	// hotTime is how long a connection waits for its next request with its read
	// buffer in hand. After that it gives the buffer away, and pays for that with a
	// second read when a request comes.
	hotTime = time.Second
	// slackPart is the part of a time limit by which it may be overrun, so that it
	// need not be set anew for each request: that costs as much as reading one.
	slackPart = 4
)

// past is a deadline that interrupts.
var past = time.Unix(1, 0)

// conn1 is an HTTP/1.1 connection.
type conn1 struct {
	g       *Gateway
	s       *protocol.Session
	conn    net.Conn
	socket  *wire.Conn // what conn is over, or nil
	src     source
	stopper upstream.Stopper
	*work   // nil while the connection has been idle for hotTime

	mu              sync.Mutex
	idle            bool // waiting for a request; a drain may interrupt
	readBy, writeBy time.Time
}

// work is what a connection needs for one request, and keeps for the next while
// they come often.
type work struct {
	head    head
	msg     message
	x       exchange
	w       answer1
	inline  inline
	badge   badge
	watcher watcher
	last    lastHead
}

// A lastHead is what was made of the head of the last request: a device says the same
// thing over and over, and what was made of it stays as it is. That what a head says
// is the same though it reads otherwise, see [head.again].
type lastHead struct {
	known  bool // there is something, and head says what it was made of
	framed http1.Framing
}

// serve1 speaks HTTP/1.1 until the connection ends. Requests are answered one
// after the other, in order, however many the device sends at once.
func (g *Gateway) serve1(conn net.Conn, s *protocol.Session) {
	c := &conn1{g: g, s: s, conn: conn}
	c.src = source{conn: conn, stall: g.cfg.Listener.Limits.Stall.D()}
	c.socket = socketOf(conn)
	// The session's end is the end of what is asked for it.
	s.OnEnd(c.stopper.Stop)
	s.OnDrain(c.drain)
	for c.src.r < c.src.w || c.await() {
		if !c.request() {
			break
		}
	}
	c.src.release()
}

// socketOf returns what a TLS connection is over, or nil if that is something else.
func socketOf(conn net.Conn) *wire.Conn {
	for {
		if w, ok := conn.(*wire.Conn); ok {
			return w
		}
		t, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = t.NetConn()
	}
}

// equip gets the connection what a request needs.
func (c *conn1) equip() {
	if c.work == nil {
		c.work = &work{}
		c.w.c, c.inline.c, c.watcher.c = c, c, c
	}
}

// drain wakes a connection that waits for a request.
func (c *conn1) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle {
		c.conn.SetReadDeadline(past)
	}
}

// await waits for the first bytes of a request and reports whether any came.
func (c *conn1) await() bool {
	idle := c.g.cfg.Listener.Limits.Idle.D()
	hot := min(c.g.hot, idle)
	if !c.waiting(hot) {
		return false
	}
	c.src.obtain()
	err := c.src.fill()
	if err != nil && idle > hot && timedOut(err) && c.waiting(idle-hot) {
		err = c.rest()
	}
	c.mu.Lock()
	c.idle = false
	c.mu.Unlock()
	return err == nil // else idle for too long, or gone: nothing was asked
}

// rest waits on with nothing in hand.
func (c *conn1) rest() error {
	c.src.release()
	c.work = nil
	c.s.SetMemo(nil)
	if c.socket == nil {
		return c.src.wait()
	}
	if err := c.socket.Await(); err != nil {
		return err
	}
	c.src.obtain()
	return c.src.fill()
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// waiting begins a wait of at most d, unless the session is to take nothing new.
func (c *conn1) waiting(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s.IsDraining() {
		return false
	}
	c.idle = true
	return !near(&c.readBy, time.Now(), d) || c.conn.SetReadDeadline(c.readBy) == nil
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

// limitRead sets another limit than waiting does.
func (c *conn1) limitRead(by time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = time.Time{}
	return c.conn.SetReadDeadline(by)
}

// writeLimit gives the device time to take what is written next.
func (c *conn1) writeLimit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !near(&c.writeBy, time.Now(), c.g.cfg.Listener.Limits.Stall.D()) {
		return nil
	}
	return c.conn.SetWriteDeadline(c.writeBy)
}

// request serves one request and reports whether another may follow.
func (c *conn1) request() bool {
	began := time.Now()
	c.equip()
	c.s.Begin()
	defer c.s.Finish()
	w := &c.w
	w.reset()
	defer w.release()
	if f := c.readHead(began); f != nil {
		if f.status != 0 {
			c.refuseHead(w, f, began)
		}
		return false
	}
	w.method, w.minor = c.head.method, c.head.minor
	again := c.last.known
	var f *fault
	if again {
		c.body(c.last.framed)
	} else {
		f = c.message()
	}
	w.close = c.closes()
	if f != nil {
		f.fatal = true // the body was not looked at
		c.refuseHead(w, f, began)
		return false
	}
	x := &c.x
	x.begin(c.g, c.s, &c.badge, &c.msg, w, began)
	x.again = again
	c.last.known = true
	x.ctx, x.stopper = c.s.Context(), &c.stopper
	x.upstream = context.Background() // the stopper ends it
	x.run()
	c.last.known = c.last.known && !x.trimmed
	if w.hijacked {
		return false
	}
	c.settleBody()
	if w.flush() != nil {
		return false
	}
	if w.close {
		c.linger()
		return false
	}
	return true
}

// settleBody sees to it that nobody reads the body any more, and reads over what
// is left of it.
func (c *conn1) settleBody() {
	switch b := c.msg.body.(type) {
	case *inline:
		c.src.r += int(b.left)
	case *stream1:
		if !b.quiesce() && !c.w.close && !b.discard() || b.broken() {
			c.w.close = true
		}
		c.src.interrupted.Store(false)
		c.mu.Lock()
		c.readBy = time.Time{} // reading a body sets limits of its own
		c.mu.Unlock()
	}
}

// closes reports whether the device or we want the connection closed after this
// request (RFC 9112 section 9.3).
func (c *conn1) closes() bool {
	return c.msg.conn.close || c.head.minor == 0 && !c.msg.conn.keepAlive || c.s.IsDraining()
}

// readHead reads until a head is whole. A fault of status 0 says that there is
// nobody to answer.
func (c *conn1) readHead(began time.Time) *fault {
	lim := &c.g.cfg.Listener.Limits
	limit, limited, seen := int(lim.HeadBytes), false, 0
	if c.readAgain(limit) {
		return nil
	}
	for {
		n, err := headEnd(c.src.buf[c.src.r:c.src.w], seen)
		if err != nil {
			return err
		}
		if n > limit || n == 0 && c.src.w-c.src.r >= limit {
			return &fault{http.StatusRequestHeaderFieldsTooLarge, "the request head is too large", true}
		}
		if n > 0 {
			f := c.head.parse(c.src.buf[c.src.r:c.src.r+n], lim.HeaderFields)
			c.last.known = false
			c.taken(n)
			return f
		}
		seen = c.src.w - c.src.r
		if c.src.r == 0 && c.src.w == len(c.src.buf) {
			c.src.grow(min(2*len(c.src.buf), limit+1))
		}
		if !limited {
			// Most heads come at once and need no limit.
			if c.limitRead(began.Add(lim.Head.D())) != nil {
				return &fault{}
			}
			limited = true
		}
		if err := c.src.fill(); err != nil {
			var ne net.Error
			switch {
			case errors.As(err, &ne) && ne.Timeout():
				return &fault{http.StatusRequestTimeout, "the request head took too long", true}
			case errors.Is(err, io.EOF):
				return bad("the connection ended within a request head")
			}
			return &fault{}
		}
	}
}

// readAgain reads a head of at most limit bytes that is the last one again, or another
// in values of fields only, and reports whether it was one. It has come whole then.
func (c *conn1) readAgain(limit int) bool {
	n, like := c.head.again(c.src.buf[c.src.r:c.src.w])
	if n == 0 || n > limit {
		return false
	}
	c.last.known = c.last.known && (like == same || like == resized && c.resize())
	c.taken(n)
	return true
}

// resize makes what is known that of a request with a body of another length, and
// reports whether it is one: message and check look at nothing else of that length.
func (c *conn1) resize() bool {
	fr, err := c.head.Header.Framing(c.head.minor)
	if err != nil || c.head.method == http.MethodGet || c.head.method == http.MethodHead {
		return false // they have none, or it is refused
	}
	c.last.framed = fr
	return true
}

// taken goes on behind a head of n bytes.
func (c *conn1) taken(n int) {
	c.src.r += n
	if len(c.src.buf) > readSize && c.src.w-c.src.r <= readSize {
		c.src.shrink()
	}
}

// message makes the engine's message from the head that was read. With a fault
// the message is there as far as it is known.
func (c *conn1) message() *fault {
	h, m := &c.head, &c.msg
	*m = message{version: "1.1", method: h.method, header: h.Header}
	if h.minor == 0 {
		m.version = "1.0"
	}
	fr, err := h.Header.Framing(h.minor)
	if err != nil {
		return bad(err.Why)
	}
	c.last.framed = fr
	c.body(fr)
	var f *fault
	if m.conn, f = parseConnection(h.Header); f != nil {
		return f
	}
	host, n := h.Header.Get("host")
	if n != 1 {
		return bad("the request does not have exactly one Host field")
	}
	target := h.target
	if rest, ok := strings.CutPrefix(target, "https://"); ok {
		// Absolute form (RFC 9112 section 3.2.2) is served when it says what the
		// rest of the request says.
		authority, path, slash := strings.Cut(rest, "/")
		if !slash || !strings.EqualFold(authority, host) {
			return bad("the request target names another host than the Host field")
		}
		target = "/" + path
	}
	if m.target, f = canonical(target); f != nil {
		return f
	}
	return c.g.check(c.s, m, host)
}

// body makes the body of the message whose head was read.
func (c *conn1) body(fr http1.Framing) {
	h, m := &c.head, &c.msg
	m.body, m.length = nil, fr.Length
	expects := fr.Length != 0 && h.Header.Has("expect")
	switch {
	case fr.Chunked:
	case fr.Length < 0:
		m.length = 0 // a request without a length has no body
		return
	case fr.Length == 0:
		return
	case fr.Length <= min(smallBody, int64(c.src.w-c.src.r)) && !expects:
		// It is taken in before anybody asks whether the device is still there, which
		// reads on into the same buffer.
		c.inline.left = fr.Length
		m.body = &c.inline
		return
	}
	b := &stream1{body: body{src: &c.src, left: max(fr.Length, 0), chunked: fr.Chunked}, conn: c.conn}
	if expects && h.minor == 1 {
		b.body.invite = c.w.invite
	}
	m.body = b
}

// refuseHead answers a request that was not understood, and closes.
func (c *conn1) refuseHead(w *answer1, f *fault, began time.Time) {
	w.close = true
	id := c.g.cfg.Judge.Refused(c.s.Context(), c.s, nil, &protocol.Transaction{Protocol: "http", Bytes: -1}, strconv.Itoa(f.status), f.why)
	c.g.plain(w, f.status, id, f.why)
	c.g.observe(c.s, "", f.status, began)
	if w.flush() == nil {
		c.linger()
	}
}

// linger closes our side and reads what the device still sends for a moment.
func (c *conn1) linger() {
	if cw, ok := c.conn.(interface{ CloseWrite() error }); ok {
		if cw.CloseWrite() != nil {
			return
		}
	}
	if c.limitRead(time.Now().Add(lingerTime)) != nil {
		return
	}
	bp := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(bp)
	for n := 0; n < lingerMax; {
		k, err := c.conn.Read(*bp)
		if err != nil {
			return
		}
		n += k
	}
}
