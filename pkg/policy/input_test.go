package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/policies"
)

func wholeInput(loc *time.Location, q *Question) *ast.Term {
	b := newBuilder(loc, everything, &datum{obj: map[string]*datum{}}, nil)
	return b.input(q)
}

func asJSON(tb testing.TB, t *ast.Term) any {
	tb.Helper()
	v, err := ast.JSON(t.Value)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// fullQuestion has every fact there is.
func fullQuestion() *Question {
	q := ask("patient-monitor", fhirAsks("search-type", "Observation",
		field("patient", protocol.Sensitive("p1")),
		field("patients", protocol.List(protocol.Sensitive("p1"))),
		field("unknown_params", protocol.Strings("_x")),
		field("preconditions", protocol.Strings("if-none-match")),
		field("conditional_references", protocol.List(protocol.Sensitive("Patient?identifier=1"))),
		field("compartment", protocol.Object(field("type", protocol.String("Patient")), field("id", protocol.Sensitive("p1")))),
		field("params", protocol.Strings("patient", "code")),
		field("modifiers", protocol.Strings("code:exact")),
		field("includes", protocol.Strings("Observation:subject")),
		field("chains", protocol.Strings("subject.name")),
		field("result_params", protocol.Strings("_count")),
		field("count", protocol.Int(50)),
		field("alternatives", protocol.Int(1)),
		field("body", protocol.Object(field("type", protocol.String("Observation")), field("id", protocol.String("")), field("patient", protocol.Sensitive("p1")))),
		field("entries", protocol.List(protocol.Object(field("interaction", protocol.String("create")), field("type", protocol.String("Observation")), field("id", protocol.String(""))))),
	))
	q.Device.UDI, q.Device.LifeCritical = "(01)00", true
	q.Device.Patients = []device.Association{
		{Patient: "HOSP|0815", Until: noon}, {Patient: "Patient/p1"}, {Patient: "http://hospital.example/mrn|7", Until: noon.Add(1)},
	}
	q.BreakGlass = breakglass.Past("bg-1", "the EHR is down", noon.Add(time.Hour), noon)
	return q
}

// TestInput pins version 1 of the input: a change of the golden file is a change
// of the contract with every policy there is.
func TestInput(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones on this machine")
	}
	got, err := json.MarshalIndent(asJSON(t, wholeInput(berlin, fullQuestion())), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const golden = "testdata/input.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the input is\n%s\nwant\n%s", got, want)
	}
}

type schema struct {
	Type       string
	Properties map[string]*schema
	Items      *schema
	Closed     *bool `json:"additionalProperties"`
}

// TestInputFitsItsSchema: a field that is built and not in the schema could not
// be used, and one in the schema that is never built would never hold.
func TestInputFitsItsSchema(t *testing.T) {
	body, err := fs.ReadFile(policies.FS, inputSchema)
	if err != nil {
		t.Fatal(err)
	}
	var root schema
	if err := json.Unmarshal(body, &root); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var fits func(at string, v any, s *schema)
	fits = func(at string, v any, s *schema) {
		seen[at] = true
		kind := ""
		switch v := v.(type) {
		case string:
			kind = "string"
		case bool:
			kind = "boolean"
		case json.Number:
			if kind = "number"; s.Type == "integer" {
				if _, err := v.Int64(); err == nil {
					kind = "integer"
				}
			}
		case []any:
			kind = "array"
			for _, e := range v {
				fits(at+"[]", e, s.Items)
			}
		case map[string]any:
			kind = "object"
			for k, e := range v {
				if len(s.Properties) == 0 {
					continue
				}
				p := s.Properties[k]
				if p == nil {
					t.Errorf("%s.%s is not in the schema", at, k)
					continue
				}
				fits(at+"."+k, e, p)
			}
		}
		if kind != s.Type {
			t.Errorf("%s is %s, and %s in the schema", at, kind, s.Type)
		}
	}
	fits("input", asJSON(t, wholeInput(time.UTC, fullQuestion())), &root)

	var each func(at string, s *schema)
	each = func(at string, s *schema) {
		switch at {
		case "input.request.hl7", "input.request.dicom", "input.request.mqtt", // other protocols' own
			"input.behaviour.signals[]":
			return
		}
		if !seen[at] {
			t.Errorf("%s is in the schema and was never built", at)
		}
		if len(s.Properties) > 0 && (s.Closed == nil || *s.Closed) {
			t.Errorf("%s is open in the schema", at)
		}
		for k, p := range s.Properties {
			each(at+"."+k, p)
		}
		if s.Items != nil {
			each(at+"[]", s.Items)
		}
	}
	each("input", &root)
}

// TestAGrantThatIsOverIsNone: nothing of it is left, not even its reason.
func TestAGrantThatIsOverIsNone(t *testing.T) {
	for name, change := range map[string]func(*Question){
		"none":         func(q *Question) { q.BreakGlass = nil },
		"over":         func(q *Question) { q.Now = q.BreakGlass.Until },
		"closed":       func(q *Question) { g := *q.BreakGlass; g.EndedAt = noon; q.BreakGlass = &g },
		"not approved": func(q *Question) { g := *q.BreakGlass; g.ApprovedAt = time.Time{}; q.BreakGlass = &g },
	} {
		q := fullQuestion()
		change(q)
		in, _ := asJSON(t, wholeInput(time.UTC, q)).(map[string]any)
		if got, _ := json.Marshal(in["break_glass"]); string(got) != `{"active":false}` {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestInputOfOddRecords(t *testing.T) {
	at := func(q *Question, path ...string) any {
		v := asJSON(t, wholeInput(time.UTC, q))
		for _, p := range path {
			m, _ := v.(map[string]any)
			if v = m[p]; v == nil {
				return nil
			}
		}
		return v
	}
	text := func(v any) string { return fmt.Sprint(v) }
	q := fullQuestion()

	for _, score := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		q.Device.Posture.MaxCVSS = score
		if got := at(q, "device", "posture", "max_cvss"); text(got) != "10" {
			t.Errorf("a score of %v is %v, want the worst", score, got)
		}
	}
	q.Device.Posture = device.Posture{}
	if at(q, "device", "posture", "age_days") != nil || at(q, "device", "posture", "assessed_at") != "" || at(q, "device", "posture", "assessed") != false {
		t.Error("a device that was never assessed has an assessment")
	}
	q.Device.Posture.AssessedAt = q.Now.Add(time.Hour)
	if got := at(q, "device", "posture", "age_days"); text(got) != "0" {
		t.Errorf("an assessment in the future is %v days old", got)
	}
	q.Session.Fingerprint = "another"
	if at(q, "device", "cert") != nil {
		t.Error("a certificate that the record does not have is shown")
	}
	q.Session.Started = q.Now.Add(time.Minute)
	if got := at(q, "session", "age_s"); text(got) != "0" {
		t.Errorf("a session from the future is %v old", got)
	}
	q.Route.Class = ""
	if got := at(q, "route", "class"); got != "clinical" {
		t.Errorf("class of a route without one: %v", got)
	}
	// A vocabulary cannot stand in for the request's own fields.
	q.Transaction.Facts = append(q.Transaction.Facts, field("protocol", protocol.String("forged")), field("action", protocol.String("forged")))
	if at(q, "request", "protocol") != "fhir" || at(q, "request", "action") != "search-type" {
		t.Error("a fact took the place of the request's own field")
	}
	if n := len(at(q, "request").(map[string]any)); n != 6 {
		t.Errorf("the request has %d members", n)
	}
}
