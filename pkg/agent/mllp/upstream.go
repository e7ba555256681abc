package mllp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"time"
)

// An upstream is a connection to the gateway. One goroutine reads it for as long as
// it lives, so that an end is seen when it comes and not with the next message.
type upstream struct {
	port *Port
	conn *tls.Conn
	gone chan struct{} // closed when it has ended
	wg   sync.WaitGroup

	mu   sync.Mutex
	id   string // of the message whose answer is waited for
	got  chan *message
	last error
}

func newUpstream(p *Port, conn *tls.Conn) *upstream {
	u := &upstream{port: p, conn: conn, gone: make(chan struct{})}
	u.wg.Go(func() { u.read(int(p.cfg.Settings.Store.Message)) })
	return u
}

// Ended implements [store.Session].
func (u *upstream) Ended() <-chan struct{} { return u.gone }

// Close implements [store.Session].
func (u *upstream) Close() {
	_ = u.conn.Close()
	u.wg.Wait()
}

func (u *upstream) read(most int) {
	defer close(u.gone)
	r := bufio.NewReaderSize(u.conn, bufferSize)
	for {
		body, err := readFrame(r, most, nil)
		var m *message
		if err == nil {
			m, err = parse(body)
		}
		if err != nil {
			u.mu.Lock()
			u.last = err
			u.mu.Unlock()
			_ = u.conn.Close()
			return
		}
		if !u.awaited(m) {
			u.port.later(m)
		}
	}
}

// awaited hands an answer to who waits for it, and reports whether somebody does.
func (u *upstream) awaited(m *message) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if m.answer == nil || u.got == nil || m.answer.id != u.id {
		return false
	}
	u.got <- m
	u.got = nil
	return true
}

// exchange sends a message and, if one was asked for, returns its answer.
func (u *upstream) exchange(ctx context.Context, m *message, asked bool) (*message, error) {
	got := make(chan *message, 1)
	u.mu.Lock()
	if u.id, u.got = m.id(), got; !asked {
		u.got = nil
	}
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.got = nil
		u.mu.Unlock()
	}()
	end, _ := ctx.Deadline()
	_ = u.conn.SetWriteDeadline(end)
	defer context.AfterFunc(ctx, func() { _ = u.conn.SetWriteDeadline(time.Now()) })()
	if _, err := u.conn.Write(frame(m.body)); err != nil {
		return nil, errors.Join(err, u.failed())
	}
	if !asked {
		return nil, nil
	}
	select {
	case a := <-got:
		return a, nil
	case <-u.gone:
		select {
		case a := <-got:
			return a, nil
		default:
		}
		return nil, errors.Join(errors.New("the connection ended before the answer"), u.failed())
	case <-ctx.Done():
		return nil, errors.New("there was no answer in time")
	}
}

func (u *upstream) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}
