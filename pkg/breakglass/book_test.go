package breakglass

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// A shelf is a store with a book on it and a clock that can be set.
type shelf struct {
	*Book
	t      *testing.T
	store  *failing
	offset atomic.Int64
}

// failing is a store that can be told to take nothing.
type failing struct {
	store.Store
	err error
}

func (f *failing) Update(ctx context.Context, do func(store.Writer) error) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.Update(ctx, do)
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	st, err := bolt.Open(filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{t: t, store: &failing{Store: st}}
	t.Cleanup(func() { s.Close(); st.Close() })
	s.again()
	return s
}

func (s *shelf) now() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }

// again opens the book as the next process does.
func (s *shelf) again() {
	s.t.Helper()
	if s.Book != nil {
		s.Close()
	}
	b, err := Open(s.t.Context(), s.store, s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Book = b
}

func (s *shelf) add(terms Terms) *Grant {
	s.t.Helper()
	if terms.Time == 0 {
		terms.Time = 30 * time.Minute
	}
	terms.Reason = "the EHR is down"
	g := &Grant{ID: NewID(), Terms: terms, OpenedBy: "jane", OpenedAt: s.now().UTC().Truncate(time.Second), Opening: "o"}
	if err := s.Add(s.t.Context(), g); err != nil {
		s.t.Fatal(err)
	}
	return g
}

func (s *shelf) approve(g *Grant) *Grant {
	s.t.Helper()
	g, err := s.Approve(s.t.Context(), g.ID, "bob", s.now().Add(g.Terms.Time).Truncate(time.Second), "a")
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

var monitor = &device.Record{ID: "monitor-1", Class: "patient-monitor", Location: "icu-2", Status: device.Active}

func (s *shelf) open() bool { return s.For(monitor, "ehr") != nil }

func TestAGrantCoversWhatItNamesAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name   string
		terms  Terms
		change func(*device.Record)
		want   bool
	}{
		{"the device", Terms{Devices: []string{"pump-1", "monitor-1"}}, nil, true},
		{"another device", Terms{Devices: []string{"monitor-2"}}, nil, false},
		{"its class", Terms{Class: "patient-monitor"}, nil, true},
		{"another class", Terms{Class: "ct-scanner"}, nil, false},
		{"its place", Terms{Location: "icu-2"}, nil, true},
		{"another place", Terms{Location: "icu-3"}, nil, false},
		{"its class elsewhere", Terms{Class: "patient-monitor", Location: "icu-3"}, nil, false},
		{"its class here", Terms{Class: "patient-monitor", Location: "icu-2"}, nil, true},
		{"the route", Terms{Class: "patient-monitor", Routes: []string{"pacs", "ehr"}}, nil, true},
		{"another route", Terms{Class: "patient-monitor", Routes: []string{"pacs"}}, nil, false},
		{"quarantined", Terms{Devices: []string{"monitor-1"}}, func(r *device.Record) { r.Status = device.Quarantined }, false},
		{"revoked", Terms{Devices: []string{"monitor-1"}}, func(r *device.Record) { r.Status = device.Revoked }, false},
		{"retired", Terms{Devices: []string{"monitor-1"}}, func(r *device.Record) { r.Status = device.Retired }, false},
		{"pending", Terms{Devices: []string{"monitor-1"}}, func(r *device.Record) { r.Status = device.Pending }, false},
		{"moved away", Terms{Location: "icu-2"}, func(r *device.Record) { r.Location = "store" }, false},
	} {
		s := newShelf(t)
		g := s.add(c.terms)
		rec := *monitor
		if c.change != nil {
			c.change(&rec)
		}
		if s.For(&rec, "ehr") != nil {
			t.Errorf("%s: covered before it was approved", c.name)
		}
		s.approve(g)
		if got := s.For(&rec, "ehr") != nil; got != c.want {
			t.Errorf("%s: covered %t", c.name, got)
		}
		if s.For(&rec, "") != nil && len(c.terms.Routes) > 0 {
			t.Errorf("%s: covers what goes nowhere", c.name)
		}
	}
}

func TestTermsAreRefused(t *testing.T) {
	good := Terms{Devices: []string{"a"}, Reason: "x", Time: time.Hour}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Terms){
		"no device, class or location": func(g *Terms) { g.Devices, g.Routes = nil, []string{"ehr"} },
		"device id":                    func(g *Terms) { g.Devices = []string{"A b"} },
		"class":                        func(g *Terms) { g.Class = "*" },
		"no name of a location":        func(g *Terms) { g.Location = "icu\n2" },
		"more than 100":                func(g *Terms) { g.Routes = make([]string, 101) },
		"the reason is missing":        func(g *Terms) { g.Reason = "  " },
		"one line of at most":          func(g *Terms) { g.Reason = "a\u202eb" },
		"at most 200":                  func(g *Terms) { g.Reason = strings.Repeat("x", 201) },
		"from 5s to 8h0m0s":            func(g *Terms) { g.Time = MaxTime + time.Second },
		"whole seconds":                func(g *Terms) { g.Time = time.Minute + 1 },
		"must last":                    func(g *Terms) { g.Time = -time.Hour },
	} {
		g := good
		change(&g)
		if err := g.Check(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestAGrantEndsByItself at the second, whether or not anybody has recorded it, and
// that it has ended is told once.
func TestAGrantEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf(t)
		g := s.approve(s.add(Terms{Class: "patient-monitor"}))
		time.Sleep(30*time.Minute - 2*time.Second)
		if !s.open() {
			t.Error("it ended early")
		}
		if due, err := s.Due(t.Context()); len(due) > 0 || err != nil {
			t.Errorf("due before its time: %v, %v", due, err)
		}
		time.Sleep(2 * time.Second)
		if s.open() {
			t.Error("it did not end")
		}
		synctest.Wait()
		<-s.Changed()
		due, err := s.Due(t.Context())
		if err != nil || len(due) != 1 || due[0].State(s.now()) != Expired || !due[0].EndedAt.Equal(g.Until) {
			t.Fatalf("due %+v, %v", due, err)
		}
		if due, _ := s.Due(t.Context()); len(due) > 0 {
			t.Error("its end is told twice")
		}
		if active, unreviewed := s.Count(); active != 0 || unreviewed != 1 {
			t.Errorf("%d active, %d to be reviewed", active, unreviewed)
		}
	})
}

// TestSettingTheClockDoesNotProlongAGrant, neither back, where a timer ends it, nor
// forward, where the time of the question does.
func TestSettingTheClockDoesNotProlongAGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf(t)
		s.approve(s.add(Terms{Class: "patient-monitor"}))
		s.offset.Store(int64(-24 * time.Hour))
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if s.open() {
			t.Error("a clock that was set back prolongs the grant")
		}
		if due, _ := s.Due(t.Context()); len(due) != 1 {
			t.Error("its end is not recorded")
		}
		s.offset.Store(0)
		s.approve(s.add(Terms{Class: "patient-monitor"}))
		s.offset.Store(int64(time.Hour))
		if s.open() {
			t.Error("a grant is in force past its end")
		}
		s.offset.Store(0)
		g := s.add(Terms{Class: "patient-monitor"})
		s.offset.Store(int64(-24 * time.Hour))
		time.Sleep(ApprovalTime)
		synctest.Wait()
		if _, err := s.Approve(t.Context(), g.ID, "bob", s.now().Add(time.Minute), "a"); !errors.Is(err, ErrState) {
			t.Errorf("a request that lapsed was approved: %v", err)
		}
	})
}

func TestARequestLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf(t)
		g := s.add(Terms{Class: "patient-monitor"})
		time.Sleep(ApprovalTime)
		if _, err := s.Approve(t.Context(), g.ID, "bob", s.now().Add(time.Minute), "a"); err == nil || !strings.Contains(err.Error(), "a request waits 15m0s; open another") {
			t.Errorf("error %v", err)
		}
		due, err := s.Due(t.Context())
		if err != nil || len(due) != 1 || due[0].State(s.now()) != Lapsed || due[0].NeedsReview(s.now()) {
			t.Fatalf("due %+v, %v", due, err)
		}
		if gs, _ := s.List(t.Context(), false); len(gs) > 0 {
			t.Errorf("still listed: %+v", gs)
		}
		if gs, _ := s.List(t.Context(), true); len(gs) != 1 {
			t.Error("forgotten")
		}
	})
}

// TestWhatWasAcknowledgedIsThereAgain: the next process has the grants as they were,
// and an end that fell between the two.
func TestWhatWasAcknowledgedIsThereAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf(t)
		active, pending := s.approve(s.add(Terms{Class: "patient-monitor", Time: time.Hour})), s.add(Terms{Class: "ct-scanner"})
		closed := s.approve(s.add(Terms{Class: "ct-scanner"}))
		if _, err := s.End(t.Context(), closed.ID, "bob"); err != nil {
			t.Fatal(err)
		}
		s.again()
		if !s.open() {
			t.Error("an active grant is lost")
		}
		for id, want := range map[string]State{active.ID: Active, pending.ID: Pending, closed.ID: Closed} {
			if g, err := s.Get(t.Context(), id); err != nil || g.State(s.now()) != want {
				t.Errorf("%s: %+v, %v, want %s", id, g, err, want)
			}
		}
		time.Sleep(time.Hour)
		s.again()
		if s.open() {
			t.Error("it outlived its end in the store")
		}
		if due, err := s.Due(t.Context()); err != nil || len(due) != 2 {
			t.Errorf("due %+v, %v", due, err)
		}
	})
}

func TestAClosedGrantIsOutOfForceAtOnce(t *testing.T) {
	s := newShelf(t)
	g := s.approve(s.add(Terms{Class: "patient-monitor"}))
	if _, err := s.End(t.Context(), g.ID, "bob"); err != nil || s.open() {
		t.Fatalf("open %t, %v", s.open(), err)
	}
	if _, err := s.End(t.Context(), g.ID, "bob"); !errors.Is(err, ErrState) {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := s.Approve(t.Context(), g.ID, "bob", s.now().Add(time.Minute), "a"); !errors.Is(err, ErrState) {
		t.Errorf("approved again: %v", err)
	}
	// Also where that can not be kept.
	g = s.approve(s.add(Terms{Class: "patient-monitor"}))
	s.store.err = errors.New("the disk is full")
	if _, err := s.End(t.Context(), g.ID, "bob"); err == nil || s.open() {
		t.Errorf("open %t, %v", s.open(), err)
	}
}

func TestWhatIsNotKeptIsNotInForce(t *testing.T) {
	s := newShelf(t)
	g := s.add(Terms{Class: "patient-monitor"})
	s.store.err = errors.New("the disk is full")
	if _, err := s.Approve(t.Context(), g.ID, "bob", s.now().Add(time.Minute), "a"); err == nil || s.open() {
		t.Errorf("open %t, %v", s.open(), err)
	}
	s.again()
	if s.open() {
		t.Error("in force after a restart")
	}
}

func TestAnIDIsGoodOnce(t *testing.T) {
	s := newShelf(t)
	g := s.add(Terms{Class: "patient-monitor"})
	again := *g
	if err := s.Add(t.Context(), &again); !errors.Is(err, ErrState) {
		t.Errorf("added twice: %v", err)
	}
	g = s.approve(g)
	if _, err := s.End(t.Context(), g.ID, "bob"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Review(t.Context(), g.ID, "bob", "all well", "r"); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), &again); !errors.Is(err, ErrState) {
		t.Errorf("added again after its review: %v", err)
	}
	if _, err := s.Review(t.Context(), g.ID, "bob", "all well", "r"); !errors.Is(err, ErrState) {
		t.Errorf("reviewed twice: %v", err)
	}
	for _, id := range []string{"", "bg-", "bg-1234567", "bg-1234567I", "12345678", "bg-12345678/"} {
		again.ID = id
		if err := s.Add(t.Context(), &again); !errors.Is(err, ErrInvalid) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func TestAnApprovalIsForNoLongerThanWasAskedFor(t *testing.T) {
	s := newShelf(t)
	g := s.add(Terms{Class: "patient-monitor"})
	for _, until := range []time.Time{{}, s.now().Add(-time.Second), s.now().Add(31 * time.Minute)} {
		if _, err := s.Approve(t.Context(), g.ID, "bob", until, "a"); !errors.Is(err, ErrInvalid) {
			t.Errorf("until %v: %v", until, err)
		}
	}
	alone := &Grant{ID: NewID(), Terms: g.Terms, Alone: true, OpenedBy: "jane", ApprovedBy: "jane", OpenedAt: s.now(), ApprovedAt: s.now(), Until: s.now().Add(time.Hour)}
	if err := s.Add(t.Context(), alone); !errors.Is(err, ErrInvalid) {
		t.Errorf("alone, for longer: %v", err)
	}
}

func TestOpenGrantsAreBounded(t *testing.T) {
	s := newShelf(t)
	for range maxOpen {
		s.add(Terms{Class: "patient-monitor"})
	}
	g := &Grant{ID: NewID(), Terms: Terms{Class: "x", Reason: "x", Time: time.Hour}, OpenedAt: s.now()}
	if err := s.Add(t.Context(), g); !errors.Is(err, ErrState) {
		t.Errorf("one more: %v", err)
	}
}

// TestTheLongestGrantSpeaks, and when it goes the other one does.
func TestTheLongestGrantSpeaks(t *testing.T) {
	s := newShelf(t)
	long := s.approve(s.add(Terms{Class: "patient-monitor", Time: time.Hour}))
	brief := s.approve(s.add(Terms{Devices: []string{"monitor-1"}, Time: time.Minute}))
	if g := s.For(monitor, "ehr"); g == nil || g.ID != long.ID {
		t.Errorf("%+v speaks", g)
	}
	if _, err := s.End(t.Context(), long.ID, "bob"); err != nil {
		t.Fatal(err)
	}
	if g := s.For(monitor, "ehr"); g == nil || g.ID != brief.ID {
		t.Errorf("%+v speaks", g)
	}
}

// TestNothingIsAskedWithoutAGrant: the usual case costs no allocation.
func TestNothingIsAskedWithoutAGrant(t *testing.T) {
	s := newShelf(t)
	if n := testing.AllocsPerRun(100, func() { s.For(monitor, "ehr") }); n != 0 {
		t.Errorf("%v allocations without a grant", n)
	}
	s.approve(s.add(Terms{Class: "patient-monitor"}))
	if n := testing.AllocsPerRun(100, func() { s.For(monitor, "ehr") }); n != 0 {
		t.Errorf("%v allocations with one", n)
	}
}

// TestManyAskWhileGrantsComeAndGo is for the race detector.
func TestManyAskWhileGrantsComeAndGo(t *testing.T) {
	s := newShelf(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				s.For(monitor, "ehr")
				s.Count()
			}
		})
	}
	for range 10 {
		g := s.approve(s.add(Terms{Class: "patient-monitor"}))
		if _, err := s.End(t.Context(), g.ID, "bob"); err != nil {
			t.Error(err)
		}
	}
	stop()
	wg.Wait()
}

func BenchmarkForWithoutAGrant(b *testing.B) {
	book := &Book{}
	for b.Loop() {
		book.For(monitor, "ehr")
	}
}
