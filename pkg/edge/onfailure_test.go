package edge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// nearlyFull is a log that takes only what may go into its reserve.
type nearlyFull struct {
	recorder
	why       error
	reserve   error  // why that takes nothing
	meanwhile func() // is called while it is written
}

func (l *nearlyFull) Append(ctx context.Context, rec *audit.Record) error {
	if l.why == nil {
		return l.recorder.Append(ctx, rec)
	}
	if !rec.Reserve && !rec.FollowsUp || l.reserve != nil {
		return errors.Join(l.why, l.reserve)
	}
	if l.meanwhile != nil {
		l.meanwhile()
	}
	return l.recorder.Append(ctx, rec)
}

// passing is a judge of a life-critical monitor that reports, with a log that is
// nearly full.
type passing struct {
	*bench
	log    *nearlyFull
	grant  *breakglass.Grant
	passed []bool
	tx     *protocol.Transaction
}

func newPassing(t *testing.T) *passing {
	t.Helper()
	p := &passing{bench: newBench(t), log: &nearlyFull{why: fmt.Errorf("%w: x", audit.ErrUnavailable)}, tx: metadata()}
	p.judge = NewJudge(JudgeConfig{Policy: p.judge.cfg.Policy, Audit: p.log, Clock: time.Now,
		BreakGlass: func(*device.Record, string) *breakglass.Grant { return p.grant },
		Passed:     func(_ string, passed bool) { p.passed = append(p.passed, passed) }})
	p.change(func(r *device.Record) { r.LifeCritical = true })
	p.route.Class, p.route.PassOnFailure, p.tx.Report = protocol.LifeSafety, true, true
	return p
}

func (p *passing) change(edit func(*device.Record)) {
	rec := *p.s.Device()
	rec.Certificates = slices.Clone(rec.Certificates)
	edit(&rec)
	p.s.SetDevice(&rec)
}

// TestAReportPassesWithNearlyNoDiskLeft: recorded, if the policy allows it and the
// route says so; and nothing else does.
func TestAReportPassesWithNearlyNoDiskLeft(t *testing.T) {
	for name, tt := range map[string]struct {
		edit    func(*passing)
		allow   bool
		counted bool
	}{
		"a report":                     {func(*passing) {}, true, true},
		"a part of one":                {func(p *passing) { p.tx.Of = "envelope" }, true, true},
		"no report":                    {func(p *passing) { p.tx.Report = false }, false, true},
		"what lasts":                   {func(p *passing) { p.tx.Again = true }, false, true},
		"a device nobody's life is on": {func(p *passing) { p.change(func(r *device.Record) { r.LifeCritical = false }) }, false, true},
		"a route that refuses":         {func(p *passing) { p.route.PassOnFailure = false }, false, false},
		"what the policy denies":       {func(p *passing) { p.tx.Action, p.tx.Facts = "delete", nil }, false, false},
		"even where it only observes":  {func(p *passing) { p.tx.Action, p.tx.Facts, p.route.Observe = "delete", nil, true }, false, true},
		"the reserve is used up":       {func(p *passing) { p.log.reserve = audit.ErrUnavailable }, false, true},
		"the log is closed":            {func(p *passing) { p.log.why = audit.ErrClosed }, false, false},
		"the record is too large":      {func(p *passing) { p.log.why = audit.ErrTooLarge }, false, false},
		"a quarantined device":         {func(p *passing) { p.change(func(r *device.Record) { r.Status = device.Quarantined }) }, false, false},
		"a revoked device":             {func(p *passing) { p.change(func(r *device.Record) { r.Status = device.Revoked }) }, false, false},
		"a certificate that was revoked": {func(p *passing) {
			p.change(func(r *device.Record) { r.Certificates[0].RevokedAt = time.Now() })
		}, false, false},
		"a certificate that has ended": {func(p *passing) { p.s.NotAfter = time.Now().Add(-time.Second) }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPassing(t)
			tt.edit(p)
			v := p.judge.Judge(t.Context(), p.s, p.route, p.tx)
			if v.Allow != tt.allow || (len(p.passed) == 1) != tt.counted || tt.counted && p.passed[0] != tt.allow {
				t.Fatalf("%+v, counted %v", v, p.passed)
			}
			if !v.Allow {
				if v.Cause == protocol.CauseNone {
					t.Errorf("%+v", v)
				}
				return
			}
			recs := p.log.events("transaction.decided")
			if len(recs) != 1 || !recs[0].Decision.Allow || !recs[0].Decision.OnFailure || recs[0].Decision.Revision == "" || recs[0].Decision.ID != v.ID {
				t.Errorf("recorded %+v", recs)
			}
		})
	}
	p := newPassing(t)
	p.log.why = nil
	if v := p.judge.Judge(t.Context(), p.s, p.route, p.tx); !v.Allow || p.log.events("transaction.decided")[0].Decision.OnFailure || len(p.passed) > 0 {
		t.Errorf("with disk enough: %+v", v)
	}
}

// TestAReportThatDidNotArriveIsRecordedAsThat: with nearly no disk left, too, or the log
// would say of an alarm that it went on.
func TestAReportThatDidNotArriveIsRecordedAsThat(t *testing.T) {
	p := newPassing(t)
	v := p.judge.Judge(t.Context(), p.s, p.route, p.tx)
	p.judge.Undelivered(p.s, v.ID, "the backend did not answer in time")
	recs := p.log.events("transaction.undelivered")
	if len(recs) != 1 || recs[0].Decision.ID != v.ID || recs[0].Reserve || recs[0].Device != p.s.Device().ID {
		t.Errorf("%+v", recs)
	}
}

// TestWhatChangesWhileTheReserveIsWrittenCounts: writing is slow on such a disk, and the
// registry's word then is what holds.
func TestWhatChangesWhileTheReserveIsWrittenCounts(t *testing.T) {
	for name, meanwhile := range map[string]func(*passing){
		"it is quarantined":      func(p *passing) { p.change(func(r *device.Record) { r.Status = device.Quarantined }) },
		"its posture is another": func(p *passing) { p.change(func(r *device.Record) { r.Posture.Firmware = "1" }) },
		"its certificate is revoked": func(p *passing) {
			p.change(func(r *device.Record) { r.Certificates[0].RevokedAt = time.Now() })
		},
		"its certificate ends":  func(p *passing) { p.s.NotAfter = time.Now().Add(-time.Second) },
		"its session ends":      func(p *passing) { p.s.End(errors.New("killed")) },
		"the emergency is over": func(p *passing) { p.grant = nil },
	} {
		p := newPassing(t)
		p.grant = new(breakglass.Grant)
		p.log.meanwhile = func() { meanwhile(p) }
		v := p.judge.Judge(t.Context(), p.s, p.route, p.tx)
		if v.Allow || v.Cause != protocol.CauseFault || len(p.passed) != 1 || p.passed[0] {
			t.Errorf("%s: %+v, counted %v", name, v, p.passed)
		}
		// The record that allows it is in the log already.
		if recs := p.log.events("transaction.undelivered"); len(recs) != 1 || recs[0].Decision.ID != v.ID || !recs[0].FollowsUp {
			t.Errorf("%s: the log does not say that it did not go on: %+v", name, recs)
		}
	}
}
