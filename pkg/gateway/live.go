package gateway

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/finding"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

// live is what operators see of a running gateway.
type live struct{ g *Gateway }

var _ admin.Live = live{}

// Sessions implements [admin.Live].
func (l live) Sessions() []admin.SessionInfo {
	var out []admin.SessionInfo
	for _, s := range l.g.edge.Sessions.List() {
		rec := s.Device()
		out = append(out, admin.SessionInfo{
			ID: s.ID, Device: rec.ID, Class: rec.Class, Listener: s.Listener, Remote: s.Remote.String(), Started: s.Started,
			TLS: s.TLS.Version + " " + s.TLS.Cipher + " " + s.TLS.Group, ALPN: s.TLS.ALPN, Resumed: s.TLS.Resumed, Lane: s.InLane(), Ongoing: s.Ongoing(),
		})
	}
	return out
}

// KillSession implements [admin.Live].
func (l live) KillSession(id string) bool { return l.g.edge.Sessions.Kill(id) }

// Reload implements [admin.Live].
func (l live) Reload(ctx context.Context) error { return l.g.Reload(ctx) }

// Recheck implements [admin.Live].
func (l live) Recheck() { l.g.edge.Sessions.Recheck() }

// TrustChanged implements [admin.Live].
func (l live) TrustChanged() { l.g.edge.TrustChanged() }

// Clock implements [admin.Live].
func (l live) Clock(id string) *admin.ClockReading { return l.g.clocks.of(id) }

// Describe implements [admin.Live].
func (l live) Describe(st *admin.Status) {
	g := l.g
	st.Running, st.Version, st.Started, st.Sessions = true, g.opt.Version, g.started, g.edge.Sessions.Len()
	for _, ls := range g.edge.Listeners() {
		out := admin.ListenerStatus{
			Name: ls.Config.Name, Address: ls.Address.String(), Protocol: ls.Config.Protocol, Profile: ls.Config.TLS.Profile, Connections: ls.Connections,
		}
		for _, c := range ls.Certificates {
			out.Certificates = append(out.Certificates, admin.CertificateStatus{Name: cmp.Or(append(c.DNSNames, "certificate")...), NotAfter: c.NotAfter})
		}
		if ls.Config.TLS.Profile == "legacy" {
			st.Warnings = append(st.Warnings, "listener "+ls.Config.Name+" has the legacy TLS profile")
		}
		st.Listeners = append(st.Listeners, out)
	}
	g.enrolment.describe(st)
	g.describeRevocation(st)
	slices.SortFunc(st.Listeners, func(a, b admin.ListenerStatus) int { return cmp.Compare(a.Name, b.Name) })
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, b := range g.backends.sorted() {
		out := admin.BackendStatus{Name: b.cfg.Name, Insecure: b.cfg.Insecure}
		for _, a := range b.Health() {
			out.Addresses = append(out.Addresses, admin.AddressStatus{Address: a.Address, Healthy: a.Healthy, Error: a.Error})
		}
		if down := unreachable(out); down != "" {
			st.Problems = append(st.Problems, down)
		}
		if b.cfg.Insecure {
			st.Warnings = append(st.Warnings, "backend "+b.cfg.Name+" is spoken to in plain HTTP")
		}
		st.Backends = append(st.Backends, out)
	}
	st.Policy.Observing = observing(g.cfg)
	for _, name := range st.Policy.Observing {
		st.Warnings = append(st.Warnings, "route "+name+" ONLY OBSERVES: what the policy denies there is forwarded")
	}
	g.describePassing(st)
	inLane, _ := lanes(g.cfg)
	for _, name := range inLane {
		st.Warnings = append(st.Warnings, "route "+name+" is a quarantine lane: quarantined devices may connect, for this route only")
	}
	set := g.engine.Current()
	st.Policy.Dir, st.Policy.Revision, st.Policy.Loaded = set.Dir(), set.Revision(), set.Loaded()
	if g.remote != nil {
		r := g.remote.Status()
		st.Policy.Remote = &r
		if r.Unsigned {
			st.Warnings = append(st.Warnings, "policy bundles are taken without a signature")
		}
		if r.Error != "" {
			st.Problems = append(st.Problems, "the policy bundle in force stays: "+r.Error)
		}
	}
	st.Policy.Cache = set.CacheStats()
	if st.Policy.Shadow = g.shadow.status(); st.Policy.Shadow != nil && st.Policy.Shadow.Refused != "" {
		st.Warnings = append(st.Warnings, "what the shadow policy directory holds now is not compared: "+st.Policy.Shadow.Refused)
	}
	if e, ok := g.engine.Refused(); ok {
		st.Policy.Refused = e.Err.Error()
		st.Problems = append(st.Problems, "what the policy directory holds now is not in force: "+e.Err.Error())
	}
	if g.refused != "" {
		st.Problems = append(st.Problems, "what "+g.cfg.Path+" holds now is not in force: "+g.refused)
	}
	if !st.Audit.Healthy {
		but := ""
		if st.Audit.Reserve > 0 && len(st.Passing) > 0 {
			but = " but reports on routes that pass on failure"
		}
		st.Problems = append(st.Problems, "the audit log takes no records, so nothing is allowed"+but+": "+st.Audit.Error)
	}
}

// unreachable says why a backend serves nobody, if so.
func unreachable(b admin.BackendStatus) (why string) {
	for _, a := range b.Addresses {
		if a.Healthy {
			return ""
		}
		why = a.Error
	}
	return "backend " + b.Name + " can not be reached: " + why
}

// ready says what keeps the gateway from serving devices as configured.
func (g *Gateway) ready() error {
	if g.draining.Load() {
		return errors.New("the gateway is stopping")
	}
	if g.remote != nil && g.remote.Status().Fetched.IsZero() {
		return errors.New(noBundle)
	}
	if st := g.state.Audit.Status(); !st.Healthy {
		return errors.New("the audit log takes no records: " + st.Error)
	}
	return nil
}

// gauges adds the metrics that are read rather than counted.
func (g *Gateway) gauges() {
	log := g.state.Audit
	g.shadow.counters()
	remembered := func(name, help string, value func(policy.CacheStats) float64) {
		g.metrics.Gauge(name, help, func() float64 { return value(g.engine.Current().CacheStats()) })
	}
	remembered("anteroom_policy_cache_hits", "Decisions that were remembered, since the set in force was loaded.", func(c policy.CacheStats) float64 { return float64(c.Hits) })
	remembered("anteroom_policy_cache_misses", "Decisions that had to be evaluated, since then.", func(c policy.CacheStats) float64 { return float64(c.Misses) })
	remembered("anteroom_policy_cache_evictions", "Remembered decisions that made room for others, since then.", func(c policy.CacheStats) float64 { return float64(c.Evictions) })
	remembered("anteroom_policy_cache_entries", "Decisions that are remembered.", func(c policy.CacheStats) float64 { return float64(c.Entries) })
	remembered("anteroom_policy_cache_bytes", "About what they take.", func(c policy.CacheStats) float64 { return float64(c.Bytes) })
	g.metrics.Gauge("anteroom_audit_records", "Records accepted by the audit log.", func() float64 { return float64(log.Status().Seq) })
	g.metrics.Gauge("anteroom_audit_flushed", "Last record on stable storage.", func() float64 { return float64(log.Status().Flushed) })
	g.metrics.Gauge("anteroom_audit_sealed", "Last record in a sealed block.", func() float64 { return float64(log.Status().Sealed) })
	g.metrics.Gauge("anteroom_audit_buffered_bytes", "Bytes of records waiting to be written.", func() float64 { return float64(log.Status().Buffered) })
	g.metrics.Gauge("anteroom_audit_healthy", "1 while the audit log takes records; nothing is allowed while it does not, but what its reserve takes on routes with on_failure: pass.", func() float64 {
		if log.Status().Healthy {
			return 1
		}
		return 0
	})
	g.metrics.Gauge("anteroom_audit_reserve_bytes", "While the audit log takes no records for want of disk: about how many bytes there are for those of routes with on_failure: pass. 0 at other times.", func() float64 { return float64(log.Status().Reserve) })
	g.metrics.Gauge("anteroom_handshakes_waiting", "Connections that wait for their turn to have their handshake computed.", func() float64 { return float64(g.edge.Waiting()) })
	marked := func(name, help string, which func(*config.File) []string) {
		g.metrics.Gauges(name, help, "route", func() map[string]float64 {
			g.mu.Lock()
			defer g.mu.Unlock()
			out := map[string]float64{}
			for _, route := range which(g.cfg) {
				out[route] = 1
			}
			return out
		})
	}
	marked("anteroom_route_observing", "1 for each route that forwards what the policy denies (mode: observe).", observing)
	marked("anteroom_route_on_failure_pass", "1 for each route that passes reports of life-critical devices when the audit log has nearly no disk left (on_failure: pass).", passing)
	marked("anteroom_route_quarantine_lane", "1 for each route that devices in quarantine may use.", func(cfg *config.File) []string {
		inLane, _ := lanes(cfg)
		return inLane
	})
	g.metrics.Gauge("anteroom_break_glass_active", "Emergency grants that are in force.", func() float64 { n, _ := g.state.BreakGlass.Count(); return float64(n) })
	g.metrics.Gauge("anteroom_break_glass_unreviewed", "Emergency grants that are over and were not reviewed.", func() float64 { _, n := g.state.BreakGlass.Count(); return float64(n) })
	g.metrics.Gauge("anteroom_policy_trial", "1 while a policy revision is on trial with some devices.", func() float64 {
		if _, ok := g.engine.OnTrial(); ok {
			return 1
		}
		return 0
	})
	g.metrics.Gauge("anteroom_policy_trial_denials", "Denials of the revision on trial that the set in force would have allowed.", func() float64 {
		rep, _ := g.engine.OnTrial()
		return float64(rep.New)
	})
	if g.remote != nil {
		g.metrics.Gauge("anteroom_policy_bundle_failures", "Questions to the bundle server in a row that changed nothing because they failed.", func() float64 {
			return float64(g.remote.Status().Failures)
		})
	}
	g.metrics.Gauges("anteroom_findings", "Findings about devices that a person should look at.", "kind", func() map[string]float64 {
		out := map[string]float64{}
		for _, k := range finding.Kinds() {
			out[string(k)] = 0
		}
		for _, f := range g.state.Findings.Standing() {
			out[string(f.Kind)]++
		}
		return out
	})
	g.metrics.Gauges("anteroom_devices", "Registered devices.", "status", func() map[string]float64 {
		out := map[string]float64{}
		if !g.state.Devices.Whole() {
			return nil // rather than have who reads the metrics wait
		}
		for _, s := range device.Statuses() {
			out[string(s)] = 0
		}
		for s, n := range g.state.Devices.Counts() {
			out[string(s)] = float64(n)
		}
		return out
	})
	g.metrics.Gauges("anteroom_devices_expiring", "Active devices whose last certificate ends within so many days.", "days", func() map[string]float64 {
		out := map[string]float64{}
		if !g.state.Devices.Whole() {
			return nil
		}
		within := append(admin.ExpiryDays(), 90)
		counts := g.service.ExpiryCounts(within...)
		for _, days := range within {
			out[strconv.Itoa(days)] = float64(counts[days])
		}
		return out
	})
	g.metrics.Gauge("anteroom_certificate_expiry_seconds", "Seconds until the first of the gateway's own certificates ends.", func() float64 {
		first := 0.0
		for _, l := range g.edge.Listeners() {
			for _, c := range l.Certificates {
				if left := c.NotAfter.Sub(g.clock()).Seconds(); first == 0 || left < first {
					first = left
				}
			}
		}
		return first
	})
	g.metrics.Gauge("anteroom_restored_unacknowledged", "1 while the state is a backup's and nobody said that what was revoked since was seen to.", g.restored)
	g.metrics.Gauge("anteroom_ca_expiry_seconds", "Seconds until the issuing certificate of the CA ends.", func() float64 {
		return g.state.CA.Intermediates()[0].NotAfter.Sub(g.clock()).Seconds()
	})
}
