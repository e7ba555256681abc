package httpgw

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
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
	// watchAfter is how long an answer may take before the device is watched for
	// going away. Nearly every answer is there sooner, and watching costs a
	// goroutine.
	watchAfter = 500 * time.Millisecond
	// writeSize is the size of a response's write buffer: a small response
	// leaves in one TLS record.
	writeSize = 8 << 10
)

// past is a deadline that interrupts.
var past = time.Unix(1, 0)

// conn1 is an HTTP/1.1 connection.
type conn1 struct {
	g     *Gateway
	s     *protocol.Session
	conn  net.Conn
	src   source
	badge badge

	mu   sync.Mutex
	idle bool // waiting for a request; a drain may interrupt
}

// writers are write buffers that are in no use; a connection has one only while
// it answers.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, writeSize) }}

// serve1 speaks HTTP/1.1 until the connection ends. Requests are answered one
// after the other, in order, however many the device sends at once.
func (g *Gateway) serve1(conn net.Conn, s *protocol.Session) {
	c := &conn1{g: g, s: s, conn: conn}
	c.src = source{conn: conn, buf: make([]byte, readSize), stall: g.cfg.Listener.Limits.Stall.D()}
	s.OnDrain(c.drain)
	for c.request() {
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

// waiting says whether the connection waits for a request, and sets the deadline
// that goes with it.
func (c *conn1) waiting(idle bool, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = idle
	deadline := time.Now().Add(d)
	if idle && c.s.IsDraining() && c.src.r == c.src.w {
		deadline = past
	}
	return c.conn.SetReadDeadline(deadline)
}

// request serves one request and reports whether another may follow.
func (c *conn1) request() bool {
	lim := &c.g.cfg.Listener.Limits
	if c.src.r == c.src.w {
		if c.s.IsDraining() || c.waiting(true, lim.Idle.D()) != nil {
			return false
		}
		if c.src.fill() != nil {
			return false // idle for too long, or gone: nothing was asked
		}
	}
	began := time.Now()
	c.src.interrupted.Store(false)
	if c.waiting(false, lim.Head.D()) != nil {
		return false
	}
	c.s.Begin()
	defer c.s.Finish()
	w := &answer1{c: c}
	defer w.release()
	h, f := c.readHead(int(lim.HeadBytes))
	if f != nil {
		if f.status != 0 {
			c.refuseHead(w, f, began)
		}
		return false
	}
	m, f := c.message(h, w)
	if m != nil {
		w.method, w.minor = m.method, h.minor
		w.close = c.closes(h, m)
	} else {
		w.minor = h.minor
	}
	if f != nil {
		f.fatal = true // the body was not looked at
		c.refuseHead(w, f, began)
		return false
	}
	c.g.exchange(c.s.Context(), c.s, &c.badge, m, w, began)
	if w.hijacked {
		return false
	}
	if m.body != nil {
		b := m.body.(*stream1)
		if !b.quiesce() && !w.close && !b.discard() {
			w.close = true
		}
		if b.broken() {
			w.close = true
		}
	}
	if w.flush() != nil {
		return false
	}
	if w.close {
		c.linger()
		return false
	}
	return true
}

// closes reports whether the device or we want the connection closed after this
// request (RFC 9112 section 9.3).
func (c *conn1) closes(h *head, m *message) bool {
	return m.conn.close || h.minor == 0 && !m.conn.keepAlive || c.s.IsDraining()
}

// readHead reads until a head is whole. A fault of status 0 says that there is
// nobody to answer.
func (c *conn1) readHead(limit int) (*head, *fault) {
	seen := 0
	for {
		n, f := headEnd(c.src.buf[c.src.r:c.src.w], seen)
		if f != nil {
			return nil, f
		}
		if n > limit || n == 0 && c.src.w-c.src.r >= limit {
			return nil, &fault{http.StatusRequestHeaderFieldsTooLarge, "the request head is too large", true}
		}
		if n > 0 {
			h, f := parseHead(c.src.buf[c.src.r:c.src.r+n], c.g.cfg.Listener.Limits.HeaderFields)
			c.src.r += n
			if len(c.src.buf) > readSize && c.src.w-c.src.r <= readSize {
				small := make([]byte, readSize)
				c.src.w = copy(small, c.src.buf[c.src.r:c.src.w])
				c.src.r, c.src.buf = 0, small
			}
			return h, f
		}
		seen = c.src.w - c.src.r
		if c.src.r == 0 && c.src.w == len(c.src.buf) {
			larger := make([]byte, min(2*len(c.src.buf), limit+1))
			c.src.w = copy(larger, c.src.buf)
			c.src.buf = larger
		}
		if err := c.src.fill(); err != nil {
			var ne net.Error
			switch {
			case errors.As(err, &ne) && ne.Timeout():
				return nil, &fault{http.StatusRequestTimeout, "the request head took too long", true}
			case errors.Is(err, io.EOF):
				return nil, bad("the connection ended within a request head")
			}
			return nil, &fault{}
		}
	}
}

// message makes the engine's message from a head. The message is returned with
// a fault as far as it is known.
func (c *conn1) message(h *head, w *answer1) (*message, *fault) {
	m := &message{version: "1.1", method: h.method, header: h.header}
	if h.minor == 0 {
		m.version = "1.0"
	}
	fr, f := h.framing()
	if f != nil {
		return m, f
	}
	m.length = fr.length
	if fr.chunked || fr.length > 0 {
		m.body = &stream1{body: body{src: &c.src, left: max(fr.length, 0), chunked: fr.chunked}, conn: c.conn}
	}
	if m.conn, f = parseConnection(h.header); f != nil {
		return m, f
	}
	host, n := h.header.get("host")
	if n != 1 {
		return m, bad("the request does not have exactly one Host field")
	}
	target := h.target
	if rest, ok := strings.CutPrefix(target, "https://"); ok {
		// Absolute form (RFC 9112 section 3.2.2) is served when it says what the
		// rest of the request says.
		authority, path, slash := strings.Cut(rest, "/")
		if !slash || !strings.EqualFold(authority, host) {
			return m, bad("the request target names another host than the Host field")
		}
		target = "/" + path
	}
	if m.target, f = canonical(target); f != nil {
		return m, f
	}
	if f := c.g.check(c.s, m, host); f != nil {
		return m, f
	}
	if m.body != nil && h.minor == 1 && h.header.has("expect") {
		m.body.(*stream1).body.invite = w.invite
	}
	return m, nil
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
	deadline := time.Now().Add(lingerTime)
	if c.conn.SetReadDeadline(deadline) != nil {
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

// stream1 is a request body that a backend's connection reads while the
// exchange may be over already.
type stream1 struct {
	body body
	conn net.Conn

	mu      sync.Mutex
	reading bool
	closed  bool
	idle    chan struct{} // closed when a read that was interrupted is over
}

// Read implements io.Reader.
func (b *stream1) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return 0, io.ErrClosedPipe
	}
	b.reading = true
	b.mu.Unlock()
	n, err := b.body.Read(p)
	b.mu.Lock()
	b.reading = false
	if b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
	b.mu.Unlock()
	return n, err
}

// quiesce implements bodyReader.
func (b *stream1) quiesce() bool {
	b.mu.Lock()
	b.closed = true
	var wait chan struct{}
	if b.reading {
		wait = make(chan struct{})
		b.idle = wait
		b.body.src.interrupted.Store(true)
		b.conn.SetReadDeadline(past)
	}
	b.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return b.body.done()
}

// discard reads what is left, up to a limit, and reports whether it came to the
// end. It is called after quiesce.
func (b *stream1) discard() bool {
	if b.body.invite != nil || b.body.err != nil {
		return false // it was never asked for, or is broken
	}
	if !b.body.chunked && b.body.left > drainMax {
		return false
	}
	n, err := io.Copy(io.Discard, io.LimitReader(&b.body, drainMax+1))
	return err == nil && n <= drainMax && b.body.done()
}

// broken reports whether the framing can not be trusted any more.
func (b *stream1) broken() bool { return b.body.err != nil && b.body.err != io.EOF }

// answer1 writes an HTTP/1.1 response.
type answer1 struct {
	c        *conn1
	w        *bufio.Writer
	method   string
	minor    int
	close    bool // the connection is closed after this response
	chunked  bool
	mute     bool  // the response has no body
	left     int64 // of a body of known length
	known    bool
	hijacked bool

	// mu is held while something is written that did not come from the exchange:
	// backends' interim answers and invitations come from elsewhere, and none
	// may come once the final answer began.
	mu      sync.Mutex
	started bool
}

func (a *answer1) writer() *bufio.Writer {
	if a.w == nil {
		a.w = writers.Get().(*bufio.Writer)
		a.w.Reset(a.c.conn)
	}
	return a.w
}

func (a *answer1) release() {
	a.seal()
	if a.w != nil {
		a.w.Reset(nil)
		writers.Put(a.w)
		a.w = nil
	}
}

// invite sends 100 Continue. It is called once, before the body is first read,
// and never after a final response began.
func (a *answer1) invite() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.started {
		return errTruncated
	}
	w := a.writer()
	w.WriteString("HTTP/1.1 100 Continue\r\n\r\n")
	return a.flush()
}

func (a *answer1) inform(status int, h http.Header) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.minor == 0 || a.started {
		return
	}
	w := a.writer()
	w.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	writeFields(w, h)
	w.WriteString("\r\n")
	a.flush()
}

func (a *answer1) start(status int, h http.Header, length int64) error {
	a.seal()
	w := a.writer()
	w.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	a.mute = nobody(a.method, status)
	switch {
	case status == http.StatusSwitchingProtocols:
		w.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n")
	case length >= 0 && status != http.StatusNoContent:
		a.known, a.left = true, length
		w.WriteString("Content-Length: " + strconv.FormatInt(length, 10) + "\r\n")
	case a.mute:
	case a.minor == 0:
		a.close = true // an HTTP/1.0 body of unknown length ends with the connection
	default:
		a.chunked = true
		w.WriteString("Transfer-Encoding: chunked\r\n")
	}
	if status != http.StatusSwitchingProtocols {
		if a.close {
			w.WriteString("Connection: close\r\n")
		} else if a.minor == 0 {
			w.WriteString("Connection: keep-alive\r\n")
		}
	}
	if len(h["Date"]) == 0 {
		w.WriteString("Date: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n")
	}
	writeFields(w, h)
	_, err := w.WriteString("\r\n")
	return err
}

// seal sees to it that nothing but the final answer is written any more.
func (a *answer1) seal() {
	a.mu.Lock()
	a.started = true
	a.mu.Unlock()
}

// writeFields writes header fields. Values with line breaks can not be there,
// but nothing less than this line is between a backend and a split response.
func writeFields(w *bufio.Writer, h http.Header) {
	for key, vs := range h {
		if !isToken(key) {
			continue
		}
		for _, v := range vs {
			if strings.ContainsAny(v, "\r\n\x00") {
				continue
			}
			w.WriteString(key)
			w.WriteString(": ")
			w.WriteString(v)
			w.WriteString("\r\n")
		}
	}
}

func (a *answer1) Write(p []byte) (int, error) {
	if a.mute || len(p) == 0 {
		return len(p), nil
	}
	w := a.writer()
	if a.known {
		if int64(len(p)) > a.left {
			return 0, errors.New("the backend sent more than it declared")
		}
		a.left -= int64(len(p))
	}
	if err := a.deadline(); err != nil {
		return 0, err
	}
	if !a.chunked {
		return w.Write(p)
	}
	w.WriteString(strconv.FormatInt(int64(len(p)), 16))
	w.WriteString("\r\n")
	n, err := w.Write(p)
	if err != nil {
		return n, err
	}
	_, err = w.WriteString("\r\n")
	return n, err
}

// deadline gives the device time to take what is written next.
func (a *answer1) deadline() error {
	return a.c.conn.SetWriteDeadline(time.Now().Add(a.c.g.cfg.Listener.Limits.Stall.D()))
}

func (a *answer1) flush() error {
	if a.w == nil || a.w.Buffered() == 0 {
		return nil
	}
	if err := a.deadline(); err != nil {
		return err
	}
	return a.w.Flush()
}

func (a *answer1) finish(trailer http.Header) error {
	if a.known && a.left > 0 && !a.mute {
		a.close = true
		return errors.New("the backend sent less than it declared")
	}
	if a.chunked {
		w := a.writer()
		w.WriteString("0\r\n")
		writeFields(w, trailer)
		w.WriteString("\r\n")
	}
	return a.flush()
}

// abort cuts the connection. Where the body ends with the connection it is reset,
// which is how the device knows that the body is not whole; elsewhere a length
// outstanding or a last chunk that is missing says so.
func (a *answer1) abort() {
	a.seal()
	a.flush()
	a.close = true
	conn := a.c.conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn()
	}
	if t, ok := conn.(interface{ SetLinger(int) error }); ok && !a.known && !a.chunked {
		_ = t.SetLinger(0)
	}
	conn.Close()
}

// watch implements answerer.
func (a *answer1) watch(gone func()) (stop func()) {
	c := a.c
	done := make(chan struct{})
	var mu sync.Mutex
	stopped := false
	t := time.AfterFunc(watchAfter, func() {
		defer close(done)
		mu.Lock()
		if stopped || c.conn.SetReadDeadline(time.Time{}) != nil {
			mu.Unlock()
			return
		}
		mu.Unlock()
		err := c.src.fill()
		var ne net.Error
		if err != nil && !(errors.As(err, &ne) && ne.Timeout()) && !errors.Is(err, io.ErrShortBuffer) {
			gone()
		}
	})
	return func() {
		if t.Stop() {
			return
		}
		mu.Lock()
		stopped = true
		c.conn.SetReadDeadline(past)
		mu.Unlock()
		<-done
	}
}

func (a *answer1) hijack() (net.Conn, []byte) {
	a.hijacked = true
	rest := a.c.src.buf[a.c.src.r:a.c.src.w]
	a.c.src.r = a.c.src.w
	a.c.conn.SetDeadline(time.Time{})
	return a.c.conn, rest
}

var _ answerer = (*answer1)(nil)
