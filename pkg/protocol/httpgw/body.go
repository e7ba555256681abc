package httpgw

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	// readSize is the size of a connection's read buffer to begin with; it
	// grows to the largest head that is allowed when a head needs it.
	readSize = 4 << 10
	// maxChunkLine bounds a chunk-size line. Extensions are refused, so a line
	// is a size of at most 16 digits.
	maxChunkLine = 18
	// maxTrailer bounds a trailer section.
	maxTrailer = 4 << 10
)

// errBody is wrapped by errors for bodies whose framing is broken.
var errBody = errors.New("the request body is malformed")

// errTruncated says that a body ended before its framing said so.
var errTruncated = errors.New("the request body ended early")

// A source reads a connection through a buffer that the head of a request and
// its body share.
type source struct {
	conn  net.Conn
	buf   []byte
	r, w  int // unread bytes are buf[r:w]
	stall time.Duration
	// interrupted stops a body's reads for good: an interrupt must win against
	// a read that is just setting its own deadline.
	interrupted atomic.Bool
}

// arm gives the device time to send the next bytes of a body.
func (s *source) arm() error {
	if err := s.conn.SetReadDeadline(time.Now().Add(s.stall)); err != nil {
		return err
	}
	if s.interrupted.Load() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// fill reads once more into the buffer, making room if there is none. It is the
// only place that reads the connection.
func (s *source) fill() error {
	if s.r == s.w {
		s.r, s.w = 0, 0
	}
	if s.w == len(s.buf) {
		if s.r == 0 {
			return io.ErrShortBuffer
		}
		copy(s.buf, s.buf[s.r:s.w])
		s.w -= s.r
		s.r = 0
	}
	n, err := s.conn.Read(s.buf[s.w:])
	s.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// read is a body's Read: from the buffer, or straight from the connection.
func (s *source) read(p []byte) (int, error) {
	if s.r < s.w {
		n := copy(p, s.buf[s.r:s.w])
		s.r += n
		return n, nil
	}
	if err := s.arm(); err != nil {
		return 0, err
	}
	return s.conn.Read(p)
}

// readByte reads one byte of a body's framing.
func (s *source) readByte() (byte, error) {
	if s.r == s.w {
		if err := s.arm(); err != nil {
			return 0, err
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	b := s.buf[s.r]
	s.r++
	return b, nil
}

// A body is the body of a request being read from a source. It ends with io.EOF
// exactly where the framing says; anything else is an error, and the connection
// is of no more use then.
type body struct {
	src     *source
	left    int64 // of the body, or of the chunk
	chunked bool
	begun   bool // a chunk was read, so the next one follows a CRLF
	err     error
	invite  func() error // sends 100 Continue before the first read
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if f := b.invite; f != nil {
		b.invite = nil
		if err := f(); err != nil {
			b.err = err
			return 0, err
		}
	}
	if b.left == 0 {
		if b.chunked {
			b.err = b.nextChunk()
		} else {
			b.err = io.EOF
		}
		if b.err != nil {
			return 0, b.err
		}
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.src.read(p)
	b.left -= int64(n)
	if err != nil && n == 0 {
		if errors.Is(err, io.EOF) {
			err = errTruncated
		}
		b.err = err
		return 0, err
	}
	if b.left == 0 && !b.chunked {
		b.err = io.EOF
		return n, io.EOF
	}
	return n, nil
}

// nextChunk reads a chunk's size line, and after the last one the trailer
// section (RFC 9112 section 7.1).
func (b *body) nextChunk() error {
	if b.begun {
		if err := b.crlf(); err != nil {
			return err
		}
	}
	b.begun = true
	var n int64
	digits := 0
	for {
		c, err := b.frameByte()
		if err != nil {
			return err
		}
		if c == '\r' {
			break
		}
		v, ok := nibble(c)
		if !ok {
			return errBody // a sign, white space, an extension, a bare LF
		}
		// Leading zeros are refused: they let a size line be of any length.
		if digits == 1 && n == 0 || digits >= maxChunkLine-3 {
			return errBody
		}
		n = n<<4 | int64(v)
		digits++
	}
	if digits == 0 {
		return errBody
	}
	if c, err := b.frameByte(); err != nil {
		return err
	} else if c != '\n' {
		return errBody
	}
	if n > 0 {
		b.left = n
		return nil
	}
	return b.trailer()
}

// trailer reads the trailer section and drops it: no backend of a medical
// device needs one, and each field in it would have to be judged.
func (b *body) trailer() error {
	total := 0
	for {
		line := make([]byte, 0, 64)
		for {
			c, err := b.frameByte()
			if err != nil {
				return err
			}
			if total++; total > maxTrailer {
				return errBody
			}
			if c == '\n' {
				return errBody
			}
			if c == '\r' {
				break
			}
			line = append(line, c)
		}
		if c, err := b.frameByte(); err != nil {
			return err
		} else if c != '\n' {
			return errBody
		}
		if len(line) == 0 {
			return io.EOF
		}
		if _, f := parseField(string(line)); f != nil {
			return errBody
		}
	}
}

func (b *body) crlf() error {
	for _, want := range [...]byte{'\r', '\n'} {
		c, err := b.frameByte()
		if err != nil {
			return err
		}
		if c != want {
			return errBody
		}
	}
	return nil
}

// frameByte reads a byte of framing, where the end of the connection is never
// the end of the body.
func (b *body) frameByte() (byte, error) {
	c, err := b.src.readByte()
	if errors.Is(err, io.EOF) {
		err = errTruncated
	}
	return c, err
}

// done reports whether the body was read to its end.
func (b *body) done() bool { return b.err == io.EOF || !b.chunked && b.left == 0 }
