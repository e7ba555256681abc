package edge

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// current is a policy set that stays.
type current struct{ set *policy.Set }

func (c current) For(*device.Record) *policy.Set { return c.set }
func (c current) Reaches(rec *device.Record, path ...string) bool {
	return c.set.ReachesFor(rec, path...)
}
func (c current) Tries(*policy.Set) bool { return false }
func (c current) Decided(context.Context, *policy.Set, *policy.Question, *policy.Decision) {
}

// bench is a judge with the shipped policies and a session of a monitor.
type bench struct {
	judge *Judge
	log   *recorder
	s     *protocol.Session
	route *protocol.Route
}

func newBench(t *testing.T) *bench {
	t.Helper()
	set, err := policy.Load(t.Context(), "../../policies", policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{log: &recorder{}, route: &protocol.Route{Name: "ehr", Environment: "production", Class: protocol.Clinical}}
	b.judge = NewJudge(JudgeConfig{Policy: current{set}, Audit: b.log, Clock: time.Now})
	later := time.Now().Add(time.Hour)
	b.s = protocol.NewSession(&device.Record{ID: "monitor-1", Class: "patient-monitor", Status: device.Active,
		Certificates: []device.Certificate{{Fingerprint: "f", NotAfter: later}}})
	b.s.NotAfter, b.s.Fingerprint = later, "f"
	return b
}

// metadata is a transaction every class may do.
func metadata() *protocol.Transaction {
	return &protocol.Transaction{Protocol: "fhir", Action: "capabilities", Resource: "system", Facts: []protocol.Field{
		{Name: "http", Value: protocol.Object(protocol.Field{Name: "method", Value: protocol.String("GET")})},
		{Name: "fhir", Value: protocol.Object(
			protocol.Field{Name: "interaction", Value: protocol.String("capabilities")}, protocol.Field{Name: "type", Value: protocol.String("")},
			protocol.Field{Name: "level", Value: protocol.String("system")}, protocol.Field{Name: "entry", Value: protocol.Bool(false)},
			protocol.Field{Name: "operation", Value: protocol.String("")},
			protocol.Field{Name: "params", Value: protocol.List()}, protocol.Field{Name: "modifiers", Value: protocol.List()},
			protocol.Field{Name: "includes", Value: protocol.List()}, protocol.Field{Name: "chains", Value: protocol.List()},
			protocol.Field{Name: "result_params", Value: protocol.List()}, protocol.Field{Name: "unknown_params", Value: protocol.List()})}}}
}

// TestNothingIsAllowedThatIsNotRecorded is invariant 1: an allowed transaction
// names its policy revision in a record, and without the record it is not
// allowed.
func TestNothingIsAllowedThatIsNotRecorded(t *testing.T) {
	b := newBench(t)
	v := b.judge.Judge(t.Context(), b.s, b.route, metadata())
	recs := b.log.events("transaction.decided")
	if !v.Allow || len(recs) != 1 {
		t.Fatalf("%+v with %d records", v, len(recs))
	}
	if d := recs[0].Decision; d.ID != v.ID || !d.Allow || d.Revision == "" || len(d.Reasons) == 0 || recs[0].Device != "monitor-1" {
		t.Errorf("recorded %+v", d)
	}
	b.log.err = audit.ErrUnavailable
	if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); v.Allow || v.Cause != protocol.CauseFault {
		t.Errorf("allowed without a record: %+v", v)
	}
}

// TestEveryTransactionAsksTheRegistry is invariant 3 between the handshake and
// the session's end: no transaction is allowed under a record that no longer
// permits a session.
func TestEveryTransactionAsksTheRegistry(t *testing.T) {
	for name, change := range map[string]func(*device.Record){
		"quarantined":           func(r *device.Record) { r.Status = device.Quarantined },
		"revoked":               func(r *device.Record) { r.Status = device.Revoked },
		"certificate withdrawn": func(r *device.Record) { r.Certificates[0].RevokedAt = time.Now() },
		"certificate unknown":   func(r *device.Record) { r.Certificates = nil },
	} {
		b := newBench(t)
		rec := *b.s.Device()
		rec.Certificates = append([]device.Certificate(nil), rec.Certificates...)
		change(&rec)
		b.s.SetDevice(&rec)
		v := b.judge.Judge(t.Context(), b.s, b.route, metadata())
		if v.Allow || v.Cause != protocol.CauseDevice || b.s.Context().Err() == nil {
			t.Errorf("%s: %+v, session %v", name, v, context.Cause(b.s.Context()))
		}
		if len(b.log.events("transaction.decided")) != 1 {
			t.Errorf("%s: not recorded", name)
		}
	}
	b := newBench(t)
	b.s.NotAfter = time.Now().Add(-time.Second)
	if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); v.Allow {
		t.Error("allowed with a certificate that has ended")
	}
	b = newBench(t)
	b.s.End(errors.New("over"))
	if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); v.Allow {
		t.Error("allowed in a session that has ended")
	}
}

// TestAFactThatWasLeftOutIsNotMissed: an adapter leaves out what no rule reads;
// if the set has changed to one that reads it, the question is not answered.
func TestAFactThatWasLeftOutIsNotMissed(t *testing.T) {
	b := newBench(t)
	tx := metadata()
	tx.Omitted = [][]string{{"device", "class"}}
	if v := b.judge.Judge(t.Context(), b.s, b.route, tx); v.Allow || v.Cause != protocol.CauseFault {
		t.Errorf("decided without what the set reads: %+v", v)
	}
}

func TestDecisionIDsAreUnique(t *testing.T) {
	b, seen := newBench(t), map[string]bool{}
	for range 1000 {
		id := b.judge.newID()
		if seen[id] || len(id) != 26 {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

// TestAnObservingRouteAllowsAndRecordsWhatItWouldDeny: the first roll-out of a
// policy refuses nothing and hides nothing.
func TestAnObservingRouteAllowsAndRecordsWhatItWouldDeny(t *testing.T) {
	b := newBench(t)
	b.route.Observe = true
	var judged []Judged
	b.judge.cfg.Judged = func(j Judged) { judged = append(judged, j) }

	foreign := metadata()
	foreign.Protocol = "http"
	v := b.judge.Judge(t.Context(), b.s, b.route, foreign)
	recs := b.log.events("transaction.decided")
	if !v.Allow || v.Cause != protocol.CauseNone || len(recs) != 1 {
		t.Fatalf("%+v with %d records", v, len(recs))
	}
	if d := recs[0].Decision; !d.Allow || !d.WouldDeny || d.Cause != "policy" || len(d.Denials) == 0 || d.Revision == "" {
		t.Errorf("recorded %+v", d)
	}
	if !judged[0].WouldDeny {
		t.Error("nobody who watches sees that it would have been denied")
	}

	if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); !v.Allow {
		t.Errorf("%+v", v)
	}
	if d := b.log.events("transaction.decided")[1].Decision; d.WouldDeny || judged[1].WouldDeny {
		t.Errorf("what is allowed anyway is marked: %+v", d)
	}

	b.log.err = audit.ErrUnavailable
	if v := b.judge.Judge(t.Context(), b.s, b.route, foreign); v.Allow {
		t.Error("observed without a record")
	}
}

// TestAnObservingRouteLetsNoWithdrawnDeviceThrough: observing is about the
// policy and never about who a device is.
func TestAnObservingRouteLetsNoWithdrawnDeviceThrough(t *testing.T) {
	for _, status := range []device.Status{device.Pending, device.Quarantined, device.Revoked, device.Retired} {
		b := newBench(t)
		b.route.Observe = true
		rec := *b.s.Device()
		rec.Status = status
		b.s.SetDevice(&rec)
		if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); v.Allow {
			t.Errorf("%s: %+v", status, v)
		}
	}
	b := newBench(t)
	b.route.Observe = true
	tx := metadata()
	tx.Omitted = [][]string{{"device", "class"}}
	if v := b.judge.Judge(t.Context(), b.s, b.route, tx); v.Allow {
		t.Errorf("observed without what the set reads: %+v", v)
	}
}

// changing is a policy set that the first who asks for it has something happen.
type changing struct {
	current
	happens func()
}

func (c *changing) For(rec *device.Record) *policy.Set {
	if f := c.happens; f != nil {
		c.happens = nil
		f()
	}
	return c.current.For(rec)
}

// TestARecordThatChangesMeanwhileDecidesNothing: who is withdrawn while it is decided
// on is withdrawn when the verdict is given.
func TestARecordThatChangesMeanwhileDecidesNothing(t *testing.T) {
	b := newBench(t)
	p := &changing{b.judge.cfg.Policy.(current), func() {
		rec := *b.s.Device()
		rec.Status = device.Revoked
		b.s.SetDevice(&rec)
	}}
	b.judge.cfg.Policy = p
	if v := b.judge.Judge(t.Context(), b.s, b.route, metadata()); v.Allow || v.Cause != protocol.CauseDevice {
		t.Errorf("%+v", v)
	}
	if recs := b.log.events("transaction.decided"); len(recs) != 1 || recs[0].DeviceStatus != string(device.Revoked) {
		t.Errorf("recorded %+v", recs)
	}
}

// TestALaneThatObservesAllowsNothingThatIsDenied: a device in quarantine has no claim
// to a roll-out's patience.
func TestALaneThatObservesAllowsNothingThatIsDenied(t *testing.T) {
	b := newBench(t)
	b.route.Lane, b.route.Observe = true, true
	rec := *b.s.Device()
	rec.Status = device.Quarantined
	b.s.SetDevice(&rec)
	b.s.SetLane(true)
	if v := b.judge.Judge(t.Context(), b.s, b.route, patient()); v.Allow || v.Cause != protocol.CausePolicy {
		t.Errorf("%+v", v)
	}
}

// an emergency is one grant, or none, that counts how often it is asked for.
type emergency struct {
	grant atomic.Pointer[breakglass.Grant]
	asked int
	after int // how often it is asked before it ends
}

func (e *emergency) of(*device.Record, string) *breakglass.Grant {
	if e.asked++; e.after > 0 && e.asked > e.after {
		return nil
	}
	return e.grant.Load()
}

// newEmergency is a bench on which a grant is open for the monitor.
func newEmergency(t *testing.T) (*bench, *emergency) {
	b, e := newBench(t), &emergency{}
	e.grant.Store(breakglass.Past("bg-1", "the EHR is down", time.Now().Add(time.Hour).Truncate(time.Second), time.Now()))
	b.judge.cfg.BreakGlass = e.of
	return b, e
}

// patient is a transaction no class may do without an emergency.
func patient() *protocol.Transaction {
	tx := metadata()
	tx.Action, tx.Resource = "read", "Patient"
	fields := slices.Clone(tx.Facts[1].Value.Fields())
	fields[0].Value, fields[1].Value = protocol.String("read"), protocol.String("Patient")
	tx.Facts[1].Value = protocol.Object(fields...)
	return tx
}

// TestAnEmergencyIsInTheRecord: what is decided under a grant names it, allowed or
// not; without one the same is denied.
func TestAnEmergencyIsInTheRecord(t *testing.T) {
	b, e := newEmergency(t)
	var judged []Judged
	b.judge.cfg.Judged = func(j Judged) { judged = append(judged, j) }
	if v := b.judge.Judge(t.Context(), b.s, b.route, patient()); !v.Allow {
		t.Errorf("denied: %+v", b.log.events("transaction.decided")[0].Decision)
	}
	other := patient()
	other.Protocol = "http"
	if v := b.judge.Judge(t.Context(), b.s, b.route, other); v.Allow {
		t.Error("a grant allows everything")
	}
	e.grant.Store(nil)
	if v := b.judge.Judge(t.Context(), b.s, b.route, patient()); v.Allow {
		t.Error("allowed without a grant")
	}
	recs := b.log.events("transaction.decided")
	for i, rec := range recs {
		if g := rec.BreakGlass; (g != nil) != (i < 2) || (judged[i].BreakGlass != nil) != (i < 2) || g != nil && (g.ID != "bg-1" || g.Reason != "the EHR is down" || g.Until.IsZero()) {
			t.Errorf("record %d: %+v", i, g)
		}
	}
}

// TestAnEmergencyThatEndsMeanwhileDecidesNothing: a grant that is closed while its
// transaction is decided is none when the verdict is given.
func TestAnEmergencyThatEndsMeanwhileDecidesNothing(t *testing.T) {
	b, e := newEmergency(t)
	e.after = 1
	v := b.judge.Judge(t.Context(), b.s, b.route, patient())
	if v.Allow || e.asked < 3 {
		t.Errorf("%+v after %d questions", v, e.asked)
	}
	if recs := b.log.events("transaction.decided"); len(recs) != 1 || recs[0].BreakGlass != nil {
		t.Errorf("recorded %+v", recs)
	}
}

// TestAnEmergencyOpensNothingForADeviceThatIsOut: revoked, quarantined and retired
// devices and ended certificates are refused before any policy is asked.
func TestAnEmergencyOpensNothingForADeviceThatIsOut(t *testing.T) {
	for name, change := range map[string]func(*bench, *device.Record){
		"quarantined":           func(_ *bench, r *device.Record) { r.Status = device.Quarantined },
		"revoked":               func(_ *bench, r *device.Record) { r.Status = device.Revoked },
		"retired":               func(_ *bench, r *device.Record) { r.Status = device.Retired },
		"pending":               func(_ *bench, r *device.Record) { r.Status = device.Pending },
		"certificate withdrawn": func(_ *bench, r *device.Record) { r.Certificates[0].RevokedAt = time.Now() },
		"certificate expired":   func(b *bench, _ *device.Record) { b.s.NotAfter = time.Now().Add(-time.Second) },
	} {
		b, _ := newEmergency(t)
		rec := *b.s.Device()
		rec.Certificates = slices.Clone(rec.Certificates)
		change(b, &rec)
		b.s.SetDevice(&rec)
		if v := b.judge.Judge(t.Context(), b.s, b.route, patient()); v.Allow || v.Cause != protocol.CauseDevice || b.s.Context().Err() == nil {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// TestAnEmergencyNeedsItsRecord: nothing switches the audit log off.
func TestAnEmergencyNeedsItsRecord(t *testing.T) {
	b, _ := newEmergency(t)
	b.log.err = audit.ErrUnavailable
	if v := b.judge.Judge(t.Context(), b.s, b.route, patient()); v.Allow || v.Cause != protocol.CauseFault {
		t.Errorf("allowed without a record: %+v", v)
	}
}

// TestTheRecordSaysWhoWasAtTheBedside: with a decision goes which patients the
// device was associated with when it was made, and no others.
func TestTheRecordSaysWhoWasAtTheBedside(t *testing.T) {
	b := newBench(t)
	if b.judge.Judge(t.Context(), b.s, b.route, metadata()); len(b.log.events("transaction.decided")[0].DevicePatients) != 0 {
		t.Error("a device at nobody's bedside is recorded with patients")
	}
	rec := *b.s.Device()
	rec.Patients = []device.Association{
		{Patient: "HOSP|7"}, {Patient: "Patient/1", Until: time.Now().Add(-time.Second)}, {Patient: "Patient/2", Until: time.Now().Add(time.Hour)},
	}
	b.s.SetDevice(&rec)
	b.judge.Judge(t.Context(), b.s, b.route, metadata())
	if got := b.log.events("transaction.decided")[1].DevicePatients; !slices.Equal(got, []string{"HOSP|7", "2"}) {
		t.Errorf("recorded %q", got)
	}
}
