package fhir

import (
	"fmt"
	"strings"
	"testing"
)

func TestSearches(t *testing.T) {
	for _, c := range []struct {
		url   string
		facts []string
	}{
		{"Observation?subject=Patient/1", []string{`patient="1"`}},
		{"Observation?subject=Patient/1/_history/3", []string{`patient="1"`}},
		{"Observation?subject=1", []string{`patient="1"`}},
		{"Observation?subject:Patient=1", []string{`patient="1"`, `modifiers=["subject:Patient"]`, `params=["subject"]`}},
		{"Observation?subject:Device=1", []string{`patients=[]`}},
		{"Observation?subject=Device/1", []string{`patients=[]`}},
		{"Observation?performer=Patient/1", []string{`patient="1"`}},
		{"Observation?performer=1", []string{`patients=[]`}},
		{"Observation?performer=Practitioner/1&patient=2", []string{`patient="2"`}},
		{"Observation?patient=1,2", []string{`patient=""`, `patients=["1","2"]`}},
		{"Observation?patient=1&patient=2&patient=1", []string{`patient=""`, `patients=["1","2"]`, `params=["patient"]`}},
		{"Observation?patient=1,", []string{`patient="1"`}},
		{"Observation?patient=,1", []string{`patient=""`, `patients=["","1"]`}},
		{`Observation?patient=1\,2`, []string{`patients=[""]`}},
		{"Observation?patient=http://other/fhir/Patient/1", []string{`patient=""`, `patients=[""]`}},
		{"Observation?performer=http://other/fhir/Patient/1", []string{`patients=[""]`}},
		{"Observation?performer=http://other/fhir/Practitioner/1", []string{`patients=[]`}},
		{"Observation?patient=urn:uuid:1", []string{`patients=[""]`}},
		{"Observation?patient:missing=false", []string{`patients=[]`, `modifiers=["patient:missing"]`}},
		{"Observation?patient:not=1", []string{`patients=[]`}},
		{"Observation?patient:identifier=a|b", []string{`patient="a|b"`, `modifiers=["patient:identifier"]`}},
		{"Observation?patient:identifier=a|b,c|d", []string{`patients=["a|b","c|d"]`, `alternatives=2`}},
		{"Observation?patient:identifier=b", []string{`patients=[""]`}},
		{`Observation?patient:identifier=|b,a|,a|b|c,a|b\,c|d`, []string{`patients=[""]`}},
		{"Observation?subject:identifier=a|b", []string{`patient="a|b"`}},
		{"Observation?performer:identifier=a|b", []string{`patients=[]`}},
		{"Patient?identifier=a|b", []string{`patient="a|b"`}},
		{"Patient?identifier:of-type=a|b|c", []string{`patients=[]`}},
		{"Observation?identifier=a|b", []string{`patients=[]`}},
		{"Observation?patient=1", []string{`count=-1`, `alternatives=1`}},
		{"Observation?patient=1&_count=50&code=a,b,c", []string{`count=50`, `alternatives=3`}},
		{`Observation?code=a\,b`, []string{`alternatives=1`}},
		{"Observation?_has:Provenance:target:agent=a,b", []string{`alternatives=2`}},
		{"Observation?_count=0", []string{`count=0`, `alternatives=0`}},
		{"Observation?patient.name=x", []string{`patients=[]`, `chains=["patient.name"]`, `params=["patient"]`}},
		{"Observation?subject:Patient.name:exact=x", []string{`chains=["subject:Patient.name"]`, `modifiers=["subject:Patient.name:exact"]`, `params=["subject"]`}},
		{"Observation?encounter.subject:Patient.name=x", []string{`chains=["encounter.subject:Patient.name"]`}},
		{"Patient?_has:Observation:patient:code=1", []string{`chains=["_has:Observation:patient:code"]`, `params=["_has"]`}},
		{"Patient?_has:Observation:patient:_has:AuditEvent:entity:agent=1", []string{`chains=["_has:Observation:patient:_has:AuditEvent:entity:agent"]`}},
		{"Patient?_has:Observation:subject:performer.name:exact=1", []string{`params=["_has"]`}},
		{"Patient?_id=1", []string{`patient="1"`, `params=["_id"]`}},
		{"Patient?_id=1,2", []string{`patients=["1","2"]`}},
		{"Observation?_id=1", []string{`patients=[]`}},
		{"Device?patient=1", []string{`patient="1"`}},
		{"Appointment?actor=Patient/1", []string{`patient="1"`}},
		{"Coverage?beneficiary=1", []string{`patient="1"`}},
		{"Location?patient=1", []string{`patients=[]`}},
		{"?patient=1", []string{`patient="1"`}},
		{"?subject=1", []string{`patients=[]`}},
		{"Patient/1/Observation?patient=2", []string{`patient=""`, `patients=["1","2"]`}},
		{"MedicationRequest?_include=MedicationRequest:medication&_include:iterate=Medication:manufacturer:Organization",
			[]string{`includes=["Medication:manufacturer:Organization","MedicationRequest:medication"]`, `modifiers=["_include:iterate"]`, `params=[]`, `result_params=[]`}},
		{"Patient?_revinclude=Observation:patient", []string{`includes=["_revinclude:Observation:patient"]`}},
		{"Patient?_include=*&_revinclude=*&_include=Patient:*", []string{`includes=["*","Patient:*","_revinclude:*"]`}},
		{"Patient?_filter=name+eq+x&_query=q&_list=1&_text=a&_content=b&_type=Patient", []string{`params=["_content","_filter","_list","_query","_text","_type"]`, `unknown_params=[]`}},
		{"Patient?_getpages=x&_new=y", []string{`params=["_getpages","_new"]`, `unknown_params=["_getpages","_new"]`}},
		{"Patient?_count=1&_sort=-date&_total=none&_contained=true&_containedType=container&_elements=id&_pretty=true&_format=json&_summary=data",
			[]string{`result_params=["_contained","_containedType","_count","_elements","_format","_pretty","_sort","_summary","_total"]`, `params=[]`}},
		{"Patient?zz=1&aa=2&zz=3", []string{`params=["aa","zz"]`}},
	} {
		same(t, c.url, facts(t, parse(t, "GET", c.url)), c.facts...)
	}
}

// A search by POST says the same as one by GET, and both parts of it count.
func TestFormAndQueryAreOneSearch(t *testing.T) {
	i := read(t, "POST", "Observation/_search?patient=1", "application/x-www-form-urlencoded", "patient=2&code%3Ain=x&_include=*")
	same(t, "both", facts(t, i), `patients=["1","2"]`, `patient=""`, `params=["code","patient"]`, `modifiers=["code:in"]`, `includes=["*"]`)
	if got := string(i.AppendBody(nil)); got != "patient=2&code:in=x&_include=*" {
		t.Errorf("sent on as %q", got)
	}
	for _, query := range []string{
		"patient=1", "subject=Patient/1,Patient/2&code=a", "_has:Observation:patient:code=1", "_include=*&_count=3", "patient.name=a+b",
	} {
		get := facts(t, parse(t, "GET", "Observation?"+query))
		post := facts(t, read(t, "POST", "Observation/_search", "application/x-www-form-urlencoded; charset=UTF-8", query))
		delete(post, "conditional_references")
		if a, b := fmt.Sprint(get), fmt.Sprint(post); a != b {
			t.Errorf("%s:\n get %s\npost %s", query, a, b)
		}
	}
}

func TestRefusedForms(t *testing.T) {
	for _, c := range []struct {
		contentType, body string
		status            int
	}{
		{"application/x-www-form-urlencoded", "patient=1;code=2", 400},
		{"application/x-www-form-urlencoded", "patient=%", 400},
		{"application/x-www-form-urlencoded", "patient=%4", 400},
		{"application/x-www-form-urlencoded", "patient=%4g", 400},
		{"application/x-www-form-urlencoded", "patient=%00", 400},
		{"application/x-www-form-urlencoded", "patient=%0a", 400},
		{"application/x-www-form-urlencoded", "patient=%C2%9B31m", 400}, // as in a query
		{"application/x-www-form-urlencoded", "patient=\u0085", 400},
		{"application/x-www-form-urlencoded", "patient=%ff", 400},
		{"application/x-www-form-urlencoded", "patient=1\n", 400},
		{"application/x-www-form-urlencoded", "patient=ä", 400},
		{"application/x-www-form-urlencoded", "patient=a b", 400},
		{"application/x-www-form-urlencoded", "=1", 400},
		{"application/x-www-form-urlencoded", "&patient=1", 400},
		{"application/x-www-form-urlencoded", "patient=1&", 400},
		{"application/x-www-form-urlencoded", "patient=", 400},
		{"application/x-www-form-urlencoded", "_method=DELETE", 400},
		{"application/x-www-form-urlencoded", strings.Repeat("a=1&", 256) + "a=1", 413},
		{"application/x-www-form-urlencoded; charset=utf-16", "patient=1", 415},
		{"application/x-www-form-urlencoded; charset=utf-8; charset=utf-8", "patient=1", 415},
		{"application/fhir+json", "{}", 415},
		{"multipart/form-data", "", 415},
		{"", "patient=1", 415},
	} {
		i := parse(t, "POST", "Observation/_search")
		refused(t, c.contentType+" "+c.body, i.ReadBody(c.contentType, []byte(c.body)), c.status)
	}
	i := parse(t, "POST", "Observation/_search?"+strings.Repeat("a=1&", 199)+"a=1")
	refused(t, "many in both", i.ReadBody("application/x-www-form-urlencoded", []byte(strings.Repeat("a=1&", 99)+"a=1")), 413)
	if err := parse(t, "POST", "Observation/_search").ReadBody("application/x-www-form-urlencoded", nil); err != nil {
		t.Errorf("an empty form: %v", err)
	}
	_, err := Parse(request(t, "GET", "Observation?"+strings.Repeat("a=1&", 256)+"a=1"), Limits{})
	refused(t, "many in the query", err, 413)
	if _, err := Parse(request(t, "GET", "Observation?a=1&a=2&a=3"), Limits{Params: 2}); err == nil {
		t.Error("the limit does not hold")
	}
}
