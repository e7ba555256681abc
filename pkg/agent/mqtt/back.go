package mqtt

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// ahead is how many packets of the device's wait for its way back.
const ahead = 16

// A back is a device's way back: what it subscribes to, and what that brings. It is a
// connection to the gateway of its own, with the device's own session there, whose
// packets are carried as they are. So the gateway says what is subscribed and keeps
// what the device has not taken, and the agent keeps nothing. What the device
// publishes does not go by it, but by the store.
type back struct {
	port   *Port
	to     *device
	client string
	out    chan *packet
	up     atomic.Bool   // there is a session
	began  bool          // by the device's goroutine
	done   chan struct{} // closed when run has ended
	cancel context.CancelFunc
}

func (p *Port) newBack(ctx context.Context, to *device) (*back, context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	name := to.client
	if name == "" {
		name = rand.Text()[:8]
	}
	// Below the device's name, so that no client of one device takes the place of
	// another's, or of the session that is published in.
	return &back{port: p, to: to, client: p.cfg.Device + "/" + name, out: make(chan *packet, ahead), done: make(chan struct{}), cancel: cancel}, ctx
}

// errBehind says that a device asks for more than can wait.
var errBehind = errors.New("the device does not wait for the gateway, which is away")

// pass has a packet carried to the gateway, when that is there.
func (b *back) pass(ctx context.Context, p *packet) error {
	if !b.began {
		b.begin(ctx, nil)
	}
	select {
	case b.out <- p:
		return nil
	default:
	}
	if !b.up.Load() {
		return errBehind
	}
	select {
	case b.out <- p:
		return nil
	case <-time.After(writeTimeout):
		return errBehind
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin starts the way back, on a session if there is one already.
func (b *back) begin(ctx context.Context, s *backSession) {
	b.began = true
	go func() {
		defer close(b.done)
		b.run(ctx, s)
	}()
}

// end ends it, and waits for that.
func (b *back) end() {
	b.cancel()
	if b.began {
		<-b.done
	}
}

type backSession struct {
	conn *tls.Conn
	r    *bufio.Reader
	connack
}

// open connects to the gateway by dial, as long as ctx lets it try.
func (b *back) open(ctx context.Context, dial func(context.Context) (*tls.Conn, error)) (*backSession, error) {
	for {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		r := bufio.NewReaderSize(conn, bufferSize)
		ack, err := openSession(ctx, conn, r, b.to.packet(b.client), b.to.level, b.port.cfg.Settings.Store.Wait.D())
		if err == nil {
			b.port.cfg.Gateway.Served()
			return &backSession{conn, r, ack}, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if refused, ok := errors.AsType[*refusedError](err); ok && !refused.passing(b.to.level) {
			b.port.cfg.Gateway.Served()
			return nil, err
		}
		b.port.cfg.Gateway.Refused(err)
	}
}

// run carries until ctx ends, or the gateway is gone. The device's connection ends
// then too: it learns that it is subscribed to nothing, and connects again.
func (b *back) run(ctx context.Context, s *backSession) {
	late := s == nil
	if late {
		var err error
		if b.port.cfg.Gateway.Failed() != nil {
			b.port.Log.Warn("the device wants to subscribe while the gateway is away, and hears when it is back")
		}
		if s, err = b.open(ctx, b.port.cfg.Gateway.Dial); err != nil {
			if ctx.Err() == nil {
				b.port.Log.Warn("the gateway takes no subscription of the device's", "error", err)
				b.refuse(ctx)
			}
			return
		}
	}
	defer s.conn.Close()
	if late && s.session {
		// It was told that there is none; the truth comes with CONNACK only.
		b.port.Log.Info("the gateway has a session of the device's: its connection ends, so that it comes for it")
		b.to.drop()
		return
	}
	b.up.Store(true)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		b.forth(ctx, s)
	}()
	defer context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Now()) })()
	err := b.read(ctx, s)
	if ctx.Err() == nil {
		b.port.Log.Warn("the way back of the device is lost, and its connection ends with it", "error", err)
		b.port.cfg.Gateway.Refused(err)
		b.to.drop()
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(time.Second))
	b.cancel()
	<-gone
}

// refuse answers what the device subscribes to, at a gateway that has no session for
// it.
func (b *back) refuse(ctx context.Context) {
	for {
		select {
		case p := <-b.out:
			if p.kind != typeSubscribe && p.kind != typeUnsubscribe {
				continue
			}
			answer, err := p.unsubscribed(b.to.level, reasonNotAuthorized)
			if err == nil {
				err = b.to.send(answer)
			}
			if err != nil {
				b.to.end(reasonProtocol)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// forth writes to the gateway: what the device has for it, and that it is there.
func (b *back) forth(ctx context.Context, s *backSession) {
	tick := time.NewTicker(s.pause())
	defer tick.Stop()
	for {
		var p *packet
		select {
		case p = <-b.out:
		case <-tick.C:
			p = &packet{kind: typePingreq}
		case <-ctx.Done():
			// The device said so, or went; with a will it goes by the store.
			_ = s.conn.SetWriteDeadline(time.Now().Add(time.Second))
			for {
				select {
				case p := <-b.out:
					_, _ = s.conn.Write(p.raw())
					continue
				default:
				}
				break
			}
			_, _ = s.conn.Write(encode(typeDisconnect, 0, nil))
			_ = s.conn.Close()
			return
		}
		_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := s.conn.Write(p.raw()); err != nil {
			_ = s.conn.Close() // who reads sees it
			<-ctx.Done()
			return
		}
	}
}

// read carries what the gateway sends to the device.
func (b *back) read(ctx context.Context, s *backSession) error {
	for {
		_ = s.conn.SetReadDeadline(time.Now().Add(3 * s.pause()))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		head, n, err := readHead(s.r)
		if err != nil {
			return whole(err)
		}
		switch head.kind {
		case typePublish, typePubrel, typeSuback, typeUnsuback:
		case typePingresp:
			if n == 0 {
				continue
			}
			return errPacket
		case typeDisconnect:
			return b.disconnected(head, n, s)
		default:
			return fmt.Errorf("%w: type %d", errPacket, head.kind)
		}
		if err := b.to.carry(head, n, s.r); err != nil {
			return err
		}
	}
}

// disconnected reads the gateway's DISCONNECT (version 5 §3.14). That it goes away is
// no matter of the device's, to which the agent is the server; what it does wrong is.
func (b *back) disconnected(head *packet, n int, s *backSession) error {
	if n > maxAnswer {
		return errLong
	}
	head.body = make([]byte, n)
	if _, err := io.ReadFull(s.r, head.body); err != nil {
		return whole(err)
	}
	reason := byte(0)
	if n > 0 {
		reason = head.body[0]
	}
	switch reason {
	case 0, 0x89, 0x8b, reasonSilent, reasonTaken, 0x9c, 0x9d: // busy, shut down, and what is between it and the agent
	default:
		if b.to.level == level5 {
			_ = b.to.send(head.raw())
		}
	}
	return fmt.Errorf("the gateway ends the session (reason %#02x)", reason)
}
