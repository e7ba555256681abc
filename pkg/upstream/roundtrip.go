package upstream

import (
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// idempotent are the methods that may be sent again (RFC 9110 section 9.2.2).
var idempotent = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodOptions: true, http.MethodPut: true, http.MethodDelete: true,
}

// RoundTrip is [Backend.Do] in net/http's terms, for requests that are few. Scheme
// and host of the request's URL are chosen here, its Host field is sent as it is.
// The path is sent byte for byte as URL.RawPath or URL.Opaque says, the query as
// URL.RawQuery; a RawPath that net/url would not send as it is, is an error.
func (b *Backend) RoundTrip(req *http.Request) (*http.Response, error) {
	if !exact(req.URL) {
		closeBody(req)
		return nil, fmt.Errorf("request to %s: its path or query would not be sent as it is", b.cfg.Name)
	}
	if b.transport != nil {
		return b.roundTrip2(req)
	}
	r, err := b.requestOf(req)
	if err != nil {
		return nil, err
	}
	resp := new(Response)
	err = b.Do(r, resp)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	if r.Body == nil {
		closeBody(req)
	}
	out := &http.Response{
		StatusCode: resp.Status, Status: fmt.Sprintf("%03d %s", resp.Status, http.StatusText(resp.Status)), Proto: "HTTP/1.1",
		ProtoMajor: 1, ProtoMinor: 1, Header: httpHeader(resp.Header), ContentLength: resp.Length, Request: req,
	}
	out.Body = &responseBody{pieceReader{body: resp.body}, req, out, resp}
	return out, nil
}

// responseBody is a response's body that closes the request's with it.
type responseBody struct {
	pieceReader
	req  *http.Request
	out  *http.Response
	resp *Response
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.pieceReader.Read(p)
	if err == io.EOF {
		b.out.Trailer = httpHeader(b.resp.Trailer)
	}
	return n, err
}

func (b *responseBody) Close() error {
	b.pieceReader.Close()
	closeBody(b.req)
	return nil
}

// requestOf returns a request in our terms. A body that can be had again is held.
func (b *Backend) requestOf(req *http.Request) (*Request, error) {
	target := req.URL.RequestURI()
	if req.URL.Opaque != "" {
		target = req.URL.Opaque
		if req.URL.RawQuery != "" || req.URL.ForceQuery {
			target += "?" + req.URL.RawQuery
		}
	}
	r := &Request{Method: req.Method, Target: target, Host: req.Host, Context: req.Context(), Inform: informer(req)}
	if r.Host == "" {
		r.Host = req.URL.Host
	}
	for _, name := range sortedNames(req.Header) {
		for _, v := range req.Header[name] {
			if !http1.IsToken(name) || !http1.CleanValue(v) {
				closeBody(req)
				return nil, fmt.Errorf("request to %s: %w", b.cfg.Name, errUnfit)
			}
			r.Header = append(r.Header, http1.Field{Name: http1.LowerASCII(name), Value: v})
		}
	}
	if req.Body == nil || req.Body == http.NoBody {
		return r, nil
	}
	if req.ContentLength > 0 && req.ContentLength <= wholeMost && req.GetBody != nil {
		held, err := io.ReadAll(io.LimitReader(req.Body, req.ContentLength+1))
		switch {
		case err != nil:
		case int64(len(held)) != req.ContentLength:
			err = errLength
		}
		if err != nil {
			closeBody(req)
			return nil, err
		}
		r.Held, r.Length = held, req.ContentLength
		return r, nil
	}
	r.Body, r.Length = req.Body, req.ContentLength
	if r.Length == 0 {
		r.Length = -1
	}
	return r, nil
}

func informer(req *http.Request) func(int, http1.Header) {
	f := Interim(req.Context())
	if f == nil {
		return nil
	}
	return func(status int, h http1.Header) { f(status, textproto.MIMEHeader(httpHeader(h))) }
}

func sortedNames(h http.Header) []string {
	names := make([]string, 0, len(h))
	for name, vs := range h {
		if len(vs) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// httpHeader returns fields in net/http's form.
func httpHeader(h http1.Header) http.Header {
	out := make(http.Header, len(h))
	for i := range h {
		key := textproto.CanonicalMIMEHeaderKey(h[i].Name)
		out[key] = append(out[key], h[i].Value)
	}
	return out
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

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

var _ http.RoundTripper = (*Backend)(nil)
