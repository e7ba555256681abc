package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/yield"
)

// Config is what a [Server] is made from. Every field but Hooks is required.
type Config struct {
	TrustDomain string
	Registry    Registry
	Authority   *ca.Authority
	Audit       Recorder
	// Adapter returns the adapter that speaks on a listener.
	Adapter func(config.Listener) (protocol.Adapter, error)
	// CertDir is where the gateway's own certificates rest.
	CertDir string
	Clock   func() time.Time
	Logger  *slog.Logger
	Zap     *zap.Logger // for certmagic, which logs with it
	Hooks   Hooks
}

// Recorder takes audit records. It is the audit log, or a test's.
type Recorder interface {
	Append(ctx context.Context, r *audit.Record) error
}

// Hooks are called as things happen, for metrics. Nil ones are not called.
type Hooks struct {
	Handshake func(listener, result string)
	Session   func(listener string, delta int)
	// Turn is called when the turn of a handshake has come, with how long it waited
	// for it.
	Turn func(waited time.Duration)
	// Disbelieved is called when a device at an address said that our certificate is
	// not in its validity.
	Disbelieved func(from netip.Addr)
}

// A Server owns listeners and the sessions on them.
type Server struct {
	Sessions *Sessions

	cfg      Config
	refusals *refusals
	turns    *turns
	waiting  atomic.Int64 // for a turn to begin
	ctx      context.Context
	stop     context.CancelCauseFunc
	wg       sync.WaitGroup

	mu        sync.Mutex
	listeners map[string]*listener // by address
}

// New returns a server without listeners.
func New(cfg Config) *Server {
	srv := &Server{cfg: cfg, listeners: map[string]*listener{}, Sessions: newSessions(cfg.Registry, cfg.Clock),
		// One core is left to who is connected, if there is more than one.
		turns: newTurns(max(1, runtime.GOMAXPROCS(0)-1))}
	srv.ctx, srv.stop = context.WithCancelCause(context.Background())
	srv.refusals = newRefusals(srv.ctx, cfg.Audit, cfg.Clock, cfg.Logger)
	srv.wg.Go(srv.refusals.run)
	srv.turns.lull = yield.NewLull()
	srv.wg.Go(srv.turns.run)
	return srv
}

// anchors are what devices' certificates are verified against. They often send
// their leaf alone, so the intermediates are among them.
func (srv *Server) anchors() []*x509.Certificate {
	return append(srv.cfg.Authority.Intermediates(), srv.cfg.Authority.Roots()...)
}

// TrustChanged has handshakes from now on verified against what the CA trusts
// now. Sessions go on; a ticket of theirs is good for a full handshake only.
func (srv *Server) TrustChanged() {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, l := range srv.listeners {
		set := l.setup.Load()
		set.tls.Store(srv.newTLS(set))
	}
}

// verify returns tls.Config.VerifyConnection of a listener.
func (srv *Server) verify(listener string) func(tls.ConnectionState) error {
	return func(st tls.ConnectionState) error {
		_, err := identify(&st, srv.cfg.TrustDomain, srv.cfg.Registry, srv.cfg.Clock(), srv.Sessions.laneOn(listener))
		return err
	}
}

// Apply makes the listeners what the configuration says, or changes nothing and
// returns what stood in the way: new sockets are bound and every certificate is
// obtained before anything is touched (invariant 4). A socket whose address
// stays is kept. Sessions of a listener that changed or went are asked to
// finish.
func (srv *Server) Apply(ctx context.Context, cfgs []config.Listener) (err error) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	var fresh []*listener
	next := map[string]*listener{}
	setups := map[*listener]*setup{}
	defer func() {
		if err == nil {
			return
		}
		for _, s := range setups {
			s.cert.stop()
		}
		for _, l := range fresh {
			l.ln.Close()
		}
	}()
	for _, cfg := range cfgs {
		l := srv.listeners[cfg.Address]
		if l == nil {
			ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Address)
			if err != nil {
				return fmt.Errorf("listener %s: %w", cfg.Name, err)
			}
			l = &listener{srv: srv, ln: ln}
			fresh = append(fresh, l)
		} else if l.setup.Load().same(cfg) {
			next[cfg.Address] = l
			continue
		}
		set, err := srv.newSetup(ctx, cfg)
		if err != nil {
			return fmt.Errorf("listener %s: %w", cfg.Name, err)
		}
		setups[l] = set
		next[cfg.Address] = l
	}

	gone := map[string]bool{}
	for l, set := range setups {
		if old := l.setup.Swap(set); old != nil {
			gone[old.cfg.Name] = true
			old.cert.stop()
		}
	}
	for addr, l := range srv.listeners {
		if next[addr] == nil {
			l.ln.Close()
			old := l.setup.Load()
			gone[old.cfg.Name] = true
			old.cert.stop()
		}
	}
	for _, s := range srv.Sessions.List() {
		if gone[s.Listener] {
			s.Drain()
		}
	}
	for _, l := range fresh {
		srv.wg.Go(func() {
			l.run(srv.ctx)
			l.wg.Wait()
		})
	}
	srv.listeners = next
	return nil
}

// ListenerStatus describes a listener for status pages.
type ListenerStatus struct {
	Config       config.Listener
	Address      net.Addr // as bound
	Connections  int64
	Certificates []*x509.Certificate
}

// Listeners describes the listeners in use.
func (srv *Server) Listeners() []ListenerStatus {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	var out []ListenerStatus
	for _, l := range srv.listeners {
		set := l.setup.Load()
		out = append(out, ListenerStatus{
			Config: set.cfg, Address: l.ln.Addr(), Connections: l.conns.Load(), Certificates: set.cert.leaves(),
		})
	}
	return out
}

// Shutdown stops listening, asks every session to finish, waits for them until
// ctx ends, and then ends what is left. Everything has stopped when it returns.
func (srv *Server) Shutdown(ctx context.Context) {
	srv.mu.Lock()
	ls := srv.listeners
	srv.listeners = map[string]*listener{}
	for _, l := range ls {
		l.ln.Close()
	}
	srv.mu.Unlock()
	for _, s := range srv.Sessions.List() {
		s.Drain()
	}
	done := make(chan struct{})
	go func() {
		for _, l := range ls {
			l.wg.Wait()
		}
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	srv.stop(errClosing)
	for _, s := range srv.Sessions.List() {
		s.End(errClosing)
	}
	<-done
	srv.turns.close()
	srv.wg.Wait()
	srv.Sessions.Close()
	for _, l := range ls {
		l.setup.Load().cert.stop()
	}
}

// refused records a connection that made no session.
func (srv *Server) refused(set *setup, remote netip.AddrPort, why *Refusal, st *tls.ConnectionState) {
	if h := srv.cfg.Hooks.Handshake; h != nil {
		h(set.cfg.Name, why.Code)
	}
	srv.disbelieved(remote.Addr(), why)
	r := &audit.Record{
		Kind: audit.KindTLS, Event: "tls.refused", Listener: set.cfg.Name, Remote: remote,
		Device: why.Device, Error: why.Why,
		Detail: []protocol.Field{{Name: "code", Value: protocol.String(why.Code)}},
	}
	if st != nil {
		t := facts(st)
		r.TLS = &t
	}
	srv.refusals.record(remote.Addr(), set.cfg.Name, why.Code, r)
}

func (srv *Server) disbelieved(from netip.Addr, why *Refusal) {
	if h := srv.cfg.Hooks.Disbelieved; h != nil && why.Code == refusedClock {
		h(from)
	}
}

// began records and counts a new session.
func (srv *Server) began(s *protocol.Session) {
	if h := srv.cfg.Hooks.Handshake; h != nil {
		h(s.Listener, "ok")
	}
	if h := srv.cfg.Hooks.Session; h != nil {
		h(s.Listener, 1)
	}
}

// ended counts a session's end and records one that we ended.
func (srv *Server) ended(s *protocol.Session) {
	if h := srv.cfg.Hooks.Session; h != nil {
		h(s.Listener, -1)
	}
	cause := context.Cause(s.Context())
	if errors.Is(cause, errFinished) || errors.Is(cause, errClosing) {
		return
	}
	rec := s.Device()
	err := srv.cfg.Audit.Append(context.WithoutCancel(s.Context()), &audit.Record{
		Kind: audit.KindSession, Event: "session.ended", Device: rec.ID, Class: rec.Class, DeviceStatus: string(rec.Status),
		Fingerprint: s.Fingerprint, Session: s.ID, Listener: s.Listener, Remote: s.Remote, Error: cause.Error(),
	})
	if err != nil {
		srv.cfg.Logger.Error("recording the end of a session", "device", rec.ID, "error", err)
	}
}
