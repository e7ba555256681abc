package http1

const (
	// maxDigits bounds a chunk's size, which then fits.
	maxDigits = 15
	// maxExtension bounds what may follow a size, where anything may.
	maxExtension = 256
	// maxTrailer bounds a trailer section in bytes.
	maxTrailer = 4 << 10
	// maxTrailerFields bounds the number of its fields.
	maxTrailerFields = 64
)

// A Chunks reads the framing of a chunked body (RFC 9112 section 7.1). It is
// handed the body's bytes in pieces as they come and says which of them are
// content; it holds nothing but its place in the framing. The zero value is at
// the beginning of a body.
type Chunks struct {
	// Lenient takes what servers write and no device needs to: extensions, which
	// are dropped, leading zeros, and white space behind a size.
	Lenient bool
	// Trailer is the trailer section, once Done.
	Trailer Header

	state  chunkState
	size   int64 // of the chunk, as far as its digits were read
	digits int
	left   int64 // of the chunk's content
	ext    int
	line   []byte // of the trailer section
	total  int    // bytes of the trailer section
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkBlank
	chunkExtension
	chunkSizeLF
	chunkContent
	chunkCR
	chunkLF
	chunkTrailer
	chunkTrailerLF
	chunkDone
)

// Done reports whether the body has ended.
func (c *Chunks) Done() bool { return c.state == chunkDone }

var errChunks = wrong("the chunks of the body are malformed")

// Next takes bytes of the body from the front of p. It returns how many bytes of
// framing stand there before content, and how much content follows them; the
// caller goes on behind both. With no content and all of p taken, more is to be
// read, unless the body is Done.
func (c *Chunks) Next(p []byte) (framing int, content int, err error) {
	for i, b := range p {
		switch c.state {
		case chunkContent:
			n := int(min(c.left, int64(len(p)-i)))
			if c.left -= int64(n); c.left == 0 {
				c.state = chunkCR
			}
			return i, n, nil
		case chunkDone:
			return i, 0, nil
		}
		if !c.step(b) {
			return 0, 0, errChunks
		}
	}
	return len(p), 0, nil
}

// step takes one byte of framing.
func (c *Chunks) step(b byte) bool {
	switch c.state {
	case chunkSize:
		if v, ok := nibble(b); ok {
			// Leading zeros let a size line be of any length.
			if !c.Lenient && c.digits == 1 && c.size == 0 || c.digits == maxDigits {
				return false
			}
			c.size = c.size<<4 | int64(v)
			c.digits++
			return true
		}
		switch {
		case c.digits == 0:
			return false // a sign, white space, nothing
		case b == '\r':
			c.state = chunkSizeLF
			return true
		case c.Lenient && b == ';':
			c.state, c.ext = chunkExtension, 0
			return true
		case c.Lenient && blank(b):
			c.state, c.ext = chunkBlank, 1
			return true
		}
		return false
	case chunkBlank:
		// Nothing but an extension or the line's end may follow: "1 1" is read as 1
		// by some and as 11 by others.
		switch {
		case b == '\r':
			c.state = chunkSizeLF
			return true
		case b == ';':
			c.state = chunkExtension
			return true
		}
		c.ext++
		return c.ext <= maxExtension && blank(b)
	case chunkExtension:
		if b == '\r' {
			c.state = chunkSizeLF
			return true
		}
		c.ext++
		return c.ext <= maxExtension && (b >= ' ' || b == '\t') && b != 0x7f
	case chunkSizeLF:
		if b != '\n' {
			return false
		}
		if c.size == 0 {
			c.state = chunkTrailer
			return true
		}
		c.state, c.left, c.size, c.digits = chunkContent, c.size, 0, 0
		return true
	case chunkCR:
		c.state = chunkLF
		return b == '\r'
	case chunkLF:
		c.state = chunkSize
		return b == '\n'
	case chunkTrailer:
		if c.total++; c.total > maxTrailer || b == '\n' {
			return false
		}
		if b == '\r' {
			c.state = chunkTrailerLF
			return true
		}
		c.line = append(c.line, b)
		return true
	case chunkTrailerLF:
		if b != '\n' {
			return false
		}
		if len(c.line) == 0 {
			c.state = chunkDone
			return true
		}
		f, err := parseField(string(c.line), !c.Lenient)
		if err != nil || len(c.Trailer) == maxTrailerFields {
			return false
		}
		c.Trailer, c.line, c.state = append(c.Trailer, f), c.line[:0], chunkTrailer
		return true
	}
	return false
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

func nibble(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// AppendChunk appends the line that begins a chunk of n bytes.
func AppendChunk(b []byte, n int) []byte {
	const digits = "0123456789abcdef"
	shift := 60
	for shift > 0 && n>>shift == 0 {
		shift -= 4
	}
	for ; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return append(b, '\r', '\n')
}
