package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
)

// idempotent are the methods that may be sent again (RFC 9110 section 9.2.2).
var idempotent = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodOptions: true, http.MethodPut: true, http.MethodDelete: true,
}

// RoundTrip sends a request to a healthy address and returns the response; the
// caller closes its body. Scheme and host of the request's URL are chosen here,
// its Host field is sent as it is. The path is sent byte for byte as URL.RawPath
// or URL.Opaque says, the query as URL.RawQuery; a RawPath that net/url would
// not send as it is, is an error.
//
// Addresses that can not be connected to are passed over until each had its try,
// for nothing was sent to them. Past that, there are no more tries than the
// configuration's retries say, and a request of which something may have been
// sent is sent again only if it is idempotent and its body can be had again.
//
// A response that has both Transfer-Encoding and Content-Length is read by
// Transfer-Encoding and its Content-Length removed (RFC 9112 section 6.3), so
// that whoever passes it on has one length to go by; several Content-Lengths
// that differ, and any coding but chunked, are ErrAnswer. The end of a body that
// broke off is an error of reading it.
func (b *Backend) RoundTrip(req *http.Request) (*http.Response, error) {
	if !exact(req.URL) {
		closeBody(req)
		return nil, fmt.Errorf("request to %s: its path or query would not be sent as it is", b.cfg.Name)
	}
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
	last = at.classify(b.cfg.Name, err)
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
		trace.Got1xxResponse = func(status int, h textproto.MIMEHeader) error {
			if blank(h) {
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

// sound reports whether an answer is free of two things that the transport lets
// pass: another protocol, for which nobody asked, since upgrades go by Dial; and
// a blank in a field's name, by which a length could hide from us and not from
// the device (RFC 9112 section 5.1).
func sound(resp *http.Response) bool {
	return !blank(resp.Header) && resp.StatusCode != http.StatusSwitchingProtocols
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

// exact reports whether a URL's path and query are sent as they are: net/url
// encodes a RawPath anew that is not Path's, takes what follows two slashes in
// Opaque for a host, and lets bytes through that end a request line elsewhere.
func exact(u *url.URL) bool {
	path := u.Opaque
	switch {
	case path != "":
		if strings.HasPrefix(path, "//") {
			return false
		}
	case u.RawPath != "":
		path = u.RawPath
		if u.EscapedPath() != path {
			return false
		}
	default:
		path = u.Path // encoded by net/url
		return strings.HasPrefix(path, "/") && visible(u.RawQuery)
	}
	return path[0] == '/' && visible(path) && visible(u.RawQuery)
}

// visible reports whether s is of visible ASCII without '#', which has no place
// in a request's target.
func visible(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
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

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

var _ http.RoundTripper = (*Backend)(nil)
