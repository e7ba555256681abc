package httpgw

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// maxTarget bounds a request target, as received and as forwarded, in bytes (RFC 9112 section 3 recommends
// supporting at least 8000).
const maxTarget = 8 << 10

// maxParams bounds the parameters of a query.
const maxParams = 256

// A Target is the canonical form of a request target: decoded, unambiguous, and
// with one serialisation. Policies see it, routes match it, and backends are
// sent it.
type Target struct {
	// Path holds the decoded segments. A trailing slash is a last segment "";
	// the root path has none.
	Path  []string
	Query []Param
}

// A Param is one parameter of a query, decoded. Bare says that it came without
// an equals sign, which some servers tell from an empty value.
type Param struct {
	Name, Value string
	Bare        bool
}

// Canonical reads a request target in origin form (RFC 9112 section 3.2.1). It
// refuses whatever servers are known to read in different ways: dot segments
// and encoded dots, empty segments, encoded slashes and backslashes, encoded
// control characters, doubly encoded characters, semicolons, backslashes,
// fragments, invalid escapes, and anything that is not UTF-8. For any target it
// accepts, Canonical(t.String()) is t again.
func Canonical(target string) (Target, error) {
	t, f := canonical(target)
	if f != nil {
		return Target{}, f
	}
	return t, nil
}

func canonical(target string) (Target, *fault) {
	if len(target) > maxTarget {
		return Target{}, &fault{http.StatusRequestURITooLong, "the request target is too long", true}
	}
	if target == "" || target[0] != '/' {
		return Target{}, bad("the request target does not begin with a slash")
	}
	for i := range len(target) {
		switch c := target[i]; {
		case c <= ' ' || c >= 0x7f:
			return Target{}, bad("the request target holds a character that must be percent-encoded")
		case c == '#':
			return Target{}, bad("the request target holds a fragment")
		case c == '\\' || c == '"' || c == '<' || c == '>' || c == '^' || c == '`' || c == '{' || c == '}':
			return Target{}, bad("the request target holds a character that URIs do not have")
		}
	}
	path, query, hasQuery := strings.Cut(target, "?")
	var t Target
	var f *fault
	if t.Path, f = canonicalPath(path); f != nil {
		return Target{}, f
	}
	if hasQuery {
		if t.Query, f = parseQuery(query); f != nil {
			return Target{}, f
		}
	}
	// Escapes that are missing are added: what is forwarded keeps to the limit
	// too.
	if len(target) > maxTarget/3 && len(t.String()) > maxTarget {
		return Target{}, &fault{http.StatusRequestURITooLong, "the request target is too long once it is percent-encoded", true}
	}
	return t, nil
}

func canonicalPath(path string) ([]string, *fault) {
	if path == "/" {
		return nil, nil
	}
	if strings.IndexByte(path, ';') >= 0 {
		return nil, bad("the path holds a semicolon")
	}
	if strings.IndexByte(path, '|') >= 0 {
		return nil, bad("the path holds a character that URIs do not have")
	}
	segs := make([]string, 0, strings.Count(path, "/"))
	rest := path[1:]
	for {
		seg, more, found := strings.Cut(rest, "/")
		if seg == "" && found {
			return nil, bad("the path holds an empty segment")
		}
		s, f := decodeSegment(seg)
		if f != nil {
			return nil, f
		}
		segs = append(segs, s)
		if !found {
			return segs, nil
		}
		rest = more
	}
}

// decodeSegment decodes one segment of a path.
func decodeSegment(seg string) (string, *fault) {
	if seg == "." || seg == ".." {
		return "", bad("the path holds a dot segment")
	}
	if strings.IndexByte(seg, '%') < 0 {
		return seg, nil
	}
	out := make([]byte, 0, len(seg))
	for i := 0; i < len(seg); i++ {
		if seg[i] != '%' {
			out = append(out, seg[i])
			continue
		}
		c, ok := http1.Unescape(seg, i)
		if !ok {
			return "", bad("the path holds an invalid percent escape")
		}
		switch {
		case c == '/' || c == '\\':
			return "", bad("the path holds an encoded slash")
		case c == '.':
			return "", bad("the path holds an encoded dot")
		case c == ';':
			return "", bad("the path holds an encoded semicolon")
		case c < ' ' || c == 0x7f:
			return "", bad("the path holds an encoded control character")
		}
		out = append(out, c)
		i += 2
	}
	if !utf8.Valid(out) {
		return "", bad("the path is not UTF-8")
	}
	s := string(out)
	if http1.HasC1(s) {
		return "", bad("the path holds an encoded control character")
	}
	for i := range len(s) {
		if s[i] == '%' {
			if _, twice := http1.Unescape(s, i); twice {
				return "", bad("the path is percent-encoded twice")
			}
		}
	}
	return s, nil
}

// parseQuery reads a query string, of which canonical has checked that it holds
// only characters a target may have.
func parseQuery(q string) ([]Param, *fault) {
	if q == "" {
		return nil, nil
	}
	if strings.IndexByte(q, ';') >= 0 {
		// Some servers split at it, others drop the whole query: a filtered
		// search would become an unfiltered one.
		return nil, bad("the query holds a semicolon")
	}
	n := strings.Count(q, "&") + 1
	if n > maxParams {
		return nil, bad("the query has too many parameters")
	}
	out := make([]Param, 0, n)
	for more := true; more; {
		var pair string
		pair, q, more = strings.Cut(q, "&")
		name, value, eq := strings.Cut(pair, "=")
		p := Param{Bare: !eq}
		var f *fault
		if p.Name, f = decodeParam(name); f != nil {
			return nil, f
		}
		if p.Value, f = decodeParam(value); f != nil {
			return nil, f
		}
		if p.Name == "" {
			return nil, bad("the query holds a parameter without a name")
		}
		out = append(out, p)
	}
	return out, nil
}

func decodeParam(s string) (string, *fault) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '+':
			out = append(out, ' ')
		case '%':
			d, ok := http1.Unescape(s, i)
			if !ok {
				return "", bad("the query holds an invalid percent escape")
			}
			if d < ' ' || d == 0x7f {
				return "", bad("the query holds an encoded control character")
			}
			out = append(out, d)
			i += 2
		default:
			out = append(out, c)
		}
	}
	if !utf8.Valid(out) {
		return "", bad("the query is not UTF-8")
	}
	if v := string(out); !http1.HasC1(v) {
		return v, nil
	}
	return "", bad("the query holds an encoded control character")
}

// Characters that are not escaped when a target is serialised (RFC 3986 section
// 3.3 and 3.4, less those with a meaning in a query). A backslash, a semicolon
// and a slash can not be there.
var pathSafe, querySafe = func() (p, q [256]bool) {
	for c := range 256 {
		b := byte(c)
		alnum := 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
		p[c] = alnum || strings.IndexByte("-._~!$&'()*+,=:@", b) >= 0 && b < 0x80
		q[c] = alnum || strings.IndexByte("-._~!$'()*,:@/|", b) >= 0 && b < 0x80
	}
	return p, q
}()

const hexDigits = "0123456789ABCDEF"

func appendEscaped(dst []byte, s string, safe *[256]bool) []byte {
	for i := range len(s) {
		if c := s[i]; safe[c] {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return dst
}

// AppendPath appends the serialised path to dst.
func AppendPath(dst []byte, path []string) []byte {
	if len(path) == 0 {
		return append(dst, '/')
	}
	for _, s := range path {
		dst = appendEscaped(append(dst, '/'), s, &pathSafe)
	}
	return dst
}

// AppendQuery appends the serialised query to dst, without a question mark.
func AppendQuery(dst []byte, query []Param) []byte {
	for i, p := range query {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = appendEscaped(dst, p.Name, &querySafe)
		if !p.Bare {
			dst = appendEscaped(append(dst, '='), p.Value, &querySafe)
		}
	}
	return dst
}

// String returns the one serialisation of t.
func (t Target) String() string {
	b := AppendPath(make([]byte, 0, 128), t.Path)
	if len(t.Query) > 0 {
		b = AppendQuery(append(b, '?'), t.Query)
	}
	return string(b)
}

// rewritten returns the target that a backend is sent for t: below base, and
// without the first strip segments.
func (t Target) rewritten(strip int, base []string) string {
	b := make([]byte, 0, 128)
	if path := t.Path[strip:]; len(base) == 0 {
		b = AppendPath(b, path)
	} else {
		b = AppendPath(b, base)
		if len(path) > 0 {
			b = AppendPath(b, path)
		}
	}
	if len(t.Query) > 0 {
		b = AppendQuery(append(b, '?'), t.Query)
	}
	return string(b)
}

// canonicalHost reads a Host or :authority value (RFC 9110 section 7.2) into a
// host in lower case, without port, and the port, "" if there is none.
func canonicalHost(v string) (host, port string, f *fault) {
	const wrong = "the Host field is not a host with an optional port"
	if v == "" || len(v) > 255 {
		return "", "", bad(wrong)
	}
	if v[0] == '[' {
		end := strings.IndexByte(v, ']')
		if end < 0 {
			return "", "", bad(wrong)
		}
		a, err := netip.ParseAddr(v[1:end])
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "", "", bad(wrong)
		}
		host, port = a.String(), v[end+1:]
	} else {
		i := strings.IndexByte(v, ':')
		if i < 0 {
			i = len(v)
		}
		host, port = v[:i], v[i:]
		if host == "" {
			return "", "", bad(wrong)
		}
		for j := range len(host) {
			c := host[j]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
				return "", "", bad(wrong)
			}
		}
		host = strings.ToLower(host)
	}
	if port == "" {
		return host, "", nil
	}
	port = port[1:]
	if v[len(v)-len(port)-1] != ':' || port == "" || len(port) > 5 {
		return "", "", bad(wrong)
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return "", "", bad(wrong)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", bad(wrong)
	}
	return host, port, nil
}
