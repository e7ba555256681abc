package mqtt

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/agent/relay"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
	"github.com/anteroom-iomt/anteroom/pkg/agent/store"
)

const (
	// connectWithin is how long a device has for its first packet.
	connectWithin = 20 * time.Second
	writeTimeout  = 30 * time.Second
	bufferSize    = 4 << 10
	// fleeting is how many messages of quality 0 wait for their turn.
	fleeting = 16
	// headRoom is what a packet may have beside the message: topic and identifier.
	headRoom = 64<<10 + 16
)

// Config is what a [Port] is made from. Every field is required.
type Config struct {
	Settings settings.Forward
	Dir      string // of what is stored
	Device   string // whose it is, and by what id the gateway knows the agent's session
	Gateway  *relay.Gateway
	Log      *slog.Logger
	Clock    func() time.Time
}

// A Port takes what a device publishes, and publishes it at the gateway.
type Port struct {
	*store.Port[*message]
	cfg Config

	mu      sync.Mutex
	clients map[string]net.Conn
	bulky   atomic.Bool // a large message of quality 0 waits
}

// Open opens the store and listens for the device.
func Open(cfg Config) (*Port, error) {
	p := &Port{cfg: cfg, clients: map[string]net.Conn{}}
	var err error
	p.Port, err = store.Open(store.Config{
		Settings: cfg.Settings, Dir: cfg.Dir, Device: cfg.Device, Most: int64(p.most()), Errands: fleeting, Gateway: cfg.Gateway, Log: cfg.Log, Clock: cfg.Clock,
	}, p)
	return p, err
}

func (p *Port) most() int { return int(p.cfg.Settings.Store.Message) + headRoom }

// Serve implements [store.Protocol].
func (p *Port) Serve(ctx context.Context, conn *net.TCPConn) {
	r := bufio.NewReaderSize(conn, bufferSize)
	room := p.Room(ctx, conn)
	defer room.Give()
	c, err := p.welcome(conn, r, room)
	if err != nil {
		p.Log.Warn("a connection of the device's is refused", "error", err)
		return
	}
	err = p.listen(conn, r, room, c)
	p.leave(c.client, conn)
	if err == nil { // DISCONNECT
		return
	}
	if !errors.Is(err, io.EOF) && ctx.Err() == nil {
		p.Log.Warn("a connection of the device's broke off", "error", err)
	}
	// §3.1.2.5: the will is published when the device went without a word; it did
	// not if it was the agent that ended.
	if c.will != nil && ctx.Err() == nil {
		if err := p.take(c.client, c.will, 0, false); err != nil {
			p.Log.Error("the device's will can not be stored", "error", err)
		}
	}
}

// welcome reads CONNECT and answers it.
func (p *Port) welcome(conn net.Conn, r *bufio.Reader, room *store.Room) (c connect, err error) {
	_ = conn.SetDeadline(time.Now().Add(connectWithin))
	// Whoever speaks something else is not waited for.
	if b, err := r.Peek(1); err != nil || b[0] != typeConnect<<4 {
		return c, errors.Join(err, errPacket)
	}
	first, err := readPacket(r, 2*headRoom, room)
	if err != nil {
		return c, err
	}
	if c, err = first.connect(); err != nil {
		return c, err
	}
	room.Give()
	if c.level != 4 {
		// §3.1.2.2, and what version 5 has for it (§3.2.2.2 there).
		answer := []byte{typeConnack << 4, 2, 0, 1}
		if c.level == 5 {
			answer = []byte{typeConnack << 4, 3, 0, 0x84, 0}
		}
		_, _ = conn.Write(answer)
		return c, fmt.Errorf("the device speaks another version of MQTT (level %d) than 3.1.1; without a store it is carried as it is", c.level)
	}
	p.mu.Lock()
	was := p.clients[c.client]
	if c.client != "" {
		p.clients[c.client] = conn
	}
	p.mu.Unlock()
	if was != nil {
		_ = was.Close() // §3.1.4: the same client again
	}
	// Without a session: there are no subscriptions that one could hold.
	_, err = conn.Write([]byte{typeConnack << 4, 2, 0, 0})
	return c, err
}

func (p *Port) leave(client string, conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients[client] == conn {
		delete(p.clients, client)
	}
}

// listen serves a device until it disconnects, which is no error.
func (p *Port) listen(conn net.Conn, r *bufio.Reader, room *store.Room, c connect) error {
	for {
		_ = conn.SetReadDeadline(time.Time{})
		if c.keepAlive > 0 {
			// §3.1.2.10: one and a half times of it.
			_ = conn.SetReadDeadline(time.Now().Add(time.Duration(c.keepAlive) * 1500 * time.Millisecond))
		}
		in, err := readPacket(r, p.most(), room)
		if err != nil {
			return err
		}
		if in.kind == typeDisconnect && len(in.body) == 0 {
			return nil
		}
		answer, err := p.answer(c.client, in)
		room.Give()
		if err != nil {
			return err
		}
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := conn.Write(answer); err != nil {
			return err
		}
	}
}

// answer does what a packet asks for, and returns what the device hears.
func (p *Port) answer(client string, in *packet) ([]byte, error) {
	switch in.kind {
	case typePublish:
		m, id, dup, err := in.publish()
		if err != nil {
			return nil, err
		}
		if len(m.text) > int(p.cfg.Settings.Store.Message) {
			return nil, errLong
		}
		if err := p.take(client, &m, id, dup); err != nil {
			p.Refused(err)
			// There is no word for no: without an answer the device sends it again.
			return nil, err
		}
		switch m.qos {
		case 1:
			return withID(typePuback, 0, id), nil
		case 2:
			return withID(typePubrec, 0, id), nil
		}
		return nil, nil
	case typePubrel:
		id, err := in.identifier()
		return withID(typePubcomp, 0, id), err
	case typeSubscribe:
		id, n, err := in.subscriptions()
		if err != nil {
			return nil, err
		}
		p.Log.Warn("the device subscribes, and is told that it can not: with a store nothing is carried towards it")
		body := binary.BigEndian.AppendUint16(nil, id)
		for range n {
			body = append(body, 0x80)
		}
		return encode(typeSuback, 0, body), nil
	case typeUnsubscribe:
		id, _, err := in.subscriptions()
		return withID(typeUnsuback, 0, id), err
	case typePingreq:
		return encode(typePingresp, 0, nil), nil
	}
	return nil, errPacket
}

// take stores a message, or hands it on if nobody is promised anything.
func (p *Port) take(client string, m *message, id uint16, dup bool) error {
	if m.qos == 0 {
		// Of large ones that wait for their turn there is one.
		large := len(m.text) > store.Small
		if large && !p.bulky.CompareAndSwap(false, true) {
			p.Count(func(c *queue.Counts) { c.Dropped++ })
			return nil
		}
		if !p.Offer(p.errand(m, large)) {
			if large {
				p.bulky.Store(false)
			}
			p.Count(func(c *queue.Counts) { c.Dropped++ })
		}
		return nil
	}
	body := m.rest()
	// What is sent again is the same message with the same identifier. One with
	// another content is not, whatever it says.
	return p.Keep(body, queue.DigestOf(append(binary.BigEndian.AppendUint16(appendText(nil, client), id), body...)), dup)
}
