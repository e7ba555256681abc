package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// bufferSize is what is held of one direction: a TLS record.
const bufferSize = 16 << 10

// A half is one end of what is carried: a *net.TCPConn or a *tls.Conn.
type half interface {
	net.Conn
	CloseWrite() error
}

// copyFunc carries one direction until its source ends, which is no error.
type copyFunc func(dst io.Writer, src io.Reader) error

// lastWords is how long a side that takes no more may still speak: what it says is
// mostly why.
const lastWords = 2 * time.Second

// halfOpen is how long a side may be silent after the other has ended its direction:
// a device that was switched off ends like one that has no more to say.
const halfOpen = 5 * time.Minute

// carry carries both directions until both have ended, or one has failed. An end
// is passed on as an end; a failure closes both, the other side by a reset, so
// that a message that was cut off is not taken for a whole one.
func carry(device, far half, up, down copyFunc) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	var over atomic.Bool // one direction has ended
	one := func(dst, src half, copy copyFunc, deaf func()) {
		to := &sink{half: dst}
		err := copy(to, lively{src, &over})
		if err == nil {
			err = dst.CloseWrite()
			over.Store(true)
			_ = dst.SetReadDeadline(time.Now().Add(halfOpen))
		}
		if err == nil || errors.Is(err, net.ErrClosed) {
			return
		}
		mu.Lock()
		if failed == nil {
			failed = err
		}
		mu.Unlock()
		if to.failed && deaf != nil {
			deaf()
			return
		}
		reset(device)
		reset(far)
	}
	wg.Go(func() {
		one(far, device, up, func() { _ = far.SetReadDeadline(time.Now().Add(lastWords)) })
	})
	one(device, far, down, nil)
	wg.Wait()
	return failed
}

// lively is a source that may not be silent for long once the other has ended.
type lively struct {
	half
	over *atomic.Bool
}

func (l lively) Read(p []byte) (int, error) {
	n, err := l.half.Read(p)
	if n > 0 && l.over.Load() {
		_ = l.SetReadDeadline(time.Now().Add(halfOpen))
	}
	return n, err
}

// A sink notes that it was the writing that failed.
type sink struct {
	half
	failed bool
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.half.Write(p)
	s.failed = s.failed || err != nil
	return n, err
}

// reset closes a connection in a way that its peer can tell from an end.
func reset(c half) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	} else if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		// Without the close_notify that an orderly end has (RFC 8446 §6.1).
		_ = t.NetConn().Close()
	}
	_ = c.Close()
}

// plain carries bytes.
func plain(dst io.Writer, src io.Reader) error {
	buf := make([]byte, bufferSize)
	// Not io.Copy: it would use ReadFrom, which takes a larger buffer of its own.
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
