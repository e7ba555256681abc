package policy

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// withCache returns s with a cache of its own.
func withCache(s *Set, entries int) *Set {
	c := *s
	c.cache = newCache(entries)
	return &c
}

func keyOf(s *Set, q *Question) []byte {
	var w keyWriter
	facts{out: &w, loc: s.opt.Location}.write(q, s.reach.input)
	return w.b
}

func sets(tb testing.TB) map[string]*Set {
	all := map[string]*Set{"shipped": load(tb, shipped, Options{CacheEntries: -1})}
	for _, c := range reachCases {
		all[c.name] = reachSet(tb, c.body)
	}
	return all
}

// TestCachedIsUncached: for every set of the analysis' cases and the shipped
// one, the cached answer is the very one that OPA gives, over a small cache that
// evicts and over questions that come again.
func TestCachedIsUncached(t *testing.T) {
	rounds := 500
	if testing.Short() {
		rounds = 100
	}
	ctx := context.Background()
	var hits uint64
	for name, s := range sets(t) {
		t.Run(name, func(t *testing.T) {
			cached := withCache(s, 64)
			rnd := rand.New(rand.NewPCG(2, uint64(len(name))))
			recent := make([]*Question, 8)
			for i := range rounds {
				q := recent[rnd.IntN(len(recent))]
				if q == nil || rnd.IntN(3) == 0 {
					q = randomQuestion(rnd)
					recent[i%len(recent)] = q
				}
				got, want := cached.Decide(ctx, q), s.Decide(ctx, q)
				got, want = bare(got), bare(want)
				if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
					t.Fatalf("cached:   %s\nuncached: %s", g, w)
				}
			}
			st := cached.CacheStats()
			if st.Hits+st.Misses != uint64(rounds) || st.Entries > st.Limit {
				t.Errorf("stats %+v of %d questions", st, rounds)
			}
			hits += st.Hits
		})
	}
	if hits == 0 {
		t.Error("nothing was ever found, so nothing was proved")
	}
}

// TestKeyIsTheInput: two questions have one key just if they have one input.
func TestKeyIsTheInput(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 50
	}
	equal := 0
	for name, s := range sets(t) {
		rnd := rand.New(rand.NewPCG(3, uint64(len(name))))
		for range rounds {
			a, b := randomQuestion(rnd), randomQuestion(rnd)
			if rnd.IntN(2) == 0 { // close relatives
				a = &Question{Device: b.Device, Session: b.Session, Route: b.Route, Transaction: a.Transaction, Now: b.Now.Add(time.Duration(rnd.IntN(3)) * time.Second)}
			}
			keys := bytes.Equal(keyOf(s, a), keyOf(s, b))
			inputs := s.builder.input(a).Equal(s.builder.input(b))
			if keys != inputs {
				t.Fatalf("%s: equal keys %v, equal inputs %v:\n%v\n%v", name, keys, inputs, s.builder.input(a), s.builder.input(b))
			}
			if keys {
				equal++
			}
		}
	}
	if equal == 0 {
		t.Error("no two questions were equal")
	}
}

// TestKeysOfLookalikes: what looks alike in a sloppy encoding.
func TestKeysOfLookalikes(t *testing.T) {
	s := reachSet(t, `allow contains "x" if count(input) > 0`)
	str, list := protocol.String, protocol.List
	values := []protocol.Value{
		protocol.Null(), str(""), str("\x00"), str("null"), protocol.Int(0), protocol.Int(1), protocol.Int(-1), protocol.Bool(false), protocol.Bool(true),
		list(), list(list()), list(list(), list()), list(str("")), list(str("a"), str("b")), list(str("ab")), list(str("a,b")), list(list(str("a")), str("b")), list(list(str("a"), str("b"))),
		protocol.Object(), protocol.Object(field("a", protocol.Null())), protocol.Object(field("a", str("b"))), protocol.Object(field("ab", str(""))),
		protocol.Object(field("", str("ab"))), protocol.Object(field("a", protocol.Object(field("b", str("c"))))),
		protocol.Object(field("a", protocol.Object()), field("b", str("c"))), list(protocol.Object(field("b", str("c")))),
	}
	seen := map[string]int{}
	for i, v := range values {
		key := string(keyOf(s, &Question{Transaction: &protocol.Transaction{Facts: []protocol.Field{field("x", v)}}, Now: noon}))
		if j, there := seen[key]; there {
			t.Errorf("%+v and %+v have one key", values[j], v)
		}
		seen[key] = i
	}
	// What stands where: an absent part, an empty one, and one moved elsewhere.
	seen = map[string]int{}
	for i, q := range []*Question{
		{}, {Device: &device.Record{}}, {Device: &device.Record{Owner: "x"}}, {Device: &device.Record{Model: "x"}},
		{Device: &device.Record{Tags: map[string]string{"a": "b"}}}, {Device: &device.Record{Tags: map[string]string{"a": "", "b": ""}}},
		{Route: &protocol.Route{}}, {Route: &protocol.Route{Name: "a"}}, {Route: &protocol.Route{Backend: "a"}}, {Transaction: &protocol.Transaction{}},
		{Device: &device.Record{Posture: device.Posture{MaxCVSS: 1}}}, {Device: &device.Record{Posture: device.Posture{AssessedAt: noon}}},
	} {
		q.Now = noon
		key := string(keyOf(s, q))
		if j, there := seen[key]; there {
			t.Errorf("questions %d and %d have one key", j, i)
		}
		seen[key] = i
	}
}

// TestARecordThatChangedIsAnotherQuestion: the moment a device is quarantined,
// no remembered answer is given.
func TestARecordThatChangedIsAnotherQuestion(t *testing.T) {
	s := load(t, shipped, Options{})
	ctx := context.Background()
	q := ask("patient-monitor", fhirAsks("create", "Observation"))
	for range 3 {
		if d := s.Decide(ctx, q); !d.Allow {
			t.Fatal(d)
		}
	}
	changed := *q.Device
	changed.Status = device.Quarantined
	q2 := *q
	q2.Device = &changed
	if d := s.Decide(ctx, &q2); d.Allow {
		t.Error("a remembered answer outlived the record")
	}
	if st := s.CacheStats(); st.Hits != 2 || st.Misses != 2 || st.Entries != 2 || st.Bytes <= 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestNoCache(t *testing.T) {
	ctx := context.Background()
	q := ask("a", fhirAsks("create", "Observation"))
	for name, s := range map[string]*Set{
		"switched off":    load(t, shipped, Options{CacheEntries: -1}),
		"reads the clock": load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if time.now_ns() > 0`)}), Options{}),
	} {
		s.Decide(ctx, q)
		s.Decide(ctx, q)
		if st := s.CacheStats(); st != (CacheStats{}) {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

// TestFaultsAreNotRemembered: what failed is tried again.
func TestFaultsAreNotRemembered(t *testing.T) {
	s := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains 1 if input.request`)}), Options{})
	for range 3 {
		s.Decide(context.Background(), ask("a", fhirAsks("create", "Observation")))
	}
	if st := s.CacheStats(); st.Hits != 0 || st.Entries != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestCacheIsBounded(t *testing.T) {
	s := withCache(load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.id != "y"`)}), Options{CacheEntries: -1}), 100)
	ctx := context.Background()
	for i := range 5000 {
		q := ask("a", fhirAsks("create", "Observation"))
		q.Device.ID = fmt.Sprint("device-", i)
		s.Decide(ctx, q)
	}
	st := s.CacheStats()
	if st.Entries > st.Limit || st.Limit > 256 || st.Evictions == 0 || st.Bytes > int64(st.Limit)*1024 {
		t.Errorf("stats %+v", st)
	}
	// Too large to remember, and decided all the same.
	q := ask("a", fhirAsks("create", "Observation"))
	q.Device.ID = string(bytes.Repeat([]byte("x"), maxKey+1))
	for range 2 {
		if d := s.Decide(ctx, q); !d.Allow {
			t.Error(d)
		}
	}
	if again := s.CacheStats(); again.Entries != st.Entries || again.Hits != st.Hits {
		t.Errorf("stats %+v, then %+v", st, again)
	}
}

// TestCacheIsBoundedInBytes: answers that fill the cache give way to what is
// asked later, and those in use stay longest.
func TestCacheIsBoundedInBytes(t *testing.T) {
	const most = 16 << 10
	s := withCache(load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.id != "y"`)}), Options{CacheEntries: -1}), 1024)
	s.cache.most = most
	ctx := context.Background()
	named := func(id string) *Question {
		q := ask("a", fhirAsks("create", "Observation"))
		q.Device.ID = id
		return q
	}
	again := func(id string) bool {
		before := s.CacheStats().Hits
		s.Decide(ctx, named(id))
		return s.CacheStats().Hits > before
	}
	s.Decide(ctx, named("busy"))
	for i := range 2000 {
		s.Decide(ctx, named(fmt.Sprint("device-", i)))
		if st := s.CacheStats(); st.Bytes > most {
			t.Fatalf("after %d: %+v", i, st)
		}
		again("busy")
	}
	st := s.CacheStats()
	if st.Evictions == 0 || st.Entries < most/1024 || st.Hits < 1900 {
		t.Errorf("stats %+v: full, and what is asked all the time was not kept", st)
	}
	var kept int
	for i := 1990; i < 2000; i++ {
		if again(fmt.Sprint("device-", i)) {
			kept++
		}
	}
	if kept == 0 {
		t.Error("a full cache takes nothing new")
	}
	// What can never have room is decided all the same.
	s.cache.most = 1
	if d := s.Decide(ctx, named("another")); !d.Allow {
		t.Error(d)
	}
	if got := s.CacheStats(); got.Bytes > st.Bytes {
		t.Errorf("stats %+v, then %+v", st, got)
	}
}

// TestCacheUnderContention: many goroutines, few places.
func TestCacheUnderContention(t *testing.T) {
	s := withCache(load(t, shipped, Options{CacheEntries: -1}), 8)
	s.cache.most = 2 << 10 // as few bytes as places, so that sweeps meet too
	ctx := context.Background()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(4, uint64(g)))
			for range 500 {
				class, want := "patient-monitor", true
				if rnd.IntN(2) == 0 {
					class, want = "toaster", false
				}
				q := ask(class, fhirAsks("create", "Observation"))
				q.Device.ID = fmt.Sprint(rnd.IntN(10))
				if d := s.Decide(ctx, q); d.Allow != want || d.Fault != "" {
					t.Errorf("%s: %+v", class, d)
				}
			}
		})
	}
	wg.Wait()
	taken, bytes := 0, int64(0)
	for i := range s.cache.slots {
		if e := s.cache.slots[i].Load(); e != nil {
			taken++
			bytes += e.size
		}
	}
	if st := s.CacheStats(); st.Entries != taken || st.Bytes != bytes {
		t.Errorf("stats %+v of %d entries of %d bytes", st, taken, bytes)
	}
}

// TestAskingAgainAllocatesNothing holds the promise of the hot path.
func TestAskingAgainAllocatesNothing(t *testing.T) {
	s := load(t, shipped, Options{})
	ctx := context.Background()
	for name, q := range questions() {
		s.Decide(ctx, q)
		if n := testing.AllocsPerRun(200, func() { s.Decide(ctx, q) }); n >= 1 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
