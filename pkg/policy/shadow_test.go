package policy

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// pair is an enforced set, one that is only tried, and the Shadow between them.
type pair struct {
	enforced, tried *Set
	*Shadow
	reports [][]Divergence
}

const (
	enforcedRules = `allow contains "creating is allowed" if input.request.action == "create"`
	triedRules    = enforcedRules + `
deny contains "not for pumps" if input.device.class == "infusion-pump"
allow contains sprintf("class %s may read", [input.device.class]) if input.request.action == "read"`
)

func newPair(t *testing.T, tried string, opt ShadowOptions) *pair {
	t.Helper()
	p := &pair{
		enforced: load(t, setDir(t, map[string]string{"a.rego": rules(enforcedRules)}), Options{}),
		tried:    load(t, setDir(t, map[string]string{"a.rego": rules(tried)}), Options{}),
	}
	opt.Report = func(_ ShadowStatus, ds []Divergence) { p.reports = append(p.reports, ds) }
	p.Shadow = NewShadow(opt)
	p.Use(p.tried, p.enforced.Revision())
	return p
}

// ask has the enforced set decide and the other compared.
func (p *pair) ask(n int, q *Question) {
	d := p.enforced.Decide(context.Background(), q)
	p.Compare(fmt.Sprintf("d%d", n), q, &d)
}

func text(ds []Divergence) string {
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintf(&b, "%d %s|%s|%s|%s\n", d.Count, d.Device, d.Change, d.Rule, d.Example)
	}
	return b.String()
}

func TestAShadowCountsWhatItWouldDecideOtherwise(t *testing.T) {
	p := newPair(t, triedRules, ShadowOptions{})
	synctest.Test(t, func(t *testing.T) {
		p.Shadow = NewShadow(p.opt) // its channels belong in here
		p.Use(p.tried, p.enforced.Revision())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx) })
		for i := range 3 {
			p.ask(i, ask("infusion-pump", fhirAsks("create", "Observation")))
			p.ask(10+i, ask("patient-monitor", fhirAsks("create", "Observation")))
			p.ask(20+i, ask("patient-monitor", fhirAsks("read", "Observation")))
			synctest.Wait()
		}
		st, ok := p.Status()
		if !ok || st.Compared != 9 || st.Different != 6 || st.Skipped != 0 {
			t.Errorf("status %+v", st)
		}
		want := "3 infusion-pump-0001|would-deny|not for pumps|d2\n" +
			"3 patient-monitor-0001|would-allow|class patient-monitor may read|d22\n"
		if got := text(p.Divergences()); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		for _, d := range p.Divergences() {
			if d.Constant != (d.Rule == "not for pumps") {
				t.Errorf("%q: constant %v", d.Rule, d.Constant)
			}
		}
		cancel()
		wg.Wait()
	})
	if len(p.reports) != 1 || len(p.reports[0]) != 2 {
		t.Fatalf("reported %v", p.reports)
	}
}

// TestAShadowReportsOnlyWhatIsNew: counts are not recorded twice, and none is
// lost when another set takes the place of the one that was tried.
func TestAShadowReportsOnlyWhatIsNew(t *testing.T) {
	p := newPair(t, triedRules, ShadowOptions{Share: 1})
	q := ask("infusion-pump", fhirAsks("create", "Observation"))
	p.tried.Decide(t.Context(), q) // known, so that it is compared at once
	p.ask(1, q)
	p.ask(2, q)
	p.report()
	p.report()
	p.ask(3, q)
	p.Use(nil, "")
	p.ask(4, q)
	p.report()
	var got []uint64
	for _, r := range p.reports {
		got = append(got, r[0].Count)
	}
	if fmt.Sprint(got) != "[2 1]" {
		t.Errorf("reported counts %v", got)
	}
	if _, ok := p.Status(); ok || p.Divergences() != nil {
		t.Error("compares with nothing and says it does")
	}
}

func TestAShadowKeepsOutOfTheWay(t *testing.T) {
	t.Run("when nobody evaluates", func(t *testing.T) {
		p := newPair(t, triedRules, ShadowOptions{})
		for i := range shadowQueue + 7 {
			q := ask("infusion-pump", fhirAsks(fmt.Sprintf("x%d", i), "Observation"))
			p.ask(i, q)
		}
		if st, _ := p.Status(); st.Skipped != 7 || st.Compared != 0 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("with a question that is too large", func(t *testing.T) {
		p := newPair(t, triedRules, ShadowOptions{})
		p.ask(1, ask("infusion-pump", fhirAsks("create", "Observation", field("note", protocol.String(strings.Repeat("x", shadowWeight))))))
		if st, _ := p.Status(); st.Skipped != 1 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("with a fact that is not taken in for it", func(t *testing.T) {
		p := newPair(t, triedRules, ShadowOptions{})
		tx := fhirAsks("create", "Observation")
		q := ask("infusion-pump", tx)
		d := p.enforced.Decide(t.Context(), q)
		tx.Omitted = [][]string{{"device", "class"}}
		p.Compare("d", q, &d)
		if st, _ := p.Status(); st.Incomparable != 1 || st.Compared != 0 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("of decisions of another set than it is compared with", func(t *testing.T) {
		p := newPair(t, triedRules, ShadowOptions{})
		q := ask("infusion-pump", fhirAsks("create", "Observation"))
		d := p.tried.Decide(t.Context(), q)
		p.Compare("d", q, &d)
		if st, _ := p.Status(); st.Compared != 0 || len(p.queue) != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestAShadowKeepsToItsShare: with a tenth of a core, it rests nine times as
// long as it works. The clock is synctest's, which stands still while anything
// works, so the work is made of sleep.
func TestAShadowKeepsToItsShare(t *testing.T) {
	p := newPair(t, triedRules, ShadowOptions{})
	slow := *p.tried
	slow.cache = nil
	slow.plan = &plan{whole: slow.decision, documents: newDocumentsPool()} // with nothing to compare
	synctest.Test(t, func(t *testing.T) {
		const work = 10 * time.Millisecond
		slow.opt.Clock = func() time.Time { time.Sleep(work / 2); return time.Now() } // asked twice a decision
		p.Shadow = NewShadow(ShadowOptions{Share: 0.1})
		p.Use(&slow, p.enforced.Revision())
		for i := range 20 {
			p.ask(i, ask("infusion-pump", fhirAsks("create", "Observation")))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx) })
		time.Sleep(time.Second + work/2)
		cancel()
		wg.Wait()
		if st, _ := p.Status(); st.Compared < 9 || st.Compared > 11 {
			t.Errorf("compared %d in a second, want about 10", st.Compared)
		}
	})
}

func TestAShadowCopiesWhatItKeeps(t *testing.T) {
	p := newPair(t, triedRules, ShadowOptions{})
	name := []byte("create")
	tx := fhirAsks("create", "Observation")
	tx.Action = string(name)
	p.ask(1, ask("infusion-pump", tx))
	tx.Action, tx.Facts[0] = "read", protocol.Field{}
	w := <-p.queue
	if got := w.question.Transaction; got.Action != "create" || got.Facts[0].Name != "http" {
		t.Errorf("kept %+v", got)
	}
}

func mustOblige(t *testing.T, list ...protocol.Obligation) *protocol.Obligations {
	t.Helper()
	o, err := protocol.Oblige(list)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAShadowToldApartFaultsAndReasons(t *testing.T) {
	allow := func(r ...string) *Decision { return &Decision{Allow: true, Reasons: r} }
	deny := func(r ...string) *Decision { return &Decision{Denials: r} }
	limit := allow("a")
	limit.Obligations = mustOblige(t, protocol.Obligation{Kind: "limit_rps", Value: protocol.Int(3)}, protocol.Obligation{Kind: "tag", Value: protocol.String("a")})
	looser := allow("a")
	looser.Obligations = mustOblige(t, protocol.Obligation{Kind: "limit_rps", Value: protocol.Int(30)}, protocol.Obligation{Kind: "tag", Value: protocol.String("a")})
	broken := deny("x")
	broken.Fault = "a.rego:3: broke"
	for _, c := range []struct {
		here, there *Decision
		change      string
		rules       string
	}{
		{allow("a"), allow("a"), "", "[]"},
		{deny("a"), deny("a"), "", "[]"},
		{allow("a"), deny("b", "c"), WouldDeny, "[b c]"},
		{deny("b"), allow("a"), WouldAllow, "[a]"},
		{allow("a"), limit, WouldOblige, "[limit_rps tag]"},
		{limit, looser, WouldOblige, "[limit_rps]"},
		{limit, limit, "", "[]"},
		{allow("a"), allow("a", "b"), WouldSay, "[b]"},
		{allow("a", "b"), allow("a"), WouldSay, "[b]"},
		{deny("a"), deny("b"), WouldSay, "[b]"},
		{allow("a"), broken, WouldFail, "[a.rego:3: broke]"},
		{broken, broken, "", "[]"},
	} {
		change, rules := Diverge(c.here, c.there)
		if change != c.change || fmt.Sprint(rules) != c.rules {
			t.Errorf("%+v, %+v: %q %v", c.here, c.there, change, rules)
		}
	}
}

func TestAShadowTellsABoundedNumberOfRowsApart(t *testing.T) {
	p := newPair(t, triedRules, ShadowOptions{})
	g := p.gen.Load()
	here, there := &Decision{Allow: true}, &Decision{Denials: []string{"no"}}
	for i := range maxDivergences + 50 {
		q := ask("infusion-pump", nil)
		q.Device.ID = fmt.Sprintf("pump-%d", i)
		g.count("d", q, here, there, time.Now)
	}
	ds := p.Divergences()
	if len(ds) != maxDivergences+1 || ds[0].Device != "" || ds[0].Count != 50 {
		t.Errorf("%d rows, first %+v", len(ds), ds[0])
	}
}

// BenchmarkShadow is what a request pays for a set that is tried beside.
func BenchmarkShadow(b *testing.B) {
	enforced := load(b, shipped, Options{})
	tried := load(b, shipped, Options{})
	s := NewShadow(ShadowOptions{})
	s.Use(tried, enforced.Revision())
	q := ask("patient-monitor", fhirAsks("create", "Observation"))
	d := enforced.Decide(b.Context(), q)
	tried.Decide(b.Context(), q)
	b.ReportAllocs()
	done := cpu(b)
	for b.Loop() {
		s.Compare("d", q, &d)
	}
	done()
	if st, _ := s.Status(); st.Compared == 0 {
		b.Fatalf("%+v", st)
	}
}
