package workbench

import (
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// readsGrants decides by everything there is to know of a grant.
const readsGrants = `package anteroom.authz

deny contains sprintf("%s until %s", [input.break_glass.reason, input.break_glass.until]) if input.request.fhir.type == "Condition"
`

// TestADecisionOfAnEmergencyIsMadeAgain as it was: under the grant that its record
// names, though it is long over.
func TestADecisionOfAnEmergencyIsMadeAgain(t *testing.T) {
	w := newWard(t)
	w.set = w.load("authz/reads.rego", readsGrants)
	w.decide("patient-monitor-1", fhir("read", "Patient", "p3"))
	until := w.now.Add(time.Minute)
	w.grant = breakglass.Past("bg-1", "the EHR is down", until, w.now)
	allowed := w.decide("patient-monitor-1", fhir("read", "Patient", "p3"))
	w.decide("patient-monitor-1", fhir("read", "Condition", "p3"))
	// Its record is written as the grant ends.
	w.now = until.Add(-1)
	w.decide("patient-monitor-1", fhir("read", "Patient", "p3"))
	dir := w.audit()
	e, err := Find(t.Context(), dir, allowed, nil)
	if err != nil || e.BreakGlass == nil || e.BreakGlass.ID != "bg-1" || e.BreakGlass.Reason != "the EHR is down" || !e.BreakGlass.Until.Equal(until) {
		t.Fatalf("%+v, %v", e, err)
	}
	x, err := ExplainRecord(t.Context(), w.set, e, w.devices)
	if err != nil || !x.Allow || !x.Same() || len(x.Reasons) != 1 || !strings.Contains(x.Reasons[0], "emergency") {
		t.Errorf("%+v, %v", x, err)
	}
	e.Time = until.Add(time.Second)
	if x, err := ExplainRecord(t.Context(), w.set, e, w.devices); err != nil || !x.Allow {
		t.Errorf("written after the end: %+v, %v", x, err)
	}
	r, err := Replay(t.Context(), w.set, w.set, ReplayOptions{Dir: dir, Devices: w.devices})
	if err != nil || r.Decisions != 4 || r.Drift != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestAnEmergencyIsNoUse: what was done under a grant is not suggested as what a
// class needs.
func TestAnEmergencyIsNoUse(t *testing.T) {
	w := newWard(t)
	w.decide("patient-monitor-1", fhir("create", "Observation", "p3"))
	w.grant = breakglass.Past("bg-1", "the EHR is down", w.now.Add(time.Minute), w.now)
	id := w.decide("patient-monitor-1", fhir("read", "Patient", "p3"))
	dir := w.audit()
	if e, err := Find(t.Context(), dir, id, nil); err != nil || !e.Decision.Allow {
		t.Fatalf("the grant allows nothing: %v", err)
	}
	uses, err := Observe(t.Context(), dir, audit.Filter{})
	if err != nil || uses["patient-monitor"] == nil || uses["patient-monitor"].Types["Observation"] == nil || uses["patient-monitor"].Types["Patient"] != nil {
		t.Errorf("%+v, %v", uses["patient-monitor"], err)
	}
}

func TestAnEmergencyCanBeTried(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	rec := &device.Record{ID: "m", Class: "patient-monitor", Status: device.Active}
	q, err := ParseRequest([]byte(`{"request": {}, "break_glass": {"active": true, "reason": "x", "until": "2026-03-04T06:00:00Z"}}`), rec, now)
	if err != nil || !q.BreakGlass.ActiveAt(q.Now) || q.BreakGlass.Terms.Reason != "x" || q.BreakGlass.Until.Hour() != 6 {
		t.Errorf("%+v, %v", q, err)
	}
	if q, err := ParseRequest([]byte(`{"request": {}, "break_glass": {"active": true}}`), rec, now); err != nil || !q.BreakGlass.ActiveAt(q.Now) {
		t.Errorf("%+v, %v", q, err)
	}
	if q, err := ParseRequest([]byte(`{"request": {}, "break_glass": {"active": false, "reason": "x"}}`), rec, now); err != nil || q.BreakGlass != nil {
		t.Errorf("%+v, %v", q, err)
	}
	if _, err := ParseRequest([]byte(`{"request": {}, "break_glass": {"active": true, "until": "2026-03-04T05:06:07Z"}}`), rec, now); err == nil {
		t.Error("a grant that is over is tried as active")
	}
}
