package policy

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// quote returns s as JSON.
func quote(s string) string {
	b, _ := json.Marshal(s) // a string always can be
	return string(b)
}

// MaxTrialDenials bounds how many denials a trial can be told to bear; their
// times are kept in memory.
const MaxTrialDenials = 10_000

// A Trial says for whom a set is enforced first, and when it has failed.
type Trial struct {
	Devices []string // ids
	Classes []string
	// MaxDenials is how many transactions of life-critical devices the set may
	// deny within Window that the set in force would have allowed. One more, and
	// the trial is over: its devices are decided on by the set in force again.
	MaxDenials int
	Window     time.Duration
	// Failed is called once if the trial is over by itself. It must not block: a
	// transaction waits for it.
	Failed func()
}

// TrialReport says how a trial goes.
type TrialReport struct {
	Revision string
	// Decisions counts the decisions made by the set on trial, and Denials those
	// that it denied.
	Decisions, Denials uint64
	// New counts the denials that the set in force would have allowed, and
	// Critical those of them that were a life-critical device's.
	New, Critical uint64
}

// trial is a Trial under way.
type trial struct {
	Trial
	set     *Set
	devices map[string]bool
	classes map[string]bool

	decisions, denials, fresh, critical atomic.Uint64

	mu    sync.Mutex
	times []time.Time // a ring of the last MaxDenials+1 critical denials
	next  int
}

func (t *trial) covers(rec *device.Record) bool {
	return rec != nil && (t.devices[rec.ID] || t.classes[rec.Class])
}

// For returns the set that decides for a device: the one in force, or the one on
// trial with it. rec may be nil.
func (e *Engine) For(rec *device.Record) *Set {
	if t := e.trial.Load(); t != nil && t.covers(rec) {
		return t.set
	}
	return e.current.Load()
}

// Reaches reports whether a decision on a device can depend on the fact at path
// below input, by whichever set (see Set.ReachesFor).
func (e *Engine) Reaches(rec *device.Record, path ...string) bool {
	if t := e.trial.Load(); t != nil && t.set.ReachesFor(rec, path...) {
		return true
	}
	return e.current.Load().ReachesFor(rec, path...)
}

// Try puts a set on trial with some devices. There is one trial at a time;
// another one replaces it.
func (e *Engine) Try(ctx context.Context, src *Source, tr Trial) error {
	if tr.MaxDenials < 0 || tr.MaxDenials > MaxTrialDenials || tr.Window <= 0 || len(tr.Devices)+len(tr.Classes) == 0 {
		return errors.New("a trial needs devices or classes, a window and a limit of denials")
	}
	set, err := e.compile(ctx, src)
	if err != nil {
		return err
	}
	t := &trial{Trial: tr, set: set, devices: map[string]bool{}, classes: map[string]bool{}, times: make([]time.Time, tr.MaxDenials+1)}
	for _, id := range tr.Devices {
		t.devices[id] = true
	}
	for _, c := range tr.Classes {
		t.classes[c] = true
	}
	e.trial.Store(t)
	return nil
}

// EndTrial ends a trial: what comes after is decided by the set in force. To
// promote the set on trial, Put it first, so that its devices never go back.
func (e *Engine) EndTrial() { e.trial.Store(nil) }

// OnTrial returns how the trial under way goes.
func (e *Engine) OnTrial() (TrialReport, bool) {
	t := e.trial.Load()
	if t == nil {
		return TrialReport{}, false
	}
	return TrialReport{Revision: t.set.revision, Decisions: t.decisions.Load(), Denials: t.denials.Load(),
		New: t.fresh.Load(), Critical: t.critical.Load()}, true
}

// Tries reports whether set is on trial.
func (e *Engine) Tries(set *Set) bool {
	t := e.trial.Load()
	return t != nil && t.set == set
}

// Decided tells a trial what set answered to q. What the set on trial denied is
// asked of the set in force too: a deny is rare, and its transaction goes no
// further, so that nobody waits for that answer who would have been served.
func (e *Engine) Decided(ctx context.Context, set *Set, q *Question, d *Decision) {
	t := e.trial.Load()
	if t == nil || t.set != set {
		return
	}
	t.decisions.Add(1)
	if d.Allow {
		return
	}
	t.denials.Add(1)
	if !e.current.Load().Decide(context.WithoutCancel(ctx), q).Allow {
		return
	}
	t.fresh.Add(1)
	if q.Device == nil || !q.Device.LifeCritical {
		return
	}
	t.critical.Add(1)
	// Whoever takes the trial away is the one who reports it.
	if t.over(q.Now) && e.trial.CompareAndSwap(t, nil) && t.Failed != nil {
		t.Failed()
	}
}

// over counts a denial and reports whether that was one too many.
func (t *trial) over(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.times[t.next] = now
	t.next = (t.next + 1) % len(t.times)
	// The next to be overwritten is the oldest of MaxDenials+1.
	oldest := t.times[t.next]
	return !oldest.IsZero() && now.Sub(oldest) <= t.Window
}
