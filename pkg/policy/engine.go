package policy

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// A LoadEvent says what became of an attempt to put a changed set in force.
type LoadEvent struct {
	At  time.Time
	Dir string
	// Revision names the set that was read, loaded or not; "" if it could not be
	// read at all.
	Revision string
	// Previous is the revision that was in force before; "" at the start. If Err
	// is set it still is.
	Previous string
	// Err is nil if the set is now in force, and otherwise says why it was
	// refused. Problems are its parts, with file and line.
	Err      error
	Problems []Problem
}

// An Engine holds the policy set in force and replaces it when its directory
// changes to another good one. All methods are safe for concurrent use.
//
// Deciding takes one atomic load to find the set, and everything a decision
// needs hangs from that set: a decision is made by the old set or by the new
// one, never by something between.
type Engine struct {
	opt     Options
	current atomic.Pointer[Set]
	trial   atomic.Pointer[trial] // nil unless a set is on trial with some devices

	mu      sync.Mutex // one load at a time; guards what follows
	cfg     config.Policy
	given   *Source // in force in place of the directory, if there is one
	tried   attempt
	subs    map[int]func(*Set)
	nextSub int

	moved chan struct{} // Configure tells Watch that the directory is another
}

// An attempt remembers the last content that was tried, so that one bad save is
// reported once and not at every look.
type attempt struct {
	dir, revision, failure string
	event                  LoadEvent
}

// NewEngine loads the set that cfg names and puts it in force. There is no
// engine without a good set: an error is a [*LoadError]. cfg.Enforce must be
// resolved against the configuration file's directory.
func NewEngine(ctx context.Context, cfg config.Policy, opt Options) (*Engine, error) {
	e := &Engine{
		opt:   opt.withDefaults(),
		given: opt.Given,
		subs:  map[int]func(*Set){},
		moved: make(chan struct{}, 1),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.load(ctx, cfg, true); err != nil {
		return nil, err
	}
	return e, nil
}

// options merges what configuration says into the engine's options.
func (e *Engine) options(cfg config.Policy) Options {
	opt := e.opt
	if cfg.Timeout > 0 {
		opt.Timeout = cfg.Timeout.D()
	}
	if cfg.MaxSize > 0 {
		opt.MaxBytes = int64(cfg.MaxSize)
	}
	if cfg.Cache == "off" {
		opt.CacheEntries = -1
	}
	return opt
}

// Current returns the set in force.
func (e *Engine) Current() *Set { return e.current.Load() }

// Decide answers q by the set in force.
func (e *Engine) Decide(ctx context.Context, q *Question) Decision {
	return e.current.Load().Decide(ctx, q)
}

// Reload looks at the directory now and returns when its set is in force, or
// with the reason why the old one stays. An unchanged directory is no error,
// unless what is in it was refused before.
func (e *Engine) Reload(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.load(ctx, e.cfg, true)
}

// Configure changes directory and limits, and loads. On an error the old ones
// stay in force and in use.
func (e *Engine) Configure(ctx context.Context, cfg config.Policy) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.load(ctx, cfg, true); err != nil {
		return err
	}
	select {
	case e.moved <- struct{}{}:
	default:
	}
	return nil
}

// Refused returns the last refusal, if what the directory holds now is not what
// is in force.
func (e *Engine) Refused() (LoadEvent, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tried.event, e.tried.event.Err != nil
}

// OnChange calls f with each set that comes into force from now on, in order
// and before the load's caller returns. f must not call back into the Engine's
// Reload, Configure or OnChange.
func (e *Engine) OnChange(f func(*Set)) (cancel func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := e.nextSub
	e.nextSub++
	e.subs[id] = f
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subs, id)
	}
}

// steadyReads is how often a directory that changes while it is read is read
// again before it is taken as it is; the change that follows is seen anyway.
const steadyReads = 3

// load reads cfg's directory and puts its set in force if it is another and
// good. With again, content refused before is tried again. e.mu is held.
func (e *Engine) load(ctx context.Context, cfg config.Policy, again bool) error {
	opt := e.options(cfg)
	now := e.current.Load()
	t, err := e.read(cfg, opt)
	if err == nil && !again && e.tried.dir == cfg.Enforce && e.tried.revision == t.revision {
		return nil
	}
	if err == nil {
		t, err = e.steady(t, cfg, opt)
	}
	var next *Set
	if err == nil {
		if now != nil && now.revision == t.revision && now.dir == t.dir &&
			now.opt.Timeout == opt.Timeout && now.opt.MaxBytes == opt.MaxBytes && now.opt.CacheEntries == opt.CacheEntries {
			if e.tried.event.Err != nil {
				e.opt.Logger.Info("the policy directory holds the set in force again", "dir", t.dir, "revision", t.revision)
			}
			e.tried = attempt{dir: t.dir, revision: t.revision}
			return nil
		}
		next, err = compile(ctx, t, opt)
	}
	if err != nil && ctx.Err() != nil {
		return err // not the set's fault
	}

	ev := LoadEvent{At: e.opt.Clock(), Dir: e.from(cfg), Err: err}
	if now != nil {
		ev.Previous = now.revision
	}
	if err != nil {
		return e.refuse(ev, cfg, again)
	}

	ev.Revision = next.revision
	e.cfg = cfg
	e.tried = attempt{dir: cfg.Enforce, revision: next.revision}
	e.current.Store(next)
	e.opt.Logger.Info("policy set in force", "dir", ev.Dir, "revision", next.revision,
		"previous", ev.Previous, "modules", next.modules)
	for _, p := range next.Uncacheable() {
		e.opt.Logger.Warn("decisions of this policy set cannot be remembered", "problem", p.String())
	}
	if why := next.plan.unplanned; why != "" {
		e.opt.Logger.Info("decisions of this policy set are asked of OPA's evaluator, which takes longer than its plan", "why", why)
	}
	for _, id := range slices.Sorted(maps.Keys(e.subs)) {
		e.subs[id](next)
	}
	e.report(ev)
	return nil
}

// steady reads the directory until two reads in a row are equal: that is a state it
// was really in, and not half of one and half of the next. t is the first read.
func (e *Engine) steady(t *tree, cfg config.Policy, opt Options) (*tree, error) {
	for range steadyReads {
		first := t.revision
		var err error
		if t, err = e.read(cfg, opt); err != nil {
			return nil, err
		}
		if t.revision == first {
			break
		}
	}
	return t, nil
}

// refuse remembers what was found wrong with a directory, and says it unless it was
// said at the last look. It returns the event's error.
func (e *Engine) refuse(ev LoadEvent, cfg config.Policy, again bool) error {
	if le, ok := errors.AsType[*LoadError](ev.Err); ok {
		ev.Revision, ev.Problems = le.Revision, le.Problems
	}
	if !again && ev.Revision == "" && e.tried.dir == cfg.Enforce && e.tried.failure == ev.Err.Error() {
		return ev.Err // unreadable in the same way as at the last look
	}
	first := e.current.Load() == nil
	// A refused change of configuration leaves the old directory in use.
	if first || e.cfg.Enforce == cfg.Enforce {
		e.tried = attempt{cfg.Enforce, ev.Revision, ev.Err.Error(), ev}
	}
	if first {
		return ev.Err // nothing is in force: the caller says so
	}
	for _, p := range ev.Problems {
		e.opt.Logger.Error("the changed policy set is refused", "dir", cfg.Enforce,
			"problem", p.String(), "in_force", ev.Previous)
	}
	e.report(ev)
	return ev.Err
}

func (e *Engine) report(ev LoadEvent) {
	if e.opt.OnLoad != nil {
		e.opt.OnLoad(ev)
	}
}
