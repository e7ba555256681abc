package workbench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

const noPatients = `package anteroom.authz

deny contains "pumps search no orders at nine" if {
	input.device.class == "infusion-pump"
	input.request.fhir.interaction == "search-type"
	input.time.hour == 9
}

allow contains "monitors may read patients" if {
	input.device.class == "patient-monitor"
	input.request.fhir.type == "Patient"
}
`

func replay(t *testing.T, w *ward, candidate *policy.Set, f audit.Filter) *ReplayReport {
	t.Helper()
	r, err := Replay(t.Context(), w.set, candidate, ReplayOptions{Dir: w.audit(), Filter: f, Devices: w.devices})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestWhatAnObligationStoppedWasAllowedByThePolicy: replayed and explained as that,
// since another policy set might not have let it come so far.
func TestWhatAnObligationStoppedWasAllowedByThePolicy(t *testing.T) {
	for _, cause := range []string{"limit", "obligation"} {
		w := newWard(t)
		w.cause = cause
		id := w.decide("infusion-pump-0", fhir("search-type", "MedicationRequest", "p2"))
		if r := replay(t, w, w.set, audit.Filter{}); r.Decisions != 1 || r.Changed != 0 || r.Drift != 0 {
			t.Errorf("%s: under the same set %+v", cause, r)
		}
		other := w.load("authz/no.rego", noPatients)
		if r := replay(t, w, other, audit.Filter{}); r.Changed != 1 || r.Changes[0].Change != policy.WouldDeny {
			t.Errorf("%s: under another %+v", cause, r)
		}
		e, err := Find(t.Context(), w.audit(), id, nil)
		if err != nil {
			t.Fatal(err)
		}
		x, err := ExplainRecord(t.Context(), w.set, e, w.devices)
		if err != nil || x.NotAsked != "" || !x.Allow || !x.Same() || x.Recorded.Allow || len(x.Recorded.Denials) != 1 {
			t.Errorf("%s: explained as %+v, %v", cause, x, err)
		}
	}
}

func TestReplaySaysWhatWouldChange(t *testing.T) {
	w := newWard(t)
	for i := range 20 {
		w.decide("patient-monitor-0", fhir("create", "Observation", "p1"))
		w.decide(fmt.Sprintf("infusion-pump-%d", i%2), fhir("search-type", "MedicationRequest", "p2"))
		w.decide("patient-monitor-1", fhir("read", "Patient", "p3"))
	}
	w.now = w.now.Add(time.Hour)
	w.decide("infusion-pump-0", fhir("search-type", "MedicationRequest", "p2"))
	w.append(&audit.Record{Kind: audit.KindTransaction, Event: "transaction.refused", Device: "infusion-pump-0", Decision: &audit.Decision{ID: "r1", Cause: "malformed"}})
	w.append(&audit.Record{Kind: audit.KindTransaction, Event: decided, Device: "infusion-pump-0", Transaction: fhir("read", "X", ""),
		Decision: &audit.Decision{ID: "q1", Cause: "device", Revision: w.set.Revision()}})
	w.append(&audit.Record{Kind: audit.KindTransaction, Event: "transaction.undelivered", Decision: &audit.Decision{ID: "d00001", Allow: true}})
	w.append(&audit.Record{Kind: audit.KindDevice, Event: "device.enrolled", Device: "infusion-pump-0"})

	r := replay(t, w, w.load("authz/no.rego", noPatients), audit.Filter{})
	if r.Decisions != 61 || r.Changed != 40 || r.Drift != 0 || r.OtherRevisions != 0 || (r.LeftOut != LeftOut{Refused: 1, Gateway: 1}) {
		t.Errorf("%+v", r)
	}
	var got []string
	for _, c := range r.Changes {
		got = append(got, fmt.Sprintf("%s %d/%d %s: %s: %s", c.Change, c.Count, c.Devices, c.Class, c.What, c.Rule))
	}
	want := []string{
		"would-deny 20/2 infusion-pump: fhir search-type MedicationRequest: pumps search no orders at nine",
		"would-allow 20/1 patient-monitor: fhir read Patient: monitors may read patients",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if len(r.Changes[0].Examples) != 3 || !strings.HasPrefix(r.Changes[0].Examples[0], "d0") {
		t.Errorf("examples %v", r.Changes[0].Examples)
	}
	if d := r.Devices; len(d) != 3 || d[0].Device != "patient-monitor-1" || d[0].Changes[policy.WouldAllow] != 20 || d[1].Total != 10 {
		t.Errorf("devices %+v", d)
	}
	if got := replay(t, w, w.load("authz/no.rego", noPatients), audit.Filter{Class: "infusion-pump", Since: w.now}); got.Decisions != 1 || got.Changed != 0 {
		t.Errorf("filtered: %+v", got)
	}
}

// TestReplayUnderTheSameSetFindsNothing: what was made again of a question is the
// question, for every kind of transaction the ward has.
func TestReplayUnderTheSameSetFindsNothing(t *testing.T) {
	w := newWard(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		w.now = w.now.Add(time.Duration(r.IntN(1000)) * time.Second)
		for id := range w.devices {
			w.decide(id, fhir([]string{"create", "read", "search-type", "delete", "update"}[r.IntN(5)],
				[]string{"Observation", "Patient", "MedicationRequest", "Device", "Flag"}[r.IntN(5)], fmt.Sprint("p", r.IntN(40))))
			break
		}
	}
	rep := replay(t, w, w.set, audit.Filter{})
	if rep.Decisions != 2000 || rep.Changed != 0 || rep.Drift != 0 || len(rep.Notes()) != 0 {
		t.Errorf("%+v", rep)
	}
}

func TestReplayTellsDriftFromChange(t *testing.T) {
	w := newWard(t)
	id := w.decide("glucose-meter-0", fhir("create", "Observation", "p"))
	w.decide("glucose-meter-1", fhir("create", "Observation", "p"))
	w.decide("glucose-meter-2", fhir("create", "Observation", "p"))

	// Its vulnerability became known after the decision.
	sick := *w.devices["glucose-meter-0"]
	sick.Posture.MaxCVSS, sick.Revision = 9.9, sick.Revision+100
	w.devices["glucose-meter-0"] = &sick
	delete(w.devices, "glucose-meter-1")
	r := replay(t, w, w.set, audit.Filter{})
	if r.Changed != 0 || r.Drift != 1 || r.RegistryChanged != 1 || r.RegistryAbsent != 1 || len(r.DriftExamples) != 1 || r.DriftExamples[0] != id {
		t.Errorf("%+v", r)
	}
	if n := len(r.Notes()); n != 3 {
		t.Errorf("%d notes: %q", n, r.Notes())
	}
	// Under another set than then it is no drift.
	next := w.load("authz/no.rego", noPatients)
	r, err := Replay(t.Context(), next, next, ReplayOptions{Dir: w.audit(), Devices: w.devices})
	if err != nil || r.Drift != 0 || r.OtherRevisions != 3 || r.Otherwise != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestReplaySaysWhatItCouldNotRead(t *testing.T) {
	w := newWard(t)
	w.decide("glucose-meter-0", fhir("create", "Observation", "p"))
	dir := w.audit()
	w.close()
	names, err := filepath.Glob(filepath.Join(dir, "*", "0*"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(decided)) {
			found = true
			if err := os.WriteFile(name, append(b, []byte("nonsense\n")...), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !found {
		t.Fatalf("no segment among %v", names)
	}
	r, err := Replay(t.Context(), w.set, w.set, ReplayOptions{Dir: dir, Devices: w.devices})
	if err != nil || r.LeftOut.Unreadable != 1 || r.Decisions != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Replay(t.Context(), w.set, w.set, ReplayOptions{Dir: filepath.Join(dir, "none"), Devices: w.devices}); err == nil {
		t.Error("a log that is not there is an empty one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Replay(ctx, w.set, w.set, ReplayOptions{Dir: dir, Devices: w.devices}); err == nil {
		t.Error("what was broken off is a report")
	}
}

func TestTheReportIsAPageThatRunsNothing(t *testing.T) {
	w := newWard(t)
	w.decide("patient-monitor-1", fhir("read", "Patient", "p3"))
	r := replay(t, w, w.load("authz/no.rego", strings.ReplaceAll(noPatients, "monitors may read patients", "<script>alert(1)</script>")), audit.Filter{})
	var b bytes.Buffer
	if err := WriteHTML(&b, r); err != nil {
		t.Fatal(err)
	}
	if s := b.String(); strings.Contains(s, "<script") || !strings.Contains(s, "&lt;script&gt;") || strings.Contains(s, "://") || strings.Contains(s, "src=") {
		t.Errorf("page:\n%s", s)
	}
}

func TestValueReadsWhatARecordHolds(t *testing.T) {
	for in, ok := range map[string]bool{
		`{"a":[1,-2,"x",true,null,{"b":{}}]}`: true, `9223372036854775807`: true,
		`1.5`: false, `9223372036854775808`: false, `{"a":1}{}`: false, ``: false, `{`: false,
	} {
		if _, err := Value([]byte(in)); (err == nil) != ok {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// BenchmarkReplay is the whole of it: reading, making the questions again and
// deciding each twice. The figure that matters is records/s: a million take
// less than a minute above 16,667.
func BenchmarkReplay(b *testing.B) {
	const records = 200_000
	w := newWard(b)
	r := rand.New(rand.NewPCG(1, 2))
	ids := []string{"patient-monitor-0", "patient-monitor-1", "infusion-pump-0", "ventilator-2", "glucose-meter-3"}
	for range records {
		w.now = w.now.Add(time.Millisecond)
		w.decide(ids[r.IntN(len(ids))], fhir([]string{"create", "create", "create", "read", "search-type"}[r.IntN(5)], "Observation", fmt.Sprint("p", r.IntN(500))))
	}
	dir := w.audit()
	candidate := w.load("authz/no.rego", noPatients)
	b.ResetTimer()
	for b.Loop() {
		if _, err := Replay(b.Context(), w.set, candidate, ReplayOptions{Dir: dir, Devices: w.devices}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(records*b.N)/b.Elapsed().Seconds(), "records/s")
}
