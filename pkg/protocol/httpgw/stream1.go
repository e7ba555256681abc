package httpgw

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// inline is a request body that is in the connection's buffer whole. It never
// leaves the connection's goroutine.
type inline struct {
	c    *conn1
	left int64
}

// Read implements io.Reader.
func (b *inline) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	src := &b.c.src
	n := copy(p, src.buf[src.r:src.r+int(b.left)])
	src.r += n
	b.left -= int64(n)
	return n, nil
}

// quiesce implements bodyReader.
func (b *inline) quiesce() bool { return b.left == 0 }

// stream1 is a request body that a backend's connection reads while the
// exchange may be over already.
type stream1 struct {
	body body
	conn net.Conn

	mu      sync.Mutex
	reading bool
	closed  bool
	idle    chan struct{} // closed when a read that was interrupted is over
}

// Read implements io.Reader.
func (b *stream1) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return 0, io.ErrClosedPipe
	}
	b.reading = true
	b.mu.Unlock()
	n, err := b.body.Read(p)
	b.mu.Lock()
	b.reading = false
	if b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
	b.mu.Unlock()
	return n, err
}

// through reports whether the body was read to its end, so that nobody reads the
// connection for it any more.
func (b *stream1) through() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.reading && b.body.done()
}

// quiesce implements bodyReader.
func (b *stream1) quiesce() bool {
	b.mu.Lock()
	b.closed = true
	var wait chan struct{}
	if b.reading {
		wait = make(chan struct{})
		b.idle = wait
		b.body.src.interrupted.Store(true)
		b.conn.SetReadDeadline(past)
	}
	b.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return b.body.done()
}

// discard reads what is left, up to a limit, and reports whether it came to the
// end. It is called after quiesce.
func (b *stream1) discard() bool {
	if b.body.invite != nil || b.body.err != nil {
		return false // it was never asked for, or is broken
	}
	if !b.body.chunked && b.body.left > drainMax {
		return false
	}
	n, err := io.Copy(io.Discard, io.LimitReader(&b.body, drainMax+1))
	return err == nil && n <= drainMax && b.body.done()
}

// broken reports whether the framing can not be trusted any more.
func (b *stream1) broken() bool { return b.body.err != nil && b.body.err != io.EOF }

// watchAfter is how long an answer may take before the device is watched for
// going away. Nearly every answer is there sooner, and watching costs a
// goroutine.
const watchAfter = 500 * time.Millisecond

// A watcher reads a connection while its device waits for an answer, to find out
// whether it is still there.
type watcher struct {
	c     *conn1
	timer *time.Timer // made once, set for each request

	mu   sync.Mutex
	on   bool
	done chan struct{} // closed when the reading is over; nil while nobody reads
}

// watch implements answerer.
func (a *answer1) watch() {
	w := &a.c.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = true
	if w.timer == nil {
		w.timer = time.AfterFunc(watchAfter, w.read)
	} else {
		w.timer.Reset(watchAfter)
	}
}

// read is called when the answer is long in coming. While the body is, whoever
// reads that finds out.
func (w *watcher) read() {
	w.mu.Lock()
	if !w.on || w.done != nil {
		w.mu.Unlock()
		return
	}
	if b, ok := w.c.msg.body.(*stream1); ok && !b.through() {
		w.timer.Reset(watchAfter)
		w.mu.Unlock()
		return
	}
	if w.c.limitRead(time.Time{}) != nil {
		w.mu.Unlock()
		return
	}
	done := make(chan struct{})
	w.done = done
	w.mu.Unlock()
	defer close(done)
	err := w.c.src.fill()
	var ne net.Error
	if err != nil && !(errors.As(err, &ne) && ne.Timeout()) && !errors.Is(err, io.ErrShortBuffer) {
		w.c.stopper.Stop()
	}
}

// unwatch implements answerer.
func (a *answer1) unwatch() {
	w := &a.c.watcher
	w.timer.Stop()
	w.mu.Lock()
	w.on = false
	done := w.done
	w.done = nil
	if done != nil {
		a.c.conn.SetReadDeadline(past)
	}
	w.mu.Unlock()
	if done != nil {
		<-done
	}
}
