package httpgw

//lint:file-ignore SA1019 net/http serves HTTP/2 only from a listener it accepts on itself; a connection that is open and identified already needs ServeConn.

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// maxFrame is the largest HTTP/2 frame a device may send, the smallest limit the
// protocol allows (RFC 9113 section 4.2).
const maxFrame = 16 << 10

// serve2 speaks HTTP/2 until the connection ends. Framing, flow control and the
// limits on abuse of both are x/net/http2's; the requests it reads go through
// the same checks and the same exchange as those of HTTP/1.1.
func (g *Gateway) serve2(conn net.Conn, s *protocol.Session) {
	lim := &g.cfg.Listener.Limits
	base := &http.Server{
		MaxHeaderBytes: int(lim.HeadBytes),
		ErrorLog:       log.New(io.Discard, "", 0), // what it says of a device's mistakes goes nowhere unseen: they end in a record
	}
	h2 := &http2.Server{
		MaxConcurrentStreams: uint32(lim.Streams), //nolint:gosec // configuration bounds it
		MaxReadFrameSize:     maxFrame,
		IdleTimeout:          lim.Idle.D(),
		ReadIdleTimeout:      lim.Stall.D(), // a ping, and an end if none comes back
		WriteByteTimeout:     lim.Stall.D(),
	}
	if err := http2.ConfigureServer(base, h2); err != nil {
		g.cfg.Logger.Error("configuring HTTP/2", "error", err)
		return
	}
	var drained sync.WaitGroup
	// Shutdown sends GOAWAY and lets streams finish.
	s.OnDrain(func() {
		drained.Go(func() {
			ctx, cancel := context.WithTimeout(s.Context(), lim.Stall.D())
			defer cancel()
			_ = base.Shutdown(ctx)
		})
	})
	var b badge
	h2.ServeConn(conn, &http2.ServeConnOpts{
		Context: s.Context(), BaseConfig: base,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.stream(w, r, s, &b) }),
	})
	s.OnDrain(func() {})
	drained.Wait()
}

// stream serves one request of an HTTP/2 connection.
func (g *Gateway) stream(w http.ResponseWriter, r *http.Request, s *protocol.Session, b *badge) {
	began := time.Now()
	growStack(0)
	s.Begin()
	defer s.Finish()
	defer g.report(s)
	a := &answer2{w: w, rc: http.NewResponseController(w), method: r.Method}
	m, f := g.message2(r, s)
	if f != nil {
		id := g.cfg.Judge.Refused(r.Context(), s, nil, &protocol.Transaction{Protocol: "http", Bytes: -1}, strconv.Itoa(f.status), f.why)
		g.plain(a, f.status, id, f.why)
		g.observe(s, "", f.status, began)
		return
	}
	// Whoever goes on in another goroutine must find the handler's things closed
	// when it returns, or panics.
	defer a.seal()
	if m.body != nil {
		defer m.body.quiesce()
		m.body.(*stream2).rc, m.body.(*stream2).stall = a.rc, g.cfg.Listener.Limits.Stall.D()
	}
	x := &exchange{ctx: r.Context(), upstream: r.Context()}
	x.begin(g, s, b, m, a, began)
	x.run()
	if a.aborted {
		panic(http.ErrAbortHandler) // RST_STREAM: the device can tell that the body is not whole
	}
}

// report logs a panic of ours, which x/net would keep to itself, and lets it go
// on to end the stream.
func (g *Gateway) report(s *protocol.Session) {
	p := recover()
	if p == nil {
		return
	}
	if p != http.ErrAbortHandler {
		g.cfg.Logger.Error("an HTTP/2 request panicked; please report this", "listener", s.Listener,
			"device", s.Device().ID, "panic", p, "stack", string(debug.Stack()))
	}
	panic(p)
}

// message2 makes the engine's message from what x/net/http2 read.
func (g *Gateway) message2(r *http.Request, s *protocol.Session) (*message, *fault) {
	m := &message{version: "2", method: r.Method, length: r.ContentLength}
	if f := checkMethod(r.Method); f != nil {
		return nil, f
	}
	if s.TLS.Version != "" && r.TLS == nil {
		return nil, bad("the scheme is not https") // x/net gives TLS facts to https only
	}
	n := 0
	for key, vs := range r.Header {
		name := http1.LowerASCII(key)
		for _, v := range vs {
			if n++; n > g.cfg.Listener.Limits.HeaderFields {
				return nil, &fault{http.StatusRequestHeaderFieldsTooLarge, "the request has too many header fields", true}
			}
			if !http1.IsToken(name) || !http1.CleanValue(v) {
				return nil, bad("a header field holds a control character or is not UTF-8")
			}
			m.header = append(m.header, http1.Field{Name: name, Value: v})
		}
	}
	if m.header.Has("connection") || m.header.Has("transfer-encoding") || m.header.Has("upgrade") {
		return nil, bad("the request has header fields that HTTP/2 does not have") // RFC 9113 section 8.2.2
	}
	if cl, n := m.header.Get("content-length"); n > 0 {
		// RFC 9113 section 8.1.1; x/net takes a request that ends with its head for
		// one without a body, whatever it declared.
		if length, ok := http1.ParseLength(cl); n > 1 || !ok || length != r.ContentLength {
			return nil, bad("the Content-Length is not the length of the body")
		}
	}
	if host, n := m.header.Get("host"); n > 0 && host != r.Host {
		return nil, bad("the Host field is not the :authority")
	}
	var f *fault
	if m.target, f = canonical(r.RequestURI); f != nil {
		return nil, f
	}
	if r.ContentLength != 0 && r.Body != nil {
		m.body = &stream2{r: r.Body, left: r.ContentLength}
	}
	return m, g.check(s, m, r.Host)
}

// stream2 is a request body of an HTTP/2 stream.
type stream2 struct {
	r     io.Reader
	rc    *http.ResponseController
	stall time.Duration
	left  int64 // -1 if no length was declared

	mu     sync.Mutex
	closed bool
}

// Read implements io.Reader. A stream that ends before its declared length is
// an error of x/net's; it is told apart from an end here.
func (b *stream2) Read(p []byte) (int, error) {
	if !b.patient() {
		return 0, io.ErrClosedPipe
	}
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = errTruncated
	}
	return n, err
}

// patient sets the deadline of the next read. A backend's connection may read
// when the handler has returned already; x/net's controller must not be touched
// then, and is not: quiesce waits for whoever touches it.
func (b *stream2) patient() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	if b.rc != nil {
		_ = b.rc.SetReadDeadline(time.Now().Add(b.stall))
	}
	return true
}

// quiesce implements bodyReader. x/net ends reads of a stream whose handler has
// returned.
func (b *stream2) quiesce() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return false
}

// answer2 writes the response of an HTTP/2 stream.
type answer2 struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	method  string
	mute    bool
	aborted bool

	// mu is held while a backend's interim answer is passed on, which does not
	// come from the exchange; none is once the final answer began.
	mu     sync.Mutex
	sealed bool
}

// seal sees to it that no interim answer is passed on any more.
func (a *answer2) seal() {
	a.mu.Lock()
	a.sealed = true
	a.mu.Unlock()
}

func (a *answer2) inform(status int, h http1.Header) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sealed {
		return
	}
	dst := a.w.Header()
	set(dst, "", h)
	a.w.WriteHeader(status)
	clear(dst)
}

// set puts fields into net/http's form, their names with a prefix.
func set(dst http.Header, prefix string, h http1.Header) {
	for i := range h {
		if !strings.ContainsAny(h[i].Value, "\r\n\x00") {
			key := prefix + http.CanonicalHeaderKey(h[i].Name)
			dst[key] = append(dst[key], h[i].Value)
		}
	}
}

func (a *answer2) start(status int, h http1.Header, length int64) error {
	a.seal()
	dst := a.w.Header()
	set(dst, "", h)
	if length >= 0 && status != http.StatusNoContent {
		dst["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	if _, ok := dst["Content-Type"]; !ok {
		dst["Content-Type"] = nil // no sniffing
	}
	a.mute = nobody(a.method, status)
	a.w.WriteHeader(status)
	return nil
}

func (a *answer2) Write(p []byte) (int, error) {
	if a.mute {
		return len(p), nil
	}
	return a.w.Write(p)
}

func (a *answer2) flush() error { return a.rc.Flush() }

func (a *answer2) finish(trailer http1.Header) error {
	set(a.w.Header(), http.TrailerPrefix, trailer)
	return nil
}

func (a *answer2) abort() { a.aborted = true }

// watch implements answerer: the request's context ends with its stream.
func (a *answer2) watch() {}

// unwatch implements answerer.
func (a *answer2) unwatch() {}

func (a *answer2) hijack() (net.Conn, []byte) { return nil, nil }

var _ answerer = (*answer2)(nil)
