package policy

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// trialEngine enforces a set that allows pumps and beds; the returned source
// allows beds only.
func trialEngine(t *testing.T) (*Engine, *Source) {
	t.Helper()
	engine, err := NewEngine(t.Context(), config.Policy{Enforce: setDir(t, map[string]string{
		"a.rego": rules(`allow contains "known" if input.device.class in {"pump", "bed"}`)})}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	src, err := Read(setDir(t, map[string]string{"a.rego": rules(`allow contains "a bed" if input.device.class == "bed"`)}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return engine, src
}

func decideFor(t *testing.T, e *Engine, rec *device.Record, at time.Time) bool {
	t.Helper()
	set := e.For(rec)
	q := &Question{Device: rec, Now: at}
	d := set.Decide(t.Context(), q)
	if e.Tries(set) {
		e.Decided(t.Context(), set, q, &d)
	}
	return d.Allow
}

func TestATrialDecidesForItsDevicesOnly(t *testing.T) {
	e, src := trialEngine(t)
	now := time.Unix(1000, 0)
	pump := &device.Record{ID: "pump-1", Class: "pump"}
	if _, ok := e.OnTrial(); ok || !decideFor(t, e, pump, now) {
		t.Error("there is a trial before it began")
	}
	if err := e.Try(t.Context(), src, Trial{Devices: []string{"pump-1"}, Classes: []string{"bed"}, Window: time.Minute}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rec  *device.Record
		want bool
	}{
		{pump, false}, {&device.Record{ID: "pump-2", Class: "pump"}, true},
		{&device.Record{ID: "bed-1", Class: "bed"}, true}, {&device.Record{ID: "x", Class: "other"}, false},
	} {
		if got := decideFor(t, e, c.rec, now); got != c.want {
			t.Errorf("%s: allowed %t, want %t", c.rec.ID, got, c.want)
		}
	}
	if rep, ok := e.OnTrial(); !ok || rep != (TrialReport{Revision: src.Revision(), Decisions: 2, Denials: 1, New: 1}) {
		t.Errorf("report %+v", rep)
	}
	if e.For(nil) != e.Current() {
		t.Error("nobody is on trial")
	}
	if !e.Reaches(nil, "device", "class") || e.Reaches(nil, "device", "serial") {
		t.Error("reaches something else than the two sets do")
	}
	e.EndTrial()
	if !decideFor(t, e, pump, now) {
		t.Error("the trial goes on after its end")
	}
}

func TestATrialThatDeniesTooMuchEndsByItself(t *testing.T) {
	e, src := trialEngine(t)
	var failed atomic.Int32
	try := func(limit int) {
		t.Helper()
		failed.Store(0)
		if err := e.Try(t.Context(), src, Trial{Classes: []string{"pump", "other"}, MaxDenials: limit, Window: time.Minute, Failed: func() { failed.Add(1) }}); err != nil {
			t.Fatal(err)
		}
	}
	critical := &device.Record{ID: "pump-1", Class: "pump", LifeCritical: true}
	at := func(s int) time.Time { return time.Unix(int64(1000+s), 0) }

	try(2)
	// Denials that do not count: of devices that are not life-critical, and those
	// that the set in force has too.
	for range 10 {
		decideFor(t, e, &device.Record{ID: "pump-2", Class: "pump"}, at(0))
		decideFor(t, e, &device.Record{ID: "x", Class: "other", LifeCritical: true}, at(0))
	}
	// Two a minute may be, for as long as it lasts.
	for i := range 10 {
		if decideFor(t, e, critical, at(i*31)) {
			t.Fatal("the trial is over too early")
		}
	}
	if rep, _ := e.OnTrial(); rep.New != 20 || rep.Critical != 10 {
		t.Errorf("report %+v", rep)
	}
	for i := range 2 {
		decideFor(t, e, critical, at(1000+i))
	}
	if failed.Load() != 0 {
		t.Fatal("the trial is over at its limit")
	}
	if decideFor(t, e, critical, at(1003)); failed.Load() != 1 {
		t.Fatal("the trial goes on past its limit")
	}
	if !decideFor(t, e, critical, at(1004)) {
		t.Error("the device does not go on under the set in force")
	}

	try(0)
	if decideFor(t, e, critical, at(2000)); failed.Load() != 1 {
		t.Error("a limit of nothing bears something")
	}
	for _, bad := range []Trial{{Window: 1}, {Devices: []string{"a"}}, {Devices: []string{"a"}, Window: 1, MaxDenials: -1}, {Devices: []string{"a"}, Window: 1, MaxDenials: MaxTrialDenials + 1}} {
		if err := e.Try(t.Context(), src, bad); err == nil {
			t.Errorf("%+v was begun", bad)
		}
	}
}

// However many transactions are denied at the same time, the trial fails once.
func TestATrialFailsOnce(t *testing.T) {
	e, src := trialEngine(t)
	rec := &device.Record{ID: "pump-1", Class: "pump", LifeCritical: true}
	for range 200 {
		var failed atomic.Int32
		if err := e.Try(t.Context(), src, Trial{Classes: []string{"pump"}, Window: time.Minute, Failed: func() { failed.Add(1) }}); err != nil {
			t.Fatal(err)
		}
		set, start := e.For(rec), make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				q := &Question{Device: rec, Now: time.Unix(1000, 0)}
				<-start
				e.Decided(context.Background(), set, q, &Decision{})
			})
		}
		close(start)
		wg.Wait()
		if failed.Load() != 1 {
			t.Fatalf("failed %d times", failed.Load())
		}
	}
}

func TestAGivenSetStandsInPlaceOfTheDirectory(t *testing.T) {
	e, src := trialEngine(t)
	pump := &device.Record{ID: "pump-1", Class: "pump"}
	var changes []string
	defer e.OnChange(func(s *Set) { changes = append(changes, s.Dir()) })()
	if err := e.Put(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	if e.Current().Revision() != src.Revision() || decideFor(t, e, pump, time.Unix(1, 0)) || len(changes) != 1 {
		t.Errorf("what was put is not in force; changes %v", changes)
	}
	// A change of the directory means nothing now.
	e.look(t.Context(), e.dir())
	if err := e.Reload(t.Context()); err != nil || e.Current().Revision() != src.Revision() {
		t.Errorf("reloading brought the directory back: %v", err)
	}
	bad, err := Read(setDir(t, map[string]string{"a.rego": "package a\n\nx if"}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Check(t.Context(), bad); err == nil {
		t.Error("a bad set is good")
	}
	if err := e.Put(t.Context(), bad); err == nil || e.Current().Revision() != src.Revision() {
		t.Errorf("a bad set is in force: %v", err)
	}
	if _, refused := e.Refused(); refused {
		t.Error("a set that was not put is shown as the directory's")
	}
	if err := e.Reload(t.Context()); err != nil || e.Current().Revision() != src.Revision() {
		t.Errorf("what could not be put is tried again: %v", err)
	}
	if err := e.Put(t.Context(), Nothing("no bundle came yet")); err != nil {
		t.Fatal(err)
	}
	d := e.Current().Decide(t.Context(), &Question{Device: pump})
	if d.Allow || d.Fault != "" || len(d.Denials) != 1 || d.Denials[0] != "no bundle came yet" {
		t.Errorf("decision %+v", d)
	}
}

func BenchmarkForWithoutATrial(b *testing.B) {
	e, err := NewEngine(b.Context(), config.Policy{Enforce: "../../policies"}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	rec := &device.Record{ID: "pump-1", Class: "infusion-pump"}
	b.ReportAllocs()
	for b.Loop() {
		if set := e.For(rec); e.Tries(set) {
			b.Fatal("there is a trial")
		}
	}
}
