package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// A Forward carries the device's connections to a listener of the gateway.
type Forward struct {
	*Door
	cfg     settings.Forward
	gateway *Gateway
}

// OpenForward listens for the device.
func OpenForward(cfg settings.Forward, gateway *Gateway, log *slog.Logger) (*Forward, error) {
	device, err := netip.ParseAddr(cfg.Device)
	if err != nil {
		return nil, err
	}
	door, err := OpenDoor(cfg.Name, cfg.Listen, device, cfg.Connections, log)
	if err != nil {
		return nil, err
	}
	return &Forward{door, cfg, gateway}, nil
}

// Run carries connections until ctx ends.
func (f *Forward) Run(ctx context.Context) { f.Serve(ctx, f.serve) }

func (f *Forward) serve(ctx context.Context, device *net.TCPConn) {
	dial, cancel := context.WithTimeout(ctx, f.cfg.Connect.D())
	conn, err := f.gateway.Dial(dial)
	cancel()
	if err != nil {
		f.sorry(device)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })()
	up := copyFunc(plain)
	if f.cfg.Protocol == "http" {
		up = (&rehost{host: f.cfg.ServerName, port: port(f.cfg.Gateway)}).copy
	}
	first := &firstRead{Conn: conn, gateway: f.gateway}
	answered := false
	err = carry(device, first, up, func(dst io.Writer, src io.Reader) error {
		err := plain(dst, src)
		if err != nil && !first.served && alerted(err) && f.answerAway(device) {
			// The device hears that, and not a broken connection.
			answered, err = true, device.SetReadDeadline(time.Now().Add(sorryTime))
		}
		return err
	})
	if answered {
		drain(device)
	}
	switch {
	case err == nil || answered || ctx.Err() != nil:
	case errors.As(err, new(*http1.SyntaxError)):
		f.log.Warn("the device does not speak HTTP/1.1", "error", err)
	default:
		f.log.Debug("a connection broke", "error", err)
	}
}

// sorry tells a device in its own language that the gateway is away, if that has a
// word for it, and waits for its question first: many give up on who answers
// before they have asked.
func (f *Forward) sorry(device *net.TCPConn) {
	_ = device.SetDeadline(time.Now().Add(sorryTime))
	var heard bool
	switch f.cfg.Protocol {
	case "http":
		heard = heardHead(device)
	case "dicom":
		heard = heardAssociate(device)
	}
	if !heard || !f.answerAway(device) {
		_ = device.SetLinger(0)
		return
	}
	drain(device)
}

// drain ends a connection whose last word is said. Closing it with bytes unread
// would be a reset, and the answer lost with it.
func drain(device *net.TCPConn) {
	_ = device.CloseWrite()
	_, _ = io.CopyN(io.Discard, device, sorryBytes)
}

func (f *Forward) answerAway(device *net.TCPConn) bool {
	var text []byte
	switch f.cfg.Protocol {
	case "http":
		text = []byte(unavailable)
	case "dicom":
		text = rejectTransient
	default:
		return false
	}
	_, err := device.Write(text)
	return err == nil
}

// firstRead notes what the gateway says first.
type firstRead struct {
	*tls.Conn
	gateway *Gateway
	served  bool
}

func (c *firstRead) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.served {
		c.served = true
		c.gateway.Served()
	}
	if err != nil && !c.served && alerted(err) {
		c.gateway.Refused(err)
	}
	return n, err
}

// alerted reports whether an error is an alert of the peer's, which crypto/tls has
// no exported type for.
func alerted(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}
