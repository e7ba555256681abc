package device

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// slow is a store in which who reads a whole table waits for leave.
type slow struct {
	store.Store
	leave chan struct{}
	each  atomic.Int64 // tables that are being read, or were
}

func (s *slow) View(ctx context.Context, f func(store.Reader) error) error {
	return s.Store.View(ctx, func(r store.Reader) error { return f(slowReader{r, s}) })
}

type slowReader struct {
	store.Reader
	s *slow
}

func (r slowReader) Each(table, prefix string, f func(string, []byte) error) error {
	r.s.each.Add(1)
	<-r.s.leave
	return r.Reader.Each(table, prefix, f)
}

// twoDevices returns a store with two devices, of which the first is at a bedside.
func twoDevices(t *testing.T) store.Store {
	t.Helper()
	st, err := bolt.Open(filepath.Join(t.TempDir(), "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	g, err := Open(t.Context(), st, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{"pump-1", "pump-2"} {
		if _, err := g.Create(t.Context(), pump(id, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.Associate(t.Context(), "pump-1", false, Association{Patient: "Patient/1", Source: ByOperator}); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestDevicesAreKnownBeforeAllAreRead(t *testing.T) {
	st := &slow{Store: twoDevices(t), leave: make(chan struct{})}
	g, err := Open(t.Context(), st, Options{Background: true})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for st.each.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	early, ok := g.Get("pump-1")
	if !ok || early.Class != "infusion-pump" || early.Certificate(fingerprint(1)) == nil || len(early.Patients) != 1 {
		t.Fatalf("before: %+v, %v", early, ok)
	}
	if rec, ok := g.Get("pump-3"); ok {
		t.Errorf("a device that nobody knows is %+v", rec)
	}
	if g.Whole() {
		t.Error("it is whole before it was read")
	}
	brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := g.SetStatus(brief, "pump-1", Quarantined, "too early"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a change before: %v", err)
	}
	told := make(chan *Record, 1)
	defer g.Subscribe(func(_, rec *Record) { told <- rec })()
	counts, changed := make(chan map[Status]int), make(chan error)
	go func() { counts <- g.Counts() }()
	go func() {
		_, err := g.SetStatus(t.Context(), "pump-2", Revoked, "stolen")
		changed <- err
	}()
	select {
	case c := <-counts:
		t.Fatalf("counted %v before", c)
	case err := <-changed:
		t.Fatalf("changed before: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(st.leave)
	if err := <-changed; err != nil {
		t.Fatal(err)
	}
	if rec := <-told; rec.ID != "pump-2" || rec.Status != Revoked {
		t.Errorf("subscribers were told %+v", rec)
	}
	if c := <-counts; c[Active]+c[Revoked] != 2 {
		t.Errorf("counted %v", c)
	}
	if c := g.Counts(); !reflect.DeepEqual(c, map[Status]int{Active: 1, Revoked: 1}) {
		t.Errorf("afterwards counted %v", c)
	}
	if late, ok := g.Get("pump-1"); !ok || !reflect.DeepEqual(late, early) {
		t.Errorf("afterwards %+v, before %+v", late, early)
	}
	if rec, ok := g.ByFingerprint(fingerprint(2)); !ok || rec.Status != Revoked {
		t.Errorf("by its certificate: %+v", rec)
	}
}

// A registry with a record that can not be read is none: nothing changes in it, and
// the device of that record is nobody.
func TestWhatCanNotBeReadIsNoRegistry(t *testing.T) {
	for name, bad := range map[string]string{
		"torn":      `{"id":"pump-1","class":"infus`,
		"another's": `{"id":"pump-2","class":"infusion-pump","status":"active"}`,
		"empty":     "",
	} {
		t.Run(name, func(t *testing.T) {
			st := twoDevices(t)
			if err := st.Update(t.Context(), func(w store.Writer) error { return w.Put(table, "pump-1", []byte(bad)) }); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), st, Options{}); err == nil || !strings.Contains(err.Error(), "pump-1") {
				t.Errorf("opened: %v", err)
			}
			g, err := Open(t.Context(), st, Options{Background: true})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if err := g.Loaded(t.Context()); err == nil || !strings.Contains(err.Error(), "pump-1") {
				t.Errorf("loaded: %v", err)
			}
			if rec, ok := g.Get("pump-1"); ok {
				t.Errorf("its device is %+v", rec)
			}
			if _, err := g.SetStatus(t.Context(), "pump-2", Quarantined, "x"); err == nil {
				t.Error("it was changed")
			}
			if _, err := g.Create(t.Context(), pump("pump-3", 3)); err == nil {
				t.Error("a device was added")
			}
			if g.Whole() || len(g.List(Filter{})) != 0 {
				t.Error("it says that it has all")
			}
		})
	}
}

func TestClosingEndsTheReading(t *testing.T) {
	st := &slow{Store: made{n: 3 * hand}, leave: make(chan struct{})}
	g, err := Open(t.Context(), st, Options{Background: true})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan []*Record)
	go func() { done <- g.List(Filter{}) }()
	go close(st.leave)
	g.Close()
	if recs := <-done; g.Whole() != (len(recs) == 3*hand) || !g.Whole() && len(recs) > 0 {
		t.Errorf("%d of %d records", len(recs), 3*hand)
	}
	if err := g.Loaded(t.Context()); g.Whole() != (err == nil) {
		t.Errorf("whole %v, and %v", g.Whole(), err)
	}
	g.Close()
}
