package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

const (
	// bufferSize holds two of the largest TLS records (RFC 8446 section 5.2).
	bufferSize = 2 * (5 + 16384 + 256)
	// headerSize is that of a TLS record (RFC 8446 section 5.1).
	headerSize = 5
	// askMost is how much of a request may be held back. More is written at once.
	askMost = 64 << 10
)

var (
	buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}
	asks    = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
)

// ErrStale says that a connection was not as it should be when it was to be used
// again: the peer closed it or sent what nobody asked for. Nothing of what was
// written after [Conn.Ask] has been sent.
var ErrStale = errors.New("the connection was closed, or something was left over on it")

// A Conn is a TCP connection with a buffer. One goroutine may read and another
// write, as of any connection; Ask, and until the next Read returned also Write,
// belong to the one that reads.
type Conn struct {
	net.Conn // tcp; as an interface, so that its ways around Read and Write are not ours
	tcp      *net.TCPConn
	raw      syscall.RawConn
	attempt  func(fd uintptr) bool // c.try, made once
	records  bool

	buf  *[]byte // nil while nothing is in it
	r, w int

	// How much of a record is still to come, or how much of its header was seen.
	left   int
	header [headerSize]byte
	have   int

	ask   *[]byte // held back; nil unless asking
	probe bool
	one   [1]byte
	n     int
	err   error
	step  step
}

// step is what try does next.
type step uint8

const (
	reading step = iota
	probing      // and no more
	asking       // probing, and then sending
	sending
)

// New returns a connection over tcp. With records, what is read is handed out a
// TLS record at a time.
func New(tcp *net.TCPConn, records bool) (*Conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: tcp, tcp: tcp, raw: raw, records: records}
	c.attempt = c.try
	return c, nil
}

// Await waits until there is something to read, without a buffer for it before
// there is. It is for whoever waits on top of TLS: the wait is the same, and takes
// less of a stack.
func (c *Conn) Await() error {
	if c.r < c.w {
		return nil
	}
	return c.fill()
}

// Buffered reports whether anything was received that was not read yet.
func (c *Conn) Buffered() bool { return c.r < c.w }

// Ask has what is written from now on held back until the next Read, which looks
// whether the connection is still good if it was used before, and then sends it.
func (c *Conn) Ask(used bool) {
	if c.ask == nil {
		c.ask = asks.Get().(*[]byte)
	}
	c.probe = used
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.ask == nil {
		return c.tcp.Write(p)
	}
	*c.ask = append(*c.ask, p...)
	if len(*c.ask) > askMost {
		if err := c.Send(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Send sends what is held back now, and what is written from now on at once.
func (c *Conn) Send() error {
	if c.ask == nil {
		return nil
	}
	var err error
	if c.probe {
		c.probe, c.step, c.err = false, probing, nil
		if err = c.raw.Read(c.attempt); err == nil {
			err = c.err
		}
	}
	if err == nil {
		_, err = c.tcp.Write(*c.ask)
	}
	c.asked()
	return err
}

// asked gives the buffer of what was held back away.
func (c *Conn) asked() {
	if cap(*c.ask) <= askMost {
		*c.ask = (*c.ask)[:0]
		asks.Put(c.ask)
	}
	c.ask = nil
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.r == c.w {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	avail := (*c.buf)[c.r:c.w]
	n := min(len(p), len(avail))
	if c.records {
		n = c.follow(avail[:n])
	}
	copy(p, avail[:n])
	if c.r += n; c.r == c.w {
		c.release()
	}
	return n, nil
}

func (c *Conn) release() {
	buffers.Put(c.buf)
	c.buf, c.r, c.w = nil, 0, 0
}

// follow returns how much of b belongs to the record that is being read, and
// takes note of it.
func (c *Conn) follow(b []byte) int {
	if c.left == 0 {
		k := copy(c.header[c.have:], b)
		if c.have += k; c.have < headerSize {
			return k
		}
		c.have, c.left = 0, int(c.header[3])<<8|int(c.header[4])
		n := min(c.left, len(b)-k)
		c.left -= n
		return k + n
	}
	n := min(c.left, len(b))
	c.left -= n
	return n
}

// fill reads from the kernel, after sending what is held back.
func (c *Conn) fill() error {
	c.n, c.err, c.step = 0, nil, reading
	if c.ask != nil {
		c.step = sending
		if c.probe {
			c.probe, c.step = false, asking
		}
	}
	err := c.raw.Read(c.attempt)
	if c.ask != nil && err == nil && c.err == nil {
		// The kernel took a part of it: the rest is written as ever, and then the
		// answer waited for.
		if _, err = c.tcp.Write(*c.ask); err == nil {
			c.asked()
			c.step = reading
			err = c.raw.Read(c.attempt)
		}
	}
	if c.ask != nil {
		c.asked()
	}
	if err == nil {
		err = c.err
	}
	if err != nil {
		if c.buf != nil {
			c.release()
		}
		return err
	}
	if c.n == 0 {
		c.release()
		return io.EOF
	}
	c.r, c.w = 0, c.n
	return nil
}

// try is called when the connection may be ready, and reports whether it is done.
// Between its calls the runtime waits for something to arrive; it noted that
// before the first one, so that nothing that arrives after it is missed.
func (c *Conn) try(fd uintptr) bool {
	for {
		switch c.step {
		case probing, asking:
			n, err := ignoringEINTR(syscall.Read, int(fd), c.one[:])
			if n > 0 || err != syscall.EAGAIN {
				c.err = ErrStale
				return true
			}
			if c.step == probing {
				return true
			}
			c.step = sending
		case sending:
			n, err := ignoringEINTR(syscall.Write, int(fd), *c.ask)
			if err != nil && err != syscall.EAGAIN {
				c.err = &net.OpError{Op: "write", Net: "tcp", Addr: c.RemoteAddr(), Err: os.NewSyscallError("write", err)}
				return true
			}
			n = max(n, 0)
			if n < len(*c.ask) {
				*c.ask = append((*c.ask)[:0], (*c.ask)[n:]...)
				return true
			}
			c.asked()
			c.step = reading
			return false
		default:
			if c.buf == nil {
				c.buf = buffers.Get().(*[]byte)
			}
			n, err := ignoringEINTR(syscall.Read, int(fd), *c.buf)
			if err == syscall.EAGAIN {
				c.release()
				return false
			}
			if err != nil {
				c.err = &net.OpError{Op: "read", Net: "tcp", Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", err)}
				return true
			}
			c.n = n
			return true
		}
	}
}

// CloseWrite ends our side of the connection.
func (c *Conn) CloseWrite() error { return c.tcp.CloseWrite() }

// SetLinger says what becomes of unsent bytes when the connection is closed.
func (c *Conn) SetLinger(sec int) error { return c.tcp.SetLinger(sec) }

// SyscallConn gives access to the socket.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.tcp.SyscallConn() }

func ignoringEINTR(f func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := f(fd, p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

var _ net.Conn = (*Conn)(nil)
