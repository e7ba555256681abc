package policies_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
	"github.com/anteroom-iomt/anteroom/policies"
)

// TestFHIRRequests asks the shipped set with the facts that the FHIR adapter
// finds in real requests: the two agree on every name, or a rule would never
// hold.
func TestFHIRRequests(t *testing.T) {
	dir := t.TempDir()
	if err := policies.Write(dir); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	set, err := policy.Load(ctx, dir, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	schema := fhirSchema(t)

	const observation = `{"resourceType": "Observation", "status": "final", "code": {"text": "pulse"}, "subject": {"reference": "Patient/7"}}`
	bundle := func(kind string, entries ...string) string {
		return `{"resourceType": "Bundle", "type": "` + kind + `", "entry": [` + strings.Join(entries, ",") + `]}`
	}
	post := `{"resource": ` + observation + `, "request": {"method": "POST", "url": "Observation"}}`
	get := `{"request": {"method": "GET", "url": "Patient/7"}}`
	const allowed = ""
	tests := []struct {
		class, request, body string
		want                 string // of the request itself, and then of each entry
	}{
		{"patient-monitor", "GET /metadata", "", allowed},
		{"patient-monitor", "POST /Observation", observation, allowed},
		{"patient-monitor", "GET /Observation/1", "", allowed},
		{"patient-monitor", "PUT /Device/patient-monitor-1", `{"resourceType": "Device", "id": "patient-monitor-1"}`, allowed},
		{"patient-monitor", "PUT /Device/other", `{"resourceType": "Device", "id": "other"}`, "its own device record"},
		{"patient-monitor", "PUT /Device?identifier=1", `{"resourceType": "Device"}`, "its own device record"},
		{"patient-monitor", "GET /Patient/7", "", "nothing allows"},
		{"patient-monitor", "GET /Patient?name=a", "", "must say for which patient"},
		{"patient-monitor", "GET /Patient/7/Observation", "", "nothing allows"},
		{"patient-monitor", "GET /Patient/7/$everything", "", "whole records"},
		{"patient-monitor", "GET /$export", "", "whole records"},
		{"patient-monitor", "GET /Patient/$export", "", "whole records"},
		{"patient-monitor", "GET /_history", "", "history of all"},
		{"patient-monitor", "GET /Observation/_history", "", "history of all"},
		{"patient-monitor", "GET /?_type=Patient", "", "whole server"},
		{"patient-monitor", "DELETE /Observation?code=x", "", "deleting what a search finds"},
		{"patient-monitor", "DELETE /Observation/1", "", "nothing allows"},
		{"infusion-pump", "GET /MedicationRequest/5", "", allowed},
		{"infusion-pump", "GET /MedicationRequest?patient=7&status=active&_count=10&_sort=authoredon", "", allowed},
		{"infusion-pump", "GET /MedicationRequest?patient=Patient/7&_include=MedicationRequest:medication", "", allowed},
		{"infusion-pump", "POST /MedicationRequest/_search", "patient=7&status=active", allowed},
		{"infusion-pump", "POST /MedicationRequest/_search", "status=active", "must say for which patient"},
		{"infusion-pump", "GET /MedicationRequest", "", "must say for which patient"},
		{"infusion-pump", "GET /MedicationRequest?patient=7&_include=MedicationRequest:subject", "", "brings along"},
		{"infusion-pump", "GET /MedicationRequest?patient=7&_revinclude=MedicationRequest:medication", "", "brings along"},
		{"infusion-pump", "GET /MedicationRequest?patient=7&_has:Observation:patient:code=1", "", "by way of other records"},
		{"infusion-pump", "GET /MedicationRequest?patient.name=a", "", "by way of other records"},
		{"infusion-pump", "GET /MedicationRequest?patient:not=7", "", "turns a parameter round"},
		{"infusion-pump", "GET /MedicationRequest?patient:missing=true", "", "turns a parameter round"},
		{"infusion-pump", "GET /MedicationRequest?patient=7&_list=x", "", "not known to be harmless"},
		{"infusion-pump", "GET /MedicationRequest?patient=7&_contained=true", "", "not known to be harmless"},
		{"infusion-pump", "GET /MedicationRequest?patient=7&_filter=x", "", "not known to be harmless"},
		{"wearable-gateway", "POST /", bundle("batch", post, get, post), allowed + "|" + allowed + "|nothing allows|" + allowed},
		{"wearable-gateway", "POST /", bundle("transaction", post), "nothing allows|" + allowed},
		{"patient-monitor", "POST /", bundle("transaction", post, get), allowed + "|" + allowed + "|nothing allows"},
		{"glucose-meter", "POST /", bundle("batch", post), "nothing allows|" + allowed},
	}
	for _, tt := range tests {
		t.Run(tt.class+" "+tt.request, func(t *testing.T) {
			method, target, _ := strings.Cut(tt.request, " ")
			path, query, _ := strings.Cut(target, "?")
			r := &fhir.Request{Method: method, Path: strings.Split(path[1:], "/")}
			for p := range strings.SplitSeq(query, "&") {
				if name, value, ok := strings.Cut(p, "="); ok {
					r.Query = append(r.Query, fhir.Param{Name: name, Value: value})
				}
			}
			i, err := fhir.Parse(r, fhir.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if tt.body != "" {
				typ := "application/fhir+json"
				if strings.HasSuffix(path, "_search") {
					typ = "application/x-www-form-urlencoded"
				}
				if err := i.ReadBody(typ, []byte(tt.body)); err != nil {
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
				fits(t, "input.request.fhir", tx.Facts[0].Value, schema)
				d := set.Decide(ctx, &policy.Question{
					Device:      &device.Record{ID: tt.class + "-1", Class: tt.class, Status: device.Active},
					Route:       &protocol.Route{Name: "ehr", Environment: "production"},
					Transaction: tx,
					Now:         time.Date(2026, 2, 16, 12, 0, 0, 0, time.UTC),
				})
				said := strings.Join(d.Denials, "; ")
				if d.Fault != "" || d.Allow != (want[n] == allowed) || !strings.Contains(said, want[n]) {
					t.Errorf("transaction %d: %+v, want %q", n, d, want[n])
				}
			}
		})
	}
}

type schema struct {
	Type       string
	Properties map[string]*schema
	Items      *schema
}

func fhirSchema(t *testing.T) *schema {
	t.Helper()
	body, err := fs.ReadFile(policies.FS, "schemas/input.json")
	if err != nil {
		t.Fatal(err)
	}
	var root schema
	if err := json.Unmarshal(body, &root); err != nil {
		t.Fatal(err)
	}
	return root.Properties["request"].Properties["fhir"]
}

// fits reports facts that the schema of the input does not have.
func fits(t *testing.T, at string, v protocol.Value, s *schema) {
	t.Helper()
	want := map[protocol.Kind]string{
		protocol.KindBool: "boolean", protocol.KindInt: "integer", protocol.KindString: "string",
		protocol.KindList: "array", protocol.KindObject: "object",
	}[v.Kind()]
	if s == nil || s.Type != want {
		t.Errorf("%s is %s, and not in the schema", at, want)
		return
	}
	for _, f := range v.Fields() {
		fits(t, at+"."+f.Name, f.Value, s.Properties[f.Name])
	}
	for _, e := range v.Elems() {
		fits(t, at+"[]", e, s.Items)
	}
}
