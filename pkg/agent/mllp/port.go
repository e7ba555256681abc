package mllp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/agent/relay"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
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
	Gateway  *relay.Gateway
	Log      *slog.Logger
	Clock    func() time.Time
}

// A Port takes a device's messages and delivers them.
type Port struct {
	*relay.Door
	cfg    Config
	queue  *queue.Queue
	direct chan *direct
	log    *slog.Logger
	given  uint64 // the last message that was delivered; deliver's alone

	mu     sync.Mutex
	device *deviceConn // the last that connected, for answers that come later
	counts queue.Counts
}

// A direct message is delivered while its sender waits, and not stored.
type direct struct {
	*message
	ctx    context.Context
	answer chan []byte // the receiver's
}

// Open opens the store and listens for the device.
func Open(cfg Config) (*Port, error) {
	device, err := netip.ParseAddr(cfg.Settings.Device)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	st := cfg.Settings.Store
	q, err := queue.Open(filepath.Join(cfg.Dir, "queue"), queue.Limits{Bytes: int64(st.Bytes), Age: st.Age.D(), Message: int64(st.Message)})
	if err != nil {
		return nil, err
	}
	log := cfg.Log.With("port", cfg.Settings.Name)
	if n := q.Cut(); n > 0 {
		log.Warn("the end of the store was no whole message; it is kept beside it", "bytes", n)
	}
	door, err := relay.OpenDoor(cfg.Settings.Name, cfg.Settings.Listen, device, cfg.Settings.Connections, cfg.Log)
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	return &Port{Door: door, cfg: cfg, queue: q, direct: make(chan *direct), log: log}, nil
}

// Close closes a port that does not run.
func (p *Port) Close() error {
	if err := p.Door.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return errors.Join(err, p.queue.Close())
	}
	return p.queue.Close()
}

// Stats returns what waits, and what was done.
func (p *Port) Stats() (queue.Stats, queue.Counts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queue.Stats(), p.counts
}

func (p *Port) count(change func(*queue.Counts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.counts)
}

// Run takes and delivers until ctx ends.
func (p *Port) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { p.deliver(ctx) })
	p.Serve(ctx, p.serve)
	wg.Wait()
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

func (p *Port) serve(ctx context.Context, raw *net.TCPConn) {
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
	for {
		body, err := readFrame(r, int(p.cfg.Settings.Store.Message))
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				p.log.Warn("a connection of the device's broke off", "error", err)
			}
			return
		}
		if err := p.take(ctx, conn, body); err != nil {
			return
		}
	}
}

// take does with a message what its sender asks for, and answers. An error ends
// the connection.
func (p *Port) take(ctx context.Context, conn *deviceConn, body []byte) error {
	m, err := parse(body)
	if err != nil {
		p.refused(err)
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
		p.refused(errors.New("a message has no control id"))
		return say(sayBad, worse, errField, "MSH-10 names no message")
	}
	if !m.enhanced() && p.cfg.Settings.Store.Original == "wait" {
		return p.wait(ctx, conn, m)
	}
	switch err := p.queue.Put(body, queue.DigestOf(body), true, p.cfg.Clock()); {
	case err == nil || errors.Is(err, queue.ErrSeen):
		return say(sayGood, good, "", "")
	case errors.Is(err, queue.ErrFull), errors.Is(err, queue.ErrOld):
		p.refused(err)
		return say(sayBad, bad, errInternal, "the message is not stored: the gateway is away for too long")
	default:
		p.refused(err)
		return say(sayBad, bad, errInternal, "the message can not be stored")
	}
}

// refused says that a message was not taken, in words that hold nothing of it.
func (p *Port) refused(err error) {
	p.count(func(c *queue.Counts) { c.Refused++ })
	p.log.Warn("a message of the device's is not taken", "error", err)
}

// wait has a message delivered, behind all that is stored, and gives its sender the
// receiver's answer.
func (p *Port) wait(ctx context.Context, conn *deviceConn, m *message) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Settings.Store.Wait.D())
	defer cancel()
	d := &direct{message: m, ctx: ctx, answer: make(chan []byte, 1)}
	select {
	case p.direct <- d:
	case <-ctx.Done():
		p.refused(relay.ErrAway)
		return conn.send(m.reply("AE", errInternal, "the message is not delivered: the gateway is away", p.cfg.Clock()))
	}
	select {
	case body := <-d.answer:
		if body != nil {
			return conn.send(body)
		}
	case <-ctx.Done():
	}
	p.refused(errors.New("the receiver did not answer"))
	return conn.send(m.reply("AE", errInternal, "the receiver did not answer; the message may have arrived", p.cfg.Clock()))
}
