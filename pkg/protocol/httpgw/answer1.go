package httpgw

import (
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

const (
	// writeSize is the size of a response's write buffer: a head, and a piece of a
	// body as large as a TLS record.
	writeSize = 20 << 10
	// directSize is from where on a piece of a body is not worth copying behind
	// what is there already.
	directSize = 8 << 10
)

// writers are write buffers that are in no use; a connection has one only while
// it answers.
var writers = sync.Pool{New: func() any { b := make([]byte, 0, writeSize); return &b }}

// answer1 writes an HTTP/1.1 response.
type answer1 struct {
	c        *conn1
	out      *[]byte // nil while nothing is in it
	method   string
	minor    int
	close    bool // the connection is closed after this response
	chunked  bool
	mute     bool  // the response has no body
	left     int64 // of a body of known length
	known    bool
	hijacked bool

	// mu is held while something is written that may not come from the exchange:
	// interim answers and invitations. None may come once the final answer began.
	mu      sync.Mutex
	started bool
}

// reset makes a ready for another request.
func (a *answer1) reset() {
	a.method, a.minor, a.close, a.chunked, a.mute, a.left, a.known, a.hijacked = "", 1, false, false, false, 0, false, false
	a.mu.Lock()
	a.started = false
	a.mu.Unlock()
}

func (a *answer1) release() {
	a.seal()
	if a.out != nil {
		*a.out = (*a.out)[:0]
		writers.Put(a.out)
		a.out = nil
	}
}

// buffer returns what is to be written.
func (a *answer1) buffer() []byte {
	if a.out == nil {
		a.out = writers.Get().(*[]byte)
	}
	return *a.out
}

// invite sends 100 Continue. It is called once, before the body is first read,
// and never after a final response began.
func (a *answer1) invite() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.started {
		return errTruncated
	}
	b := append(a.buffer(), "HTTP/1.1 100 Continue\r\n\r\n"...)
	*a.out = b
	return a.flush()
}

func (a *answer1) inform(status int, h http1.Header) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.minor == 0 || a.started {
		return
	}
	b := h.Append(appendStatus(a.buffer(), status))
	*a.out = append(b, '\r', '\n')
	a.flush()
}

func appendStatus(b []byte, status int) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	return append(b, '\r', '\n')
}

func (a *answer1) start(status int, h http1.Header, length int64) error {
	a.seal()
	b := appendStatus(a.buffer(), status)
	a.mute = nobody(a.method, status)
	switch {
	case status == http.StatusSwitchingProtocols:
		b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	case length >= 0 && status != http.StatusNoContent:
		a.known, a.left = true, length
		b = strconv.AppendInt(append(b, "Content-Length: "...), length, 10)
		b = append(b, '\r', '\n')
	case a.mute:
	case a.minor == 0:
		a.close = true // an HTTP/1.0 body of unknown length ends with the connection
	default:
		a.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if status != http.StatusSwitchingProtocols {
		if a.close {
			b = append(b, "Connection: close\r\n"...)
		} else if a.minor == 0 {
			b = append(b, "Connection: keep-alive\r\n"...)
		}
	}
	if !h.Has("date") {
		b = time.Now().UTC().AppendFormat(append(b, "Date: "...), http.TimeFormat)
		b = append(b, '\r', '\n')
	}
	b = append(h.Append(b), '\r', '\n')
	*a.out = b
	return nil
}

// seal sees to it that nothing but the final answer is written any more.
func (a *answer1) seal() {
	a.mu.Lock()
	a.started = true
	a.mu.Unlock()
}

func (a *answer1) Write(p []byte) (int, error) {
	if a.mute || len(p) == 0 {
		return len(p), nil
	}
	if a.known {
		if int64(len(p)) > a.left {
			return 0, errors.New("the backend sent more than it declared")
		}
		a.left -= int64(len(p))
	}
	if !a.chunked {
		return len(p), a.put(p)
	}
	a.buffer()
	*a.out = http1.AppendChunk(*a.out, len(p))
	if err := a.put(p); err != nil {
		return 0, err
	}
	a.buffer()
	*a.out = append(*a.out, '\r', '\n')
	return len(p), nil
}

// put writes a piece of a body, behind what is there already if that pays.
func (a *answer1) put(p []byte) error {
	b := a.buffer()
	if len(b)+len(p) <= cap(b) && (len(b) > 0 || len(p) < directSize) {
		*a.out = append(b, p...)
		return nil
	}
	if err := a.flush(); err != nil {
		return err
	}
	if err := a.c.writeLimit(); err != nil {
		return err
	}
	_, err := a.c.conn.Write(p)
	return err
}

func (a *answer1) flush() error {
	if a.out == nil || len(*a.out) == 0 {
		return nil
	}
	if err := a.c.writeLimit(); err != nil {
		return err
	}
	_, err := a.c.conn.Write(*a.out)
	*a.out = (*a.out)[:0]
	return err
}

func (a *answer1) finish(trailer http1.Header) error {
	if a.known && a.left > 0 && !a.mute {
		a.close = true
		return errors.New("the backend sent less than it declared")
	}
	if a.chunked {
		b := append(a.buffer(), "0\r\n"...)
		*a.out = append(trailer.Append(b), '\r', '\n')
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

func (a *answer1) hijack() (net.Conn, []byte) {
	a.hijacked = true
	rest := a.c.src.buf[a.c.src.r:a.c.src.w]
	a.c.src.r = a.c.src.w
	a.c.conn.SetDeadline(time.Time{})
	return a.c.conn, rest
}

var _ answerer = (*answer1)(nil)
