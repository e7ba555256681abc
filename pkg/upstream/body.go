package upstream

import (
	"errors"
	"io"
	"sync"
)

var (
	errBegun  = errors.New("the body has been read")
	errLength = errors.New("the body is not as long as declared")
)

// requestBody is a request's body on its way: it knows whether any of it was
// taken, so that it can be offered to another address if not, and how reading it
// failed. A nil requestBody is the body of a request without one.
type requestBody struct {
	length int64 // as declared; not positive if it is not known

	mu      sync.Mutex
	from    io.ReadCloser
	read    int64
	began   bool
	wanted  bool // it was closed while it could still be offered again
	settled bool // it will not be offered again
	closed  bool
	err     error
}

// Read implements io.Reader for the transport.
func (r *requestBody) Read(p []byte) (int, error) {
	r.mu.Lock()
	r.began = true
	r.mu.Unlock()
	n, err := r.from.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read += int64(n)
	switch {
	case r.length > 0 && (r.read > r.length || errors.Is(err, io.EOF) && r.read < r.length):
		r.fail(errLength)
	case err != nil && !errors.Is(err, io.EOF) && !r.closed:
		r.fail(err)
	}
	return n, err
}

func (r *requestBody) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Close implements io.Closer for the transport, which closes a body also when it
// could not connect. The body is then kept for the next address.
func (r *requestBody) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.began && !r.settled {
		r.wanted = true
		return nil
	}
	return r.close()
}

func (r *requestBody) close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	return r.from.Close()
}

// settle says that the body will not be offered again, and closes it if the
// transport wanted that, or anyhow.
func (r *requestBody) settle(anyhow bool) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = true
	if anyhow || r.wanted {
		_ = r.close() // what was read of it has been sent or will not be
	}
}

// begun reports whether any of the body was asked for.
func (r *requestBody) begun() bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.began
}

// fault returns the body's own error, if it had one.
func (r *requestBody) fault() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
