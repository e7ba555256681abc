package edge

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// swap is a policy set that a test changes.
type swap struct{ current }

func (s *swap) For(rec *device.Record) *policy.Set { return s.current.For(rec) }

func ruled(t *testing.T, body string, opt policy.Options) *policy.Set {
	t.Helper()
	dir := t.TempDir()
	text := "package anteroom.authz\n\ndecision := {\"allow\": true, \"reasons\": allow, \"denials\": set(), \"obligations\": set()} if {\n\tallow != set()\n\tdeny == set()\n} else := {\"allow\": false, \"reasons\": allow, \"denials\": deny, \"obligations\": set()}\n\n" + body + "\n"
	if err := os.WriteFile(filepath.Join(dir, "a.rego"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := policy.Load(t.Context(), dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const anyone = "allow contains \"anyone\"\n\ndeny contains \"never\" if false\n"

// TestWhatIsAlikeIsAskedAnewWhenSomethingElseIs: transactions that are alike are
// answered as the last one was while nothing else changed, and each is recorded.
// Whatever else an answer depends on has it asked for again.
func TestWhatIsAlikeIsAskedAnewWhenSomethingElseIs(t *testing.T) {
	type stage struct {
		*bench
		sets  *swap
		now   time.Time
		grant *breakglass.Grant
	}
	for name, c := range map[string]struct {
		rules  string
		change func(t *testing.T, s *stage)
		allow  bool // after the change
	}{
		"nothing": {anyone, func(*testing.T, *stage) {}, true},
		"the policy set": {anyone, func(t *testing.T, s *stage) {
			s.sets.set = ruled(t, "allow contains \"x\" if false\n\ndeny contains \"no\"", policy.Options{})
		}, false},
		"the record":           {"allow contains \"x\" if input.device.location == \"\"\n\ndeny contains \"never\" if false", func(_ *testing.T, s *stage) { s.change(func(r *device.Record) { r.Location = "elsewhere" }) }, false},
		"the status":           {anyone, func(_ *testing.T, s *stage) { s.change(func(r *device.Record) { r.Status = device.Quarantined }) }, false},
		"the certificate":      {anyone, func(_ *testing.T, s *stage) { s.now = s.now.Add(2 * time.Hour) }, false},
		"the clock":            {"allow contains \"x\" if input.time.minute == 30\n\ndeny contains \"never\" if false", func(_ *testing.T, s *stage) { s.now = s.now.Add(time.Minute) }, false},
		"the session's age":    {"allow contains \"x\" if input.session.age_s < 30\n\ndeny contains \"never\" if false", func(_ *testing.T, s *stage) { s.now = s.now.Add(time.Minute) }, false},
		"the clock itself":     {"allow contains \"x\" if time.now_ns() < 1795703420000000000\n\ndeny contains \"never\" if false", func(_ *testing.T, s *stage) { s.now = s.now.Add(time.Minute) }, false},
		"the assessment's age": {"allow contains \"x\" if input.device.posture.age_days < 1\n\ndeny contains \"never\" if false", func(_ *testing.T, s *stage) { s.now = s.now.Add(40 * time.Minute) }, false},
		"an emergency": {anyone + "\ndeny contains \"emergency\" if input.break_glass.active", func(_ *testing.T, s *stage) {
			s.grant = &breakglass.Grant{ID: "g", OpenedAt: s.now, ApprovedAt: s.now, Until: s.now.Add(time.Hour)}
		}, false},
		"the session": {anyone, func(_ *testing.T, s *stage) { s.s.End(context.Canceled) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &stage{bench: newBench(t), now: time.Date(2026, 11, 26, 14, 30, 10, 0, time.UTC)}
			s.sets = &swap{current{ruled(t, c.rules, policy.Options{})}}
			s.judge = NewJudge(JudgeConfig{Policy: s.sets, Audit: s.log, Clock: func() time.Time { return s.now },
				BreakGlass: func(*device.Record, string) *breakglass.Grant { return s.grant }})
			s.s.Started, s.s.NotAfter = s.now, s.now.Add(time.Hour)
			s.change(func(r *device.Record) {
				r.Certificates[0].NotAfter = s.now.Add(48 * time.Hour)
				r.Posture.AssessedAt = s.now.Add(-23*time.Hour - 30*time.Minute)
			})
			tx := metadata()
			tx.Like = new(protocol.Memo)
			ids := map[string]bool{}
			for i := range 4 {
				v := s.judge.Judge(t.Context(), s.s, s.route, tx)
				if !v.Allow {
					t.Fatalf("time %d: %+v %v", i, v, s.log.events("transaction.decided")[i].Decision)
				}
				ids[v.ID] = true
			}
			c.change(t, s)
			for range 2 {
				v := s.judge.Judge(t.Context(), s.s, s.route, tx)
				if v.Allow != c.allow {
					t.Errorf("after the change: %+v", v)
				}
				ids[v.ID] = true
			}
			recs := s.log.events("transaction.decided")
			if len(recs) != 6 {
				t.Fatalf("%d records", len(recs))
			}
			if reflect.ValueOf(recs[3].FixedRequest).IsZero() {
				t.Error("the request was written anew for each record")
			}
			if len(ids) != 6 {
				t.Error("two decisions have one id")
			}
		})
	}
}

// change replaces the record of the session's device.
func (b *bench) change(f func(*device.Record)) {
	rec := *b.s.Device()
	rec.Certificates = append([]device.Certificate(nil), rec.Certificates...)
	f(&rec)
	b.s.SetDevice(&rec)
}

// An answer that was not remembered by the set is not by the judge either, and what
// was left out is looked at under each set.
func TestWhatIsAlikeKeepsToTheSetsRules(t *testing.T) {
	b := newBench(t)
	set := ruled(t, anyone, policy.Options{CacheEntries: -1})
	sets := &swap{current{set}}
	b.judge = NewJudge(JudgeConfig{Policy: sets, Audit: b.log, Clock: time.Now})
	tx := metadata()
	tx.Like = new(protocol.Memo)
	tx.Omitted = [][]string{{"request", "fhir", "patient"}}
	for range 3 {
		if v := b.judge.Judge(t.Context(), b.s, b.route, tx); !v.Allow {
			t.Fatalf("%+v", v)
		}
	}
	for _, r := range b.log.events("transaction.decided") {
		if r.Decision.Elapsed == 0 {
			t.Error("an answer was remembered, and nothing is to be")
		}
	}
	sets.set = ruled(t, "allow contains \"x\" if input.request.fhir.patient\n\nallow contains \"y\"\n\ndeny contains \"never\" if false", policy.Options{})
	if v := b.judge.Judge(t.Context(), b.s, b.route, tx); v.Allow || v.Cause != protocol.CauseFault {
		t.Errorf("decided without what the set reads: %+v", v)
	}
}
