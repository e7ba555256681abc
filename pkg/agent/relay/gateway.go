package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// firstPause and lastPause bound the time between two attempts to connect to a
	// gateway that is away. Each is twice the one before, less up to a half: after
	// a power cut the agents of a hospital must not come in step.
	firstPause = 250 * time.Millisecond
	lastPause  = 15 * time.Second
)

// A Gateway is one listener of the gateway, as connections to it are made. While it
// is away one attempt is made at a time, however many want to connect.
type Gateway struct {
	Addr string

	tls   func() (*tls.Config, error)
	log   *slog.Logger
	probe chan struct{} // holds one while somebody tries and the gateway is away

	mu       sync.Mutex
	failures int
	next     time.Time
	last     error
}

// NewGateway returns the listener at an address. tls is asked for each connection.
func NewGateway(addr string, tls func() (*tls.Config, error), log *slog.Logger) *Gateway {
	return &Gateway{Addr: addr, tls: tls, log: log, probe: make(chan struct{}, 1)}
}

// ErrAway says that there was no connection to the gateway in time.
var ErrAway = errors.New("the gateway is away")

// Dial returns a connection after its handshake. It waits for its turn, as long as
// ctx allows. In TLS 1.3 a refusal of the device's certificate comes with the first
// read only: whoever reads calls [Gateway.Served] or [Gateway.Refused].
func (g *Gateway) Dial(ctx context.Context) (*tls.Conn, error) {
	for {
		down, wait := g.pause()
		if wait > 0 {
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
				return nil, g.away(ctx)
			}
		}
		if down {
			select {
			case g.probe <- struct{}{}:
			case <-ctx.Done():
				return nil, g.away(ctx)
			}
			if _, wait = g.pause(); wait > 0 { // whoever tried meanwhile failed
				<-g.probe
				continue
			}
		}
		conn, err := g.connect(ctx)
		if err != nil {
			g.Refused(err)
		}
		if down {
			<-g.probe
		}
		if err == nil {
			return conn, nil
		}
	}
}

// Try is [Gateway.Dial] for who does not wait for a gateway that is away: there is one
// attempt, and none if it is known to be.
func (g *Gateway) Try(ctx context.Context) (*tls.Conn, error) {
	if down, _ := g.pause(); down {
		return nil, g.away(ctx)
	}
	conn, err := g.connect(ctx)
	if err != nil {
		g.Refused(err)
		return nil, g.away(ctx)
	}
	return conn, nil
}

func (g *Gateway) connect(ctx context.Context) (*tls.Conn, error) {
	cfg, err := g.tls()
	if err != nil {
		return nil, err
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", g.Addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(whole{raw}, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", g.Addr, err)
	}
	return conn, nil
}

// whole is a TCP connection whose end is an error to TLS, unless the peer said in
// TLS that this is the end. crypto/tls is more lenient for the web's sake, where a
// length says what is whole; somebody on the way could make half a message of a
// device's look like a whole one.
type whole struct{ net.Conn }

func (c whole) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}

var errCut = errors.New("the connection ended without a word of the other side's")

// pause returns whether the gateway was away when last heard of, and how long
// nobody should try.
func (g *Gateway) pause() (down bool, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failures > 0, time.Until(g.next)
}

func (g *Gateway) away(ctx context.Context) error {
	if err := g.Failed(); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return fmt.Errorf("%w: %w", ErrAway, ctx.Err())
}

// Failed returns why the gateway is away, or nil if it is not known to be.
func (g *Gateway) Failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// Refused notes that there was no connection, or that the gateway broke it off
// before it said anything.
func (g *Gateway) Refused(err error) {
	g.mu.Lock()
	was := g.last
	g.last = err
	wait := min(firstPause<<min(g.failures, 10), lastPause)
	g.failures++
	g.next = time.Now().Add(wait - rand.N(wait/2))
	g.mu.Unlock()
	if was == nil || was.Error() != err.Error() {
		g.log.Warn("the gateway is away", "gateway", g.Addr, "error", err)
	}
}

// Served notes that the gateway said something on a connection.
func (g *Gateway) Served() {
	g.mu.Lock()
	was := g.last
	g.failures, g.next, g.last = 0, time.Time{}, nil
	g.mu.Unlock()
	if was != nil {
		g.log.Info("the gateway is back", "gateway", g.Addr)
	}
}
