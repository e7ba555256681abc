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
	"os"
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
	// maxAsk bounds a packet that is no message: some of them wait for the gateway.
	maxAsk = 8 << 10
	// maxClient bounds a client's name, before which the device's stands at the gateway.
	maxClient = 1 << 10
	// headRoom is what a packet may have beside the message: topic and identifier.
	headRoom = 64<<10 + 16
	// takenWithin is how long the former connection of a client has to end.
	takenWithin = time.Second
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
	clients map[string]*device
	wills   int         // that wait
	bulky   atomic.Bool // a large message of quality 0 waits
}

// Open opens the store and listens for the device.
func Open(cfg Config) (*Port, error) {
	p := &Port{cfg: cfg, clients: map[string]*device{}}
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
	d := &device{Conn: conn, taken: make(chan struct{})}
	if err := p.hello(d, r, room); err != nil {
		p.Log.Warn("a connection of the device's is refused", "error", err)
		return
	}
	b, backCtx := p.newBack(ctx, d)
	defer b.end()
	if err := p.welcome(backCtx, d, b); err != nil {
		p.Log.Warn("a connection of the device's is refused", "error", err)
		return
	}
	defer p.leave(d)
	will, err := p.listen(backCtx, d, r, room, b)
	switch {
	case err == nil: // DISCONNECT
	case ctx.Err() != nil:
		d.drop()
	case isClosed(d.taken):
		d.end(reasonTaken) // §3.1.4: the same client again
	case !d.ended.Load():
		if !errors.Is(err, io.EOF) {
			p.Log.Warn("a connection of the device's broke off", "error", err)
		}
		d.end(reasonOf(err))
	}
	b.end()
	room.Give()
	p.Leave(conn) // a will may wait for long
	if will && d.will != nil {
		p.publishWill(ctx, d)
	}
}

// publishWill publishes the will of a device that went without a word (§3.1.2.5),
// after the time it set, unless it is back before. A will that is early is better
// than none: the last ones wait no longer than the agent, and past as many as there
// can be connections, which is what memory is for, none waits.
func (p *Port) publishWill(ctx context.Context, d *device) {
	if d.willDelay > 0 && isClosed(d.taken) {
		return
	}
	if d.willDelay > 0 && p.keepWill() {
		defer p.releaseWill()
		select {
		case <-time.After(d.willDelay):
		case <-d.taken:
			return
		case <-ctx.Done():
		}
	}
	if err := p.take(d.client, d.will, 0, false); err != nil {
		p.Log.Error("the device's will can not be stored", "error", err)
	}
}

// keepWill reports whether a will may wait.
func (p *Port) keepWill() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wills >= p.cfg.Settings.Connections {
		return false
	}
	p.wills++
	return true
}

func (p *Port) releaseWill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wills--
}

// reasonOf is what a device of version 5 is told of an error of its own.
func reasonOf(err error) byte {
	switch {
	case errors.Is(err, errLong):
		return reasonSize
	case errors.Is(err, errAlias):
		return reasonAlias
	case errors.Is(err, errBehind):
		return reasonQuota
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reasonSilent
	}
	return reasonProtocol
}

// hello reads CONNECT, and refuses what can not be understood.
func (p *Port) hello(d *device, r *bufio.Reader, room *store.Room) error {
	_ = d.SetDeadline(time.Now().Add(connectWithin))
	// Whoever speaks something else is not waited for.
	if b, err := r.Peek(1); err != nil || b[0] != typeConnect<<4 {
		return errors.Join(err, errPacket)
	}
	first, err := readPacket(r, 2*headRoom, room)
	if err != nil {
		return err
	}
	if d.connect, err = first.connect(); err != nil {
		return err
	}
	room.Give()
	if d.level != level4 && d.level != level5 {
		// §3.1.2.2, which is the same in all versions before 5.
		_, _ = d.Write([]byte{typeConnack << 4, 2, 0, 1})
		return fmt.Errorf("the device speaks another version of MQTT (level %d) than 3.1.1 and 5; without a store it is carried as it is", d.level)
	}
	if len(d.client) > maxClient {
		ack := connack{code: 2} // §3.2.2.3
		if d.level == level5 {
			ack.code = 0x85
		}
		_ = d.send(ack.packet(d.level))
		return fmt.Errorf("the client's name has %d bytes, and %d are the most", len(d.client), maxClient)
	}
	if _, ok := d.props.find(propAuthMethod); ok {
		_ = d.send((&connack{code: 0x8c}).packet(level5))
		return errors.New("the device wants to prove itself by a method of its own, and there is none: the certificate says who it is")
	}
	return nil
}

// welcome answers CONNECT. A device whose session is to be kept has that at the
// gateway, and hears whether there is one, if the gateway is there.
func (p *Port) welcome(ctx context.Context, d *device, b *back) error {
	p.mu.Lock()
	was := p.clients[d.client]
	if d.client != "" {
		p.clients[d.client] = d
	}
	p.mu.Unlock()
	if was != nil {
		was.take()
	}
	var ack connack
	var s *backSession
	if d.keeps() {
		dial, cancel := context.WithTimeout(ctx, min(p.cfg.Settings.Connect.D(), connectWithin/2))
		var err error
		s, err = b.open(dial, p.cfg.Gateway.Try)
		cancel()
		if refused, ok := errors.AsType[*refusedError](err); ok {
			_ = d.send(refused.packet(d.level))
			p.leave(d)
			return err
		}
		if s != nil {
			ack = s.connack
			// What is published goes by the agent, and by its limits.
			ack.props = ack.props.without(propAssigned, propKeepAlive, propAuthMethod, propAuthData, propReceive, propAliasMost, propMaxPacket)
		}
	}
	if d.level == level5 {
		ack.props = ack.props.with32(propMaxPacket, uint32(p.most()))
		if d.client == "" {
			ack.props = append(ack.props, property{propAssigned, appendText(nil, b.client)})
		}
	}
	err := d.send(ack.packet(d.level))
	if d.keeps() {
		// After it: what is kept for the device comes at once.
		b.begin(ctx, s)
	}
	if err != nil {
		p.leave(d)
	}
	return err
}

func (p *Port) leave(d *device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients[d.client] == d {
		delete(p.clients, d.client)
	}
}

// listen serves a device until it disconnects, which is no error, and reports
// whether it wants its will to be published.
func (p *Port) listen(ctx context.Context, d *device, r *bufio.Reader, room *store.Room, b *back) (will bool, err error) {
	for {
		if isClosed(d.taken) {
			return true, io.EOF
		}
		_ = d.SetReadDeadline(time.Time{})
		if d.keepAlive > 0 {
			// §3.1.2.10: one and a half times of it.
			_ = d.SetReadDeadline(time.Now().Add(time.Duration(d.keepAlive) * 1500 * time.Millisecond))
		}
		in, err := readPacket(r, p.most(), room)
		if err != nil {
			// Who was ended by the agent did not go without a word.
			return ctx.Err() == nil && !d.ended.Load() || isClosed(d.taken), err
		}
		if in.kind != typePublish && len(in.body) > maxAsk {
			return true, errLong
		}
		if in.kind == typeDisconnect {
			reason, err := d.goodbye(in)
			if err == nil && d.level == level5 && b.began {
				_ = b.pass(ctx, in)
			}
			return err != nil || reason == 4, err
		}
		answer, err := p.answer(ctx, d, in, b)
		room.Give()
		if err == nil && answer != nil {
			err = d.send(answer)
		}
		if err != nil {
			return true, err
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// goodbye reads DISCONNECT (version 5 §3.14).
func (d *device) goodbye(in *packet) (reason byte, err error) {
	f := &fields{b: in.body}
	if d.level == level5 && len(f.b) > 0 {
		reason = f.byte()
		if len(f.b) > 0 {
			f.properties(forDisconnect)
		}
	}
	if len(f.b) > 0 {
		f.err = errPacket
	}
	return reason, f.err
}

// answer does what a packet asks for, and returns what the device hears.
func (p *Port) answer(ctx context.Context, d *device, in *packet, b *back) ([]byte, error) {
	switch in.kind {
	case typePublish:
		return p.published(d, in)
	case typePubrel:
		id, _, err := in.identifier(d.level)
		return withID(typePubcomp, 0, id), err
	case typeSubscribe, typeUnsubscribe:
		if _, _, err := in.subscriptions(d.level); err != nil {
			return nil, err
		}
		return nil, b.pass(ctx, in)
	case typePuback, typePubrec, typePubcomp:
		// Of what came by the way back.
		if _, _, err := in.identifier(d.level); err != nil || !b.began {
			return nil, errPacket
		}
		return nil, b.pass(ctx, in)
	case typePingreq:
		return encode(typePingresp, 0, nil), nil
	}
	return nil, errPacket
}

func (p *Port) published(d *device, in *packet) ([]byte, error) {
	m, id, dup, err := in.publish(d.level)
	if err != nil {
		return nil, err
	}
	if len(m.text) > int(p.cfg.Settings.Store.Message) {
		return nil, errLong
	}
	kind := byte(typePuback)
	if m.qos == 2 {
		kind = typePubrec
	}
	if err := p.take(d.client, &m, id, dup); err != nil {
		p.Refused(err)
		if d.level == level4 {
			// There is no word for no: without an answer the device sends it again.
			return nil, err
		}
		reason := byte(reasonImplementation)
		if errors.Is(err, queue.ErrFull) || errors.Is(err, queue.ErrOld) {
			reason = reasonQuota
		}
		return encode(kind, 0, append(binary.BigEndian.AppendUint16(nil, id), reason)), nil
	}
	if m.qos == 0 {
		return nil, nil
	}
	return withID(kind, 0, id), nil
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
