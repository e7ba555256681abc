package fhir

import (
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

func TestInteractions(t *testing.T) {
	for _, c := range []struct {
		method, url string
		code, typ   string
		body        Body
		facts       []string
	}{
		{"GET", "Patient/1", "read", "Patient", BodyNone, []string{`id="1"`, `level="instance"`, `patient="1"`, `patients=["1"]`}},
		{"HEAD", "Patient/1", "read", "Patient", BodyNone, nil},
		{"GET", "Observation/a-b.C9", "read", "Observation", BodyNone, []string{`id="a-b.C9"`, `patient=""`, `patients=[]`, `conditional=false`}},
		{"GET", "Observation/1?_summary=true&_format=json", "read", "Observation", BodyNone, []string{`result_params=["_format","_summary"]`, `params=[]`}},
		{"GET", "Patient/1/_history/7", "vread", "Patient", BodyNone, []string{`id="1"`, `version="7"`, `patient="1"`}},
		{"HEAD", "Patient/1/_history/7", "vread", "Patient", BodyNone, nil},
		{"PUT", "Patient/1", "update", "Patient", BodyOptional, []string{`patient="1"`}},
		{"PATCH", "Patient/1", "patch", "Patient", BodyOptional, nil},
		{"DELETE", "Patient/1", "delete", "Patient", BodyNone, []string{`conditional=false`}},
		{"GET", "Patient/1/_history", "history-instance", "Patient", BodyNone, []string{`id="1"`, `level="instance"`}},
		{"GET", "Patient/1/_history?_count=3&_since=2020-01-01", "history-instance", "Patient", BodyNone, []string{`result_params=["_count","_since"]`}},
		{"GET", "Patient/_history", "history-type", "Patient", BodyNone, []string{`level="type"`, `patients=[]`}},
		{"GET", "_history", "history-system", "", BodyNone, []string{`level="system"`}},
		{"POST", "Observation", "create", "Observation", BodyOptional, []string{`level="type"`}},
		{"GET", "Observation", "search-type", "Observation", BodyNone, []string{`params=[]`}},
		{"GET", "Observation?patient=1", "search-type", "Observation", BodyNone, []string{`params=["patient"]`, `patient="1"`}},
		{"HEAD", "Observation?patient=1", "search-type", "Observation", BodyNone, nil},
		{"POST", "Observation/_search", "search-type", "Observation", BodyRequired, nil},
		{"GET", "?_type=Patient,Observation&name=x", "search-system", "", BodyNone, []string{`params=["_type","name"]`}},
		{"GET", "", "search-system", "", BodyNone, nil},
		{"POST", "_search", "search-system", "", BodyRequired, nil},
		{"GET", "Patient/1/Observation?code=x", "search-compartment", "Observation", BodyNone,
			[]string{`compartment={"id":"1","type":"Patient"}`, `id=""`, `patient="1"`, `params=["code"]`, `level="instance"`}},
		{"GET", "Patient/1/*", "search-compartment", "", BodyNone, []string{`compartment={"id":"1","type":"Patient"}`, `patient="1"`}},
		{"GET", "Device/9/Observation", "search-compartment", "Observation", BodyNone, []string{`compartment={"id":"9","type":"Device"}`, `patient=""`}},
		{"POST", "Patient/1/_search", "search-compartment", "", BodyRequired, nil},
		{"POST", "Patient/1/Observation/_search", "search-compartment", "Observation", BodyRequired, nil},
		{"POST", "Patient/1/*/_search", "search-compartment", "", BodyRequired, nil},
		{"GET", "metadata", "capabilities", "", BodyNone, nil},
		{"GET", "metadata?mode=terminology&_format=xml", "capabilities", "", BodyNone, nil},
		{"GET", "$export?_type=Patient", "operation", "", BodyNone, []string{`operation="$export"`, `level="system"`, `params=["_type"]`}},
		{"POST", "$process-message", "operation", "", BodyOptional, []string{`operation="$process-message"`}},
		{"GET", "Observation/$lastn?patient=Patient/4&max=3", "operation", "Observation", BodyNone,
			[]string{`operation="$lastn"`, `level="type"`, `patient="4"`, `params=["max","patient"]`}},
		{"POST", "Patient/$match", "operation", "Patient", BodyOptional, []string{`level="type"`}},
		{"GET", "Patient/1/$everything", "operation", "Patient", BodyNone, []string{`operation="$everything"`, `level="instance"`, `patient="1"`}},
		{"POST", "Patient/1/$everything", "operation", "Patient", BodyOptional, nil},
		{"POST", "Patient/1/_history/2/$meta-delete", "operation", "Patient", BodyOptional, []string{`operation="$meta-delete"`, `version="2"`}},
		{"POST", "", "batch", "", BodyRequired, []string{`level="system"`}},
		{"PUT", "Observation?identifier=a|b", "conditional-update", "Observation", BodyOptional, []string{`conditional=true`, `params=["identifier"]`, `id=""`}},
		{"PATCH", "Observation?identifier=a|b", "conditional-patch", "Observation", BodyOptional, []string{`conditional=true`}},
		{"DELETE", "Observation?identifier=a|b&patient=3", "conditional-delete", "Observation", BodyNone, []string{`conditional=true`, `patient="3"`}},
	} {
		i := parse(t, c.method, c.url)
		what := c.method + " " + c.url
		if i.Code() != c.code || i.Type() != c.typ || i.Body() != c.body {
			t.Errorf("%s: got %s %q %d, want %s %q %d", what, i.Code(), i.Type(), i.Body(), c.code, c.typ, c.body)
		}
		same(t, what, facts(t, i), append(c.facts, `interaction="`+c.code+`"`, `type="`+c.typ+`"`, `entry=false`)...)
		if (len(i.BodyFacts()) > 0) != (c.body == BodyOptional) {
			t.Errorf("%s: body facts %v", what, i.BodyFacts())
		}
	}
}

func TestTheBaseWithASlash(t *testing.T) {
	i, err := Parse(&Request{Method: "POST", Path: []string{""}}, Limits{})
	if err != nil || i.Code() != "batch" {
		t.Fatal(i, err)
	}
}

func TestRefusedRequests(t *testing.T) {
	for _, c := range []struct {
		method, url string
		status      int
	}{
		// Types and shapes R4 does not have.
		{"GET", "patient/1", 404},
		{"GET", "Patients/1", 404},
		{"GET", "Resource/1", 404},
		{"GET", "DomainResource", 404},
		{"POST", "Device2", 404},
		{"GET", "Patient/", 404},
		{"GET", "Patient/1/", 404},
		{"GET", "/Patient/1", 404},
		{"GET", "Patient//1", 404},
		{"GET", "Patient/1/Observation/2", 404},
		{"GET", "Patient/1/Nothing", 404},
		{"GET", "Observation/1/Patient", 404},
		{"GET", "Patient/1/_history/2/3", 404},
		{"GET", "Patient/1/_history/", 404},
		{"GET", "Patient/1/_history/a_b", 404},
		{"GET", "Patient/1/_history/2/Observation", 404},
		{"GET", "Patient/1/2/_search", 404},
		{"GET", "Patient/_History", 404},
		{"GET", "metadata/1", 404},
		{"GET", "_history/1", 404},
		{"GET", "$export/1", 404},
		{"GET", "$", 404},
		{"GET", "Patient/$", 404},
		{"GET", "$a/b", 404},
		{"GET", "Patient/1/$every%thing", 404},
		{"GET", "Patient/a_b", 404},
		{"GET", "Patient/a b", 404},
		{"GET", "Patient/ä", 404},
		{"GET", "Patient/.", 404},
		{"GET", "Patient/..", 404},
		{"GET", "Patient/" + strings.Repeat("1", 65), 404},
		{"GET", "_graphql", 404},
		{"GET", "*", 404},
		{"GET", "*/1", 404},
		// Methods.
		{"TRACE", "Patient/1", 405},
		{"OPTIONS", "", 405},
		{"get", "Patient/1", 405},
		{"", "Patient/1", 405},
		{"CONNECT", "metadata", 405},
		{"POST", "Patient/1", 405},
		{"PUT", "", 405},
		{"DELETE", "?name=x", 405},
		{"PATCH", "", 405},
		{"POST", "metadata", 405},
		{"DELETE", "_history", 405},
		{"GET", "_search", 405},
		{"GET", "Patient/_search", 405},
		{"PUT", "Patient/_search", 405},
		{"DELETE", "Patient/1/_history", 405},
		{"DELETE", "Patient/1/_history/2", 405},
		{"PUT", "Patient/1/_history/2", 405},
		{"POST", "Patient/_history", 405},
		{"POST", "Patient/1/Observation", 405},
		{"DELETE", "Patient/1/Observation", 405},
		{"GET", "Patient/1/_search", 405},
		{"PUT", "$export", 405},
		{"DELETE", "Patient/1/$everything", 405},
		// Ambiguity.
		{"PUT", "Observation", 400},
		{"DELETE", "Observation", 400},
		{"PATCH", "Observation", 400},
		{"DELETE", "Observation?_summary=true", 400},
		{"DELETE", "Observation?_count=1", 400},
		{"DELETE", "Observation?identifier=a&_include=Observation:subject", 400},
		{"PUT", "Observation/1?identifier=a", 400},
		{"GET", "Patient/1?name=x", 400},
		{"GET", "Patient/1?_include=*", 400},
		{"POST", "Observation?identifier=a", 400},
		{"POST", "?_id=1", 400},
		{"GET", "metadata?name=x", 400},
		{"GET", "_history?name=x", 400},
		{"GET", "Patient?_format=json&_format=xml", 400},
		{"GET", "Observation?patient=1&_count=10&_count=10", 400},
		{"GET", "Observation?patient=1&_count=-1", 400},
		{"GET", "Observation?patient=1&_count=+1", 400},
		{"GET", "Observation?patient=1&_count=ten", 400},
		{"GET", "Observation?patient=1&_count=1e3", 400},
		{"GET", "Observation?patient=1&_count=99999999999999999999", 400},
		{"GET", "Observation?patient=", 400},
		{"GET", "Observation?patient", 400},
		{"GET", "Observation?_method=DELETE", 400},
		{"GET", "$x?_method=DELETE", 400},
		{"GET", "Patient/1?_method=DELETE", 400},
		{"GET", "Observation?patient:nonsense=1", 400},
		{"GET", "Observation?patient:=1", 400},
		{"GET", "Observation?:x=1", 400},
		{"GET", "Observation?.x=1", 400},
		{"GET", "Observation?subject.=1", 400},
		{"GET", "Observation?subject:Nothing.name=1", 400},
		{"GET", "Observation?subject:exact.name=1", 400},
		{"GET", "Observation?sub%20ject=1", 400},
		{"GET", "Observation?a:b:c=1", 400},
		{"GET", "Observation?_has=1", 400},
		{"GET", "Patient?_has:Observation=1", 400},
		{"GET", "Patient?_has:Observation:patient=1", 400},
		{"GET", "Patient?_has:observation:patient:code=1", 400},
		{"GET", "Patient?_has:Observation:patient:_has:X:y:z=1", 400},
		{"GET", "Observation?_include=subject", 400},
		{"GET", "Observation?_include=Observation", 400},
		{"GET", "Observation?_include=Observation:subject:Nothing", 400},
		{"GET", "Observation?_include=Observation:subject,Observation:performer", 400},
		{"GET", "Observation?_include:exact=Observation:subject", 400},
		{"GET", "Observation?_count:exact=1", 400},
		{"GET", "Observation?" + strings.Repeat("a", 65) + "=1", 400},
	} {
		_, err := Parse(request(t, c.method, c.url), Limits{})
		refused(t, c.method+" "+c.url, err, c.status)
	}
}

func TestPreconditions(t *testing.T) {
	for _, c := range []struct {
		method, url, name, value string
		status                   int
		facts                    []string
	}{
		{"POST", "Observation", "If-None-Exist", "identifier=a|b&patient=4", 0,
			[]string{`interaction="conditional-create"`, `conditional=true`, `params=["identifier","patient"]`, `patient="4"`, `preconditions=["if-none-exist"]`}},
		{"POST", "Observation", "If-None-Exist", "", 400, nil},
		{"POST", "Observation", "If-None-Exist", "identifier=", 400, nil},
		{"POST", "Observation", "If-None-Exist", "?identifier=a", 400, nil},
		{"POST", "Observation", "If-None-Exist", "Observation?identifier=a", 400, nil},
		{"POST", "Observation", "If-None-Exist", "a=1;b=2", 400, nil},
		{"POST", "Observation", "If-None-Exist", "a=%zz", 400, nil},
		{"PUT", "Observation/1", "If-None-Exist", "identifier=a", 400, nil},
		{"POST", "", "If-None-Exist", "identifier=a", 400, nil},
		{"GET", "Observation", "If-None-Exist", "identifier=a", 400, nil},
		{"PUT", "Observation/1", "If-Match", `W/"3"`, 0, []string{`version="3"`, `preconditions=["if-match"]`, `interaction="update"`}},
		{"PUT", "Observation/1", "If-Match", `"3"`, 0, []string{`version="3"`}},
		{"PUT", "Observation/1", "If-Match", `3`, 400, nil},
		{"PUT", "Observation/1", "If-Match", `*`, 400, nil},
		{"PUT", "Observation/1", "If-Match", `W/"3", W/"4"`, 400, nil},
		{"PUT", "Observation/1", "If-Match", `W/""`, 400, nil},
		{"PUT", "Observation/1", "If-Match", `"`, 400, nil},
		{"GET", "Observation/1", "If-None-Match", `W/"3"`, 0, []string{`preconditions=["if-none-match"]`, `version=""`}},
		{"GET", "Observation/1", "If-None-Match", `W/"3", W/"4"`, 0, nil},
		{"PUT", "Observation/1", "If-None-Match", `*`, 0, nil},
		{"GET", "Observation/1", "If-None-Match", `x`, 400, nil},
		{"GET", "Observation/1", "If-Modified-Since", `Sat, 29 Oct 2022 19:43:31 GMT`, 0, []string{`preconditions=["if-modified-since"]`}},
		{"GET", "Observation/1", "If-Modified-Since", "a\x01", 400, nil},
	} {
		what := c.method + " " + c.url + " " + c.name + ": " + c.value
		i, err := Parse(request(t, c.method, c.url, c.name, c.value), Limits{})
		if c.status != 0 {
			refused(t, what, err, c.status)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		same(t, what, facts(t, i), c.facts...)
	}
	_, err := Parse(request(t, "POST", "Observation", "If-None-Exist", "a=1", "If-None-Exist", "a=2"), Limits{})
	refused(t, "two If-None-Exist", err, http.StatusBadRequest)
}

func TestTransactionOmitsWhatOnlyAnUnreadBodyTells(t *testing.T) {
	i := parse(t, "POST", "Observation")
	var tx protocol.Transaction
	i.Transaction(&tx)
	if tx.Action != "create" || tx.Resource != "Observation" || len(tx.Omitted) != len(i.BodyFacts()) {
		t.Errorf("got %+v", tx)
	}
	if _, ok := facts(t, i)["body"]; ok {
		t.Error("there is a body that was not read")
	}
	if err := i.ReadBody(fhirJSON, []byte(`{"resourceType":"Observation"}`)); err != nil {
		t.Fatal(err)
	}
	tx = protocol.Transaction{}
	i.Transaction(&tx)
	if len(tx.Omitted) != 0 {
		t.Errorf("got %+v", tx.Omitted)
	}
	tx = protocol.Transaction{}
	parse(t, "GET", "metadata").Transaction(&tx)
	if tx.Resource != "system" || len(tx.Omitted) != 0 {
		t.Errorf("got %+v", tx)
	}
}

// What may name a patient is marked, so that the record shows a pseudonym.
func TestSensitiveFacts(t *testing.T) {
	i := read(t, "PUT", "Patient/4711?_format=json", fhirJSON, `{"resourceType":"Patient","id":"4711"}`)
	j := parse(t, "GET", "Patient/4711/Observation?JaneDoe=1&subject:Patient.JaneDoe=2&_JaneDoe=3&_include=Observation:JaneDoe&code=4")
	k := read(t, "POST", "", fhirJSON, `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Patient/4711"}}]}`)
	var check func(v protocol.Value)
	seen := 0
	check = func(v protocol.Value) {
		if s := v.Text(); strings.Contains(s, "4711") || strings.Contains(s, "JaneDoe") {
			seen++
			if !v.IsSensitive() {
				t.Errorf("%q is not marked", s)
			}
		} else if v.IsSensitive() {
			t.Errorf("%q is marked", s)
		}
		for _, e := range v.Elems() {
			check(e)
		}
		for _, f := range v.Fields() {
			check(f.Value)
		}
	}
	for _, i := range []*Interaction{i, j, k} {
		check(i.facts())
	}
	if seen < 14 {
		t.Errorf("met only %d", seen)
	}
}
