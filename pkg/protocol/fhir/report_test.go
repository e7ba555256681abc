package fhir

import (
	"strings"
	"testing"
)

// TestWhatIsAReport: what tells something new and asks for nothing, all of it.
func TestWhatIsAReport(t *testing.T) {
	const obs, bad = `{"resourceType":"Observation","subject":{"reference":"Patient/1"}}`, `{"resourceType":"Observation","subject":{"reference":"Patient?identifier=1"}}`
	tell := func(url, resource string) string { return entry("POST", url, `,"resource":`+resource) }
	many := func(n int) string {
		return batch(strings.Split(strings.Repeat(tell("Observation", obs)+"\n", n-1)+tell("Observation", obs), "\n")...)
	}
	for name, tt := range map[string]struct {
		method, url, body string
		want              bool
	}{
		"a measurement":            {"POST", "Observation", obs, true},
		"an alarm":                 {"POST", "Communication", `{"resourceType":"Communication"}`, true},
		"a finding":                {"POST", "DetectedIssue", `{"resourceType":"DetectedIssue"}`, true},
		"a flag":                   {"POST", "Flag", `{"resourceType":"Flag"}`, true},
		"a patient":                {"POST", "Patient", `{"resourceType":"Patient"}`, false},
		"an order":                 {"POST", "MedicationRequest", `{"resourceType":"MedicationRequest"}`, false},
		"with a parameter":         {"POST", "Observation?_format=json", obs, false},
		"that looks something up":  {"POST", "Observation", bad, false},
		"deep inside":              {"POST", "Observation", `{"resourceType":"Observation","contained":[{"resourceType":"Device","id":"a","patient":{"reference":"Patient?identifier=1"}}]}`, false},
		"looks up elsewhere":       {"POST", "Observation", strings.Replace(bad, "Patient?", "http://other/fhir/Patient?", 1), false},
		"asks nobody knows what":   {"POST", "Observation", strings.Replace(bad, "Patient?", "http://other/what?", 1), false},
		"an update":                {"PUT", "Observation/1", `{"resourceType":"Observation","id":"1"}`, false},
		"an operation":             {"POST", "$x", `{"resourceType":"Parameters"}`, false},
		"a batch":                  {"POST", "", batch(tell("Observation", obs), tell("Communication", `{"resourceType":"Communication"}`)), true},
		"a transaction":            {"POST", "", strings.Replace(batch(tell("Observation", obs)), "batch", "transaction", 1), true},
		"a batch of reads":         {"POST", "", batch(entry("GET", "Patient/1", "")), false},
		"with a read among others": {"POST", "", batch(tell("Observation", obs), entry("GET", "Patient/1", "")), false},
		"with an update":           {"POST", "", batch(entry("PUT", "Observation/1", `,"resource":{"resourceType":"Observation","id":"1"}`)), false},
		"with a parameter inside":  {"POST", "", batch(tell("Observation?_format=json", obs)), false},
		"with a condition":         {"POST", "", batch(`{"request":{"method":"POST","url":"Observation","ifNoneExist":"identifier=x"},"resource":` + obs + `}`), false},
		"with a version":           {"POST", "", batch(`{"request":{"method":"POST","url":"Observation","ifMatch":"W/\"4\""},"resource":` + obs + `}`), false},
		"that looks up inside":     {"POST", "", batch(tell("Observation", obs), tell("Observation", bad)), false},
		"an empty batch":           {"POST", "", `{"resourceType":"Bundle","type":"batch"}`, false},
		"a small batch":            {"POST", "", many(maxReport), true},
		"a larger one":             {"POST", "", many(maxReport + 1), false},
	} {
		i := read(t, tt.method, tt.url, fhirJSON, tt.body)
		if got := i.Report(); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// A create has neither criteria nor inclusions today. Were it understood with some,
	// it would be more than a report.
	for name, with := range map[string]func(*search){
		"criteria":   func(s *search) { s.params = []string{"code"} },
		"inclusions": func(s *search) { s.includes = []string{"Observation:subject"} },
	} {
		i := read(t, "POST", "Observation", fhirJSON, obs)
		if with(&i.search); i.Report() {
			t.Errorf("with %s", name)
		}
	}
	if i := parse(t, "POST", "Observation"); i.Report() {
		t.Error("whose body nobody has read")
	}
	if i := parse(t, "POST", "Observation", "If-None-Exist", "identifier=x"); i.ReadBody(fhirJSON, []byte(obs)) != nil || i.Report() {
		t.Error("that is created only if it is not there")
	}
}
