package http1

import "bytes"

// maxKept is how long a head that is kept may be, in bytes.
const maxKept = 4 << 10

// Heads reads the heads of one connection, one after another. A peer says the same
// thing over and over, and what a line says stays as it is: of a head whose lines
// are those of the one before, but for values of fields, only those values are read.
//
// What is read that way is what [Head.Parse] would have read. The zero value is
// ready.
type Heads struct {
	Head
	raw     []byte   // what Head was read from, as it came; empty if that is not known
	ends    []int    // of its lines in there, line breaks included
	changes []change // of the last Again
}

// A change is a field whose value is another than in the head before.
type change struct {
	at    int // in Header
	value string
	grown int // by how many bytes its line is longer than it was
}

// Parse is [Head.Parse], and keeps what it read for Again.
func (h *Heads) Parse(b []byte, maxFields int, utf8Only bool) error {
	h.Forget()
	if len(b) <= maxKept {
		h.raw = append(h.raw, b...) // before it is written to
		for end := 0; end < len(b)-2; {
			end += bytes.IndexByte(b[end:], '\n') + 1
			h.ends = append(h.ends, end)
		}
	}
	err := h.Head.Parse(b, maxFields, utf8Only)
	if err != nil {
		h.Forget()
	}
	return err
}

// Forget has the next head read whole.
func (h *Heads) Forget() { h.raw, h.ends = h.raw[:0], h.ends[:0] }

// Again reads the head that b begins with and returns its length, empty line
// included, if it differs from the one before in values of fields and in nothing
// else, not even in how it is written. Otherwise, and if it is not there whole, or
// is none, it returns 0 and has done nothing. utf8Only is as it was for Parse.
//
// HeadEnd and Parse come to the same: no line break is in a line that is as it was,
// for that was one line, nor in one that is read up to its first.
func (h *Heads) Again(b []byte, utf8Only bool) int {
	h.changes = h.changes[:0]
	// Whoever reads a head that comes byte by byte asks for each: a long line would be
	// searched and copied as often.
	b = b[:min(len(b), maxKept)]
	switch {
	case len(h.raw) == 0:
		return 0
	case bytes.HasPrefix(b, h.raw):
		return len(h.raw)
	}
	n, from := 0, 0
	for i, end := range h.ends {
		line := h.raw[from:end]
		from = end
		if bytes.HasPrefix(b[n:], line) {
			n += len(line)
			continue
		}
		if i == 0 {
			return 0
		}
		name := len(h.Header[i-1].Name) + 1 // with its colon
		size := bytes.IndexByte(b[n:], '\n') + 1
		if size < name+2 || b[n+size-2] != '\r' || !bytes.Equal(b[n:n+name], line[:name]) {
			return 0
		}
		value, ok := parseValue(string(b[n+name:n+size-2]), utf8Only)
		if !ok {
			return 0
		}
		h.changes = append(h.changes, change{i - 1, value, size - len(line)})
		n += size
	}
	if !bytes.HasPrefix(b[n:], []byte("\r\n")) {
		return 0
	}
	n += 2
	h.take(b[:n])
	return n
}

// take makes the changes to what is known.
func (h *Heads) take(b []byte) {
	h.raw = append(h.raw[:0], b...)
	grown, next := 0, 0
	for i := range h.ends {
		if next < len(h.changes) && h.changes[next].at == i-1 {
			c := h.changes[next]
			h.Header[c.at].Value = c.value
			grown += c.grown
			next++
		}
		h.ends[i] += grown
	}
}

// Differs reports whether the head that Again read last has another value than the
// one before in a field for which which is true.
func (h *Heads) Differs(which func(name string) bool) bool {
	for i := range h.changes {
		if which(h.Header[h.changes[i].at].Name) {
			return true
		}
	}
	return false
}
