package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// keepAlive is what the gateway is told; half of it passes between two pings,
	// and one and a half times without a word of the gateway's is its end.
	keepAlive = 60 * time.Second
	// maxAnswer bounds a packet of the gateway's: acknowledgements are small, and
	// nothing was subscribed to.
	maxAnswer = 1 << 10
	// maxConnack bounds what the gateway says of itself.
	maxConnack = 8 << 10
)

// An upstream is a session at the gateway that is published in.
type upstream struct {
	port  *Port
	level byte
	takes connack // what it said of itself
	conn  *tls.Conn
	gone  chan struct{} // closed when it has ended
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu     sync.Mutex
	kind   byte // of the acknowledgement that is waited for
	id     uint16
	got    chan struct{}
	reason byte // that it says
	last   error
}

// openSession connects with CONNECT and returns what the gateway answered. It
// closes the connection if there is no session; the error is a [refusedError] if the
// gateway said so.
func openSession(ctx context.Context, conn *tls.Conn, r *bufio.Reader, first []byte, level byte, within time.Duration) (a connack, err error) {
	_ = conn.SetDeadline(time.Now().Add(within))
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	defer stop()
	_, err = conn.Write(first)
	var p *packet
	if err == nil {
		p, err = readPacket(r, maxConnack, nil)
	}
	if err == nil {
		a, err = p.connack(level)
	}
	if err == nil && a.code != 0 {
		err = &refusedError{a}
	}
	if err != nil {
		_ = conn.Close()
		return a, err
	}
	return a, conn.SetDeadline(time.Time{})
}

// openUpstream connects as a client whose session is kept (§3.1.2.4): a message
// that was not released yet is known there by its identifier.
func openUpstream(ctx context.Context, conn *tls.Conn, p *Port, level byte) (*upstream, error) {
	c := connect{level: level}
	if level == level5 {
		c.props = properties(nil).with32(propSession, 1<<32-1).with32(propMaxPacket, maxAnswer)
	}
	r := bufio.NewReaderSize(conn, bufferSize)
	takes, err := openSession(ctx, conn, r, c.packet(p.cfg.Device), level, p.cfg.Settings.Store.Wait.D())
	if err != nil {
		return nil, err
	}
	u := &upstream{port: p, level: level, takes: takes, conn: conn, gone: make(chan struct{})}
	pings, cancel := context.WithCancel(context.Background())
	u.stop = cancel
	u.wg.Go(func() { u.read(r) })
	u.wg.Go(func() { ping(pings, u.gone, takes.pause(), u.send) })
	return u, nil
}

// Ended implements [store.Session].
func (u *upstream) Ended() <-chan struct{} { return u.gone }

// Close implements [store.Session].
func (u *upstream) Close() {
	u.stop()
	_ = u.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = u.conn.Write(encode(typeDisconnect, 0, nil)) // in both versions
	_ = u.conn.Close()
	u.wg.Wait()
}

// pause is how long passes between two pings.
func (a *connack) pause() time.Duration {
	every := a.props.number(propKeepAlive, uint32(keepAlive/time.Second))
	return max(time.Duration(every)*time.Second/2, time.Second)
}

func ping(ctx context.Context, gone <-chan struct{}, every time.Duration, send func(context.Context, []byte) error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = send(ctx, encode(typePingreq, 0, nil))
		case <-gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (u *upstream) read(r *bufio.Reader) {
	defer close(u.gone)
	for {
		_ = u.conn.SetReadDeadline(time.Now().Add(keepAlive * 3 / 2))
		p, err := readPacket(r, maxAnswer, nil)
		if err == nil {
			err = u.heard(p)
		}
		if err != nil {
			u.mu.Lock()
			u.last = err
			u.mu.Unlock()
			_ = u.conn.Close()
			return
		}
	}
}

// heard takes a packet of the gateway's.
func (u *upstream) heard(p *packet) error {
	switch p.kind {
	case typePingresp:
		return nil
	case typePuback, typePubrec, typePubcomp:
	case typeDisconnect:
		return fmt.Errorf("the gateway ends the session: %x", p.body)
	default:
		return errPacket
	}
	id, reason, err := p.identifier(u.level)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	// Another one is an answer to what was asked before, on a connection that died.
	if u.got != nil && p.kind == u.kind && id == u.id {
		u.reason = reason
		close(u.got)
		u.got = nil
	}
	return nil
}

// send writes a packet. crypto/tls takes writers one after the other.
func (u *upstream) send(ctx context.Context, packet []byte) error {
	end := time.Now().Add(writeTimeout)
	if t, ok := ctx.Deadline(); ok && t.Before(end) {
		end = t
	}
	_ = u.conn.SetWriteDeadline(end)
	if _, err := u.conn.Write(packet); err != nil {
		return errors.Join(err, u.failed())
	}
	return nil
}

// exchange sends a packet and waits for its acknowledgement, of which it returns the
// reason.
func (u *upstream) exchange(ctx context.Context, packet []byte, kind byte, id uint16) (byte, error) {
	got := make(chan struct{})
	u.mu.Lock()
	u.kind, u.id, u.got = kind, id, got
	u.mu.Unlock()
	if err := u.send(ctx, packet); err != nil {
		return 0, err
	}
	select {
	case <-got:
		return u.answered(), nil
	case <-u.gone:
		select {
		case <-got:
			return u.answered(), nil
		default:
		}
		return 0, errors.Join(errors.New("the connection ended before the answer"), u.failed())
	case <-ctx.Done():
		return 0, errors.New("there was no answer in time")
	}
}

func (u *upstream) answered() byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.reason
}

func (u *upstream) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}
