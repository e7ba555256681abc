package upstream

import (
	"context"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// A Request is what a backend is asked. [Backend.Do] keeps nothing of it.
type Request struct {
	Method string
	// Target is sent byte for byte: a path that begins with a slash, and a query.
	Target string
	Host   string
	// Header holds the fields in the order they are sent. Those of framing and of
	// one connection have no place in it.
	Header http1.Header
	// Fixed is sent behind Header: fields that are the same for many requests.
	Fixed *Fixed

	// Length is that of the body: 0 for none, -1 if it is not known.
	Length int64
	// Body is read once, unless it is Held.
	Body io.Reader
	// Held is the whole body, if it is there: then Body is not looked at, and the
	// request can be sent again.
	Held []byte

	// Device is whose request it is: what one device can have of a backend's
	// connections is bounded. Nobody's is not.
	Device string

	// Patience is how long the backend may keep silent within its response's body.
	// Zero means the backend's timeout.
	Patience time.Duration

	// Inform is called with each interim response but 101, before Do returns.
	Inform func(status int, h http1.Header)
	// Context bounds Do and the reading of the response. It need not have a Done
	// channel where Stopper does the same for less.
	Context context.Context
	Stopper *Stopper
}

// Fixed are fields that were serialised once, to be sent with many requests. It
// does not change once it is made.
type Fixed struct {
	Header http1.Header
	bytes  []byte
}

// NewFixed returns h in both its forms.
func NewFixed(h http1.Header) *Fixed { return &Fixed{h, h.Append(nil)} }

// A Response is what a backend answered. One that was closed can be used again
// for another request, so that a connection of a device needs one only.
type Response struct {
	Status int
	Header http1.Header
	// Length is the body's, or -1 if it is not known before its end. Where the
	// method or the status has no body it is that which the answer speaks of.
	Length int64
	// Trailer is there once the body was read to its end.
	Trailer http1.Header

	body pieces
	x    exchange // body, of HTTP/1.1
}

// pieces is a body as it comes.
type pieces interface {
	// next returns the next piece of the body, which is good until the next call,
	// or io.EOF at its end.
	next() ([]byte, error)
	// end gives up what is left. It may be called again.
	end()
}

// Next returns the next piece of the body, as soon as it is there; it is good
// until the next call. At the body's end the error is io.EOF.
func (r *Response) Next() ([]byte, error) { return r.body.next() }

// Close ends the response. A body that was not read to its end takes its
// connection with it.
func (r *Response) Close() { r.body.end() }

// Answer makes r a response that did not come over a connection, for whoever
// stands in for a [Backend]. r closes the body.
func (r *Response) Answer(status int, h http1.Header, length int64, body io.ReadCloser) {
	*r = Response{Status: status, Header: h, Length: length, body: &readerPieces{from: body}}
}

// readerPieces is a body that is read.
type readerPieces struct {
	from  io.ReadCloser
	buf   *[]byte
	ended bool
}

func (p *readerPieces) next() ([]byte, error) {
	if p.buf == nil {
		p.buf = copies.Get().(*[]byte)
	}
	n, err := p.from.Read(*p.buf)
	if n > 0 {
		return (*p.buf)[:n], nil // the error comes again
	}
	return nil, err
}

func (p *readerPieces) end() {
	if p.ended {
		return
	}
	p.ended = true
	p.from.Close()
	if p.buf != nil {
		copies.Put(p.buf)
		p.buf = nil
	}
}

// Reader returns the body as a reader.
func (r *Response) Reader() io.ReadCloser { return &pieceReader{body: r.body} }

type pieceReader struct {
	body pieces
	rest []byte
	err  error
}

func (p *pieceReader) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		p.rest, p.err = p.body.next()
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pieceReader) Close() error { p.body.end(); return nil }

// A Stopper ends whatever request it is with at the moment, once and for good. A
// device's connection has one for all its requests; making a context for each
// would cost more than sending a small one. The zero value is ready.
type Stopper struct {
	mu      sync.Mutex
	stopped bool
	end     func()
}

// Stop ends the request under way, and those to come.
func (s *Stopper) Stop() {
	s.mu.Lock()
	s.stopped = true
	end := s.end
	s.mu.Unlock()
	if end != nil {
		end()
	}
}

// Stopped reports whether Stop was called.
func (s *Stopper) Stopped() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// with makes end what Stop calls, nil for nothing, and reports false if Stop was
// called already.
func (s *Stopper) with(end func()) bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = end
	return !s.stopped
}

// appendHead appends the head of r as HTTP/1.1.
func (r *Request) appendHead(b []byte) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, r.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Host...)
	b = append(b, '\r', '\n')
	b = r.Header.Append(b)
	if r.Fixed != nil {
		b = append(b, r.Fixed.bytes...)
	}
	switch {
	case r.Length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case r.Length > 0 || r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH":
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.Length, 10)
		b = append(b, '\r', '\n')
	}
	return append(b, '\r', '\n')
}

// fit reports whether r can be sent as it is: a target, a method or a host with a
// blank or a line break in it would be another request. Of fields, those that
// would be one are not sent.
func (r *Request) fit() bool {
	return len(r.Target) > 0 && r.Target[0] == '/' && visible(r.Target) && http1.IsToken(r.Method) && r.Host != "" && visible(r.Host)
}
