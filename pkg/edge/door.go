package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mholt/acmez/v3"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A Door is a listener for who has no identity here yet. It asks for a client
// certificate, has the peer prove that it holds the key, and lets in whoever
// shows none, or one of any CA: who somebody is, is for the one behind the door
// to find out. Nothing that comes through it has a session, an adapter or a
// route; it is a [net.Listener] whose connections have done their handshake.
type Door struct {
	srv     *Server
	cfg     config.Enrolment
	ln      net.Listener
	tls     *tls.Config
	cert    *serverCert
	proxies []netip.Prefix
	ready   chan *tls.Conn
	ctx     context.Context // ends when the door is closed
	stop    context.CancelFunc
	close   sync.Once
	wg      sync.WaitGroup
	conns   atomic.Int64
	each    crowd // open connections
}

var _ net.Listener = (*Door)(nil)

// OpenDoor opens a door. It has the gateway's certificate like a listener.
func (srv *Server) OpenDoor(ctx context.Context, cfg config.Enrolment) (*Door, error) {
	d := &Door{srv: srv, cfg: cfg, ready: make(chan *tls.Conn)}
	var err error
	if d.proxies, err = parsePrefixes(cfg.ProxyProtocol.From); err != nil {
		return nil, fmt.Errorf("enrolment listener: %w", err)
	}
	if d.ln, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Address); err != nil {
		return nil, fmt.Errorf("enrolment listener: %w", err)
	}
	l := config.Listener{
		Name: config.EnrolmentListener, Address: cfg.Address, Hosts: cfg.Hosts, Certificate: cfg.Certificate,
		TLS: config.ListenerTLS{Profile: "modern"},
	}
	d.cert, err = newServerCert(ctx, certConfig{
		listener: l, dir: srv.cfg.CertDir, authority: srv.cfg.Authority, log: srv.cfg.Logger.With("listener", l.Name), zap: srv.cfg.Zap, now: srv.cfg.Clock,
	})
	if err != nil {
		d.ln.Close()
		return nil, fmt.Errorf("enrolment listener: %w", err)
	}
	// No anchors: which CAs' certificates are good here is not said in the
	// handshake, because manufacturers' are among them. Without tickets every
	// connection proves its key anew.
	d.tls = tlsConfig(&l, nil, d.cert, []string{"http/1.1"}, nil, srv.cfg.Clock)
	d.tls.ClientAuth, d.tls.ClientCAs = tls.RequestClientCert, nil
	d.ctx, d.stop = context.WithCancel(context.Background())
	d.wg.Go(d.run)
	return d, nil
}

// Addr implements [net.Listener].
func (d *Door) Addr() net.Addr { return d.ln.Addr() }

// Connections returns how many connections are open.
func (d *Door) Connections() int64 { return d.conns.Load() }

// Certificates returns the door's own certificates.
func (d *Door) Certificates() []*x509.Certificate { return d.cert.leaves() }

// Accept implements [net.Listener]. It returns a *tls.Conn.
func (d *Door) Accept() (net.Conn, error) {
	select {
	case c := <-d.ready:
		return c, nil
	case <-d.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. It returns when everything the door started
// has stopped; connections that were accepted are their owner's.
func (d *Door) Close() error {
	var err error
	d.close.Do(func() {
		d.stop()
		err = d.ln.Close()
		d.wg.Wait()
		d.cert.stop()
	})
	return err
}

func (d *Door) run() {
	for {
		conn, err := d.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			d.srv.cfg.Logger.Warn("accepting a connection", "address", d.ln.Addr().String(), "error", err)
			select {
			case <-d.ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		if d.conns.Add(1) > int64(d.cfg.Limits.Connections) {
			d.conns.Add(-1)
			d.refused(addrPort(conn.RemoteAddr()), &Refusal{Code: "listener-full", Why: "the listener has as many connections as it may"})
			conn.Close()
			continue
		}
		d.wg.Go(func() { d.enter(conn) })
	}
}

// enter takes a connection through its handshake and hands it over.
func (d *Door) enter(raw net.Conn) {
	c := &doorConn{Conn: raw, door: d}
	// Who is on the way in when the door closes does not keep it open.
	defer context.AfterFunc(d.ctx, func() { _ = raw.SetDeadline(longAgo) })()
	remote := addrPort(raw.RemoteAddr())
	refuse := func(why *Refusal) {
		d.refused(remote, why)
		c.Close()
	}
	if contains(d.proxies, remote.Addr()) {
		inner, named, err := readProxyHeader(raw, time.Now().Add(d.cfg.Limits.Handshake.D()))
		if err != nil {
			refuse(&Refusal{Code: "proxy-header", Why: err.Error()})
			return
		}
		c.Conn, remote = inner, named
	}
	c.remote = remote
	if c.counted = d.each.enter(remote.Addr(), d.cfg.Limits.PerAddress); !c.counted {
		refuse(&Refusal{Code: "address-full", Why: "the address has as many connections as it may"})
		return
	}
	tc, err := d.srv.handshake(d.ctx, raw, c, remote.Addr(), d.tls, d.cfg.Limits.Handshake.D())
	if err != nil {
		if d.ctx.Err() == nil {
			d.refused(remote, refusalOf(err))
			linger(raw)
		}
		c.Close()
		return
	}
	if tc.ConnectionState().NegotiatedProtocol == acmez.ACMETLS1Protocol {
		c.Close() // RFC 8737 section 3: the handshake was the whole purpose
		return
	}
	select {
	case d.ready <- tc:
	case <-d.ctx.Done():
		c.Close()
	}
}

// Neighbourhood returns what counts as one address: an IPv4 address, or an IPv6
// network of 64 bits, all of which one host can have (RFC 4291 section 2.5.4).
func Neighbourhood(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is4() || !a.IsValid() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

func (d *Door) refused(remote netip.AddrPort, why *Refusal) {
	if h := d.srv.cfg.Hooks.Handshake; h != nil {
		h(config.EnrolmentListener, why.Code)
	}
	d.srv.disbelieved(remote.Addr(), why)
	d.srv.refusals.record(remote.Addr(), config.EnrolmentListener, why.Code, &audit.Record{
		Kind: audit.KindTLS, Event: "tls.refused", Listener: config.EnrolmentListener, Remote: remote, Error: why.Why,
		Detail: []protocol.Field{{Name: "code", Value: protocol.String(why.Code)}},
	})
}

// A doorConn is a connection that is counted, and comes from where a named load
// balancer says.
type doorConn struct {
	net.Conn
	door    *Door
	remote  netip.AddrPort
	counted bool
	once    sync.Once
}

// RemoteAddr implements [net.Conn].
func (c *doorConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// Close implements [net.Conn].
func (c *doorConn) Close() error {
	c.once.Do(func() {
		c.door.conns.Add(-1)
		if c.counted {
			c.door.each.leave(c.remote.Addr())
		}
	})
	return c.Conn.Close()
}

// Buffered reports whether anything was received that was not read yet.
func (c *doorConn) Buffered() bool { return buffered(c.Conn) }
