package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

const (
	maxInterim      = 16  // interim responses to one request
	maxHeaderFields = 256 // of a response
	// wholeMost is the largest body that is copied behind its head, to be sent with
	// it at once.
	wholeMost = 48 << 10
)

// An exchange is one request and its answer on a connection.
type exchange struct {
	c      *conn
	r      *Request
	resp   *Response
	undo   func() bool // ends the watch over the context
	sender *sender     // of a body that is not held
	began  time.Time
	share  *share // of the request's device, from when it is answered; nil for nobody's
	keep   bool   // the connection may carry another request
	over   bool
	// upgrade: the connection is not the pool's, and 101 is an answer.
	upgrade bool

	mode   bodyMode
	left   int64 // of a body of known length
	chunks http1.Chunks
}

type bodyMode uint8

const (
	bodyNone bodyMode = iota
	bodyLength
	bodyChunked
	bodyToEnd // of the connection
)

// do sends the request and reads the head of the answer.
func (x *exchange) do() error {
	c, r := x.c, x.r
	if !r.Stopper.with(c.interrupt) {
		return context.Canceled
	}
	if r.Context.Done() != nil {
		x.undo = context.AfterFunc(r.Context, c.interrupt)
	}
	x.began = time.Now()
	// Both limits are set before anything is sent, for looking whether the connection
	// is still good is a read: the limit of its last request may have passed.
	if err := c.writeLimit(x.began); err != nil {
		return err
	}
	if err := c.patience(x.began, c.b.cfg.Timeout.D()); err != nil {
		return err
	}
	c.wire.Ask(c.used)
	c.used = true
	if err := x.send(); err != nil {
		return err
	}
	if err := x.readHead(); err != nil {
		return x.why(err)
	}
	x.resp.body = x
	return nil
}

// send writes the head of the request, and its body if that is held. Any other
// body is left to a sender.
func (x *exchange) send() error {
	c, r := x.c, x.r
	bp := writers.Get().(*[]byte)
	b := r.appendHead((*bp)[:0])
	whole := r.Held != nil && len(r.Held) <= wholeMost
	if whole {
		b = append(b, r.Held...)
	}
	_, err := c.net.Write(b)
	if *bp = b; cap(b) <= 2*wholeMost {
		writers.Put(bp)
	}
	if err != nil || r.Length == 0 || whole {
		return err
	}
	// From here on the body is taken from, so the connection has to be good.
	if err := c.wire.Send(); err != nil {
		return err
	}
	if r.Held != nil {
		r = &Request{Length: r.Length, Body: &held{r.Held}}
	}
	x.sender = &sender{c: c, from: r.Body, length: r.Length, done: make(chan struct{})}
	if err := c.endless(); err != nil {
		return err
	}
	go x.sender.run()
	return nil
}

// why returns what is behind an answer that did not come: whoever sent the body
// may know.
func (x *exchange) why(err error) error {
	if x.sender == nil {
		return err
	}
	if own := x.sender.failure(); own != nil {
		return own
	}
	return err
}

// readHead reads the head of the final answer, and passes on the interim ones.
func (x *exchange) readHead() error {
	c := x.c
	head := &c.heads
	for interim, seen := 0, 0; ; {
		var n int
		var again bool
		if c.r < c.w {
			b := (*c.buf)[c.r:c.w]
			n = head.Again(b, false)
			if again = n > 0; !again {
				var err *http1.SyntaxError
				if n, err = http1.HeadEnd(b, seen); err != nil {
					return errMalformed
				}
			}
		}
		if n == 0 {
			if seen = c.w - c.r; seen > maxResponseHeader {
				return errMalformed
			}
			if err := c.fill(); err != nil {
				if seen > 0 && errors.Is(err, io.EOF) {
					return io.ErrUnexpectedEOF
				}
				return err
			}
			continue
		}
		if n > maxResponseHeader || !again && head.Parse((*c.buf)[c.r:c.r+n], maxHeaderFields, false) != nil {
			return errMalformed
		}
		c.r += n
		st, err := http1.ParseStatus(head.Line)
		switch {
		case err != nil || st.Code == http.StatusSwitchingProtocols && !x.upgrade:
			return errMalformed // upgrades go by Dial
		case st.Code < 200 && st.Code != http.StatusSwitchingProtocols:
			if interim++; interim > maxInterim || bodiless(head.Header, st) != nil {
				return errMalformed
			}
			if x.r.Inform != nil {
				x.r.Inform(st.Code, slices.Clone(head.Header))
			}
			seen = 0
			continue
		}
		// The connection is another's before the answer is done with.
		x.resp.Status, x.resp.Header = st.Code, append(x.resp.Header[:0], head.Header...)
		return x.frame(st)
	}
}

// frame finds out what body follows the head (RFC 9112 section 6.3).
func (x *exchange) frame(st http1.Status) error {
	h := x.resp.Header
	fr, err := h.Framing(st.Minor)
	if err != nil || st.Code == http.StatusNoContent && bodiless(h, st) != nil {
		return errMalformed
	}
	x.keep = persists(h, st.Minor)
	x.resp.Length = fr.Length
	switch {
	case x.r.Method == http.MethodHead || st.Code == http.StatusSwitchingProtocols || st.Code == http.StatusNoContent || st.Code == http.StatusNotModified:
		x.mode = bodyNone
	case fr.Chunked:
		x.mode, x.chunks = bodyChunked, http1.Chunks{Lenient: true}
	case fr.Length == 0:
		x.mode = bodyNone
	case fr.Length > 0:
		x.mode, x.left = bodyLength, fr.Length
	default:
		x.mode, x.keep = bodyToEnd, false
	}
	return nil
}

// bodiless reports an answer that speaks of a body where its status has none and
// none is ever described (RFC 9112 sections 6.1 and 6.2): some read one, and take
// what we read as the next answer for it.
func bodiless(h http1.Header, st http1.Status) error {
	if fr, err := h.Framing(st.Minor); err != nil || fr.Chunked || fr.Length > 0 {
		return errMalformed
	}
	return nil
}

// persists reports whether the connection may carry another request after this
// answer (RFC 9112 section 9.3).
func persists(h http1.Header, minor int) bool {
	keep := minor == 1
	for i := range h {
		if h[i].Name != "connection" {
			continue
		}
		for tok := range strings.SplitSeq(h[i].Value, ",") {
			switch tok = strings.Trim(tok, " \t"); {
			case strings.EqualFold(tok, "close"):
				return false
			case strings.EqualFold(tok, "keep-alive"):
				keep = true
			}
		}
	}
	return keep
}

// next implements pieces.
func (x *exchange) next() ([]byte, error) {
	if x.over {
		return nil, io.EOF
	}
	c := x.c
	for {
		if x.mode == bodyNone || x.mode == bodyLength && x.left == 0 || x.mode == bodyChunked && x.chunks.Done() {
			x.resp.Trailer = x.chunks.Trailer
			x.finish()
			return nil, io.EOF
		}
		if c.r == c.w {
			if err := c.refill(x.patience()); err != nil {
				if !errors.Is(err, io.EOF) {
					return nil, err
				}
				if x.mode != bodyToEnd {
					return nil, io.ErrUnexpectedEOF
				}
				x.finish()
				return nil, io.EOF
			}
		}
		p := (*c.buf)[c.r:c.w]
		switch x.mode {
		case bodyLength:
			p = p[:min(int64(len(p)), x.left)]
			x.left -= int64(len(p))
			c.r += len(p)
		case bodyChunked:
			skip, n, err := x.chunks.Next(p)
			if err != nil {
				return nil, errMalformed
			}
			p = p[skip : skip+n]
			if c.r += skip + n; n == 0 {
				continue
			}
		default:
			c.r = c.w
		}
		return p, nil
	}
}

// patience is how long the backend may keep silent within its answer.
func (x *exchange) patience() time.Duration {
	if x.r.Patience > 0 {
		return x.r.Patience
	}
	return x.c.b.cfg.Timeout.D()
}

// finish ends an exchange whose answer was read to its end.
func (x *exchange) finish() {
	x.keep = x.keep && !x.upgrade && x.c.clean() && (x.sender == nil || x.sender.whole())
	x.end()
}

// end implements pieces. A connection on which anything is left to be sent or
// read is closed.
func (x *exchange) end() {
	if x.over {
		return
	}
	x.over = true
	x.share.leave()
	if x.upgrade {
		x.c.drop()
		return // its owner closes it
	}
	if !x.r.Stopper.with(nil) {
		x.keep = false
	}
	if x.undo != nil && !x.undo() {
		x.keep = false // it is being closed
	}
	done := x.mode == bodyNone && x.resp.Status != 0 || x.mode == bodyLength && x.left == 0 || x.mode == bodyChunked && x.chunks.Done()
	if !x.keep || !done || !x.c.clean() || x.sender != nil && !x.sender.whole() {
		x.c.close()
		return
	}
	x.c.drop()
	x.c.addr.pool.put(x.c, x.began)
}

// held reads a body that is in memory.
type held struct{ rest []byte }

func (h *held) Read(p []byte) (int, error) {
	if len(h.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

// A sender sends a body while its answer is waited for: a backend may refuse one
// before it has it all, and would then not read the rest of it.
type sender struct {
	c      *conn
	from   io.Reader
	length int64 // -1 if it is not known

	done chan struct{}
	err  error // after done
}

const copySize = 32 << 10

// chunkRoom is left in front of a piece of a body for the line that begins a
// chunk, and behind it for the one that ends it.
const chunkRoom = 16

var copies = sync.Pool{New: func() any { b := make([]byte, chunkRoom+copySize+chunkRoom); return &b }}

func (s *sender) run() {
	s.err = s.copy()
	// An answer may still come to a body that could not be sent whole, and is not
	// waited for without end either.
	if err := s.c.patience(time.Now(), s.c.b.cfg.Timeout.D()); s.err == nil {
		s.err = err
	}
	close(s.done)
	var own bodyError
	if errors.As(s.err, &own) || isTimeout(s.err) {
		// Whoever waits for an answer waits in vain. Any other failure is the
		// connection's, and the answer that was its reason may still arrive.
		s.c.interrupt()
	}
}

func (s *sender) copy() error {
	bp := copies.Get().(*[]byte)
	defer copies.Put(bp)
	buf := (*bp)[chunkRoom : chunkRoom+copySize]
	for left := s.length; left != 0; {
		n, err := s.from.Read(buf)
		if n > 0 {
			if s.length > 0 {
				if left -= int64(n); left < 0 {
					return bodyError{errLength}
				}
			}
			if werr := s.write(*bp, n); werr != nil {
				return werr
			}
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return bodyError{err}
		case s.length < 0:
			left = 0
		case left > 0:
			return bodyError{errLength}
		}
	}
	if s.length < 0 {
		_, err := s.c.net.Write([]byte("0\r\n\r\n"))
		return err
	}
	return nil
}

// write sends n bytes that lie in b behind chunkRoom.
func (s *sender) write(b []byte, n int) error {
	from, to := chunkRoom, chunkRoom+n
	if s.length < 0 {
		var line [chunkRoom]byte
		l := http1.AppendChunk(line[:0], n)
		from -= copy(b[from-len(l):], l)
		to += copy(b[to:], "\r\n")
	}
	if err := s.c.writeLimit(time.Now()); err != nil {
		return err
	}
	_, err := s.c.net.Write(b[from:to])
	return err
}

// whole reports whether all of the body has been sent.
func (s *sender) whole() bool {
	select {
	case <-s.done:
		return s.err == nil
	default:
		return false
	}
}

// failure returns why the body was not sent, if that is known.
func (s *sender) failure() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}
