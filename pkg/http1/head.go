package http1

import (
	"bytes"
	"strings"
)

// HeadEnd returns the length of the head that b begins with, empty line
// included, or 0 if it is not there whole; seen says how much of b an earlier
// call has looked at. It finds faults that make waiting for the rest pointless.
func HeadEnd(b []byte, seen int) (int, *SyntaxError) {
	// Line ends may straddle what was seen before.
	for i := max(0, seen-3); ; {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return 0, nil
		}
		j += i
		if j == 0 || b[j-1] != '\r' {
			return 0, wrong("a line ends with LF instead of CRLF")
		}
		if j == 1 {
			return 0, wrong("the message begins with an empty line")
		}
		if j >= 3 && b[j-2] == '\n' {
			return j + 1, nil
		}
		i = j + 1
	}
}

// A Head is the first line of a message and its fields.
type Head struct {
	Line   string
	Header Header
}

// Parse reads a head, which b holds whole with the empty line at its end, and
// reuses h.Header's memory; the strings are of a copy of b and stay good. b is
// written to: names of fields become lower case.
//
// It returns ErrFields if there are more than maxFields, and otherwise a
// *SyntaxError.
func (h *Head) Parse(b []byte, maxFields int, utf8Only bool) error {
	lowerNames(b)
	// One copy; every string below is a part of it.
	s := string(b[:len(b)-2])
	line, rest, ok := strings.Cut(s, "\r\n")
	if !ok {
		return wrong("the first line has no end")
	}
	h.Line, h.Header = line, h.Header[:0]
	for rest != "" {
		if line, rest, ok = strings.Cut(rest, "\r\n"); !ok {
			return wrong("a header line has no end")
		}
		if len(h.Header) >= maxFields {
			return ErrFields
		}
		f, err := parseField(line, utf8Only)
		if err != nil {
			return err
		}
		h.Header = append(h.Header, f)
	}
	return nil
}

// ErrFields says that a message has more fields than it may.
var ErrFields error = wrong("the message has too many header fields")

// lowerNames puts what stands before the first colon of each line but the first
// into lower case, in place. What is no name is refused later all the same.
func lowerNames(b []byte) {
	i := bytes.IndexByte(b, '\n')
	for i >= 0 && i+1 < len(b) {
		i++
		for ; i < len(b) && b[i] != ':' && b[i] != '\n'; i++ {
			if c := b[i]; 'A' <= c && c <= 'Z' {
				b[i] = c + ('a' - 'A')
			}
		}
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return
		}
		i += j
	}
}

// A Status is a status line (RFC 9112 section 4).
type Status struct {
	Minor int // of the version: 0 or 1
	Code  int // 100 to 599
}

// ParseStatus reads a status line. Its reason is checked and dropped. The blank
// before a reason that is not there may be missing, as it is from many servers.
func ParseStatus(line string) (Status, *SyntaxError) {
	var st Status
	switch {
	case strings.HasPrefix(line, "HTTP/1.1 "):
		st.Minor = 1
	case strings.HasPrefix(line, "HTTP/1.0 "):
	default:
		return st, wrong("the status line does not begin with a version of HTTP/1")
	}
	rest := line[9:]
	if len(rest) < 3 || !isDigit(rest[0]) || !isDigit(rest[1]) || !isDigit(rest[2]) || len(rest) > 3 && rest[3] != ' ' {
		return st, wrong("the status is not three digits")
	}
	st.Code = int(rest[0]-'0')*100 + int(rest[1]-'0')*10 + int(rest[2]-'0')
	if st.Code < 100 || st.Code > 599 {
		return st, wrong("the status is none that HTTP has")
	}
	if clean, _ := printable(rest[3:]); !clean {
		return st, wrong("the reason holds a control character")
	}
	return st, nil
}

// A Framing is what a head says of the body that follows it (RFC 9112 section 6).
type Framing struct {
	Chunked bool
	// Length is that of a body that is not chunked. It is 0 where a request has
	// none, and -1 where nothing is said.
	Length int64
}

// Framing reads Content-Length and Transfer-Encoding of a message of the minor
// version. Where the RFC lets a recipient choose how to get over an ambiguity, it
// is an error.
func (h Header) Framing(minor int) (Framing, *SyntaxError) {
	cl, ncl := h.Get("content-length")
	te, nte := h.Get("transfer-encoding")
	switch {
	case ncl > 0 && nte > 0:
		return Framing{}, wrong("the message has both Content-Length and Transfer-Encoding")
	case nte > 1:
		return Framing{}, wrong("the message has more than one Transfer-Encoding")
	case nte == 1:
		if minor == 0 {
			return Framing{}, wrong("an HTTP/1.0 message has a Transfer-Encoding")
		}
		if LowerASCII(te) != "chunked" {
			return Framing{}, wrong("the Transfer-Encoding is not exactly chunked")
		}
		return Framing{Chunked: true, Length: -1}, nil
	case ncl > 1:
		return Framing{}, wrong("the message has more than one Content-Length")
	case ncl == 1:
		n, ok := ParseLength(cl)
		if !ok {
			return Framing{}, wrong("the Content-Length is not a plain decimal number")
		}
		return Framing{Length: n}, nil
	}
	return Framing{Length: -1}, nil
}
