package httpgw

import (
	"errors"
	"net/http"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// A head is the head of an HTTP/1.1 or HTTP/1.0 request.
type head struct {
	http1.Heads
	method string
	target string
	minor  int // of the version: 0 or 1
}

// passing reports whether a field of that name is passed on and no more: no fact, no
// rule and no framing comes of it. They are those by which the requests of many
// clients differ, one from the next. Of Date the clock of a device is taken, from
// each request anew.
func passing(name string) bool {
	switch name {
	case "correlation-id", "date", "request-id", "traceparent", "tracestate", "x-correlation-id", "x-request-id":
		return true
	}
	return false
}

// knownMethod reports whether a method is one that is understood. Others could
// mean anything to a backend.
func knownMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return true
	}
	return false
}

// checkMethod refuses methods that are not understood.
func checkMethod(m string) *fault {
	if !knownMethod(m) {
		return &fault{http.StatusNotImplemented, "the method is not one of GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS", true}
	}
	return nil
}

// A likeness is how far a head says what the one before said.
type likeness uint8

const (
	another likeness = iota // it may say anything else
	resized                 // it says the same but for the length of its body
	same                    // it says the same, though some that is only passed on may read otherwise
)

// again reads the head that b begins with and returns its length, if it differs from
// the one before in values of fields only; else 0.
func (h *head) again(b []byte) (int, likeness) {
	n := h.Again(b, true)
	switch {
	case n == 0:
		return 0, another
	case !h.Differs(telling):
		return n, same
	case !h.Differs(func(name string) bool { return name != "content-length" && telling(name) }):
		return n, resized
	}
	return n, another
}

// telling reports whether it matters here what a field of that name says.
func telling(name string) bool { return !passing(name) }

// parse reads a request head (RFC 9112 sections 3 and 5), which b holds whole,
// with the empty line at its end, and writes to b.
func (h *head) parse(b []byte, maxFields int) *fault {
	f := h.understand(b, maxFields)
	if f != nil {
		h.Forget()
	}
	return f
}

func (h *head) understand(b []byte, maxFields int) *fault {
	err := h.Parse(b, maxFields, true)
	switch {
	case err == nil:
		return h.requestLine(h.Line)
	case errors.Is(err, http1.ErrFields):
		return &fault{http.StatusRequestHeaderFieldsTooLarge, "the request has too many header fields", true}
	}
	// What is wrong with the request line counts more.
	if f := h.requestLine(h.Line); f != nil && h.Line != "" {
		return f
	}
	return bad(err.Error())
}

func (h *head) requestLine(line string) *fault {
	method, rest, ok := strings.Cut(line, " ")
	if !ok {
		return bad("the request line has no target")
	}
	target, version, ok := strings.Cut(rest, " ")
	if !ok {
		return bad("the request line has no version")
	}
	if !http1.IsToken(method) {
		return bad("the method is not a token")
	}
	switch version {
	case "HTTP/1.1":
		h.minor = 1
	case "HTTP/1.0":
		h.minor = 0
	default:
		if len(version) == 8 && strings.HasPrefix(version, "HTTP/") && isDigit(version[5]) && version[6] == '.' && isDigit(version[7]) {
			return &fault{http.StatusHTTPVersionNotSupported, "the HTTP version is not spoken here", true}
		}
		return bad("the request line does not end with an HTTP version")
	}
	h.method, h.target = method, target
	return checkMethod(method)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// headEnd is [http1.HeadEnd] with a fault.
func headEnd(b []byte, seen int) (int, *fault) {
	n, err := http1.HeadEnd(b, seen)
	if err != nil {
		return 0, bad(err.Why)
	}
	return n, nil
}
