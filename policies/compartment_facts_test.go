package policies_test

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
	"github.com/anteroom-iomt/anteroom/pkg/workbench"
	"github.com/anteroom-iomt/anteroom/policies"
)

// setWith is the shipped set with more data, as a hospital adds it.
func setWith(t *testing.T, name, body string) *policy.Set {
	t.Helper()
	dir := t.TempDir()
	if err := policies.Write(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	set, err := policy.Load(context.Background(), dir, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const (
	bedsideFile = "classes/bedside.yaml"
	bedside     = `patient-monitor: {fhir: {compartment: {held: [write, search], except: [Communication]}}}
`
)

// TestOnlyABoundClassPaysForPatients: as shipped, and for every class that is not
// held to its patients, nothing about patients is read, so that the bodies of
// creates pass unread.
func TestOnlyABoundClassPaysForPatients(t *testing.T) {
	shipped, bound := setWith(t, "none.yaml", "none: {}\n"), setWith(t, bedsideFile, bedside)
	for _, path := range []string{
		"request.fhir.patient", "request.fhir.patients", "request.fhir.body", "request.fhir.conditional_references",
		"device.patients", "time", "time.minute",
	} {
		names := strings.Split(path, ".")
		patients := path == "request.fhir.patients" || path == "device.patients"
		for class, want := range map[string]bool{"patient-monitor": patients, "infusion-pump": false, "unheard-of": false} {
			rec := &device.Record{Class: class}
			if shipped.ReachesFor(rec, names...) || shipped.Reaches(names...) {
				t.Errorf("as shipped, %s is read of %s", path, class)
			}
			if got := bound.ReachesFor(rec, names...); got != want {
				t.Errorf("with monitors held to their patients, %s is read of %s: %v", path, class, got)
			}
		}
	}
	d, err := policy.Describe(t.Context(), bound.Dir(), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Classes {
		const grant = "held to the patients it is associated with: write, search; but not with Communication"
		if slices.Contains(c.Grants, grant) != (c.Name == "patient-monitor") {
			t.Errorf("the class %s is described as %q", c.Name, c.Grants)
		}
	}
	hours := setWith(t, "hours/mine.yaml", "routes: {ehr: [{from: \"08:00\", until: \"18:00\"}]}\n")
	if !hours.Reaches("time", "minute") || hours.Reaches("time", "date") {
		t.Errorf("with hours, what is read is %v", hours.Reads())
	}
}

// TestReplayKnowsWhatBodiesTell: the adapter and whoever looks back at its records
// agree on what is not there if a body was not read.
func TestReplayKnowsWhatBodiesTell(t *testing.T) {
	for method, path := range map[string]string{"POST": "Observation", "PUT": "Observation/1", "PATCH": "Observation/1"} {
		i, err := fhir.Parse(&fhir.Request{Method: method, Path: strings.Split(path, "/")}, fhir.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := i.BodyFacts(); !reflect.DeepEqual(got, workbench.BodyFacts()) {
			t.Errorf("%s leaves out %v, and looking back %v are missed", method, got, workbench.BodyFacts())
		}
	}
}

// TestABedsideDeviceWritesForItsPatient asks with what the adapter makes of real
// requests, of all the ways to name a patient.
func TestABedsideDeviceWritesForItsPatient(t *testing.T) {
	set := setWith(t, bedsideFile, bedside)
	ref := func(s string) string { return `{"reference": "` + s + `"}` }
	obs := func(subject string) string {
		return `{"resourceType": "Observation", "status": "final", "code": {"text": "pulse"}, "subject": ` + subject + `}`
	}
	mrn := `"identifier": {"system": "http://hospital.example/mrn", "value": "`
	entry := func(full, body string) string {
		return `{"fullUrl": "` + full + `", "resource": ` + body + `, "request": {"method": "POST", "url": "Observation"}}`
	}
	bundle := func(entries ...string) string {
		return `{"resourceType": "Bundle", "type": "transaction", "entry": [` + strings.Join(entries, ",") + `]}`
	}
	const (
		ok      = ""
		foreign = "not associated"
		unclear = "can not be told"
	)
	for _, tt := range []struct{ request, body, want string }{
		{"POST /Observation", obs(ref("Patient/1")), ok},
		{"POST /Observation", obs(ref("Patient/1/_history/2")), ok},
		{"POST /Observation", obs(`{"type": "Patient", ` + mrn + `7"}}`), ok},
		{"POST /Observation", obs(`{"reference": "Patient/1", ` + mrn + `7"}}`), ok},
		{"POST /Observation", obs(ref("Patient/12")), foreign},
		{"POST /Observation", obs(ref("Patient/2")), foreign},
		{"POST /Observation", obs(ref("Patient/2/_history/1")), foreign},
		{"POST /Observation", obs(`{"type": "Patient", ` + mrn + `70"}}`), foreign},
		{"POST /Observation", obs(`{"reference": "Patient/1", ` + mrn + `8"}}`), foreign},
		{"POST /Observation", obs(`{"type": "Patient", "identifier": {"value": "7"}}`), unclear},
		{"POST /Observation", obs(`{` + mrn + `7"}}`), unclear},
		{"POST /Observation", obs(ref("http://evil.example/Patient/1")), unclear},
		{"POST /Observation", obs(ref("http://evil.example/fhir/Patient/1/_history/1")), unclear},
		{"POST /Observation", obs(ref("//evil.example/Patient/1")), unclear},
		{"POST /Observation", obs(ref("urn:uuid:6e1a0f7c-0000-4000-8000-000000000001")), unclear},
		{"POST /Observation", obs(ref("Patient?identifier=http://hospital.example/mrn|7")), unclear},
		{"POST /Observation", obs(ref("patient/1")), unclear},
		{"POST /Observation", obs(ref("Patient/1 ")), unclear},
		{"POST /Observation", obs(ref("./Patient/1")), unclear},
		{"POST /Observation", obs(ref("Patient/../Patient/1")), unclear},
		{"POST /Observation", obs(`{"reference": "#p"}, "contained": [{"resourceType": "Patient", "id": "p"}]`), unclear},
		{"POST /Observation", obs(`{"display": "Patient/1"}`), unclear},
		{"POST /Observation", `{"resourceType": "Observation", "status": "final"}`, unclear},
		{"POST /Observation", obs(ref("Patient/1") + `, "performer": [` + ref("Patient/2") + `]`), foreign},
		{"POST /Observation", obs(ref("Device/1")), unclear},
		{"POST /DeviceMetric", `{"resourceType": "DeviceMetric"}`, ok},
		{"POST /Communication", `{"resourceType": "Communication", "status": "completed", "subject": ` + ref("Patient/2") + `}`, ok},
		{"GET /Observation/1", "", ok},
		{"POST /", bundle(entry("urn:uuid:1", obs(ref("Patient/1")))), ok + "|" + ok},
		{"POST /", bundle(entry("urn:uuid:1", obs(ref("Patient/1"))), entry("urn:uuid:2", obs(ref("Patient/2")))), ok + "|" + ok + "|" + foreign},
		{"POST /", bundle(entry("urn:uuid:1", obs(ref("urn:uuid:2"))), `{"fullUrl": "urn:uuid:2", "resource": {"resourceType": "Patient", "id": "1"}, "request": {"method": "POST", "url": "Patient"}}`), ok + "|" + unclear + "|nothing allows"},
	} {
		t.Run(tt.request+" "+tt.body, func(t *testing.T) {
			method, target, _ := strings.Cut(tt.request, " ")
			i, err := fhir.Parse(&fhir.Request{Method: method, Path: strings.Split(target[1:], "/")}, fhir.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if tt.body != "" {
				if err := i.ReadBody("application/fhir+json", []byte(tt.body)); err != nil {
					t.Fatal(err)
				}
			}
			all := append([]*fhir.Interaction{i}, i.Entries()...)
			want := strings.Split(tt.want, "|")
			if len(all) != len(want) {
				t.Fatalf("%d transactions, want %d", len(all), len(want))
			}
			for n, i := range all {
				tx := &protocol.Transaction{Bytes: -1}
				i.Transaction(tx)
				now := time.Date(2026, 2, 16, 12, 0, 0, 0, time.UTC)
				q := &policy.Question{
					Device: &device.Record{ID: "monitor-1", Class: "patient-monitor", Status: device.Active, Patients: []device.Association{
						{Patient: "Patient/1", Source: device.ByOperator, Until: now.Add(time.Hour)}, {Patient: "http://hospital.example/mrn|7", Source: device.ByADT},
					}},
					Route:       &protocol.Route{Name: "ehr", Environment: "production"},
					Transaction: tx, Now: now,
				}
				d := set.Decide(t.Context(), q)
				said := strings.Join(d.Denials, "; ")
				if d.Fault != "" || d.Allow != (want[n] == ok) || !strings.Contains(said, want[n]) {
					t.Errorf("transaction %d: %+v, want %q", n, d, want[n])
				}
				if strings.Contains(said, "hospital.example") || strings.Contains(said, "Patient/") {
					t.Errorf("the denial names a patient: %s", said)
				}
				// The association is over: remembered answers are not the old ones.
				if q.Now = now.Add(time.Hour); strings.Contains(tt.body, "Patient/1\"") && want[n] == ok && method == "POST" && i.Type() == "Observation" {
					if d := set.Decide(t.Context(), q); d.Allow {
						t.Errorf("transaction %d is allowed after the association ended", n)
					}
				}
			}
		})
	}
}
