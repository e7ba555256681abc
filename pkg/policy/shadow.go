package policy

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Limits of a [Shadow].
const (
	// shadowQueue is how many questions may wait for evaluation, and shadowWeight
	// how many bytes of texts one may hold: together some megabytes.
	shadowQueue  = 1 << 9
	shadowWeight = 16 << 10
	// maxDivergences bounds the rows that are told apart. Past it differences
	// are counted in a row of no device.
	maxDivergences = 1 << 12
	// shadowNap is how much rest the worker saves up before it takes it: timers
	// are too coarse to rest after each evaluation.
	shadowNap = 5 * time.Millisecond
	// DefaultShadowReport is how often differences are reported.
	DefaultShadowReport = time.Minute
)

// ShadowOptions are the options of [NewShadow].
type ShadowOptions struct {
	// Share is how much of one core evaluation may take, more than 0 and at most
	// 1. Zero means a tenth.
	Share float64
	// Every is how often Report is called when there are new differences; zero
	// means DefaultShadowReport.
	Every time.Duration
	// Report is called with the rows that grew since it was last called, each
	// with its count since then. Run calls it, and once more as it ends.
	Report func(ShadowStatus, []Divergence)
	// Clock is the time; nil means time.Now.
	Clock func() time.Time
}

// A Shadow compares a policy set that decides nothing with the one that does,
// on live traffic. All methods are safe for concurrent use.
//
// The request pays for a look into the shadow set's cache of decisions: about
// what a remembered decision costs. A question the shadow set has not met is
// copied and evaluated by Run, in one goroutine that rests so as to keep to its
// share of a core; when it falls behind, questions are skipped and counted, and
// nothing waits.
type Shadow struct {
	opt   ShadowOptions
	queue chan shadowed
	gen   atomic.Pointer[comparison]

	mu   sync.Mutex // guards past
	past []*comparison
}

// shadowed is a question that waits for the shadow set's answer.
type shadowed struct {
	gen      *comparison
	id       string
	question Question
	decision Decision
}

// A comparison is of one pair of sets. Another pair begins another.
type comparison struct {
	set      *Set
	enforced string // revision
	since    time.Time

	compared, skipped, omitted atomic.Uint64
	differing                  atomic.Uint64

	mu       sync.Mutex
	rows     map[row]*Divergence
	reported map[row]uint64
}

type row struct{ device, change, rule string }

// How the shadow set's answer differs.
const (
	// WouldDeny: it is allowed, and the shadow set would deny it.
	WouldDeny = "would-deny"
	// WouldAllow: it is denied, and the shadow set would allow it.
	WouldAllow = "would-allow"
	// WouldOblige: both allow it, with other obligations.
	WouldOblige = "other-obligations"
	// WouldSay: the same outcome, for other reasons.
	WouldSay = "other-reasons"
	// WouldFail: the shadow set could not be evaluated.
	WouldFail = "fault"
)

// A Divergence is one row of what the shadow set would have decided otherwise.
type Divergence struct {
	Device string `json:"device"` // "" for what is past the limit of rows
	Class  string `json:"class"`
	Change string `json:"change"`
	// Rule is the sentence that makes the difference: the shadow set's reason to
	// deny, or its reason to allow.
	Rule  string    `json:"rule"`
	Count uint64    `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Example is the id of the last decision that differed so.
	Example string `json:"example"`
	// Constant reports that Rule stands word for word in the shadow set, so that
	// it holds nothing of any request.
	Constant bool `json:"-"`
}

// ShadowStatus counts what was compared since the two sets met.
type ShadowStatus struct {
	Dir      string    `json:"dir"`
	Revision string    `json:"revision"` // of the shadow set
	Enforced string    `json:"enforced"` // revision it is compared with
	Since    time.Time `json:"since"`
	Compared uint64    `json:"compared"`
	// Different counts transactions; one may be in several rows.
	Different uint64 `json:"different"`
	// Skipped had no place in the share of the processor.
	Skipped uint64 `json:"skipped"`
	// Incomparable lack a fact that only the shadow set reads, and that is not
	// taken in for its sake.
	Incomparable uint64 `json:"incomparable"`
}

// NewShadow returns a Shadow that compares with nothing.
func NewShadow(opt ShadowOptions) *Shadow {
	if opt.Share <= 0 || opt.Share > 1 {
		opt.Share = 0.1
	}
	if opt.Every <= 0 {
		opt.Every = DefaultShadowReport
	}
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	return &Shadow{opt: opt, queue: make(chan shadowed, shadowQueue)}
}

// Use compares set with the enforced set of the given revision from now on, or
// with nothing if it is nil. Counts begin anew.
func (s *Shadow) Use(set *Set, enforced string) {
	var next *comparison
	if set != nil {
		next = &comparison{set: set, enforced: enforced, since: s.opt.Clock(), rows: map[row]*Divergence{}, reported: map[row]uint64{}}
	}
	if old := s.gen.Swap(next); old != nil {
		s.mu.Lock()
		s.past = append(s.past, old)
		s.mu.Unlock()
	}
}

// Compare takes a decision by its id and its question; one of another set than
// the enforced is passed over. It never waits, and keeps nothing of the
// transaction.
func (s *Shadow) Compare(id string, q *Question, d *Decision) {
	g := s.gen.Load()
	if g == nil || g.enforced != d.Revision {
		return
	}
	if q.Transaction != nil {
		for _, p := range q.Transaction.Omitted {
			if g.set.ReachesFor(q.Device, p...) {
				g.omitted.Add(1)
				return
			}
		}
	}
	if c := g.set.cache; c != nil {
		if a, ok := c.ask(g.set, q); ok {
			there, known := c.find(a)
			c.release(a)
			if known {
				g.count(id, q, d, &there, s.opt.Clock)
				return
			}
		}
	}
	if len(s.queue) == cap(s.queue) || q.Transaction != nil && weight(q.Transaction.Facts) > shadowWeight {
		g.skipped.Add(1)
		return
	}
	w := shadowed{gen: g, id: id, question: *q, decision: *d}
	if q.Transaction != nil {
		w.question.Transaction = q.Transaction.Clone()
	}
	select {
	case s.queue <- w:
	default:
		g.skipped.Add(1)
	}
}

// weight is about what a copy of facts takes.
func weight(fs []protocol.Field) (n int) {
	for i := range fs {
		n += len(fs[i].Name) + valueWeight(fs[i].Value)
	}
	return n
}

// valueOverhead is the size of a protocol.Value beside what it refers to.
const valueOverhead = 96

func valueWeight(v protocol.Value) int {
	n := valueOverhead + len(v.Text()) + weight(v.Fields())
	for _, e := range v.Elems() {
		n += valueWeight(e)
	}
	return n
}

// Run evaluates what is waiting until ctx ends, and reports.
func (s *Shadow) Run(ctx context.Context) {
	report := time.NewTicker(s.opt.Every)
	defer report.Stop()
	defer s.report()
	rest := time.NewTimer(0)
	defer rest.Stop()
	<-rest.C
	var owed time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-report.C:
			s.report()
		case w := <-s.queue:
			if w.gen != s.gen.Load() {
				continue // nobody asks any more
			}
			start := s.opt.Clock()
			there := w.gen.set.Decide(ctx, &w.question)
			if ctx.Err() != nil {
				return
			}
			w.gen.count(w.id, &w.question, &w.decision, &there, s.opt.Clock)
			owed += time.Duration(float64(s.opt.Clock().Sub(start)) * (1/s.opt.Share - 1))
			if owed < shadowNap {
				continue
			}
			rest.Reset(owed)
			owed = 0
			select {
			case <-ctx.Done():
				return
			case <-rest.C:
			}
		}
	}
}

// count compares two answers to one question.
func (g *comparison) count(id string, q *Question, here, there *Decision, clock func() time.Time) {
	g.compared.Add(1)
	change, rules := Diverge(here, there)
	if change == "" {
		return
	}
	g.differing.Add(1)
	now := clock()
	var device, class string
	if q.Device != nil {
		device, class = q.Device.ID, q.Device.Class
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, rule := range rules {
		k := row{device, change, rule}
		d := g.rows[k]
		if d == nil && len(g.rows) >= maxDivergences {
			k = row{change: change}
			d = g.rows[k]
		}
		if d == nil {
			d = &Divergence{Device: k.device, Change: change, Rule: k.rule, First: now, Constant: g.set.said[k.rule]}
			if k.device != "" {
				d.Class = class
			}
			g.rows[k] = d
		}
		d.Count++
		d.Last, d.Example = now, id
	}
}

// Diverge says how there differs from here (WouldDeny, WouldAllow, …, or "" if
// it does not), and by which sentences.
func Diverge(here, there *Decision) (change string, rules []string) {
	switch {
	case there.Fault != "":
		if here.Fault == there.Fault {
			return "", nil
		}
		return WouldFail, []string{there.Fault}
	case here.Allow && !there.Allow:
		return WouldDeny, there.Denials
	case !here.Allow && there.Allow:
		return WouldAllow, there.Reasons
	case here.Allow && !reflect.DeepEqual(here.Obligations, there.Obligations):
		return WouldOblige, otherKinds(here.Obligations, there.Obligations)
	case here.Allow && !slices.Equal(here.Reasons, there.Reasons):
		return WouldSay, onlyOne(there.Reasons, here.Reasons)
	case !here.Allow && !slices.Equal(here.Denials, there.Denials):
		return WouldSay, onlyOne(there.Denials, here.Denials)
	}
	return "", nil
}

// onlyOne returns what only one of two lists says: a's, or else b's.
func onlyOne(a, b []string) []string {
	only := func(a, b []string) (out []string) {
		for _, s := range a {
			if !slices.Contains(b, s) {
				out = append(out, s)
			}
		}
		return out
	}
	if out := only(a, b); len(out) > 0 {
		return out
	}
	return only(b, a)
}

// Status returns the counts of the comparison under way, and whether there is
// one.
func (s *Shadow) Status() (ShadowStatus, bool) {
	g := s.gen.Load()
	if g == nil {
		return ShadowStatus{}, false
	}
	return g.status(), true
}

func (g *comparison) status() ShadowStatus {
	return ShadowStatus{
		Dir: g.set.dir, Revision: g.set.revision, Enforced: g.enforced, Since: g.since,
		Compared: g.compared.Load(), Different: g.differing.Load(), Skipped: g.skipped.Load(), Incomparable: g.omitted.Load(),
	}
}

// Divergences returns the rows of the comparison under way, most frequent
// first.
func (s *Shadow) Divergences() []Divergence {
	g := s.gen.Load()
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Divergence, 0, len(g.rows))
	for _, d := range g.rows {
		out = append(out, *d)
	}
	sortDivergences(out)
	return out
}

func sortDivergences(ds []Divergence) {
	slices.SortFunc(ds, func(a, b Divergence) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Device, b.Device), strings.Compare(a.Change, b.Change), strings.Compare(a.Rule, b.Rule))
	})
}

// report tells what grew since the last report, of comparisons that ended too.
func (s *Shadow) report() {
	s.mu.Lock()
	all := s.past
	s.past = nil
	s.mu.Unlock()
	if g := s.gen.Load(); g != nil {
		all = append(all, g)
	}
	for _, g := range all {
		if grown := g.grown(); len(grown) > 0 && s.opt.Report != nil {
			s.opt.Report(g.status(), grown)
		}
	}
}

func (g *comparison) grown() (out []Divergence) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for k, d := range g.rows {
		if n := d.Count - g.reported[k]; n > 0 {
			grown := *d
			grown.Count = n
			out = append(out, grown)
			g.reported[k] = d.Count
		}
	}
	sortDivergences(out)
	return out
}

// otherKinds lists the kinds of which two decisions oblige to different things.
func otherKinds(a, b *protocol.Obligations) (kinds []string) {
	said := map[string]string{}
	a.Each(func(kind, what string) { said[kind] = what })
	b.Each(func(kind, what string) {
		if said[kind] != what {
			kinds = append(kinds, kind)
		}
		delete(said, kind)
	})
	kinds = slices.AppendSeq(kinds, maps.Keys(said))
	slices.Sort(kinds)
	return slices.Compact(kinds)
}
