package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// hangUp reads a request and ends the connection.
func hangUp(p *peer, _ int64, _ net.Conn, r *bufio.Reader) { p.read(r) }

// bodies are the forms in which a request can have one.
var bodies = map[string]func() *http.Request{
	"none": func() *http.Request { return &http.Request{Body: http.NoBody} },
	"again": func() *http.Request {
		f := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("hello")), nil }
		body, _ := f()
		return &http.Request{Body: body, ContentLength: 5, GetBody: f}
	},
	"once": func() *http.Request {
		return &http.Request{Body: &stream{Reader: strings.NewReader("hello")}, ContentLength: 5}
	},
	"once, length unknown": func() *http.Request {
		return &http.Request{Body: &stream{Reader: strings.NewReader("hello")}, ContentLength: -1}
	},
}

func of(t *testing.T, method, body string) *http.Request {
	req := bodies[body]()
	in := request(t, method, "/", nil)
	in.Body, in.ContentLength, in.GetBody = req.Body, req.ContentLength, req.GetBody
	return in
}

// A request that may have begun is given twice only if that changes nothing.
func TestHowOftenARequestArrives(t *testing.T) {
	w := newWorld(t)
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH", "TRACE", "get", "REPORT"} {
		for body := range bodies {
			for _, retries := range []int{0, 1, 3} {
				want := int64(1)
				if idempotent[method] && (body == "none" || body == "again") {
					want += int64(retries)
				}
				for _, key := range []string{"", "Idempotency-Key", "X-Idempotency-Key"} {
					p := serve(t, w.tls(), hangUp)
					cfg := backendConfig(p.addr)
					cfg.Retries, cfg.Health.Failures = retries, 100
					req := of(t, method, body)
					if key != "" {
						req.Header.Set(key, "1")
					}
					_, err := w.backend(t, cfg, Options{}).RoundTrip(req)
					if !errors.Is(err, ErrAnswer) || p.reqs.Load() != want {
						t.Errorf("%s with body %q, %d retries, %s: arrived %d times, want %d; %v", method, body, retries, key, p.reqs.Load(), want, err)
					}
				}
			}
		}
	}
}

// The transport tries again by itself on connections it used before; what it may
// is not more than what we may.
func TestHowOftenARequestArrivesOnAUsedConnection(t *testing.T) {
	w := newWorld(t)
	for _, method := range []string{"GET", "PUT", "DELETE", "POST", "PATCH"} {
		for body := range bodies {
			for _, key := range []string{"", "Idempotency-Key", "X-Idempotency-Key"} {
				// The first request of a connection is answered, the second taken and
				// not answered.
				p := serve(t, w.tls(), func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
					if req, _ := p.read(r); req == nil {
						return
					}
					_, _ = io.WriteString(conn, ok)
					p.read(r)
				})
				cfg := backendConfig(p.addr)
				cfg.Retries = 0
				b := w.backend(t, cfg, Options{})
				get(t, b)
				p.reqs.Store(0)
				req := of(t, method, body)
				if key != "" {
					req.Header.Set(key, "1")
				}
				resp, err := b.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				n := p.reqs.Load()
				if may := idempotent[method]; !may && n != 1 || may && n > 2 {
					t.Errorf("%s with body %q, %s: arrived %d times; %v", method, body, key, n, err)
				}
			}
		}
	}
}

// A backend closes idle connections when it likes. Any request finds a new one,
// if the end was seen before it was sent.
func TestAConnectionThatEndedIdleIsNoFailure(t *testing.T) {
	w := newWorld(t)
	for _, body := range []string{"none", "again", "once"} {
		var mu sync.Mutex
		var got []string
		ended := make(chan struct{}, 8)
		p := serve(t, w.tls(), func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
			req, data := p.read(r)
			if req == nil {
				return
			}
			mu.Lock()
			got = append(got, string(data))
			mu.Unlock()
			_, _ = io.WriteString(conn, ok)
			conn.Close()
			ended <- struct{}{}
		})
		b := w.backend(t, backendConfig(p.addr), Options{})
		get(t, b)
		<-ended
		// The end arrives in its own time.
		eventually(t, "the end arrives", func() bool { return stale(t, b) })
		resp, err := b.RoundTrip(of(t, "POST", body))
		check(t, err)
		resp.Body.Close()
		want := "hello"
		if body == "none" {
			want = ""
		}
		mu.Lock()
		if len(got) != 2 || got[1] != want {
			t.Errorf("body %q: arrived %q", body, got)
		}
		mu.Unlock()
	}
}

func TestADeadAddressIsPassedOver(t *testing.T) {
	w := newWorld(t)
	foreign := newAuthority(t, "another CA").issue(name, nil)
	liar := serve(t, &tls.Config{Certificates: []tls.Certificate{foreign}}, answering(ok))
	for _, method := range []string{"GET", "POST"} {
		for body := range bodies {
			arrived := make(chan string, 1)
			p := serve(t, w.tls(), func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
				if req, data := p.read(r); req != nil {
					arrived <- string(data)
					_, _ = io.WriteString(conn, ok)
				}
			})
			cfg := backendConfig(dead(t), liar.addr, dead(t), p.addr)
			cfg.Retries = 0 // nothing was sent, so none is needed
			req := of(t, method, body)
			resp, err := w.backend(t, cfg, Options{}).RoundTrip(req)
			if err != nil {
				t.Errorf("%s with body %q: %v", method, body, err)
				continue
			}
			resp.Body.Close()
			want := "hello"
			if body == "none" {
				want = ""
			}
			if got := <-arrived; got != want || p.reqs.Load() != 1 {
				t.Errorf("%s with body %q: %q arrived %d times", method, body, got, p.reqs.Load())
			}
			if s, ok := req.Body.(*stream); ok {
				eventually(t, "the body is closed", func() bool { return s.closed.Load() == 1 })
			}
		}
	}
	if liar.reqs.Load() > 0 {
		t.Error("a request went to one that did not prove itself")
	}
}

func TestNoAddressIsUnavailable(t *testing.T) {
	w := newWorld(t)
	b := w.backend(t, backendConfig(dead(t), dead(t)), Options{})
	body := &stream{Reader: strings.NewReader("x")}
	if _, err := b.RoundTrip(request(t, "POST", "/", body)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if body.closed.Load() != 1 {
		t.Errorf("the body was closed %d times", body.closed.Load())
	}
	if _, err := b.Dial(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestASlowHeadIsATimeoutAndNotTriedAgain(t *testing.T) {
	w := newWorld(t)
	for _, h2 := range []bool{false, true} {
		release := make(chan struct{})
		p := h2Server(t, w, h2, func(http.ResponseWriter, *http.Request) { <-release })
		cfg := backendConfig(p.addr)
		cfg.Retries, cfg.Timeout, cfg.HTTP2 = 3, config.Duration(50*time.Millisecond), h2
		_, err := w.backend(t, cfg, Options{}).RoundTrip(request(t, "GET", "/", nil))
		close(release)
		if !errors.Is(err, ErrTimeout) || errors.Is(err, ErrUnavailable) {
			t.Errorf("HTTP/2 %v: %v", h2, err)
		}
		if p.reqs.Load() != 1 {
			t.Errorf("HTTP/2 %v: arrived %d times", h2, p.reqs.Load())
		}
	}
}

// endless is a body without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A backend whose machine went away, or that hangs, takes bytes until the buffers
// between are full and then none.
func TestABackendThatTakesNothingIsATimeout(t *testing.T) {
	w := newWorld(t)
	p := serve(t, w.tls(), hang)
	cfg := backendConfig(p.addr)
	cfg.Timeout = config.Duration(100 * time.Millisecond)
	body := &stream{Reader: endless{}}
	_, err := w.backend(t, cfg, Options{}).RoundTrip(request(t, "POST", "/", body))
	if !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
	if body.closed.Load() != 1 {
		t.Errorf("the body was closed %d times", body.closed.Load())
	}
}

// A handshake that never ends, as with a machine that went away behind a load
// balancer that answers for it.
// TestALimitThatPassedWhileIdleIsNoTimeout: a connection keeps its limits from one
// request to the next. One that has passed since must not fail a request whose body
// is sent before an answer is waited for.
func TestALimitThatPassedWhileIdleIsNoTimeout(t *testing.T) {
	w := newWorld(t)
	p := serve(t, w.tls(), answering(ok))
	b := w.backend(t, backendConfig(p.addr), Options{})
	for name, body := range map[string]func() io.Reader{
		"of unknown length": func() io.Reader { return io.MultiReader(strings.NewReader("abc")) },
		"held, and large":   func() io.Reader { return strings.NewReader(strings.Repeat("a", 2*wholeMost)) },
	} {
		get(t, b)
		c := b.addrs[0].pool.idle[0]
		// As if it had been idle for longer than a backend may take.
		check(t, c.net.SetReadDeadline(time.Now().Add(-time.Second)))
		c.readBy = time.Now().Add(-time.Second)
		resp, err := b.RoundTrip(request(t, "POST", "/", body()))
		if err != nil {
			t.Fatalf("a body %s: %v", name, err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != "ok" {
			t.Errorf("a body %s: answered %q, %v", name, got, err)
		}
	}
}

func TestAHandshakeThatHangsIsPassedOver(t *testing.T) {
	w := newWorld(t)
	hung := serve(t, nil, hang)
	good := serve(t, w.tls(), answering(ok))
	cfg := backendConfig(hung.addr, good.addr)
	cfg.Connect = config.Duration(50 * time.Millisecond)
	b := w.backend(t, cfg, Options{})
	if get(t, b) != "ok" {
		t.Error("no answer")
	}
	conn, err := b.Dial(t.Context())
	check(t, err)
	conn.Close()
}

func TestAnAnswerThatBreaksOffIsAnErrorOfItsBody(t *testing.T) {
	w := newWorld(t)
	for what, answer := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
	} {
		p := serve(t, w.tls(), func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
			p.read(r)
			_, _ = io.WriteString(conn, answer)
		})
		resp, err := w.backend(t, backendConfig(p.addr), Options{}).RoundTrip(request(t, "GET", "/", nil))
		check(t, err)
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "half" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
		if p.reqs.Load() != 1 {
			t.Errorf("%s: arrived %d times", what, p.reqs.Load())
		}
	}
}

func TestWhatIsTheRequestsFaultBlamesNoBackend(t *testing.T) {
	w := newWorld(t)
	p := serve(t, w.tls(), answering(ok))
	cfg := backendConfig(p.addr)
	cfg.Health.Failures = 1
	b := w.backend(t, cfg, Options{})
	broken := errors.New("the device went away")
	for what, c := range map[string]struct {
		change func(*http.Request)
		want   error
	}{
		"body fails": {func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("hal"), failing{broken})), 10
		}, broken},
		"chunks fail": {func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("hal"), failing{broken})), -1
		}, broken},
		"body ends early": {func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("half")), 10 }, errLength},
		"bad field":       {func(r *http.Request) { r.Header["X"] = []string{"SECRET\r\nY: z"} }, nil},
		"bad method":      {func(r *http.Request) { r.Method = "SEC RET" }, nil},
	} {
		req := request(t, "POST", "/", nil)
		c.change(req)
		resp, err := b.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: sent", what)
			continue
		}
		if c.want != nil && !errors.Is(err, c.want) || errors.Is(err, ErrAnswer) || errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", what, err)
		}
		if h := b.Health()[0]; !h.Healthy {
			t.Fatalf("%s: the address is blamed: %s", what, h.Error)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestAContextsEndPassesThroughAndBlamesNoBackend(t *testing.T) {
	w := newWorld(t)
	reached := make(chan struct{}, 1)
	p := serve(t, w.tls(), func(p *peer, _ int64, _ net.Conn, r *bufio.Reader) {
		p.read(r)
		reached <- struct{}{}
		<-p.done
	})
	cfg := backendConfig(p.addr)
	cfg.Health.Failures, cfg.Retries = 1, 3
	b := w.backend(t, cfg, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	_, err := b.RoundTrip(request(t, "GET", "/", nil).WithContext(ctx))
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrAnswer) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Dial(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("dial: %v", err)
	}
	if p.reqs.Load() != 1 || !b.Health()[0].Healthy {
		t.Errorf("arrived %d times, health %+v", p.reqs.Load(), b.Health())
	}
}

// h2Server is a server of net/http, with HTTP/2 if wanted.
func h2Server(t *testing.T, w *world, h2 bool, f http.HandlerFunc) *peer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	p := &peer{addr: l.Addr().String()}
	s := &http.Server{TLSConfig: w.tls(), Protocols: new(http.Protocols), ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		p.reqs.Add(1)
		f(rw, r)
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(h2)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.ServeTLS(l, "", "") })
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return p
}

func TestHTTP2IsSpokenOnlyWhenConfigured(t *testing.T) {
	w := newWorld(t)
	for _, offer := range []bool{false, true} {
		for _, want := range []bool{false, true} {
			p := h2Server(t, w, offer, func(rw http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				fmt.Fprint(rw, r.Proto, " ", r.RequestURI, " ", string(body))
			})
			cfg := backendConfig(p.addr)
			cfg.HTTP2 = want
			req := request(t, "POST", "/a%2Fb//c?d;e", &stream{Reader: bytes.NewReader([]byte("hello"))})
			req.URL.Path, req.URL.RawPath = "/a/b//c", "/a%2Fb//c"
			resp, err := w.backend(t, cfg, Options{}).RoundTrip(req)
			check(t, err)
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			version := "HTTP/1.1"
			if offer && want {
				version = "HTTP/2.0"
			}
			if string(got) != version+" /a%2Fb//c?d;e hello" {
				t.Errorf("offered %v, wanted %v: %s", offer, want, got)
			}
		}
	}
}

func TestPlainHTTPNeedsToBeAskedFor(t *testing.T) {
	p := serve(t, nil, answering(ok))
	cfg := backendConfig(p.addr)
	cfg.ServerName, cfg.Insecure = "", true
	b, err := New(cfg, Options{})
	check(t, err)
	defer b.Close()
	if got := get(t, b); got != "ok" {
		t.Errorf("got %q", got)
	}
	conn, err := b.Dial(t.Context())
	check(t, err)
	if _, isTLS := conn.(*tls.Conn); isTLS {
		t.Error("TLS to an insecure backend")
	}
	conn.Close()
}

// stale reports whether a backend has closed the connection it was asked over.
func stale(t *testing.T, b *Backend) bool {
	t.Helper()
	p := &b.addrs[0].pool
	c, _ := p.take()
	if c == nil {
		p.dialed(false)
		return true // the end came with the answer
	}
	defer p.put(c, time.Now())
	raw, err := c.wire.SyscallConn()
	check(t, err)
	gone := false
	check(t, raw.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
		gone = err == nil && n >= 0 // TLS says goodbye first
		return true
	}))
	return gone
}
