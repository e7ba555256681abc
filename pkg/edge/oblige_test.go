package edge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// obligedBench is a judge whose policy allows everything and obliges to what is
// given in Rego.
func obligedBench(t *testing.T, obligations string) *bench {
	t.Helper()
	dir := t.TempDir()
	rego := `package anteroom.authz

allow contains "why not" if input.request.action

decision := {"allow": true, "reasons": allow, "denials": [], "obligations": ` + obligations + "}\n"
	if err := os.WriteFile(filepath.Join(dir, "a.rego"), []byte(rego), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	set, err := policy.Load(t.Context(), dir, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b.judge = NewJudge(JudgeConfig{Policy: current{set}, Audit: b.log, Clock: time.Now})
	return b
}

// able meets what it does not name.
type able struct{ cannot string }

func (a able) Unable(*protocol.Transaction, *protocol.Obligations) string { return a.cannot }

// TestADeviceBeyondItsLimitIsRefusedAndComesAgain: over all its sessions, with
// the time to wait, and with a record of its own cause.
func TestADeviceBeyondItsLimitIsRefusedAndComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := obligedBench(t, `[{"limit_rps": 2}]`)
		other := protocol.NewSession(b.s.Device())
		other.NotAfter, other.Fingerprint = b.s.NotAfter, b.s.Fingerprint
		for _, s := range []*protocol.Session{b.s, other} {
			if v := b.judge.Judge(t.Context(), s, b.route, metadata()); !v.Allow || v.Obligations == nil {
				t.Fatalf("%+v", v)
			}
		}
		v := b.judge.Judge(t.Context(), b.s, b.route, metadata())
		if v.Allow || v.Cause != protocol.CauseLimit || v.RetryAfter <= 0 || v.RetryAfter > time.Second || v.Obligations != nil {
			t.Fatalf("the third: %+v", v)
		}
		recs := b.log.events("transaction.decided")
		if d := recs[2].Decision; d.Allow || d.Cause != "limit" || d.Revision == "" || len(d.Denials) != 1 || d.Obligations.Kind() != protocol.KindObject {
			t.Errorf("recorded %+v", d)
		}
		again := metadata()
		again.Again = true
		if v := b.judge.Judge(t.Context(), b.s, b.route, again); !v.Allow {
			t.Errorf("what is only asked about anew was counted: %+v", v)
		}
		time.Sleep(v.RetryAfter)
		if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); !v.Allow {
			t.Errorf("after the time it was told: %+v", v)
		}
	})
}

// TestWhatTheAdapterCanNotDoIsDenied: an adapter that knows nothing of an
// obligation must not be handed a transaction that is allowed on its condition.
func TestWhatTheAdapterCanNotDoIsDenied(t *testing.T) {
	for _, duty := range []string{`{"redact": "/name"}`, `{"mirror": "copy"}`, `{"limit_bytes": 1000}`} {
		b := obligedBench(t, "["+duty+"]")
		var counted []string
		b.judge.cfg.Obliged = func(kind, result string) { counted = append(counted, kind+" "+result) }
		v := b.judge.Judge(t.Context(), b.s, b.route, metadata())
		if v.Allow || v.Cause != protocol.CauseObligation {
			t.Errorf("%s, and nobody to do it: %+v", duty, v)
		}
		tx := metadata()
		tx.Obliged = able{"the answer is a picture"}
		if v := b.judge.Judge(t.Context(), b.s, b.route, tx); v.Allow || v.Cause != protocol.CauseObligation {
			t.Errorf("%s, and somebody who can not: %+v", duty, v)
		}
		d := b.log.events("transaction.decided")[1].Decision
		if d.Allow || d.Cause != "obligation" || len(d.Denials) != 1 || !strings.HasSuffix(d.Denials[0], "the answer is a picture") {
			t.Errorf("recorded %+v", d)
		}
		if len(counted) != 2 || !strings.HasSuffix(counted[0], " unable") {
			t.Errorf("counted %q", counted)
		}
		tx = metadata()
		tx.Obliged = able{}
		if v := b.judge.Judge(t.Context(), b.s, b.route, tx); !v.Allow || v.Obligations == nil {
			t.Errorf("%s, and somebody who can: %+v", duty, v)
		}
	}
}

// TestWhatThePolicyObligesToIsRecorded: with its tags beside it.
func TestWhatThePolicyObligesToIsRecorded(t *testing.T) {
	b := obligedBench(t, `[{"limit_rps": 7, "tag": ["drill", "ward-3"]}, {"max_session_s": 3600}]`)
	if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); !v.Allow {
		t.Fatalf("%+v", v)
	}
	d := b.log.events("transaction.decided")[0].Decision
	if rps, _ := d.Obligations.Get("limit_rps"); len(rps.Elems()) != 1 || rps.Elems()[0].Number() != 7 {
		t.Errorf("recorded %+v", d.Obligations)
	}
	if age, _ := d.Obligations.Get("max_session_s"); age.Number() != 3600 {
		t.Errorf("recorded %+v", d.Obligations)
	}
	if len(d.Tags) != 2 || d.Tags[1] != "ward-3" {
		t.Errorf("tagged %q", d.Tags)
	}
}

// TestASessionEndsAtTheAgeItsPolicyObligesTo: one that is older is answered and
// asked to finish, because the device would not know what to do with a refusal.
func TestASessionEndsAtTheAgeItsPolicyObligesTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := obligedBench(t, `[{"max_session_s": 60}]`)
		b.s.Started = time.Now()
		draining := make(chan struct{})
		b.s.OnDrain(func() { close(draining) })
		if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); !v.Allow || b.s.IsDraining() {
			t.Fatalf("%+v, draining %v", v, b.s.IsDraining())
		}
		<-draining
		if age := time.Since(b.s.Started); age != time.Minute {
			t.Errorf("asked to finish at %v", age)
		}
		b.s.End(nil)

		b = obligedBench(t, `[{"max_session_s": 60}]`)
		b.s.Started = time.Now().Add(-time.Hour)
		if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); !v.Allow || !b.s.IsDraining() {
			t.Errorf("an old session: %+v, draining %v", v, b.s.IsDraining())
		}
		<-b.s.Context().Done()
	})
}

// TestAnObservingRouteObligesToNothing: what would have stood in the way is
// recorded, and nothing stands in it.
func TestAnObservingRouteObligesToNothing(t *testing.T) {
	b := obligedBench(t, `[{"limit_rps": 1, "max_session_s": 1, "tag": "tried"}]`)
	b.route.Observe = true
	b.s.Started = time.Now().Add(-time.Hour)
	for i := range 2 {
		v := b.judge.Judge(t.Context(), b.s, b.route, metadata())
		if !v.Allow || v.Obligations != nil || b.s.IsDraining() {
			t.Errorf("%d: %+v, draining %v", i, v, b.s.IsDraining())
		}
	}
	d := b.log.events("transaction.decided")[1].Decision
	if !d.Allow || !d.WouldDeny || d.Cause != "limit" || len(d.Tags) != 1 {
		t.Errorf("recorded %+v", d)
	}

	b = obligedBench(t, `[{"redact": "/name"}]`)
	b.route.Observe = true
	if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); !v.Allow || v.Obligations != nil {
		t.Errorf("%+v", v)
	}
	if d := b.log.events("transaction.decided")[0].Decision; !d.WouldDeny || d.Cause != "obligation" {
		t.Errorf("recorded %+v", d)
	}
}
