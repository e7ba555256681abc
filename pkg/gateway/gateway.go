package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/edge"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw"
	"github.com/anteroom-iomt/anteroom/pkg/revocation"
	"github.com/anteroom-iomt/anteroom/pkg/telemetry"
)

const (
	// drainTime is how long sessions have to finish when the gateway stops.
	drainTime = 20 * time.Second
	// retireTime is how long a backend that was configured away is kept for
	// requests under way.
	retireTime = 2 * time.Minute
	// configPoll is how often the configuration file is looked at. It is polled
	// because it is often a link that watchers lose.
	configPoll = time.Second
)

// Options are what a gateway needs besides its configuration.
type Options struct {
	Version string
	Logger  *slog.Logger
	Clock   func() time.Time
	// Judged is called with every decision, for whoever watches.
	Judged func(edge.Judged)
}

// A Gateway is one running gateway.
type Gateway struct {
	opt     Options
	log     *slog.Logger
	clock   func() time.Time
	started time.Time
	state   *admin.State
	service *admin.Service
	metrics *telemetry.Metrics
	engine  *policy.Engine
	shadow  shadow
	judge   *edge.Judge
	edge    *edge.Server
	mirrors *httpgw.Mirrors
	tele    *telemetry.Server
	socket  *admin.Server
	// enrolment is nil unless devices can enrol by themselves.
	enrolment *enrolment
	// revocation is nil unless others can ask about revocations.
	revocation *revocation.Server
	seen       time.Time // the configuration file's time when it was last read

	mu        sync.Mutex // held over a reload
	cfg       *config.File
	refused   string // why what the configuration file holds now is not in force
	backends  backends
	table     *httpgw.Table
	gateways  map[string]*httpgw.Gateway // by listener; those being made included
	retiring  sync.WaitGroup
	stopping  chan struct{}
	remote    *bundle.Remote // nil unless the policy set comes from a bundle server
	server    io.Closer      // of its connections
	tripped   chan struct{}  // a trial of a policy revision has failed
	draining  atomic.Bool
	clocks    clocks
	passes    passes        // of reports, with no disk left for the audit log
	guessed   atomic.Int64  // when it was last looked up who an address may be
	sightings chan sighting // what was seen of devices, to be written down
}

// New makes a gateway of a configuration: it opens the state directory, loads
// the policies, obtains the certificates and listens. If anything fails,
// everything is closed again. Devices are served from then on; Run keeps it
// running and closes it.
func New(ctx context.Context, cfg *config.File, opt Options) (_ *Gateway, err error) {
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	g := &Gateway{opt: opt, log: opt.Logger, clock: opt.Clock, started: opt.Clock(), cfg: cfg, metrics: telemetry.NewMetrics(),
		gateways: map[string]*httpgw.Gateway{}, stopping: make(chan struct{}), sightings: make(chan sighting, mostSightings), tripped: make(chan struct{}, 1), seen: modified(cfg.Path)}
	defer func() {
		if err != nil {
			done, cancel := context.WithCancel(context.Background())
			cancel()
			g.close(done)
		}
	}()
	if g.state, err = admin.OpenStateEarly(ctx, cfg, g.log, g.clock); err != nil {
		return nil, err
	}
	loc, err := time.LoadLocation(cfg.Facility.Timezone)
	if err != nil {
		return nil, fmt.Errorf("time zone: %w", err)
	}
	given, err := g.given(ctx, cfg)
	if err != nil {
		return nil, err
	}
	enforced := g.policyOptions(loc, g.log, g.policyLoaded)
	enforced.Given = given
	if g.engine, err = policy.NewEngine(ctx, cfg.Policy, enforced); err != nil {
		return nil, err
	}
	g.shadow.init(g)
	g.judge = edge.NewJudge(edge.JudgeConfig{Policy: g.engine, Audit: g.state.Audit, Clock: g.clock, Compare: g.shadow.compare, Judged: g.judged,
		Obliged: g.metrics.Obligation, Passed: g.passed, BreakGlass: g.state.BreakGlass.For})
	g.mirrors = httpgw.NewMirrors(g.log)
	g.edge = edge.New(edge.Config{
		TrustDomain: cfg.TrustDomain, Registry: g.state.Devices, Authority: g.state.CA, Audit: g.state.Audit,
		Adapter: g.adapter, CertDir: filepath.Join(cfg.StateDir, admin.CertDir), Clock: g.clock, Logger: g.log, Zap: telemetry.Zap(g.log),
		Hooks: edge.Hooks{Handshake: g.metrics.Handshake, Turn: g.metrics.Turn, Session: g.metrics.Session, Disbelieved: g.disbelieved},
	})
	g.engine.OnChange(func(s *policy.Set) { g.shadow.enforced(s); g.edge.Sessions.Recheck() })
	if err := g.apply(ctx, cfg); err != nil {
		return nil, err
	}
	g.shadow.configure(cfg.Policy)
	g.gauges()
	g.service = admin.NewService(admin.Config{
		State: g.state, Live: live{g}, Clock: g.clock, Logger: g.log, Version: opt.Version,
		Classes: func() []string { return g.engine.Current().Keys("classes") },
		Engine:  g.engine, TrialFailed: g.trialFailed, Enrolled: g.enrolled,
	})
	if err := g.resumeTrial(ctx); err != nil {
		return nil, err
	}
	if err := g.openEnrolment(ctx, cfg.Enrolment); err != nil {
		return nil, err
	}
	if err := g.openRevocation(ctx, cfg.Revocation); err != nil {
		return nil, err
	}
	if g.socket, err = admin.Listen(filepath.Join(cfg.StateDir, admin.SocketName), g.service, g.log); err != nil {
		return nil, err
	}
	if err := g.note(ctx, audit.KindSystem, "gateway.started", "", field("version", opt.Version), field("policy", g.engine.Current().Revision())); err != nil {
		return nil, fmt.Errorf("record the start: %w", err)
	}
	if err := g.noteRestored(ctx); err != nil {
		return nil, fmt.Errorf("record the start: %w", err)
	}
	// Last, because it says that everything is there.
	if cfg.Telemetry.Address != "off" {
		if g.tele, err = telemetry.Serve(cfg.Telemetry.Address, g.metrics, g.ready); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// policyOptions are the options of every policy set here, enforced or not.
func (g *Gateway) policyOptions(loc *time.Location, log *slog.Logger, loaded func(policy.LoadEvent)) policy.Options {
	return policy.Options{Location: loc, Logger: log, Clock: g.clock, OnLoad: loaded, OnDistrust: g.metrics.PlanDistrusted}
}

func field(name, value string) protocol.Field {
	return protocol.Field{Name: name, Value: protocol.String(value)}
}

// note records an event of the gateway's own.
func (g *Gateway) note(ctx context.Context, kind audit.Kind, event, errText string, detail ...protocol.Field) error {
	return g.state.Audit.Append(ctx, &audit.Record{Kind: kind, Event: event, Error: errText, Detail: detail})
}

// policyLoaded follows what becomes of changes to the policy directory. The
// engine has logged them.
func (g *Gateway) policyLoaded(e policy.LoadEvent) {
	event, text := "policy.loaded", ""
	if e.Err != nil {
		event, text = "policy.refused", e.Err.Error()
		g.metrics.PolicyRefused()
	} else {
		g.metrics.PolicyLoaded(e.Revision)
	}
	if err := g.note(context.Background(), audit.KindPolicy, event, text, field("revision", e.Revision), field("previous", e.Previous)); err != nil {
		g.log.Error("recording a policy load", "error", err)
	}
}

// judged counts a decision and passes it on.
func (g *Gateway) judged(j edge.Judged) {
	if j.Transaction != nil {
		g.edge.Sessions.Used(j.Session)
		route, took := "", time.Duration(0)
		if j.Route != nil {
			route = j.Route.Name
		}
		if j.Decision != nil {
			took = j.Decision.Elapsed
		}
		g.metrics.Transaction(j.Session.Listener, route, j.Transaction.Protocol, result(j), took)
		if j.BreakGlass != nil {
			g.metrics.BreakGlass(result(j))
		}
	}
	if g.opt.Judged != nil {
		g.opt.Judged(j)
	}
}

func result(j edge.Judged) string {
	switch {
	case j.Decision == nil:
		return "malformed"
	case j.WouldDeny:
		return "would-deny"
	case j.Verdict.Allow:
		return "allow"
	case j.Verdict.Cause == protocol.CauseDevice:
		return "device"
	case j.Verdict.Cause == protocol.CauseLimit:
		return "limit"
	case j.Verdict.Cause == protocol.CauseObligation:
		return "obligation"
	case j.Verdict.Cause == protocol.CauseFault || j.Decision.Fault != "":
		return "fault"
	}
	return "deny"
}

// adapter makes the adapter of a listener. The edge calls it within apply, which
// gives the new adapters their routes.
func (g *Gateway) adapter(l config.Listener) (protocol.Adapter, error) {
	if l.Protocol != "http" {
		return nil, fmt.Errorf("protocol %q is not known", l.Protocol)
	}
	a, err := httpgw.New(httpgw.Config{Listener: l, Judge: g.judge, Logger: g.log, Mirrors: g.mirrors, Obliged: g.metrics.Obligation, Dated: g.dated, Observe: func(o httpgw.Observation) {
		g.metrics.Request(o.Listener, o.Route, o.Status, o.Duration)
	}})
	if err != nil {
		return nil, err
	}
	a.SetTable(g.table)
	g.gateways[l.Address] = a
	return a, nil
}

// Run keeps the gateway running until ctx ends, and then closes it: sessions are
// asked to finish, the audit log is sealed.
func (g *Gateway) Run(ctx context.Context) error {
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ended(gctx, g.engine.Watch(gctx)) })
	group.Go(func() error { return ended(gctx, g.load(gctx)) })
	group.Go(func() error { g.watchConfig(gctx); return nil })
	group.Go(func() error { g.watchTrial(gctx); return nil })
	group.Go(func() error { g.endDue(gctx); return nil })
	group.Go(func() error { g.watchGrants(gctx); return nil })
	group.Go(func() error { g.watchExpiry(gctx); return nil })
	group.Go(func() error { g.writeFindings(gctx); return nil })
	if g.remote != nil {
		group.Go(func() error { g.remote.Run(gctx); return nil })
	}
	err := group.Wait()
	g.draining.Store(true)
	g.log.Info("stopping: sessions are asked to finish", "sessions", g.edge.Sessions.Len(), "within", drainTime)
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	return errors.Join(err, g.close(drain))
}

// load waits until the registry is loaded. Devices are served before; but a gateway
// whose registry turns out to be unreadable stops.
func (g *Gateway) load(ctx context.Context) error {
	// Others wait for all records too, and hold the end up.
	defer context.AfterFunc(ctx, g.state.Devices.Close)()
	if err := g.state.Loaded(ctx); err != nil {
		return err
	}
	g.state.Devices.Index() // nobody has to wait for it
	devices := 0
	for _, n := range g.state.Devices.Counts() {
		devices += n
	}
	g.log.Info("the registry is in memory", "devices", devices, "after", g.clock().Sub(g.started).Round(time.Millisecond))
	return nil
}

// ended makes no error of an end that was asked for.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// close stops everything that was started, in the order in which the parts need
// each other. Sessions may finish until ctx ends.
func (g *Gateway) close(ctx context.Context) error {
	var errs []error
	if g.state != nil && g.state.Devices != nil {
		g.state.Devices.Close() // who waits for all of them waits no longer
	}
	if g.socket != nil {
		errs = append(errs, g.socket.Close())
	}
	errs = append(errs, g.enrolment.close(ctx))
	if g.revocation != nil {
		g.revocation.Close(ctx)
	}
	if g.edge != nil {
		g.edge.Shutdown(ctx)
	}
	if g.mirrors != nil {
		g.mirrors.Close()
	}
	close(g.stopping)
	g.shadow.close()
	g.retiring.Wait()
	for _, b := range g.backends {
		errs = append(errs, b.Close())
	}
	if g.server != nil {
		errs = append(errs, g.server.Close())
	}
	if g.tele != nil {
		errs = append(errs, g.tele.Close())
	}
	if g.state != nil {
		if g.state.Audit != nil {
			if err := g.note(context.WithoutCancel(ctx), audit.KindSystem, "gateway.stopped", ""); err != nil {
				errs = append(errs, fmt.Errorf("record the stop: %w", err))
			}
		}
		errs = append(errs, g.state.Close())
	}
	return errors.Join(errs...)
}

// API returns the operator's view of this gateway for code in the same process;
// it is not closed.
func (g *Gateway) API() *admin.API { return admin.Local(g.service, admin.LocalActor()) }

// Addr returns where a listener listens, or nil if there is none of that name.
func (g *Gateway) Addr(listener string) net.Addr {
	for _, l := range g.edge.Listeners() {
		if l.Config.Name == listener {
			return l.Address
		}
	}
	return nil
}

// Waiting returns how many connections wait for their turn to have their handshake
// computed.
func (g *Gateway) Waiting() int { return g.edge.Waiting() }

// AuditDir returns where the audit log is.
func (g *Gateway) AuditDir() string { return g.cfg.Audit.Dir }
