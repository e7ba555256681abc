package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// A Protocol is how messages M are framed and acknowledged.
type Protocol[M any] interface {
	// Serve takes what the device sends on one connection, until that ends.
	Serve(ctx context.Context, conn *net.TCPConn)
	// Read reads a message as it rests in the store.
	Read(body []byte) (M, error)
	// Connect begins a session for a message, and others like it, on a connection to
	// the gateway, which it closes if it returns an error.
	Connect(ctx context.Context, conn *tls.Conn, m M) (Session[M], error)
	// Extension ends the names of files that messages are set aside in.
	Extension() string
}

// A Session is a connection to the gateway that messages are delivered on.
type Session[M any] interface {
	// Takes reports whether a message can be delivered here, or needs a session of
	// another kind.
	Takes(M) bool
	// Deliver sends a stored message. An error says that there was no answer; the
	// session is closed then, and the message sent again in the next.
	Deliver(context.Context, *Stored[M]) (Outcome, error)
	// Ended is closed when the session's connection has ended.
	Ended() <-chan struct{}
	Close()
}

// A Stored is the message that has waited longest.
type Stored[M any] struct {
	*queue.Item
	Message M
	Sent    bool // it may have been sent before
	Try     int  // how often it was answered with an error

	// Then may be set by Deliver: it is done once the message is off the store.
	Then func()
}

// An Outcome is what became of a message that was sent.
type Outcome int

const (
	Delivered Outcome = iota // it is off the store
	Rejected                 // it will never be taken: it is set aside
	Failed                   // it is tried again after a pause
	Expired                  // nobody wants it any more: it is off the store
)

// An Errand is a message that is not stored.
type Errand[M any] struct {
	Message M
	Hurried bool // it does not wait for a gateway that is away
	// Do delivers it by a session that open returns. An error of Do's ends the session.
	Do func(ctx context.Context, open func(context.Context) (Session[M], error)) error
}

// Config is what a [Port] is made from. Every field is required.
type Config struct {
	Settings settings.Forward
	Dir      string // of what is stored
	Device   string // whose it is
	Most     int64  // bytes of one message as it rests in the store
	Errands  int    // that wait, before [Port.Offer] takes no more
	Gateway  *relay.Gateway
	Log      *slog.Logger
	Clock    func() time.Time
}

// A Port takes a device's messages and delivers them.
type Port[M any] struct {
	*relay.Door
	Log *slog.Logger // that names the port

	cfg      Config
	queue    *queue.Queue
	errands  chan *Errand[M]
	protocol Protocol[M]
	large    chan struct{} // see Room
	// The loop's alone: the last message that was sent, and the last that was done
	// with.
	tried, given uint64

	mu     sync.Mutex
	counts queue.Counts
}

// Open opens the store and listens for the device.
func Open[M any](cfg Config, protocol Protocol[M]) (*Port[M], error) {
	device, err := netip.ParseAddr(cfg.Settings.Device)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	st, log := cfg.Settings.Store, cfg.Log.With("port", cfg.Settings.Name)
	if err := own(cfg.Dir, cfg.Device, log); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	q, err := queue.Open(filepath.Join(cfg.Dir, queueFile), queue.Limits{Bytes: int64(st.Bytes), Age: st.Age.D(), Message: cfg.Most})
	if err != nil {
		return nil, err
	}
	if n := q.Cut(); n > 0 {
		log.Warn("the end of the store was no whole message; it is kept beside it", "bytes", n)
	}
	door, err := relay.OpenDoor(cfg.Settings.Name, cfg.Settings.Listen, device, cfg.Settings.Connections, cfg.Log)
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	p := &Port[M]{Door: door, Log: log, cfg: cfg, queue: q, errands: make(chan *Errand[M], cfg.Errands), protocol: protocol, large: make(chan struct{}, 1)}
	if it, err := q.First(); err == nil && it != nil {
		p.tried = it.Seq // who was here before may have sent it
	}
	return p, nil
}

// Close closes a port that does not run.
func (p *Port[M]) Close() error {
	if err := p.Door.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return errors.Join(err, p.queue.Close())
	}
	return p.queue.Close()
}

// Run takes and delivers until ctx ends.
func (p *Port[M]) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { p.deliver(ctx) })
	p.Door.Serve(ctx, p.protocol.Serve)
	wg.Wait()
}

// Stats returns what waits, and what was done.
func (p *Port[M]) Stats() (queue.Stats, queue.Counts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queue.Stats(), p.counts
}

// Count notes what was done.
func (p *Port[M]) Count(change func(*queue.Counts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.counts)
}

// Refused notes that a message was not taken, in words that hold nothing of it.
func (p *Port[M]) Refused(err error) {
	p.Count(func(c *queue.Counts) { c.Refused++ })
	p.Log.Warn("a message of the device's is not taken", "error", err)
}

// Keep stores a message. When it returns nil the message is on disk. again says that
// it may be one that was stored before, which its digest tells; then nothing is
// done, and nil is the truth.
func (p *Port[M]) Keep(body []byte, d queue.Digest, again bool) error {
	err := p.queue.Put(body, d, again, p.cfg.Clock())
	if errors.Is(err, queue.ErrSeen) {
		return nil
	}
	return err
}

// Offer hands an errand to the loop, if there is room for another.
func (p *Port[M]) Offer(e *Errand[M]) bool {
	select {
	case p.errands <- e:
		return true
	default:
		return false
	}
}

// Wait hands an errand to the loop when that has come to it, or returns false when
// ctx ends.
func (p *Port[M]) Wait(ctx context.Context, e *Errand[M]) bool {
	select {
	case p.errands <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
