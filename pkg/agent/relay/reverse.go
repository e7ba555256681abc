package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

// handshakeTime bounds the TLS handshake of whoever connects.
const handshakeTime = 10 * time.Second

// A Reverse carries the gateway's connections to a server of the device.
type Reverse struct {
	*Door
	cfg settings.Reverse
	tls *tls.Config

	mu   sync.Mutex
	last error // of connecting to the device
}

// OpenReverse listens for the gateway. The configuration decides who that is.
func OpenReverse(cfg settings.Reverse, conf *tls.Config, log *slog.Logger) (*Reverse, error) {
	door, err := OpenDoor(cfg.Name, cfg.Listen, netip.Addr{}, cfg.Connections, log)
	if err != nil {
		return nil, err
	}
	return &Reverse{Door: door, cfg: cfg, tls: conf}, nil
}

// Run carries connections until ctx ends.
func (r *Reverse) Run(ctx context.Context) { r.Serve(ctx, r.serve) }

// Failed returns why the device can not be reached, or nil.
func (r *Reverse) Failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

func (r *Reverse) serve(ctx context.Context, raw *net.TCPConn) {
	conn := tls.Server(whole{raw}, r.tls)
	shake, cancel := context.WithTimeout(ctx, handshakeTime)
	err := conn.HandshakeContext(shake)
	cancel()
	if err != nil {
		r.stranger(raw, "this is not the gateway", err)
		return
	}
	dialer := net.Dialer{Timeout: r.cfg.Connect.D()}
	device, err := dialer.DialContext(ctx, "tcp", r.cfg.Device)
	r.mu.Lock()
	r.last = err
	r.mu.Unlock()
	if err != nil {
		r.log.Warn("the device can not be reached", "device", r.cfg.Device, "error", err)
		_ = raw.SetLinger(0)
		return
	}
	defer device.Close()
	defer context.AfterFunc(ctx, func() { _ = device.Close() })()
	err = carry(device.(*net.TCPConn), conn, plain, plain)
	if err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		r.log.Debug("a connection broke", "error", err)
	}
}
