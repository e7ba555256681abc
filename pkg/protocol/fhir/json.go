package fhir

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The strict JSON reader. It accepts less than RFC 8259 allows, and nothing that
// two readers are known to take differently: a member named twice (or twice but
// for the case of letters, which some readers ignore), a member's name with an
// escape in it or anything but printable ASCII, lone surrogates, NUL, invalid
// UTF-8, a byte order mark, numbers that no double can hold, trailing data. FHIR
// needs none of them.

const (
	// maxNumber bounds a number's text, in bytes. FHIR asks for 18 digits.
	maxNumber = 64
	// maxName bounds a member's name, in bytes. The longest in the official examples has 31.
	maxName = 128
	// fewNames is how many members an object may have before their names are
	// kept in a map rather than compared one by one.
	fewNames = 24
)

// The kinds of nodes.
const (
	kindObject = '{'
	kindArray  = '['
	kindString = '"'
	kindNumber = '0'
	kindTrue   = 't'
	kindFalse  = 'f'
	kindNull   = 'n'
)

// A node is one value. Spans are offsets into the document.
type node struct {
	name, nameEnd uint32 // the member's name, without quotes; empty if there is none
	at, end       uint32 // the value; a string's without its quotes
	next          uint32 // the node after this one and all it holds
	kind          byte
	escaped       bool // a string that holds escapes
}

// A document is a text of JSON, read: the values in the order of the text, each
// followed by what it holds.
type document struct {
	data  []byte
	nodes []node
	// replaced holds strings that are written in another form than they were
	// read, by their nodes.
	replaced map[int]string
}

// readJSON reads a whole document. What it refuses, it refuses with 400, and
// with 413 what is beyond the limits.
func readJSON(data []byte, lim *Limits) (document, *Refusal) {
	if uint64(len(data)) > 1<<31 {
		return document{}, refuse(http.StatusRequestEntityTooLarge, "the body is too large")
	}
	r := jsonReader{data: data, lim: lim}
	// Values are seldom shorter than 24 bytes with their names; the slice grows
	// where they are, up to the limit.
	r.nodes = make([]node, 0, min(len(data)/24+8, lim.Nodes))
	i := r.value(r.space(0), 0, 0, 0)
	if i >= 0 {
		if i = r.space(i); i < len(data) {
			i = r.fail(i, "has data after its end")
		}
	}
	if i < 0 {
		return document{}, &Refusal{r.status, codeOf(r.status), fmt.Sprintf("the JSON body %s (at byte %d)", r.why, r.at)}
	}
	return document{data: data, nodes: r.nodes}, nil
}

// A jsonReader reads one document. Its methods return where they stopped, or -1
// when they failed.
type jsonReader struct {
	data  []byte
	lim   *Limits
	nodes []node
	names []nameHash // of the objects being read, innermost last

	status int
	why    string
	at     int
}

type nameHash struct{ hash, at, end uint32 }

func (r *jsonReader) fail(at int, why string) int {
	r.status, r.why, r.at = http.StatusBadRequest, why, at
	return -1
}

func (r *jsonReader) excess(at int, why string) int {
	r.status, r.why, r.at = http.StatusRequestEntityTooLarge, why, at
	return -1
}

func (r *jsonReader) space(i int) int {
	for i < len(r.data) {
		switch r.data[i] {
		case ' ', '\n', '\r', '\t':
			i++
		default:
			return i
		}
	}
	return i
}

// value reads the value that begins at i, of the member with the name given.
func (r *jsonReader) value(i, depth int, name, nameEnd uint32) int {
	if i >= len(r.data) {
		return r.fail(i, "ends early")
	}
	if len(r.nodes) >= r.lim.Nodes {
		return r.excess(i, "holds too many values")
	}
	me := len(r.nodes)
	n := node{name: name, nameEnd: nameEnd, at: uint32(i), kind: r.data[i]}
	r.nodes = append(r.nodes, n)
	end := -1
	switch c := r.data[i]; {
	case c == '"':
		var escaped bool
		if end, escaped = r.str(i); end >= 0 {
			r.nodes[me].at++
			r.nodes[me].escaped = escaped
			r.nodes[me].end = uint32(end - 1)
			r.nodes[me].next = uint32(me + 1)
			return end
		}
	case c == '{':
		end = r.object(i, depth+1)
	case c == '[':
		end = r.array(i, depth+1)
	case c == '-' || '0' <= c && c <= '9':
		r.nodes[me].kind = kindNumber
		end = r.number(i)
	case c == 't':
		end = r.word(i, "true")
	case c == 'f':
		end = r.word(i, "false")
	case c == 'n':
		end = r.word(i, "null")
	default:
		return r.fail(i, "has something that is no value")
	}
	if end < 0 {
		return -1
	}
	r.nodes[me].end = uint32(end)
	r.nodes[me].next = uint32(len(r.nodes))
	return end
}

func (r *jsonReader) word(i int, w string) int {
	if len(r.data)-i < len(w) || string(r.data[i:i+len(w)]) != w {
		return r.fail(i, "has something that is no value")
	}
	return i + len(w)
}

func (r *jsonReader) array(i, depth int) int {
	if depth > r.lim.Depth {
		return r.excess(i, "is nested too deeply")
	}
	i = r.space(i + 1)
	if i < len(r.data) && r.data[i] == ']' {
		return i + 1
	}
	for {
		if i = r.value(i, depth, 0, 0); i < 0 {
			return -1
		}
		if i = r.space(i); i >= len(r.data) {
			return r.fail(i, "ends early")
		}
		switch r.data[i] {
		case ']':
			return i + 1
		case ',':
			i = r.space(i + 1)
		default:
			return r.fail(i, "lacks a comma")
		}
	}
}

func (r *jsonReader) object(i, depth int) int {
	if depth > r.lim.Depth {
		return r.excess(i, "is nested too deeply")
	}
	base := len(r.names)
	defer func() { r.names = r.names[:base] }()
	var many map[string]struct{}
	i = r.space(i + 1)
	if i < len(r.data) && r.data[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(r.data) {
			return r.fail(i, "ends early")
		}
		if r.data[i] != '"' {
			return r.fail(i, "lacks a member's name")
		}
		at := i + 1
		end, hash := r.memberName(at)
		if end < 0 {
			return -1
		}
		for _, k := range r.names[base:] {
			if k.hash == hash && sameName(r.data[k.at:k.end], r.data[at:end]) {
				return r.fail(at, "has a member twice")
			}
		}
		if many == nil && len(r.names)-base < fewNames {
			r.names = append(r.names, nameHash{hash, uint32(at), uint32(end)})
		} else {
			if many == nil {
				many = make(map[string]struct{})
			}
			k := strings.ToLower(string(r.data[at:end]))
			if _, dup := many[k]; dup {
				return r.fail(at, "has a member twice")
			}
			many[k] = struct{}{}
		}
		if i = r.space(end + 1); i >= len(r.data) || r.data[i] != ':' {
			return r.fail(i, "lacks a colon")
		}
		if i = r.value(r.space(i+1), depth, uint32(at), uint32(end)); i < 0 {
			return -1
		}
		if i = r.space(i); i >= len(r.data) {
			return r.fail(i, "ends early")
		}
		switch r.data[i] {
		case '}':
			return i + 1
		case ',':
			i = r.space(i + 1)
		default:
			return r.fail(i, "lacks a comma")
		}
	}
}

// memberName reads a member's name that begins at i, and returns where its
// closing quote is and a hash that does not depend on case.
func (r *jsonReader) memberName(i int) (end int, hash uint32) {
	h := uint32(2166136261)
	for j := i; j < len(r.data); j++ {
		c := r.data[j]
		switch {
		case c == '"':
			return j, h
		case c == '\\' || c < ' ' || c > '~':
			return r.fail(j, "has a member whose name is not plain ASCII"), 0
		case j-i >= maxName:
			return r.excess(j, "has a member with too long a name"), 0
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		h = bits.RotateLeft32(h, 5) ^ uint32(c)
		h *= 0x9E3779B1
	}
	return r.fail(len(r.data), "ends early"), 0
}

// sameName reports whether two names are equal but for case.
func sameName(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if x != y && (x^y != 0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// str reads the string whose opening quote is at i.
func (r *jsonReader) str(i int) (end int, escaped bool) {
	data := r.data
	for j := i + 1; j < len(data); {
		c := data[j]
		switch {
		case c == '"':
			return j + 1, escaped
		case c == '\\':
			escaped = true
			if j = r.escape(j); j < 0 {
				return -1, false
			}
		case c < ' ':
			return r.fail(j, "has a control character in a string"), false
		case c < utf8.RuneSelf:
			j++
		default:
			_, n := utf8.DecodeRune(data[j:])
			if n == 1 {
				return r.fail(j, "is not UTF-8"), false
			}
			j += n
		}
	}
	return r.fail(len(data), "ends early"), false
}

// escape checks the escape at i and returns where it ends.
func (r *jsonReader) escape(i int) int {
	if i+1 >= len(r.data) {
		return r.fail(i, "ends early")
	}
	switch r.data[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		v, ok := hex4(r.data, i+2)
		switch {
		case !ok:
			return r.fail(i, "has an invalid escape")
		case v == 0:
			return r.fail(i, "has a NUL in a string")
		case v < 0xD800 || v > 0xDFFF:
			return i + 6
		case v < 0xDC00 && i+8 <= len(r.data) && r.data[i+6] == '\\' && r.data[i+7] == 'u':
			if w, ok := hex4(r.data, i+8); ok && 0xDC00 <= w && w <= 0xDFFF {
				return i + 12
			}
		}
		return r.fail(i, "has half a surrogate pair")
	}
	return r.fail(i, "has an invalid escape")
}

func hex4(data []byte, i int) (rune, bool) {
	if len(data) < i+4 {
		return 0, false
	}
	var v [2]byte
	if _, err := hex.Decode(v[:], data[i:i+4]); err != nil {
		return 0, false
	}
	return rune(binary.BigEndian.Uint16(v[:])), true
}

func (r *jsonReader) number(i int) int {
	j := i
	digits := func() bool {
		k := j
		for j < len(r.data) && '0' <= r.data[j] && r.data[j] <= '9' {
			j++
		}
		return j > k
	}
	if r.data[j] == '-' {
		j++
	}
	if j < len(r.data) && r.data[j] == '0' {
		j++
	} else if !digits() {
		return r.fail(i, "has a malformed number")
	}
	if j < len(r.data) && r.data[j] == '.' {
		if j++; !digits() {
			return r.fail(i, "has a malformed number")
		}
	}
	exponent := j < len(r.data) && r.data[j]|0x20 == 'e'
	if exponent {
		if j++; j < len(r.data) && (r.data[j] == '+' || r.data[j] == '-') {
			j++
		}
		if !digits() {
			return r.fail(i, "has a malformed number")
		}
	}
	if j < len(r.data) && '0' <= r.data[j] && r.data[j] <= '9' {
		return r.fail(i, "has a malformed number") // a leading zero
	}
	if j-i > maxNumber {
		return r.excess(i, "has too long a number")
	}
	if exponent {
		if _, err := strconv.ParseFloat(string(r.data[i:j]), 64); err != nil {
			return r.fail(i, "has a number out of range")
		}
	}
	return j
}
