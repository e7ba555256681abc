package workbench

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// about is an Observation's create as the adapter tells of it when it read the
// body.
func about(patients ...string) *protocol.Transaction {
	tx := fhir("create", "Observation", "")
	var list []protocol.Value
	for _, p := range patients {
		list = append(list, protocol.Sensitive(p))
	}
	fields := tx.Facts[1].Value.Fields()
	fields = append(fields[:len(fields):len(fields)], protocol.Field{Name: "patients", Value: protocol.List(list...)},
		protocol.Field{Name: "conditional_references", Value: protocol.List()})
	tx.Facts[1].Value = protocol.Object(fields...)
	return tx
}

const bedside = "patient-monitor: {fhir: {compartment: {held: [write]}}}\n"

// TestReplayKnowsWhoWasAtTheBedside: a set that holds monitors to their patients
// is tried on what was recorded with pseudonyms, whoever is there now, and
// nothing is made of bodies that nobody read.
func TestReplayKnowsWhoWasAtTheBedside(t *testing.T) {
	w := newWard(t)
	monitor := w.devices["patient-monitor-0"]
	monitor.Patients = []device.Association{{Patient: "HOSP|7"}, {Patient: "Patient/1"}}
	own := w.decide("patient-monitor-0", about("1", "HOSP|7"))
	other := w.decide("patient-monitor-0", about("2"))
	w.decide("patient-monitor-0", fhir("create", "Observation", ""))
	w.decide("ventilator-0", fhir("create", "Observation", ""))
	now := *monitor
	now.Patients, now.Revision = nil, monitor.Revision+1
	w.devices["patient-monitor-0"] = &now

	candidate := w.load("classes/bedside.yaml", bedside)
	r := replay(t, w, candidate, audit.Filter{})
	if r.Decisions != 3 || r.Changed != 1 || r.LeftOut.Unread != 1 {
		t.Fatalf("%+v", r)
	}
	if c := r.Changes[0]; c.Change != policy.WouldDeny || c.Rule != "this is about a patient with whom the device is not associated" || len(c.Examples) != 1 || c.Examples[0] != other {
		t.Errorf("%+v, want %s", c, other)
	}
	if notes := strings.Join(r.Notes(), "\n"); !strings.Contains(notes, "1 can not be decided on: a set reads in their bodies what no rule asked for then") {
		t.Errorf("notes %q", notes)
	}
	for id, allow := range map[string]bool{own: true, other: false} {
		e, err := Find(t.Context(), w.audit(), id, nil)
		if err != nil {
			t.Fatal(err)
		}
		x, err := ExplainRecord(t.Context(), candidate, e, w.devices)
		if err != nil || x.Allow != allow {
			t.Errorf("explained as %+v, %v", x, err)
		}
		// A line of the log is a request to try, too.
		q, err := ParseRequest(e.Raw, &now, w.now)
		if err != nil {
			t.Fatal(err)
		}
		if x := Explain(t.Context(), candidate, q); x.Allow != allow {
			t.Errorf("tried anew: %+v", x)
		}
	}
	files, err := filepath.Glob(filepath.Join(w.audit(), "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && (bytes.Contains(b, []byte("HOSP")) || bytes.Contains(b, []byte("Patient/1"))) {
			t.Errorf("%s names a patient", f)
		}
	}
}
