package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// roundTrip2 is RoundTrip by net/http's transport, for backends that may be spoken
// to in HTTP/2.
func (b *Backend) roundTrip2(req *http.Request) (*http.Response, error) {
	var body *requestBody
	if req.Body != nil && req.Body != http.NoBody {
		body = &requestBody{from: req.Body, length: req.ContentLength}
	}
	order := b.order()
	for try := 0; ; try++ {
		a := order[try%len(order)]
		var at attempt
		resp, err := b.attempt(req, body, a, &at)
		if err == nil {
			b.note(a, nil)
			body.settle(false)
			return resp, nil
		}
		last, again := b.judge(req, body, a, &at, err)
		tries := 1 + b.cfg.Retries
		if !at.connected.Load() {
			tries = max(tries, len(order))
		}
		if !again || try+1 >= tries {
			body.settle(true)
			return nil, last
		}
		if body.begun() {
			from, err := req.GetBody()
			if err != nil {
				body.settle(true)
				return nil, fmt.Errorf("body of the request to %s: %w", b.cfg.Name, err)
			}
			body.settle(true)
			body = &requestBody{from: from, length: req.ContentLength}
		}
	}
}

// judge says what a failed attempt means: whose fault it is, what to tell the
// caller, and whether the request may be tried again.
func (b *Backend) judge(req *http.Request, body *requestBody, a *address, at *attempt, err error) (last error, again bool) {
	if own := body.fault(); own != nil {
		return own, false // the device's fault, not the backend's
	}
	if cause := req.Context().Err(); cause != nil {
		return fmt.Errorf("request to %s: %w", b.cfg.Name, cause), false
	}
	if !at.asked.Load() {
		// Refused by the transport before it looked for a connection: no address
		// can be blamed. Its words quote the request.
		return fmt.Errorf("request to %s can not be sent in HTTP", b.cfg.Name), false
	}
	last = classify(b.cfg.Name, at.connected.Load(), err)
	b.note(a, last)
	switch {
	case !at.connected.Load():
		return last, !body.begun() || req.GetBody != nil
	case errors.Is(last, ErrTimeout):
		return last, false // who waited once has waited long enough
	}
	return last, idempotent[req.Method] && (body == nil || req.GetBody != nil)
}

// attempt is what is known of one try of a request.
type attempt struct {
	asked     atomic.Bool // the request was fit to be sent
	connected atomic.Bool // a connection was there, so the request may have begun
	conn      atomic.Pointer[watchedConn]
	stale     atomic.Bool // the answer was there before the request was sent
}

func (b *Backend) attempt(req *http.Request, body *requestBody, a *address, at *attempt) (*http.Response, error) {
	trace := &httptrace.ClientTrace{
		GetConn: func(string) { at.asked.Store(true) },
		GotConn: func(info httptrace.GotConnInfo) {
			at.connected.Store(true)
			if c := watched(info.Conn); c != nil {
				c.phase.Store(taken)
				at.conn.Store(c)
			}
		},
		// Called where the connection is read, so nothing more can have arrived
		// between the answer's first byte and this.
		GotFirstResponseByte: func() {
			c := at.conn.Load()
			at.stale.Store(c != nil && c.phase.Load() != answered)
		},
	}
	if interim := Interim(req.Context()); interim != nil {
		passed := 0
		trace.Got1xxResponse = func(status int, h textproto.MIMEHeader) error {
			// Who listens has to bound how many there are; net/http no longer does.
			if passed++; passed > maxInterim || blank(h) || embodied(h) {
				return errMalformed
			}
			interim(status, h)
			return nil
		}
	}
	out := req.WithContext(httptrace.WithClientTrace(req.Context(), trace))
	u := *req.URL
	u.Scheme, u.Host = b.scheme(), a.name
	out.URL = &u
	out.GetBody = nil
	if body != nil {
		out.Body = body
		// The transport tries again by itself when an idle connection turns out
		// to be closed; it may, with a body nothing was taken from.
		out.GetBody = func() (io.ReadCloser, error) {
			if body.begun() {
				return nil, errBegun
			}
			return body, nil
		}
	}
	if !idempotent[req.Method] {
		out.Header = plainKeys(req.Header)
	}
	resp, err := b.transport.RoundTrip(out)
	if err != nil || sound(resp) && at.fresh(resp) {
		return resp, err
	}
	if c := at.conn.Load(); c != nil && resp.ProtoMajor == 1 {
		c.Close() // before another request can have it
	}
	resp.Body.Close()
	return nil, errMalformed
}

// sound reports whether an answer is free of three things that the transport lets
// pass: another protocol, for which nobody asked, since upgrades go by Dial; a
// blank in a field's name, by which a length could hide from us and not from
// the device (RFC 9112 section 5.1); and a body where the status has none.
func sound(resp *http.Response) bool {
	if resp.StatusCode == http.StatusNoContent && (len(resp.TransferEncoding) > 0 || embodied(resp.Header)) {
		return false
	}
	return !blank(resp.Header) && resp.StatusCode != http.StatusSwitchingProtocols
}

// embodied reports whether fields speak of a body, as [bodiless].
func embodied(fields map[string][]string) bool {
	for _, v := range fields["Content-Length"] {
		if v != "0" {
			return true
		}
	}
	return len(fields["Transfer-Encoding"]) > 0
}

func blank(fields map[string][]string) bool {
	for k := range fields {
		if strings.IndexByte(k, ' ') >= 0 {
			return true
		}
	}
	return false
}

// fresh reports whether an answer arrived after its request was sent. HTTP/2
// names the request that it answers.
func (at *attempt) fresh(resp *http.Response) bool {
	return resp.ProtoMajor != 1 || !at.stale.Load()
}

// replayKeys are the field names by which net/http takes any request to be one it
// may send twice.
var replayKeys = [...]string{"Idempotency-Key", "X-Idempotency-Key"}

// plainKeys returns the header without replayKeys: a device must not be able to
// have its order given again. The fields are sent all the same, their names in
// lower case, which the transport does not look for.
func plainKeys(h http.Header) http.Header {
	out := h
	for _, name := range replayKeys {
		v, ok := out[name]
		if !ok {
			continue
		}
		out = out.Clone()
		delete(out, name)
		if len(v) > 0 {
			out[strings.ToLower(name)] = v
		}
	}
	return out
}

// newTransport returns net/http's client for this backend.
func (b *Backend) newTransport() *http.Transport {
	return &http.Transport{
		DialContext: b.dialWatched, TLSClientConfig: b.tls, TLSHandshakeTimeout: b.cfg.Connect.D(),
		DisableCompression: true, MaxIdleConnsPerHost: b.cfg.MaxIdle, MaxConnsPerHost: b.cfg.MaxConnections, IdleConnTimeout: b.cfg.IdleTimeout.D(),
		ResponseHeaderTimeout: b.cfg.Timeout.D(), MaxResponseHeaderBytes: maxResponseHeader,
		WriteBufferSize: bufferSize, ReadBufferSize: bufferSize, ForceAttemptHTTP2: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: keepAlive, PingTimeout: pingTimeout},
	}
}

// dialWatched is how the transport connects. A backend that takes no byte for as
// long as its answer may take is given up: the transport limits the wait for an
// answer only once the whole request is written.
func (b *Backend) dialWatched(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := b.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: conn, limit: b.cfg.Timeout.D()}, nil
}

// do2 is Do by way of net/http.
func (b *Backend) do2(r *Request, resp *Response) error {
	ctx, cancel := context.WithCancel(r.Context)
	if !r.Stopper.with(cancel) {
		cancel()
		return fmt.Errorf("request to %s: %w", b.cfg.Name, context.Canceled)
	}
	over := func() { r.Stopper.with(nil); cancel() }
	asked := ctx
	if r.Inform != nil {
		heard := &hearing{inform: r.Inform}
		defer heard.end()
		asked = WithInterim(ctx, heard.hear)
	}
	req, err := r.httpRequest(asked)
	if err != nil {
		over()
		return err
	}
	answer, err := b.roundTrip2(req)
	if err != nil {
		over()
		return err
	}
	*resp = Response{Status: answer.StatusCode, Length: answer.ContentLength, Header: resp.Header[:0]}
	for _, name := range sortedNames(answer.Header) {
		for _, v := range answer.Header[name] {
			resp.Header = append(resp.Header, http1.Field{Name: http1.LowerASCII(name), Value: v})
		}
	}
	// The transport sets no limit to a body that stops.
	body := &body2{readerPieces: readerPieces{from: answer.Body}, resp: resp, answer: answer, over: over, patience: cmp.Or(r.Patience, b.cfg.Timeout.D())}
	body.stuck = time.AfterFunc(body.patience, cancel)
	resp.body = body
	return nil
}

// httpRequest returns r in net/http's form.
func (r *Request) httpRequest(ctx context.Context) (*http.Request, error) {
	path, query, has := strings.Cut(r.Target, "?")
	u := &url.URL{RawPath: path, RawQuery: query, ForceQuery: has}
	var err error
	if u.Path, err = url.PathUnescape(path); err != nil || !exact(u) {
		return nil, fmt.Errorf("request: its path or query would not be sent as it is")
	}
	req := (&http.Request{Method: r.Method, URL: u, Host: r.Host, ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody}).WithContext(ctx)
	req.Header = httpHeader(r.Header)
	if r.Fixed != nil {
		for k, v := range httpHeader(r.Fixed.Header) {
			req.Header[k] = v
		}
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = nil // net/http would add its own name
	}
	switch {
	case r.Held != nil:
		req.ContentLength = int64(len(r.Held))
		req.Body = io.NopCloser(&held{r.Held})
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(&held{r.Held}), nil }
	case r.Length != 0:
		req.ContentLength, req.Body = r.Length, io.NopCloser(r.Body)
	}
	return req, nil
}

// headerOf returns net/http's fields in our form.
func headerOf[H ~map[string][]string](fields H) (h http1.Header) {
	for _, name := range sortedNames(http.Header(fields)) {
		for _, v := range fields[name] {
			h = append(h, http1.Field{Name: http1.LowerASCII(name), Value: v})
		}
	}
	return h
}

// body2 is the body of a response that net/http read.
type body2 struct {
	readerPieces
	resp     *Response
	answer   *http.Response
	over     func()
	patience time.Duration
	stuck    *time.Timer
	share    *share // as in an exchange
}

func (b *body2) next() ([]byte, error) {
	b.stuck.Reset(b.patience)
	p, err := b.readerPieces.next()
	if err == io.EOF {
		b.resp.Trailer = headerOf(b.answer.Trailer)
	}
	return p, err
}

func (b *body2) end() {
	if !b.ended {
		b.stuck.Stop()
		b.readerPieces.end()
		b.over()
		b.share.leave()
	}
}
