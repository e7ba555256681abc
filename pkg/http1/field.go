package http1

import (
	"strings"
	"unicode/utf8"
)

// A SyntaxError says what of a message is not HTTP/1.1.
type SyntaxError struct{ Why string }

func (e *SyntaxError) Error() string { return e.Why }

func wrong(why string) *SyntaxError { return &SyntaxError{why} }

// A Field is one header or trailer field. Name is in lower case.
type Field struct{ Name, Value string }

// A Header is the fields of a message in the order they came.
type Header []Field

// Get returns the value of the first field of a name, which is given in lower
// case, and how many there are.
func (h Header) Get(name string) (value string, n int) {
	for i := range h {
		if h[i].Name == name {
			if n == 0 {
				value = h[i].Value
			}
			n++
		}
	}
	return value, n
}

// Has reports whether there is a field of that name.
func (h Header) Has(name string) bool {
	for i := range h {
		if h[i].Name == name {
			return true
		}
	}
	return false
}

// All returns the values of all fields of a name.
func (h Header) All(name string) (out []string) {
	for i := range h {
		if h[i].Name == name {
			out = append(out, h[i].Value)
		}
	}
	return out
}

// Append appends the fields as they are written in a message. One whose name is
// no token or whose value holds a control character, which could end its line, is
// left out; none such is made here, and nothing less than this would be between
// it and a split message.
func (h Header) Append(b []byte) []byte {
	for i := range h {
		b = appendField(b, h[i].Name, h[i].Value)
	}
	return b
}

// appendField appends one field, its name with capitals.
func appendField(b []byte, name, value string) []byte {
	at := len(b)
	b = append(b, name...)
	capital := true
	for i := at; i < len(b); i++ {
		c := b[i]
		if !tokenChars[c] {
			return b[:at]
		}
		if capital && 'a' <= c && c <= 'z' {
			b[i] = c - ('a' - 'A')
		}
		capital = c == '-'
	}
	if len(b) == at {
		return b
	}
	b = append(b, ':', ' ')
	from := len(b)
	b = append(b, value...)
	for i := from; i < len(b); i++ {
		if c := b[i]; c < ' ' && c != '\t' || c == 0x7f {
			return b[:at]
		}
	}
	return append(b, '\r', '\n')
}

// parseField reads one line of a header or trailer section (RFC 9112 section 5),
// without its line break. Values beyond ASCII must be UTF-8 if utf8Only is set,
// so that everyone reads the same text.
func parseField(line string, utf8Only bool) (Field, *SyntaxError) {
	if line == "" {
		return Field{}, wrong("the header has an empty line in it")
	}
	if line[0] == ' ' || line[0] == '\t' {
		return Field{}, wrong("a header line is folded")
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return Field{}, wrong("a header line has no colon")
	}
	if !IsToken(name) {
		return Field{}, wrong("a header name is not a token")
	}
	if value, ok = parseValue(value, utf8Only); !ok {
		return Field{}, wrong("a header value holds a control character or is not UTF-8")
	}
	return Field{LowerASCII(name), value}, nil
}

// parseValue reads what follows the colon of such a line.
func parseValue(v string, utf8Only bool) (value string, ok bool) {
	v = trim(v)
	clean, ascii := printable(v)
	return v, clean && (ascii || !utf8Only || utf8.ValidString(v))
}

// trim removes the white space that may stand around a value.
func trim(v string) string {
	for v != "" && (v[0] == ' ' || v[0] == '\t') {
		v = v[1:]
	}
	for v != "" && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	return v
}

// CleanValue reports whether a field value has no control characters but tabs
// (RFC 9110 section 5.5) and, beyond ASCII, is UTF-8.
func CleanValue(v string) bool {
	clean, ascii := printable(v)
	return clean && (ascii || utf8.ValidString(v))
}

func printable(v string) (clean, ascii bool) {
	ascii = true
	for i := range len(v) {
		c := v[i]
		if c < ' ' && c != '\t' || c == 0x7f {
			return false, ascii
		}
		ascii = ascii && c < 0x80
	}
	return true, ascii
}

var tokenChars = func() (t [256]bool) {
	for c := range 128 {
		b := byte(c)
		t[c] = 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || isDigit(b) || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
	}
	return t
}()

// IsToken reports whether s is a token (RFC 9110 section 5.6.2).
func IsToken(s string) bool {
	for i := range len(s) {
		if !tokenChars[s[i]] {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// LowerASCII returns s with its ASCII letters in lower case, itself if they are
// that already. Others stay as they are: Unicode has a K and an S of its own that
// fold to ASCII's, and no protocol means them.
func LowerASCII(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return lowered(s, i)
		}
	}
	return s
}

func lowered(s string, from int) string {
	b := []byte(s)
	for i := from; i < len(b); i++ {
		if 'A' <= b[i] && b[i] <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// ParseLength reads a Content-Length: digits only, no sign, no leading zero, no
// list, at most 18 digits, which fits.
func ParseLength(v string) (int64, bool) {
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
