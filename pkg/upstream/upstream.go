package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// Errors a caller tells apart; both are wrapped with the cause. Any other error
// of RoundTrip is a backend that answered what can not be understood, or the
// request's own: its context's end, or its body's error.
var (
	// ErrUnavailable says that no address could be connected to.
	ErrUnavailable = errors.New("backend unavailable")
	// ErrTimeout says that the backend did not answer in time.
	ErrTimeout = errors.New("backend timed out")
)

const (
	bufferSize        = 8 << 10
	maxResponseHeader = 256 << 10
	keepAlive         = 30 * time.Second
)

// Options are what a backend needs besides its configuration.
type Options struct {
	// Roots are the embedded CA's, for backends that name no others.
	Roots  *x509.CertPool
	Logger *slog.Logger
	Clock  func() time.Time
	// OnChange is called when an address is set aside or healthy again.
	OnChange func(addr string, healthy bool)
}

// A Backend is one backend.
type Backend struct {
	cfg       config.Backend
	opt       Options
	tls       *tls.Config
	dialer    net.Dialer
	transport *http.Transport
	addrs     []*address
	stop      context.CancelFunc
	wg        sync.WaitGroup
}

// New returns a backend whose checks run until Close.
func New(cfg config.Backend, opt Options) (*Backend, error) {
	if len(cfg.Addresses) == 0 {
		return nil, errors.New("a backend needs an address")
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	b := &Backend{cfg: cfg, opt: opt, dialer: net.Dialer{Timeout: cfg.Connect.D(), KeepAlive: keepAlive}}
	var err error
	if b.tls, err = tlsConfig(&cfg, opt.Roots, opt.Clock); err != nil {
		return nil, err
	}
	b.transport = &http.Transport{
		DialContext: b.dialer.DialContext, TLSClientConfig: b.tls, TLSHandshakeTimeout: cfg.Connect.D(),
		DisableCompression: true, MaxIdleConns: 0, MaxIdleConnsPerHost: cfg.MaxIdle, IdleConnTimeout: cfg.IdleTimeout.D(),
		ResponseHeaderTimeout: cfg.Timeout.D(), MaxResponseHeaderBytes: maxResponseHeader,
		WriteBufferSize: bufferSize, ReadBufferSize: bufferSize, ForceAttemptHTTP2: cfg.HTTP2,
	}
	if !cfg.HTTP2 {
		b.transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	for _, a := range cfg.Addresses {
		b.addrs = append(b.addrs, &address{name: a})
		b.changed(a, true)
	}
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	if b.checked() {
		b.wg.Go(func() { b.watch(ctx) })
	}
	return b, nil
}

// Close stops the checks and closes idle connections. Requests under way go on.
func (b *Backend) Close() error {
	b.stop()
	b.wg.Wait()
	b.transport.CloseIdleConnections()
	return nil
}

func (b *Backend) scheme() string {
	if b.tls == nil {
		return "http"
	}
	return "https"
}

// idempotent are the methods that may be sent again (RFC 9110 section 9.2.2).
var idempotent = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodOptions: true, http.MethodPut: true, http.MethodDelete: true,
}

// RoundTrip sends a request to a healthy address and returns the response; the
// caller closes its body. Scheme and host of the request's URL are chosen here,
// its Host field is sent as it is. Path and query are sent byte for byte as
// URL.RawPath and URL.RawQuery say.
func (b *Backend) RoundTrip(req *http.Request) (*http.Response, error) {
	order := b.order()
	var last error
	for try := range 1 + b.cfg.Retries {
		a := order[try%len(order)]
		var at attempt
		resp, err := b.attempt(req, a, &at)
		if err == nil {
			b.note(a, nil)
			return resp, nil
		}
		if own := at.bodyError(); own != nil {
			return nil, own // the device's fault, not the backend's
		}
		if cause := req.Context().Err(); cause != nil {
			return nil, fmt.Errorf("request to %s: %w", b.cfg.Name, cause)
		}
		b.note(a, err)
		last = at.classify(b.cfg.Name, err)
		if !at.again(req) || errors.Is(last, ErrTimeout) && at.connected.Load() {
			break
		}
	}
	return nil, last
}

// attempt is what is known of one try of a request.
type attempt struct {
	connected atomic.Bool // a connection was there, so the request may have begun
	body      *trackedBody
}

func (b *Backend) attempt(req *http.Request, a *address, at *attempt) (*http.Response, error) {
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { at.connected.Store(true) },
	})
	out := req.WithContext(ctx)
	u := *req.URL
	u.Scheme, u.Host = b.scheme(), a.name
	out.URL = &u
	if req.Body != nil && req.Body != http.NoBody {
		body := req.Body
		if req.GetBody != nil {
			var err error
			if body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
		at.body = &trackedBody{ReadCloser: body}
		out.Body = at.body
		if req.GetBody == nil {
			// Nothing was taken from a body that was never read: the transport
			// may use it with another connection when an idle one was stale.
			out.GetBody = func() (io.ReadCloser, error) {
				if at.body.began.Load() {
					return nil, errors.New("the body has been read")
				}
				return at.body, nil
			}
		}
	}
	return b.transport.RoundTrip(out)
}

// again reports whether a request may be tried once more.
func (at *attempt) again(req *http.Request) bool {
	unread := at.body == nil || !at.body.began.Load() || req.GetBody != nil
	if !at.connected.Load() {
		return unread
	}
	return idempotent[req.Method] && (at.body == nil || req.GetBody != nil)
}

// bodyError returns the error of the request's own body, if it had one.
func (at *attempt) bodyError() error {
	if at.body == nil {
		return nil
	}
	if err, ok := at.body.err.Load().(readError); ok {
		return err.error
	}
	return nil
}

// classify wraps an error with what a caller decides on.
func (at *attempt) classify(name string, err error) error {
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout() && at.connected.Load():
		return fmt.Errorf("%w: %s: %w", ErrTimeout, name, err)
	case !at.connected.Load():
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, name, err)
	}
	return fmt.Errorf("answer of %s: %w", name, err)
}

// trackedBody knows whether a body was read and how reading it failed.
type trackedBody struct {
	io.ReadCloser
	began atomic.Bool
	err   atomic.Value // readError
}

type readError struct{ error }

func (t *trackedBody) Read(p []byte) (int, error) {
	t.began.Store(true)
	n, err := t.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		t.err.Store(readError{err})
	}
	return n, err
}

// Dial returns a connection of its own to a healthy address, over TLS unless the
// backend is insecure, for upgraded and stream protocols. The caller closes it.
func (b *Backend) Dial(ctx context.Context) (net.Conn, error) {
	order := b.order()
	var last error
	for try := range 1 + b.cfg.Retries {
		a := order[try%len(order)]
		conn, err := b.dial(ctx, a.name)
		if err == nil {
			b.note(a, nil)
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("connection to %s: %w", b.cfg.Name, ctx.Err())
		}
		b.note(a, err)
		last = fmt.Errorf("%w: %s: %w", ErrUnavailable, b.cfg.Name, err)
	}
	return nil, last
}

// dial connects to one address.
func (b *Backend) dial(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Connect.D())
	defer cancel()
	conn, err := b.dialer.DialContext(ctx, "tcp", addr)
	if err != nil || b.tls == nil {
		return conn, err
	}
	c := b.tls.Clone()
	c.NextProtos = nil
	if c.ServerName == "" {
		if c.ServerName, _, err = net.SplitHostPort(addr); err != nil {
			conn.Close()
			return nil, err
		}
	}
	tc := tls.Client(conn, c)
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return tc, nil
}
