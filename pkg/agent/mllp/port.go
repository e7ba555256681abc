package mllp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/agent/relay"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
	"github.com/anteroom-iomt/anteroom/pkg/agent/store"
)

// What the agent answers by itself, with the codes of table 0357.
const (
	errSegments  = "100" // segment sequence error: this is no message
	errField     = "101" // required field missing
	errInternal  = "207" // application internal error: the message could not be kept or delivered
	bufferSize   = 4 << 10
	writeTimeout = 30 * time.Second
)

// Config is what a [Port] is made from. Every field is required.
type Config struct {
	Settings settings.Forward
	Dir      string // of what is stored
	Device   string // whose it is
	Gateway  *relay.Gateway
	Log      *slog.Logger
	Clock    func() time.Time
}

// A Port takes a device's messages and delivers them.
type Port struct {
	*store.Port[*message]
	cfg Config

	mu     sync.Mutex
	device *deviceConn // the last that connected, for answers that come later
}

// Open opens the store and listens for the device.
func Open(cfg Config) (*Port, error) {
	p := &Port{cfg: cfg}
	var err error
	p.Port, err = store.Open(store.Config{
		Settings: cfg.Settings, Dir: cfg.Dir, Device: cfg.Device, Most: int64(cfg.Settings.Store.Message), Gateway: cfg.Gateway, Log: cfg.Log, Clock: cfg.Clock,
	}, p)
	return p, err
}

// deviceConn is a connection of the device's, which is written to by who serves it
// and by who passes a later answer on.
type deviceConn struct {
	net.Conn
	mu sync.Mutex
}

func (d *deviceConn) send(body []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := d.Write(frame(body))
	return err
}

// Serve implements [store.Protocol].
func (p *Port) Serve(ctx context.Context, raw *net.TCPConn) {
	conn := &deviceConn{Conn: raw}
	p.mu.Lock()
	p.device = conn
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		if p.device == conn {
			p.device = nil
		}
		p.mu.Unlock()
	}()
	r := bufio.NewReaderSize(raw, bufferSize)
	room := p.Room(ctx, raw)
	defer room.Give()
	for {
		body, err := readFrame(r, int(p.cfg.Settings.Store.Message), room)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				p.Log.Warn("a connection of the device's broke off", "error", err)
			}
			return
		}
		if err := p.take(ctx, conn, body); err != nil {
			return
		}
		room.Give()
	}
}

// take does with a message what its sender asks for, and answers. An error ends
// the connection.
func (p *Port) take(ctx context.Context, conn *deviceConn, body []byte) error {
	m, err := parse(body)
	if err != nil {
		p.Refused(err)
		return err // there is nobody to answer to
	}
	if m.answer != nil {
		// To an answer that was passed on; nobody waits for it.
		return nil
	}
	good, bad, worse := "AA", "AE", "AR"
	sayGood, sayBad := true, true
	if m.enhanced() {
		good, bad, worse = "CA", "CE", "CR"
		sayGood, sayBad = wants(m.field(15), true), wants(m.field(15), false)
	}
	say := func(wanted bool, code, number, text string) error {
		if !wanted {
			return nil
		}
		return conn.send(m.reply(code, number, text, p.cfg.Clock()))
	}
	if m.id() == "" {
		p.Refused(errors.New("a message has no control id"))
		return say(sayBad, worse, errField, "MSH-10 names no message")
	}
	if !m.enhanced() && p.cfg.Settings.Store.Original == "wait" {
		return p.wait(ctx, conn, m)
	}
	switch err := p.Keep(body, queue.DigestOf(body), true); {
	case err == nil:
		return say(sayGood, good, "", "")
	case errors.Is(err, queue.ErrFull), errors.Is(err, queue.ErrOld):
		p.Refused(err)
		return say(sayBad, bad, errInternal, "the message is not stored: the gateway is away for too long")
	default:
		p.Refused(err)
		return say(sayBad, bad, errInternal, "the message can not be stored")
	}
}

// wait has a message delivered, behind all that is stored, and gives its sender the
// receiver's answer.
func (p *Port) wait(ctx context.Context, conn *deviceConn, m *message) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Settings.Store.Wait.D())
	defer cancel()
	answer := make(chan []byte, 1) // the receiver's, or nil
	if !p.Wait(ctx, p.errand(ctx, m, answer)) {
		p.Refused(relay.ErrAway)
		return conn.send(m.reply("AE", errInternal, "the message is not delivered: the gateway is away", p.cfg.Clock()))
	}
	select {
	case body := <-answer:
		if body != nil {
			return conn.send(body)
		}
	case <-ctx.Done():
	}
	p.Refused(errors.New("the receiver did not answer"))
	return conn.send(m.reply("AE", errInternal, "the receiver did not answer; the message may have arrived", p.cfg.Clock()))
}
