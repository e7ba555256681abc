package httpgw

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// readSize is the size of a connection's read buffer to begin with; it grows to
// the largest head that is allowed when a head needs it.
const readSize = 4 << 10

// errBody is wrapped by errors for bodies whose framing is broken.
var errBody = errors.New("the request body is malformed")

// errTruncated says that a body ended before its framing said so, or stopped
// coming: to whoever waits for it that is the same.
var errTruncated = errors.New("the request body ended early")

// sources are read buffers that are in no use: a connection has one only while
// it has something in it.
var sources = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}

// A source reads a connection through a buffer that the head of a request and
// its body share.
type source struct {
	conn  net.Conn
	buf   []byte
	usual *[]byte // buf, while it is of the usual size and from sources
	r, w  int     // unread bytes are buf[r:w]
	stall time.Duration
	one   [1]byte
	// interrupted stops a body's reads for good: an interrupt must win against
	// a read that is just setting its own deadline.
	interrupted atomic.Bool
}

// wait waits for the first byte of a request without holding a buffer for it:
// most of the time most connections are idle.
func (s *source) wait() error {
	s.release()
	n, err := s.conn.Read(s.one[:])
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return err
	}
	s.obtain()
	s.buf[0] = s.one[0]
	s.r, s.w = 0, 1
	return nil
}

// obtain gets a buffer, if there is none.
func (s *source) obtain() {
	if s.buf == nil {
		s.usual = sources.Get().(*[]byte)
		s.buf, s.r, s.w = *s.usual, 0, 0
	}
}

// release gives the buffer away, in which nothing is left.
func (s *source) release() {
	if s.usual != nil {
		sources.Put(s.usual)
	}
	s.buf, s.usual, s.r, s.w = nil, nil, 0, 0
}

// grow makes the buffer one of n bytes, with what is unread in it.
func (s *source) grow(n int) {
	larger := make([]byte, n)
	w := copy(larger, s.buf[s.r:s.w])
	s.release()
	s.buf, s.w = larger, w
}

// shrink goes back to a buffer of the usual size, into which what is unread fits.
func (s *source) shrink() {
	large := s.buf[s.r:s.w]
	s.release()
	s.obtain()
	s.w = copy(s.buf, large)
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

// fill reads once more into the buffer, making room if there is none. It and
// wait are the only places that read what is not a body.
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

// A body is the body of a request being read from a source. It ends with io.EOF
// exactly where the framing says; anything else is an error, and the connection
// is of no more use then.
type body struct {
	src     *source
	left    int64 // of the body; of one in chunks, the content in src's buffer
	chunked bool
	chunks  http1.Chunks
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
		b.err = errTruncated
		return 0, b.err
	}
	if b.left == 0 && !b.chunked {
		b.err = io.EOF
		return n, io.EOF
	}
	return n, nil
}

// nextChunk reads framing until content follows it in the buffer. The trailer
// section is checked and dropped: no backend of a medical device needs one, and
// each field in it would have to be judged.
func (b *body) nextChunk() error {
	s := b.src
	for {
		skip, n, err := b.chunks.Next(s.buf[s.r:s.w])
		if err != nil {
			return errBody
		}
		s.r += skip
		if b.chunks.Done() {
			return io.EOF
		}
		if n > 0 {
			b.left = int64(n)
			return nil
		}
		if s.arm() != nil || s.fill() != nil {
			return errTruncated
		}
	}
}

// done reports whether the body was read to its end.
func (b *body) done() bool { return b.err == io.EOF || !b.chunked && b.left == 0 }
