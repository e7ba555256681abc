package workbench

import (
	"bytes"
	"cmp"
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

const (
	// batch is how many lines are handed to a worker at once.
	batch = 256
	// maxRows bounds the changes that are told apart, and the devices.
	maxRows = 1 << 14
	// maxExamples is how many decision ids a change is shown with.
	maxExamples = 3
)

// ReplayOptions say what to replay.
type ReplayOptions struct {
	Dir     string // the audit log's
	Filter  audit.Filter
	Devices Devices
	// Progress is called now and then with the bytes read and the bytes there
	// are; from one goroutine.
	Progress func(read, total int64)
}

// A ReplayReport says what a candidate set would have decided otherwise.
type ReplayReport struct {
	Candidate SetName `json:"candidate"`
	Current   SetName `json:"current"`
	// Decisions were made again under both sets.
	Decisions int       `json:"decisions"`
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
	// Changed of them differ between the sets; Reworded are decided alike, for
	// other reasons.
	Changed  int             `json:"changed"`
	Reworded int             `json:"reworded"`
	Changes  []Change        `json:"changes"` // by outcome, then the most frequent first
	Devices  []DeviceChanges `json:"devices"` // the most changed first
	// LeftOut counts records of transactions that no policy was asked about.
	LeftOut LeftOut `json:"left_out"`
	// Drift counts decisions that the current set makes otherwise now than the
	// same set did then: what could not be made again of the question.
	Drift         int      `json:"drift"`
	DriftExamples []string `json:"drift_examples,omitempty"`
	// OtherRevisions were decided by another set than the current one then, and
	// Otherwise of them differently.
	OtherRevisions int `json:"other_revisions"`
	Otherwise      int `json:"otherwise"`
	// RegistryChanged and RegistryAbsent count decisions whose device has another
	// record in the registry now, or none.
	RegistryChanged int `json:"registry_changed"`
	RegistryAbsent  int `json:"registry_absent"`
}

// A SetName names a policy set.
type SetName struct {
	Dir      string `json:"dir"`
	Revision string `json:"revision"`
}

// LeftOut counts records that were not decided again, by why.
type LeftOut struct {
	Refused    int `json:"refused"`    // not understood, so that no policy was asked
	Gateway    int `json:"gateway"`    // refused by the gateway itself: status, a fault
	Omitted    int `json:"omitted"`    // recorded without facts, for their size
	Unreadable int `json:"unreadable"` // lines that are no record
	Unread     int `json:"unread"`     // of whose body a set reads what nobody read then
}

// A Change is one thing that would be decided otherwise.
type Change struct {
	Change   string   `json:"change"` // policy.WouldDeny, …
	Rule     string   `json:"rule"`   // the sentence that makes the difference
	Class    string   `json:"class"`
	What     string   `json:"what"` // protocol, action, resource
	Count    int      `json:"count"`
	Devices  int      `json:"devices"`
	Examples []string `json:"examples"` // decision ids
}

// DeviceChanges counts what would change for a device.
type DeviceChanges struct {
	Device  string         `json:"device"`
	Class   string         `json:"class"`
	Changes map[string]int `json:"changes"` // by policy.WouldDeny, …
	Total   int            `json:"total"`
}

// Replay has candidate decide recorded traffic again, beside the set in force.
// It uses as many processors as there are.
func Replay(ctx context.Context, current, candidate *policy.Set, opt ReplayOptions) (*ReplayReport, error) {
	opt.Filter.Kind = audit.KindTransaction
	group, ctx := errgroup.WithContext(ctx)
	lines := make(chan [][]byte, 2*runtime.GOMAXPROCS(0))
	bad := 0
	group.Go(func() error {
		defer close(lines)
		var some [][]byte
		var store []byte
		flush := func() error {
			if len(some) == 0 {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case lines <- some:
			}
			some, store = nil, nil
			return nil
		}
		err := audit.Lines(ctx, opt.Dir, audit.LineOptions{Filter: opt.Filter, Bad: func(error) { bad++ }, Progress: opt.Progress}, func(line []byte) error {
			if some == nil {
				some, store = make([][]byte, 0, batch), make([]byte, 0, batch*len(line)*5/4)
			}
			at := len(store)
			store = append(store, line...)
			if some = append(some, store[at:len(store):len(store)]); len(some) == batch {
				return flush()
			}
			return nil
		})
		if err != nil {
			return err
		}
		return flush()
	})
	var mu sync.Mutex
	total := newTally()
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			w := &worker{opt: &opt, current: current, candidate: candidate, tally: newTally()}
			for some := range lines {
				for _, line := range some {
					w.line(ctx, line)
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total.merge(w.tally)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	total.left.Unreadable += bad
	r := total.report()
	r.Current = SetName{current.Dir(), current.Revision()}
	r.Candidate = SetName{candidate.Dir(), candidate.Revision()}
	return r, nil
}

// A worker replays lines and counts.
type worker struct {
	opt                *ReplayOptions
	current, candidate *policy.Set
	*tally
}

// undelivered marks records that tell what became of an earlier decision.
var undelivered = []byte(`"event":"transaction.undelivered"`)

func (w *worker) line(ctx context.Context, line []byte) {
	if bytes.Contains(line, undelivered) {
		return
	}
	e, err := audit.Decode(line)
	if err != nil {
		w.left.Unreadable++
		return
	}
	if !w.opt.Filter.Match(e) {
		return
	}
	if !asked(e) {
		switch {
		case e.Event == "transaction.undelivered":
		case e.Event != decided:
			w.left.Refused++
		case e.Omitted:
			w.left.Omitted++
		default:
			w.left.Gateway++
		}
		return
	}
	p, err := Reconstruct(e, w.opt.Devices)
	if err != nil {
		w.left.Unreadable++
		return
	}
	if p.Unread(w.current) || p.Unread(w.candidate) {
		w.left.Unread++
		return
	}
	switch p.Registry {
	case Changed:
		w.changedRecords++
	case Absent:
		w.absentRecords++
	}
	now := w.current.Decide(ctx, &p.Question)
	then := w.candidate.Decide(ctx, &p.Question)
	w.add(p, &now, &then, w.current.Revision())
}

// A tally is what one worker counted.
type tally struct {
	decisions, changed, reworded  int
	first, last                   time.Time
	left                          LeftOut
	drift, others, otherwise      int
	driftExamples                 []string
	changedRecords, absentRecords int
	rows                          map[key]*counted
	devices                       map[string]*DeviceChanges
}

type key struct{ change, rule, class, what string }

type counted struct {
	count    int
	devices  map[string]bool
	examples []string
}

func newTally() *tally {
	return &tally{rows: map[key]*counted{}, devices: map[string]*DeviceChanges{}}
}

// add counts one decision that was made again.
func (t *tally) add(p *Past, now, then *policy.Decision, revision string) {
	e := p.Entry
	t.decisions++
	if t.first.IsZero() || e.Time.Before(t.first) {
		t.first = e.Time
	}
	if e.Time.After(t.last) {
		t.last = e.Time
	}
	recorded := allowed(e.Decision)
	switch {
	case e.Decision.Revision != revision:
		t.others++
		if recorded != now.Allow {
			t.otherwise++
		}
	case recorded != now.Allow:
		t.drift++
		if len(t.driftExamples) < maxExamples {
			t.driftExamples = append(t.driftExamples, e.Decision.ID)
		}
	}
	change, rules := policy.Diverge(now, then)
	if change == "" {
		return
	}
	if change == policy.WouldSay {
		t.reworded++
	} else {
		t.changed++
	}
	for _, rule := range rules {
		t.row(key{change, rule, e.Class, what(e)}).add(1, []string{e.Decision.ID}, e.Device)
	}
	d := t.device(e.Device, e.Class)
	d.Changes[change]++
	d.Total++
}

// what names the kind of a transaction.
func what(e *audit.Entry) string {
	return strings.TrimSpace(e.Request.Protocol + " " + e.Request.Action + " " + e.Request.Resource)
}

// row returns the row of a key, or that of everything past the limit.
func (t *tally) row(k key) *counted {
	c := t.rows[k]
	if c == nil && len(t.rows) >= maxRows {
		k = key{change: k.change, rule: "(others)"}
		c = t.rows[k]
	}
	if c == nil {
		c = &counted{devices: map[string]bool{}}
		t.rows[k] = c
	}
	return c
}

func (t *tally) device(id, class string) *DeviceChanges {
	d := t.devices[id]
	if d == nil && len(t.devices) >= maxRows {
		id, class = "(others)", ""
		d = t.devices[id]
	}
	if d == nil {
		d = &DeviceChanges{Device: id, Class: class, Changes: map[string]int{}}
		t.devices[id] = d
	}
	return d
}

func (c *counted) add(n int, examples []string, devices ...string) {
	c.count += n
	for _, d := range devices {
		if len(c.devices) < maxRows {
			c.devices[d] = true
		}
	}
	for _, e := range examples {
		if len(c.examples) < maxExamples {
			c.examples = append(c.examples, e)
		}
	}
}

// merge adds what another worker counted.
func (t *tally) merge(o *tally) {
	t.decisions += o.decisions
	t.changed += o.changed
	t.reworded += o.reworded
	if !o.first.IsZero() && (t.first.IsZero() || o.first.Before(t.first)) {
		t.first = o.first
	}
	if o.last.After(t.last) {
		t.last = o.last
	}
	t.left.Refused += o.left.Refused
	t.left.Gateway += o.left.Gateway
	t.left.Omitted += o.left.Omitted
	t.left.Unreadable += o.left.Unreadable
	t.left.Unread += o.left.Unread
	t.drift += o.drift
	t.others += o.others
	t.otherwise += o.otherwise
	t.driftExamples = append(t.driftExamples, o.driftExamples...)
	t.changedRecords += o.changedRecords
	t.absentRecords += o.absentRecords
	for k, c := range o.rows {
		devices := make([]string, 0, len(c.devices))
		for d := range c.devices {
			devices = append(devices, d)
		}
		t.row(k).add(c.count, c.examples, devices...)
	}
	for id, d := range o.devices {
		mine := t.device(id, d.Class)
		for change, n := range d.Changes {
			mine.Changes[change] += n
		}
		mine.Total += d.Total
	}
}

// outcomes orders changes by how much they matter.
var outcomes = []string{policy.WouldDeny, policy.WouldFail, policy.WouldAllow, policy.WouldOblige, policy.WouldSay}

func (t *tally) report() *ReplayReport {
	r := &ReplayReport{
		Decisions: t.decisions, First: t.first, Last: t.last, Changed: t.changed, Reworded: t.reworded, LeftOut: t.left,
		Drift: t.drift, OtherRevisions: t.others, Otherwise: t.otherwise,
		RegistryChanged: t.changedRecords, RegistryAbsent: t.absentRecords,
		Changes: []Change{}, Devices: []DeviceChanges{},
	}
	slices.Sort(t.driftExamples)
	r.DriftExamples = t.driftExamples[:min(len(t.driftExamples), maxExamples)]
	for k, c := range t.rows {
		slices.Sort(c.examples)
		r.Changes = append(r.Changes, Change{k.change, k.rule, k.class, k.what, c.count, len(c.devices), c.examples})
	}
	slices.SortFunc(r.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(slices.Index(outcomes, a.Change), slices.Index(outcomes, b.Change)), cmp.Compare(b.Count, a.Count),
			strings.Compare(a.Rule, b.Rule), strings.Compare(a.Class, b.Class), strings.Compare(a.What, b.What))
	})
	for _, d := range t.devices {
		r.Devices = append(r.Devices, *d)
	}
	slices.SortFunc(r.Devices, func(a, b DeviceChanges) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), strings.Compare(a.Device, b.Device))
	})
	return r
}
