package finding

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// A Kind is what was found.
type Kind string

// The kinds.
const (
	Clone Kind = "clone" // one certificate is used from two places at once
	Clock Kind = "clock" // the device's clock is wrong
)

// Kinds are all kinds there are.
func Kinds() []Kind { return []Kind{Clone, Clock} }

// Advice says what to do about a finding.
func (k Kind) Advice(device string) string {
	switch k {
	case Clone:
		return "Find out which of the two is the device. If somebody has its key: anteroom device revoke " + device +
			", then enrol the device anew with another key (--again). If in doubt: anteroom device quarantine " + device +
			". If the device is meant to have several addresses: anteroom device accept " + device + " clone"
	case Clock:
		return "Set the device's clock, or the time server that it asks. Until then it may refuse the gateway's certificate, and what it measures has wrong times"
	}
	return ""
}

const (
	// table holds findings by kind and device.
	table = "findings"
	// keepEvery is how often it is written that a finding was seen again.
	keepEvery = 10 * time.Minute
	// maxPlaces bounds the places of a finding.
	maxPlaces = 16
)

// ErrNotFound is wrapped by the error for a finding that there is not.
var ErrNotFound = errors.New("no such finding")

// A Finding is what was found of a device.
type Finding struct {
	Device string    `json:"device"`
	Kind   Kind      `json:"kind"`
	What   string    `json:"what"` // in a sentence, as it was seen last
	Since  time.Time `json:"since"`
	Last   time.Time `json:"last"`
	Times  int       `json:"times"`
	// Places are where it was seen, in order; those in Accepted are known to a
	// person.
	Places   []string `json:"places,omitempty"`
	Accepted []string `json:"accepted,omitempty"`
	By       string   `json:"by,omitempty"` // who accepted it
	// Over is when it was over; a finding without is open.
	Over time.Time `json:"over,omitzero"`
}

// Open reports whether somebody should look at it.
func (f *Finding) Open() bool { return f.Over.IsZero() }

// A Book keeps findings.
type Book struct {
	st  store.Store
	now func() time.Time

	mu   sync.Mutex
	all  map[string]*Finding
	kept map[string]time.Time // when each was written last
}

func key(device string, k Kind) string { return string(k) + " " + device }

// Open reads the findings in a store.
func Open(ctx context.Context, st store.Store, clock func() time.Time) (*Book, error) {
	b := &Book{st: st, now: clock, all: map[string]*Finding{}, kept: map[string]time.Time{}}
	err := st.View(ctx, func(r store.Reader) error {
		return r.Each(table, "", func(k string, value []byte) error {
			f := new(Finding)
			if err := json.Unmarshal(value, f); err != nil {
				return fmt.Errorf("finding %s: %w", k, err)
			}
			b.all[k], b.kept[k] = f, f.Last
			return nil
		})
	})
	return b, err
}

// See says that something was found at some places, if places matter, and reports
// whether that is news: it was not open, or is at a place that nobody has accepted.
func (b *Book) See(ctx context.Context, device string, k Kind, what string, places ...string) (f Finding, news bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, id := b.now().UTC(), key(device, k)
	next := Finding{Device: device, Kind: k, Since: now}
	old := b.all[id]
	if old != nil {
		next = *old
		next.Places, next.Accepted = slices.Clone(old.Places), slices.Clone(old.Accepted)
	}
	strange := len(places) == 0
	for _, p := range places {
		if !slices.Contains(next.Accepted, p) {
			strange = true
		}
		if !slices.Contains(next.Places, p) && len(next.Places) < maxPlaces {
			next.Places = append(next.Places, p)
			news = news || !slices.Contains(next.Accepted, p)
		}
	}
	if !strange {
		return next, false, nil
	}
	slices.Sort(next.Places)
	if old == nil || !old.Open() {
		next.Since, next.Times, next.Over, news = now, 0, time.Time{}, true
	}
	next.What, next.Last, next.Times = what, now, next.Times+1
	if !news && now.Sub(b.kept[id]) < keepEvery {
		b.all[id] = &next
		return next, false, nil
	}
	return next, news, b.put(ctx, id, &next)
}

// End says that what was found is not so any more, and reports whether it was.
func (b *Book) End(ctx context.Context, device string, k Kind) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.all[key(device, k)]
	if old == nil || !old.Open() {
		return false, nil
	}
	next := *old
	next.Over = b.now().UTC()
	return true, b.put(ctx, key(device, k), &next)
}

// Accept says that a person knows of a finding: it is over, and its places are
// reported no more.
func (b *Book) Accept(ctx context.Context, device string, k Kind, by string) (Finding, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.all[key(device, k)]
	if old == nil || !old.Open() {
		return Finding{}, fmt.Errorf("%s: %w: %q is not open", device, ErrNotFound, k)
	}
	next := *old
	next.Over, next.By, next.Accepted = b.now().UTC(), by, slices.Clone(old.Places)
	return next, b.put(ctx, key(device, k), &next)
}

// put writes a finding, and then has it. The caller holds mu.
func (b *Book) put(ctx context.Context, id string, f *Finding) error {
	value, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := b.st.Update(ctx, func(w store.Writer) error { return w.Put(table, id, value) }); err != nil {
		return fmt.Errorf("finding of %s: %w", f.Device, err)
	}
	b.all[id], b.kept[id] = f, b.now()
	return nil
}

// Of returns the findings of a device, those that are over too.
func (b *Book) Of(device string) (out []Finding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range Kinds() {
		if f := b.all[key(device, k)]; f != nil {
			out = append(out, *f)
		}
	}
	return out
}

// Standing returns the open findings, the oldest first.
func (b *Book) Standing() (out []Finding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.all {
		if f.Open() {
			out = append(out, *f)
		}
	}
	slices.SortFunc(out, func(x, y Finding) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Device, y.Device), cmp.Compare(x.Kind, y.Kind))
	})
	return out
}
