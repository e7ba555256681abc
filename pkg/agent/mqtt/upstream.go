package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
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
)

// An upstream is a session at the gateway.
type upstream struct {
	port *Port
	conn *tls.Conn
	gone chan struct{} // closed when it has ended
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu   sync.Mutex
	kind byte // of the acknowledgement that is waited for
	id   uint16
	got  chan struct{}
	last error
}

// openUpstream connects as a client whose session is kept (§3.1.2.4): a message
// that was not released yet is known there by its identifier.
func openUpstream(ctx context.Context, conn *tls.Conn, client string, within time.Duration) (*upstream, error) {
	_ = conn.SetDeadline(time.Now().Add(within))
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	defer stop()
	body := appendText(nil, "MQTT")
	body = append(body, 4, 0)
	body = binary.BigEndian.AppendUint16(body, uint16(keepAlive/time.Second))
	r := bufio.NewReaderSize(conn, bufferSize)
	_, err := conn.Write(encode(typeConnect, 0, appendText(body, client)))
	var p *packet
	if err == nil {
		p, err = readPacket(r, maxAnswer, nil)
	}
	switch {
	case err != nil:
	case p.kind != typeConnack || len(p.body) != 2:
		err = errPacket
	case p.body[1] != 0:
		err = fmt.Errorf("the gateway refuses the session (return code %d)", p.body[1])
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	u := &upstream{conn: conn, gone: make(chan struct{})}
	pings, cancel := context.WithCancel(context.Background())
	u.stop = cancel
	u.wg.Go(func() { u.read(r) })
	u.wg.Go(func() { u.ping(pings) })
	return u, nil
}

// Ended implements [store.Session].
func (u *upstream) Ended() <-chan struct{} { return u.gone }

// Close implements [store.Session].
func (u *upstream) Close() {
	u.stop()
	_ = u.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = u.conn.Write(encode(typeDisconnect, 0, nil))
	_ = u.conn.Close()
	u.wg.Wait()
}

func (u *upstream) ping(ctx context.Context) {
	tick := time.NewTicker(keepAlive / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = u.send(ctx, encode(typePingreq, 0, nil))
		case <-u.gone:
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
	default:
		return errPacket
	}
	id, err := p.identifier()
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	// Another one is an answer to what was asked before, on a connection that died.
	if u.got != nil && p.kind == u.kind && id == u.id {
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

// exchange sends a packet and waits for its acknowledgement.
func (u *upstream) exchange(ctx context.Context, packet []byte, kind byte, id uint16) error {
	got := make(chan struct{})
	u.mu.Lock()
	u.kind, u.id, u.got = kind, id, got
	u.mu.Unlock()
	if err := u.send(ctx, packet); err != nil {
		return err
	}
	select {
	case <-got:
		return nil
	case <-u.gone:
		select {
		case <-got:
			return nil
		default:
		}
		return errors.Join(errors.New("the connection ended before the answer"), u.failed())
	case <-ctx.Done():
		return errors.New("there was no answer in time")
	}
}

func (u *upstream) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}
