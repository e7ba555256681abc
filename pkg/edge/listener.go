package edge

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mholt/acmez/v3"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/wire"
)

// closeGrace is how long a connection may take to send its last alert.
const closeGrace = time.Second

// lingerBytes is how much a device whose handshake failed may still send.
const lingerBytes = 64 << 10

// acceptPause is how long accepting rests after a passing error, such as no file
// descriptor being free.
const acceptPause = 50 * time.Millisecond

// After acceptRow connections accepting rests, so that a crowd at the door does
// not keep the runtime from looking at what the others sent (see [yield.Lull]).
const (
	acceptRow  = 32
	acceptRest = time.Millisecond
)

// A listener is one address devices connect to. Its socket outlives changes of
// its configuration; setup is what changes.
type listener struct {
	srv   *Server
	ln    net.Listener
	setup atomic.Pointer[setup]
	conns atomic.Int64
	// strangers are those of them that have not shown who they are.
	strangers crowd
	wg        sync.WaitGroup // the accept loop and every connection
}

// setup is one configuration of a listener, made whole before it is used.
type setup struct {
	cfg     config.Listener
	tls     atomic.Pointer[tls.Config]
	cert    *serverCert
	adapter protocol.Adapter
	proxies []netip.Prefix
}

// newSetup makes everything a listener's configuration asks for.
func (srv *Server) newSetup(ctx context.Context, cfg config.Listener) (*setup, error) {
	s := &setup{cfg: cfg}
	var err error
	if s.proxies, err = parsePrefixes(cfg.ProxyProtocol.From); err != nil {
		return nil, err
	}
	if s.adapter, err = srv.cfg.Adapter(cfg); err != nil {
		return nil, err
	}
	log := srv.cfg.Logger.With("listener", cfg.Name)
	s.cert, err = newServerCert(ctx, certConfig{
		listener: cfg, dir: srv.cfg.CertDir, authority: srv.cfg.Authority, log: log, zap: srv.cfg.Zap, now: srv.cfg.Clock,
	})
	if err != nil {
		return nil, err
	}
	s.tls.Store(srv.newTLS(s))
	if cfg.TLS.Profile == "legacy" {
		log.Warn("legacy TLS profile: CBC suites and RSA key exchange are accepted here; keep such devices on a network of their own")
	}
	return s, nil
}

func (srv *Server) newTLS(s *setup) *tls.Config {
	return tlsConfig(&s.cfg, srv.anchors(), s.cert, s.adapter.ALPN(), srv.verify(s.cfg.Name), srv.cfg.Clock)
}

// same reports whether a configuration is the one in use.
func (s *setup) same(cfg config.Listener) bool { return reflect.DeepEqual(s.cfg, cfg) }

// run accepts connections until the socket is closed.
func (l *listener) run(ctx context.Context) {
	for n := 1; ; n++ {
		if n%acceptRow == 0 {
			time.Sleep(acceptRest)
		}
		conn, err := l.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.srv.cfg.Logger.Warn("accepting a connection", "address", l.ln.Addr().String(), "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		set := l.setup.Load()
		if l.conns.Add(1) > int64(set.cfg.Limits.Connections) {
			l.conns.Add(-1)
			l.srv.refused(set, addrPort(conn.RemoteAddr()), &Refusal{Code: "listener-full", Why: "the listener has as many connections as it may"}, nil)
			conn.Close()
			continue
		}
		l.wg.Go(func() {
			defer l.conns.Add(-1)
			l.serve(ctx, conn, set)
		})
	}
}

// serve takes one connection through all its steps. It is on the stack of every
// connection that waits, so what is large and over soon is in admit.
func (l *listener) serve(ctx context.Context, raw net.Conn, set *setup) {
	defer raw.Close()
	tc, s := l.admit(ctx, raw, set)
	if s == nil {
		return
	}
	l.srv.began(s)
	// A session that ends takes its connection with it, whatever the adapter is
	// doing. The write side gets a moment for TLS's closing alert and no more.
	s.OnEnd(func() {
		raw.SetDeadline(time.Now().Add(closeGrace))
		tc.Close()
	})
	l.adapt(set, tc, s)
	s.Close(errFinished)
	l.srv.Sessions.remove(s)
	l.srv.ended(s)
	raw.SetDeadline(time.Now().Add(closeGrace))
	tc.Close()
}

// admit finds out who a connection is from and makes it a session in the table, or
// records why not and returns nil.
func (l *listener) admit(ctx context.Context, raw net.Conn, set *setup) (*tls.Conn, *protocol.Session) {
	remote, conn := addrPort(raw.RemoteAddr()), raw
	if contains(set.proxies, remote.Addr()) {
		inner, named, err := readProxyHeader(raw, time.Now().Add(set.cfg.Limits.Handshake.D()))
		if err != nil {
			l.srv.refused(set, remote, &Refusal{Code: "proxy-header", Why: err.Error()}, nil)
			return nil, nil
		}
		conn, remote = inner, named
	} else if tcp, ok := raw.(*net.TCPConn); ok {
		var err error
		if conn, err = wire.New(tcp, true); err != nil {
			return nil, nil // it is closed already
		}
	}
	if !l.strangers.enter(remote.Addr(), strangersMost(&set.cfg.Limits)) {
		l.srv.refused(set, remote, &Refusal{Code: "address-full", Why: "the address has as many connections as it may that have not shown who they are"}, nil)
		return nil, nil
	}
	defer l.strangers.leave(remote.Addr())
	tc, err := l.srv.handshake(ctx, raw, conn, remote.Addr(), set.tls.Load(), set.cfg.Limits.Handshake.D())
	if err != nil {
		if ctx.Err() == nil {
			l.srv.refused(set, remote, refusalOf(err), nil)
			linger(raw)
		}
		return nil, nil
	}
	st := tc.ConnectionState()
	if st.NegotiatedProtocol == acmez.ACMETLS1Protocol {
		return nil, nil // RFC 8737 section 3: the handshake was the whole purpose
	}
	who, err := identify(&st, l.srv.cfg.TrustDomain, l.srv.cfg.Registry, l.srv.cfg.Clock(), l.srv.Sessions.laneOn(set.cfg.Name))
	if err != nil {
		l.srv.refused(set, remote, refusalOf(err), &st)
		return nil, nil
	}
	s := protocol.NewSession(who.record)
	s.ID = newSessionID()
	s.Listener = set.cfg.Name
	s.Remote = remote
	s.Started = l.srv.cfg.Clock()
	s.TLS = facts(&st)
	s.Certificate, s.NotAfter = bytes.Clone(who.leaf.Raw), who.leaf.NotAfter
	s.Fingerprint = who.fingerprint
	forget(&st)
	s.SetLane(who.record.Status == device.Quarantined)
	if err := l.srv.Sessions.add(s, set.cfg.Limits.PerDevice); err != nil {
		s.End(err)
		l.srv.refused(set, remote, refusalOf(err), &st)
		return nil, nil
	}
	if ctx.Err() != nil {
		s.End(errClosing) // whoever ended those in the table may have missed it
	}
	return tc, s
}

// linger ends our side of a connection whose handshake failed, and reads what
// the device still sends for a moment. A TLS 1.3 device has sent its first
// request by then; closing with that unread would reset the connection, and the
// alert that says why would be lost on the way.
func linger(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); !ok || tcp.CloseWrite() != nil {
		return
	}
	if conn.SetDeadline(time.Now().Add(closeGrace)) == nil {
		_, _ = io.CopyN(io.Discard, conn, lingerBytes)
	}
}

// adapt has the adapter speak with the device. A panic in it is a bug of ours
// that a device's bytes found; it must cost that device its connection and
// nobody else theirs.
func (l *listener) adapt(set *setup, conn net.Conn, s *protocol.Session) {
	defer func() {
		if p := recover(); p != nil {
			l.srv.cfg.Logger.Error("a protocol adapter panicked; please report this", "listener", s.Listener,
				"device", s.Device().ID, "panic", p, "stack", string(debug.Stack()))
			s.End(errPanic)
		}
	}()
	set.adapter.Serve(conn, s)
}

// errPanic is the cause of a session whose adapter panicked.
var errPanic = errors.New("the gateway failed in serving this session")

// errFinished is the cause of a session that ended by itself.
var errFinished = errors.New("finished")

// newSessionID returns 16 characters that can not be guessed.
func newSessionID() string {
	var b [10]byte
	rand.Read(b[:])
	return base32.StdEncoding.EncodeToString(b[:])
}
