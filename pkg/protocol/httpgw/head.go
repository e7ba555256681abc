package httpgw

import (
	"bytes"
	"net/http"
	"strings"
	"unicode/utf8"
)

// A field is one header field; its name is in lower case.
type field struct{ name, value string }

// A header is the fields of a message in the order they came.
type header []field

// get returns the value of the only field of a name. many reports whether there
// are several.
func (h header) get(name string) (value string, n int) {
	for i := range h {
		if h[i].name == name {
			if n == 0 {
				value = h[i].value
			}
			n++
		}
	}
	return value, n
}

// has reports whether there is a field of that name.
func (h header) has(name string) bool {
	_, n := h.get(name)
	return n > 0
}

// all returns the values of all fields of a name.
func (h header) all(name string) (out []string) {
	for i := range h {
		if h[i].name == name {
			out = append(out, h[i].value)
		}
	}
	return out
}

// A head is the head of an HTTP/1.1 or HTTP/1.0 request.
type head struct {
	method string
	target string
	minor  int // of the version: 0 or 1
	header header
}

// methods are the methods that are understood. Others could mean anything to a
// backend.
var methods = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodPost: true, http.MethodPut: true,
	http.MethodPatch: true, http.MethodDelete: true, http.MethodOptions: true,
}

// checkMethod refuses methods that are not understood.
func checkMethod(m string) *fault {
	if !methods[m] {
		return &fault{http.StatusNotImplemented, "the method is not one of GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS", true}
	}
	return nil
}

// parseHead reads a request head (RFC 9112 sections 3 and 5), which b holds
// whole, with the empty line at its end. Nothing is repaired: a bare LF, a
// folded line, white space around a name, all are refused.
func parseHead(b []byte, maxFields int) (*head, *fault) {
	// One copy; every string below is a part of it.
	s := string(b[:len(b)-2])
	line, rest, ok := strings.Cut(s, "\r\n")
	if !ok {
		return nil, bad("the request line has no end")
	}
	h := &head{}
	if f := h.requestLine(line); f != nil {
		return nil, f
	}
	h.header = make(header, 0, 12)
	for rest != "" {
		line, rest, ok = strings.Cut(rest, "\r\n")
		if !ok {
			return nil, bad("a header line has no end")
		}
		if len(h.header) >= maxFields {
			return nil, &fault{http.StatusRequestHeaderFieldsTooLarge, "the request has too many header fields", true}
		}
		f, fault := parseField(line)
		if fault != nil {
			return nil, fault
		}
		h.header = append(h.header, f)
	}
	return h, nil
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
	if method == "" || !isToken(method) {
		return bad("the method is not a token")
	}
	switch version {
	case "HTTP/1.1":
		h.minor = 1
	case "HTTP/1.0":
	default:
		if len(version) == 8 && strings.HasPrefix(version, "HTTP/") && isDigit(version[5]) && version[6] == '.' && isDigit(version[7]) {
			return &fault{http.StatusHTTPVersionNotSupported, "the HTTP version is not spoken here", true}
		}
		return bad("the request line does not end with an HTTP version")
	}
	h.method, h.target = method, target
	return checkMethod(method)
}

// parseField reads one header line (RFC 9112 section 5).
func parseField(line string) (field, *fault) {
	if line == "" {
		return field{}, bad("the header has an empty line in it")
	}
	if line[0] == ' ' || line[0] == '\t' {
		return field{}, bad("a header line is folded")
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return field{}, bad("a header line has no colon")
	}
	if !isToken(name) {
		return field{}, bad("a header name is not a token")
	}
	value = strings.Trim(value, " \t")
	if !cleanValue(value) {
		return field{}, bad("a header value holds a control character or is not UTF-8")
	}
	return field{lowerASCII(name), value}, nil
}

// cleanValue reports whether a field value has no control characters but tabs
// (RFC 9110 section 5.5) and, beyond ASCII, is UTF-8, so that everyone reads the
// same text.
func cleanValue(v string) bool {
	ascii := true
	for i := range len(v) {
		c := v[i]
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
		ascii = ascii && c < 0x80
	}
	return ascii || utf8.ValidString(v)
}

var tokenChars = func() (t [256]bool) {
	for c := range 128 {
		b := byte(c)
		t[c] = 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || isDigit(b) || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
	}
	return t
}()

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		if !tokenChars[s[i]] {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// lowerASCII returns s in lower case, itself if it is that already.
func lowerASCII(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// headEnd returns the length of the head that b begins with, empty line
// included, or 0 if it is not there whole. It finds faults that make waiting for
// the rest pointless.
func headEnd(b []byte, seen int) (int, *fault) {
	// Line ends may straddle what was seen before.
	from := max(0, seen-3)
	for i := from; ; {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return 0, nil
		}
		j += i
		if j == 0 || b[j-1] != '\r' {
			return 0, bad("a line ends with LF instead of CRLF")
		}
		if j == 1 {
			return 0, bad("the request begins with an empty line")
		}
		if j >= 3 && b[j-2] == '\n' {
			return j + 1, nil
		}
		i = j + 1
	}
}

// framing is what a head says of the body that follows it (RFC 9112 section 6).
type framing struct {
	chunked bool
	length  int64 // of a body that is not chunked; 0 means none
}

// framing reads Content-Length and Transfer-Encoding. Where the RFC lets a
// recipient choose how to get over an ambiguity, it is refused.
func (h *head) framing() (framing, *fault) {
	cl, ncl := h.header.get("content-length")
	te, nte := h.header.get("transfer-encoding")
	switch {
	case ncl > 0 && nte > 0:
		return framing{}, bad("the request has both Content-Length and Transfer-Encoding")
	case nte > 1:
		return framing{}, bad("the request has more than one Transfer-Encoding")
	case nte == 1:
		if h.minor == 0 {
			return framing{}, bad("an HTTP/1.0 request has a Transfer-Encoding")
		}
		if !strings.EqualFold(te, "chunked") {
			return framing{}, bad("the Transfer-Encoding is not exactly chunked")
		}
		return framing{chunked: true, length: -1}, nil
	case ncl > 1:
		return framing{}, bad("the request has more than one Content-Length")
	case ncl == 1:
		n, ok := parseLength(cl)
		if !ok {
			return framing{}, bad("the Content-Length is not a plain decimal number")
		}
		return framing{length: n}, nil
	}
	return framing{}, nil
}

// parseLength reads a Content-Length: digits only, no sign, no leading zero, no
// list, at most 18 digits, which fits.
func parseLength(v string) (int64, bool) {
	if v == "" || len(v) > 18 || len(v) > 1 && v[0] == '0' {
		return 0, false
	}
	var n int64
	for i := range len(v) {
		if !isDigit(v[i]) {
			return 0, false
		}
		n = n*10 + int64(v[i]-'0')
	}
	return n, true
}
