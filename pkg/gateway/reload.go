package gateway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw"
)

// apply puts a configuration into force or changes nothing. The caller holds mu,
// or is alone.
func (g *Gateway) apply(ctx context.Context, cfg *config.File) error {
	bs, fresh, err := g.newBackends(cfg.Backends, g.backends)
	if err != nil {
		return err
	}
	forHTTP := map[string]httpgw.Backend{}
	for name, b := range bs {
		forHTTP[name] = b
	}
	table, err := httpgw.NewTable(cfg.Routes, cfg.Backends, forHTTP)
	if err != nil {
		closeAll(fresh)
		return err
	}
	oldTable, oldGateways := g.table, g.gateways
	g.table, g.gateways = table, map[string]*httpgw.Gateway{}
	if err := g.edge.Apply(ctx, cfg.Listeners); err != nil {
		g.table, g.gateways = oldTable, oldGateways
		closeAll(fresh)
		return err
	}
	// Adapters of listeners that stayed as they were go on with the new routes,
	// and so do sessions that were begun under an earlier configuration.
	for addr, a := range oldGateways {
		a.SetTable(table)
		if g.gateways[addr] == nil && slices.ContainsFunc(cfg.Listeners, func(l config.Listener) bool { return l.Address == addr }) {
			g.gateways[addr] = a
		}
	}
	for name, b := range g.backends {
		if bs[name] != b {
			g.retire(b)
		}
		if bs[name] == nil {
			g.metrics.BackendGone(name)
		}
	}
	g.backends, g.cfg = bs, cfg
	inLane, open := lanes(cfg)
	g.edge.Sessions.SetLanes(open)
	g.edge.Sessions.OnDouble(samePlaces(cfg.Findings), g.doubled)
	for _, name := range inLane {
		g.log.Warn("quarantined devices may connect, for this route only", "route", name)
	}
	for _, name := range passing(cfg) {
		g.log.Warn("the route passes on failure: with little disk left for the audit log, reports of life-critical devices go on", "route", name)
	}
	for _, name := range observing(cfg) {
		g.log.Warn("the route only observes: what the policy denies there is forwarded", "route", name)
	}
	return nil
}

// observing returns the names of the routes that enforce nothing.
func observing(cfg *config.File) []string {
	return routes(cfg, func(r *config.Route) bool { return r.Mode == "observe" })
}

// routes returns the names of those for which which is true.
func routes(cfg *config.File, which func(*config.Route) bool) (names []string) {
	for i := range cfg.Routes {
		if which(&cfg.Routes[i]) {
			names = append(names, cfg.Routes[i].Name)
		}
	}
	return names
}

// retire closes a backend when requests under way have had time to end.
func (g *Gateway) retire(b *backend) {
	g.retiring.Go(func() {
		select {
		case <-time.After(retireTime):
		case <-g.stopping:
		}
		b.Close()
	})
}

// fixed are the settings that a reload can not change.
func fixed(old, next *config.File) error {
	var names []string
	for _, s := range []struct {
		name string
		same bool
	}{
		{"trust_domain", old.TrustDomain == next.TrustDomain},
		{"state_dir", old.StateDir == next.StateDir},
		{"audit", old.Audit == next.Audit},
		{"telemetry.address", old.Telemetry.Address == next.Telemetry.Address},
		{"facility.timezone", old.Facility == next.Facility},
		{"policy.bundle", old.Policy.Bundle == next.Policy.Bundle},
		{"policy.source", old.Policy.Source == next.Policy.Source},
		{"enrolment (but its quota and grace)", sameEnrolment(old.Enrolment, next.Enrolment)},
		{"ca.urls", old.CA.URLs == next.CA.URLs},
		{"ca.kms", old.CA.KMS == next.CA.KMS && old.CA.PIN == next.CA.PIN},
		{"revocation", old.Revocation == next.Revocation},
	} {
		if !s.same {
			names = append(names, s.name)
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("%s can not be changed while the gateway runs: restart it", strings.Join(names, ", "))
	}
	return nil
}

// Reload reads the configuration file and the policies again and puts them into
// force, or returns why not and changes nothing.
func (g *Gateway) Reload(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = modified(g.cfg.Path)
	g.refused = ""
	next, err := g.reload(ctx)
	if err != nil {
		// Otherwise it is the policies alone that are refused, and the engine says so
		// for as long as they are.
		if next == nil || !reflect.DeepEqual(next, g.cfg) {
			g.refused = err.Error()
		}
		g.log.Error("reload refused, everything stays as it was", "error", err)
		if nerr := g.note(ctx, audit.KindConfig, "config.refused", err.Error()); nerr != nil {
			g.log.Error("recording a refused reload", "error", nerr)
		}
		return err
	}
	g.log.Info("configuration loaded", "file", g.cfg.Path)
	return g.note(ctx, audit.KindConfig, "config.loaded", "")
}

// reload returns what the file holds, if it could be read, and why that is not in
// force.
func (g *Gateway) reload(ctx context.Context) (next *config.File, err error) {
	next, err = config.Load(g.cfg.Path)
	if err != nil {
		return nil, err
	}
	if err := fixed(g.cfg, next); err != nil {
		return next, err
	}
	// The policies first: an error there must leave the listeners alone too.
	if next.Policy != g.cfg.Policy {
		err = g.engine.Configure(ctx, next.Policy)
	} else {
		err = g.engine.Reload(ctx)
	}
	if err != nil {
		return next, err
	}
	if err := g.apply(ctx, next); err != nil {
		if next.Policy != g.cfg.Policy {
			err = errors.Join(err, g.engine.Configure(ctx, g.cfg.Policy))
		}
		return next, err
	}
	g.shadow.configure(next.Policy)
	// Settings of issuance are read from the state's configuration.
	g.state.Configure(next)
	return next, nil
}

// modified returns when a file was changed last, or the zero time.
func modified(path string) time.Time {
	st, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// watchConfig reloads when the configuration file was changed.
func (g *Gateway) watchConfig(ctx context.Context) {
	tick := time.NewTicker(configPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g.mu.Lock()
		changed := g.cfg.Path != "" && !modified(g.cfg.Path).Equal(g.seen)
		g.mu.Unlock()
		if changed {
			_ = g.Reload(ctx) // logged and recorded there
		}
	}
}
