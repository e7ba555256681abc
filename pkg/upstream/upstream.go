package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// Limits and defaults. The defaults hold where a configuration was not read from
// a file, which fills in its own.
const (
	bufferSize        = 8 << 10          // of a connection, each way: most FHIR resources fit
	maxResponseHeader = 256 << 10        // far above what any server sends, bounded all the same
	keepAlive         = 30 * time.Second // between TCP keep-alive probes, and HTTP/2 pings
	pingTimeout       = 15 * time.Second // for the answer to an HTTP/2 ping

	defaultConnect  = 5 * time.Second
	defaultTimeout  = 60 * time.Second
	defaultCheck    = 3 * time.Second
	defaultCooldown = 5 * time.Second

	// defaultBound is more than one server process works on at once, and few enough
	// that a fleet that comes back can not drown it.
	defaultBound = 512
)

// defaults fills in the limits without which nothing would ever end, or begin,
// or all of it at once.
func defaults(cfg *config.Backend) {
	for _, d := range [...]struct {
		to *config.Duration
		by time.Duration
	}{
		{&cfg.Connect, defaultConnect}, {&cfg.Timeout, defaultTimeout},
		{&cfg.Health.Timeout, defaultCheck}, {&cfg.Health.Cooldown, defaultCooldown},
	} {
		if *d.to <= 0 {
			*d.to = config.Duration(d.by)
		}
	}
	if cfg.MaxConnections <= 0 {
		cfg.MaxConnections = defaultBound
	}
	if cfg.MaxPerDevice <= 0 {
		cfg.MaxPerDevice = defaultShare(cfg.MaxConnections)
	}
}

// Options are what a backend needs besides its configuration.
type Options struct {
	// Roots are the embedded CA's, for backends that name no others.
	Roots  *x509.CertPool
	Logger *slog.Logger
	Clock  func() time.Time
	// OnChange is called when an address is set aside or healthy again.
	OnChange func(addr string, healthy bool)
	// OnShare is called when a request had to wait for others of its device, with
	// what came of it: served, refused, gone (the device gave up).
	OnShare func(result string, waited time.Duration)
}

// A Backend is one backend.
type Backend struct {
	cfg       config.Backend
	opt       Options
	tls       *tls.Config
	dialer    net.Dialer
	transport *http.Transport // of a backend that may be spoken to in HTTP/2; else nil
	addrs     []*address
	shares    *shares
	stop      context.CancelFunc
	wg        sync.WaitGroup
}

// New returns a backend whose checks run until Close.
func New(cfg config.Backend, opt Options) (*Backend, error) {
	if len(cfg.Addresses) == 0 {
		return nil, errors.New("a backend needs an address")
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	defaults(&cfg)
	b := &Backend{cfg: cfg, opt: opt, dialer: net.Dialer{Timeout: cfg.Connect.D(), KeepAlive: keepAlive}, shares: newShares(cfg.MaxPerDevice)}
	var err error
	if b.tls, err = tlsConfig(&cfg, opt.Roots, opt.Clock); err != nil {
		return nil, err
	}
	if cfg.HTTP2 {
		b.transport = b.newTransport()
	}
	for _, a := range cfg.Addresses {
		b.addrs = append(b.addrs, &address{name: a, pool: pool{limit: cfg.IdleTimeout.D(), most: cfg.MaxIdle, bound: cfg.MaxConnections}})
		b.changed(a, true)
	}
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	if b.checked() {
		b.wg.Go(func() { b.watch(ctx) })
	}
	return b, nil
}

// Close stops the checks and closes idle connections. Requests under way go on.
func (b *Backend) Close() error {
	b.stop()
	b.wg.Wait()
	b.closeIdle(true)
	return nil
}

// closeIdle closes idle connections; with closing none is kept from now on.
func (b *Backend) closeIdle(closing bool) {
	if b.transport != nil {
		b.transport.CloseIdleConnections()
	}
	for _, a := range b.addrs {
		a.pool.drain(closing)
	}
}

func (b *Backend) scheme() string {
	if b.tls == nil {
		return "http"
	}
	return "https"
}

// Dial returns a connection of its own to a healthy address, over TLS unless the
// backend is insecure, for upgraded and stream protocols. The caller closes it.
func (b *Backend) Dial(ctx context.Context) (net.Conn, error) {
	order := b.order()
	var last error
	for try := range max(1+b.cfg.Retries, len(order)) {
		a := order[try%len(order)]
		began := time.Now()
		conn, err := b.dial(ctx, a.name)
		if err == nil {
			b.note(a, nil)
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("connection to %s: %w", b.cfg.Name, ctx.Err())
		}
		if !a.ours(err, began) {
			b.note(a, err)
		}
		last = fmt.Errorf("%w: %s: %w", ErrUnavailable, b.cfg.Name, err)
	}
	return nil, last
}

// dial connects to one address.
func (b *Backend) dial(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Connect.D())
	defer cancel()
	conn, err := b.dialer.DialContext(ctx, "tcp", addr)
	if err != nil || b.tls == nil {
		return conn, err
	}
	return b.secure(ctx, conn, addr)
}
