package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/telemetry"
)

const (
	// shadowRetry is how often a shadow set that could not be loaded is looked
	// at again.
	shadowRetry = 2 * time.Second
	// shadowRows bounds the differences in one audit record.
	shadowRows = 200
)

// A shadow runs the policy set that is only tried. Nothing of it may keep the
// gateway from starting, from deciding or from stopping: it is absent until it
// loads.
type shadow struct {
	g       *Gateway
	current atomic.Pointer[policy.Shadow] // run, for every decision

	mu      sync.Mutex // guards what follows
	cfg     config.Policy
	run     *policy.Shadow // nil if there is none configured
	engine  *policy.Engine // nil until a good set was loaded
	refused string         // why there is none, or why a change is not taken
	end     context.CancelFunc
	wg      sync.WaitGroup
}

func (s *shadow) init(g *Gateway) { s.g = g }

// configure starts, replaces or ends the shadow. Only a change of its own
// settings touches it.
func (s *shadow) configure(cfg config.Policy) {
	mine := config.Policy{Enforce: cfg.Shadow, ShadowShare: cfg.ShadowShare, Timeout: cfg.Timeout, MaxSize: cfg.MaxSize}
	if cfg.Shadow == "" {
		mine = config.Policy{}
	}
	s.mu.Lock()
	same := s.cfg == mine
	s.mu.Unlock()
	if same {
		return
	}
	s.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg, s.engine, s.refused, s.run = mine, nil, "", nil
	s.current.Store(nil)
	if cfg.Shadow == "" {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.end = cancel
	s.run = policy.NewShadow(policy.ShadowOptions{Share: float64(mine.ShadowShare) / 100, Report: s.report, Clock: s.g.clock})
	run := s.run
	s.current.Store(run)
	s.wg.Go(func() { run.Run(ctx) })
	s.wg.Go(func() { s.follow(ctx, mine, run) })
}

// close ends the shadow and waits for it.
func (s *shadow) close() {
	s.mu.Lock()
	end := s.end
	s.end = nil
	s.mu.Unlock()
	if end != nil {
		end()
	}
	s.wg.Wait()
}

// follow loads the shadow set as soon as it can be loaded, and then follows its
// directory.
func (s *shadow) follow(ctx context.Context, cfg config.Policy, run *policy.Shadow) {
	loc, err := time.LoadLocation(s.g.cfg.Facility.Timezone)
	if err != nil {
		loc = time.UTC // checked when the gateway started
	}
	opt := s.g.policyOptions(loc, s.g.log.With("set", "shadow"), s.loaded)
	var engine *policy.Engine
	for said := ""; ; {
		if engine, err = policy.NewEngine(ctx, cfg, opt); err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != said {
			said = text
			s.g.log.Error("the shadow policy set is refused; nothing is compared", "dir", cfg.Enforce, "error", text)
			s.loaded(policy.LoadEvent{Dir: cfg.Enforce, Err: err})
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(shadowRetry):
		}
	}
	engine.OnChange(func(set *policy.Set) {
		s.mu.Lock()
		defer s.mu.Unlock()
		run.Use(set, s.g.engine.Current().Revision())
	})
	s.mu.Lock()
	s.engine = engine
	run.Use(engine.Current(), s.g.engine.Current().Revision())
	s.mu.Unlock()
	if err := engine.Watch(ctx); err != nil && ctx.Err() == nil {
		s.g.log.Error("following the shadow policy set", "error", err)
	}
}

// loaded follows what becomes of the shadow's directory.
func (s *shadow) loaded(e policy.LoadEvent) {
	event, text := "policy.shadow.loaded", ""
	if e.Err != nil {
		event, text = "policy.shadow.refused", e.Err.Error()
	}
	s.mu.Lock()
	s.refused = text
	s.mu.Unlock()
	if err := s.g.note(context.Background(), audit.KindPolicy, event, text, field("revision", e.Revision), field("previous", e.Previous)); err != nil {
		s.g.log.Error("recording a load of the shadow policy set", "error", err)
	}
}

// enforced is called when another set came into force.
func (s *shadow) enforced(set *policy.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine != nil {
		s.run.Use(s.engine.Current(), set.Revision())
	}
}

// compare is called with every decision.
func (s *shadow) compare(id string, q *policy.Question, d *policy.Decision) {
	if run := s.current.Load(); run != nil {
		run.Compare(id, q, d)
	}
}

// report records what differed.
func (s *shadow) report(st policy.ShadowStatus, ds []policy.Divergence) {
	for len(ds) > 0 {
		n := min(len(ds), shadowRows)
		rows := make([]protocol.Value, n)
		for i, d := range ds[:n] {
			rows[i] = protocol.Object(field("device", d.Device), field("class", d.Class), field("change", d.Change), field("rule", d.Rule),
				protocol.Field{Name: "count", Value: protocol.Int(int64(d.Count))}, field("example", d.Example))
		}
		ds = ds[n:]
		err := s.g.note(context.Background(), audit.KindPolicy, "policy.shadow.differs", "",
			field("shadow", st.Revision), field("enforced", st.Enforced),
			protocol.Field{Name: "compared", Value: protocol.Int(int64(st.Compared))},
			protocol.Field{Name: "skipped", Value: protocol.Int(int64(st.Skipped))},
			protocol.Field{Name: "differences", Value: protocol.List(rows...)})
		if err != nil {
			s.g.log.Error("recording what the shadow policy set would have decided", "error", err)
			return
		}
	}
}

// status describes the shadow; nil if none is configured.
func (s *shadow) status() *admin.ShadowStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return nil
	}
	out := &admin.ShadowStatus{Refused: s.refused}
	out.Dir = s.cfg.Enforce
	if st, ok := s.run.Status(); ok {
		out.ShadowStatus = st
		ds := s.run.Divergences()
		out.Rows = len(ds)
		out.Divergences = ds[:min(len(ds), shadowRows)]
	}
	return out
}

// counters adds the shadow's metrics.
func (s *shadow) counters() {
	count := func(name, help string, value func(policy.ShadowStatus) uint64) {
		s.g.metrics.Gauge(name, help, func() float64 {
			if run := s.current.Load(); run != nil {
				st, _ := run.Status()
				return float64(value(st))
			}
			return 0
		})
	}
	count("anteroom_shadow_compared", "Decisions compared with the shadow policy set's since the pair of sets met.", func(st policy.ShadowStatus) uint64 { return st.Compared })
	count("anteroom_shadow_different", "Of these, decisions that differed.", func(st policy.ShadowStatus) uint64 { return st.Different })
	count("anteroom_shadow_skipped", "Decisions not compared for lack of processor share.", func(st policy.ShadowStatus) uint64 { return st.Skipped })
	count("anteroom_shadow_incomparable", "Decisions not compared because a fact was not taken in.", func(st policy.ShadowStatus) uint64 { return st.Incomparable })
	s.g.metrics.Table("anteroom_shadow_differences", "Decisions the shadow policy set would have made otherwise, by device and rule.",
		[]string{"device", "change", "rule"}, func() (rows []telemetry.Row) {
			run := s.current.Load()
			if run == nil {
				return nil
			}
			for _, d := range run.Divergences() {
				// A sentence that was made of a request may hold what must not
				// get into metrics.
				if !d.Constant && d.Rule != "" {
					d.Rule = "(a sentence made of the request)"
				}
				rows = append(rows, telemetry.Row{Labels: []string{d.Device, d.Change, d.Rule}, Value: float64(d.Count)})
			}
			return rows
		})
}
