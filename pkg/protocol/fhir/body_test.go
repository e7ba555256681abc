package fhir

import (
	"os"
	"strings"
	"testing"
)

func TestBodies(t *testing.T) {
	const conditional, patientless = `conditional_references=[]`, `patients=[]`
	for _, c := range []struct {
		method, url, body string
		facts             []string
	}{
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"Patient/1"}}`,
			[]string{`body={"id":"","patient":"1","type":"Observation"}`, `patient="1"`, conditional}},
		{"POST", "Observation", `{"subject":{"reference":"Patient\/1"},"performer":[{"reference":"Practitioner/2"},{"display":"Dr. X"}],"resourceType":"Observation"}`, []string{`patient="1"`}},
		{"POST", "Observation", `{"resourceType":"Observation","performer":[{"reference":"Patient/2"}],"subject":{"reference":"Patient/1"}}`, []string{`patient=""`, `patients=["1","2"]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"Patient/1/_history/2"}}`, []string{`patient="1"`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"Device/1"}}`, []string{patientless}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"http://ehr/fhir/Patient/1"}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"http://ehr/fhir/Patient/1/_history/3"}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"http://ehr/fhir/Device/1/_history/3"}}`, []string{patientless}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"urn:uuid:1"}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"/Patient/1"}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"Patient/1/2"}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"patient/1"}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"identifier":{"value":"x"}}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"type":"Device","identifier":{"value":"x"}}}`, []string{patientless}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"type":"Patient","identifier":{"system":"urn:mrn","value":"x"}}}`, []string{`patient="urn:mrn|x"`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"type":"Patient","identifier":{"system":"urn:mrn","value":"x|y"}}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"type":"Patient","identifier":{"value":"x"}}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"identifier":{"system":"urn:mrn","value":"x"}}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"Patient/1","identifier":{"system":"urn:mrn","value":"x"}}}`, []string{`patients=["1","urn:mrn|x"]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"Patient/1","identifier":{"value":"x"}}}`, []string{`patients=["","1"]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"Device/1","identifier":{"system":"urn:mrn","value":"x"}}}`, []string{patientless}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"display":"x"}}`, []string{patientless}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":[{"reference":"Patient/1"}]}`, []string{`patient="1"`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"#p"},"contained":[{"resourceType":"Patient","id":"p"}]}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"#d"},"contained":[{"resourceType":"Device","id":"d"}]}`, []string{patientless}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"#d"}}`, []string{`patients=[""]`}},
		{"POST", "Observation", `{"resourceType":"Observation","performer":[{"reference":"#"}]}`, []string{patientless}},
		{"POST", "Appointment", `{"resourceType":"Appointment","participant":[{"actor":{"reference":"Patient/1"}},{"actor":{"reference":"Location/2"}}]}`, []string{`patient="1"`}},
		{"POST", "Device", `{"resourceType":"Device","patient":{"reference":"Patient/1"}}`, []string{`patient="1"`}},
		{"POST", "Coverage", `{"resourceType":"Coverage","beneficiary":{"reference":"Patient/1"}}`, []string{`patient="1"`}},
		{"POST", "Patient", `{"resourceType":"Patient"}`, []string{`body={"id":"","patient":"","type":"Patient"}`, patientless}},
		{"POST", "Patient", `{"resourceType":"Patient","id":"3"}`, []string{`body={"id":"3","patient":"3","type":"Patient"}`}},
		{"PUT", "Patient/3", `{"resourceType":"Patient","id":"3","link":[{"other":{"reference":"Patient/4"}}]}`, []string{`patients=["3","4"]`}},
		{"PUT", "Patient/3", `{"resourceType":"Patient"}`, []string{`patient="3"`, `body={"id":"","patient":"","type":"Patient"}`}},
		{"PUT", "Observation?identifier=x&patient=5", `{"resourceType":"Observation","id":"9","subject":{"reference":"Patient/4"}}`, []string{`patients=["4","5"]`, `id=""`}},
		{"POST", "Bundle", `{"resourceType":"Bundle","type":"collection","entry":[{"resource":{"resourceType":"Observation","subject":{"reference":"Patient/1"}}},{"fullUrl":"x"}]}`,
			[]string{`patient="1"`, `body={"id":"","patient":"1","type":"Bundle"}`}},
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"Patient?identifier=a|b&active=true"}}`,
			[]string{`patients=[""]`, `conditional_references=["Patient?active\u0026identifier"]`}},
		{"POST", "Observation", `{"resourceType":"Observation","note":[{"authorReference":{"reference":"Practitioner?name:exact=x"}}],"device":{"reference":"http://x/y?z=1"}}`,
			[]string{patientless, `conditional_references=["Practitioner?name"]`}},
		// A server is known to search for what follows the last slash, whatever is before it.
		{"POST", "Observation", `{"resourceType":"Observation","subject":{"reference":"http://x/fhir/Patient?identifier=1"},"device":{"reference":"x:/Device?identifier=1"}}`,
			[]string{`patients=[""]`, `conditional_references=["Device?identifier","Patient?identifier"]`}},
		{"POST", "Observation", `{"resourceType":"Observation","extension":[{"url":"x","valueReference":{"reference":"urn:a/Patient?identifier=9"}}],"performer":[{"reference":"urn:Group?name=x"}]}`,
			[]string{`conditional_references=["Group?name","Patient?identifier"]`}},
		{"POST", "Patient/$match", `{"resourceType":"Parameters","parameter":[{"name":"resource","resource":{"resourceType":"Patient","id":"2"}}]}`,
			[]string{`patient="2"`, `body={"id":"","patient":"2","type":"Parameters"}`}},
		{"POST", "Observation/$lastn", `{"resourceType":"Parameters","parameter":[{"name":"subject","valueString":"Patient/2"},{"name":"patient","valueId":"2"},{"name":"max","valueInteger":3}]}`, []string{`patient="2"`}},
		{"POST", "$x", `{"resourceType":"Parameters","parameter":[{"name":"a","part":[{"name":"b","valueReference":{"reference":"Patient/2"}}]}]}`, []string{`patient="2"`}},
		{"POST", "$x", `{"resourceType":"Parameters","parameter":[{"name":"patient","valueUri":"http://x/Patient/2"}]}`, []string{`patients=[""]`}},
		{"POST", "Observation/1/$validate", `{"resourceType":"Observation","subject":{"reference":"Patient/1"}}`, []string{`patient="1"`}},
		{"POST", "$process-message", `{"resourceType":"Bundle","type":"message","entry":[{"resource":{"resourceType":"Observation","subject":{"reference":"Patient/1"}}}]}`, []string{`patient="1"`}},
		{"PATCH", "Observation/1", `{"resourceType":"Parameters","parameter":[{"name":"operation","part":[{"name":"value","valueReference":{"reference":"Patient/2"}}]}]}`, []string{`patient=""`, `patients=["","2"]`}},
	} {
		same(t, c.method+" "+c.url+" "+c.body, facts(t, read(t, c.method, c.url, fhirJSON, c.body)), c.facts...)
	}
}

func TestRefusedBodies(t *testing.T) {
	const obs = `{"resourceType":"Observation"}`
	for _, c := range []struct {
		method, url, contentType, body string
		status                         int
	}{
		{"POST", "Observation", fhirJSON, `{"resourceType":"Patient"}`, 400},
		{"PUT", "Observation/1", fhirJSON, `{"resourceType":"Patient","id":"1"}`, 400},
		{"PUT", "Observation/1", fhirJSON, `{"resourceType":"Observation","id":"2"}`, 400},
		{"PUT", "Observation/1", fhirJSON, `{"resourceType":"Observation","id":1}`, 400},
		{"PUT", "Observation/1", fhirJSON, `{"resourceType":"Observation","id":null}`, 400},
		{"POST", "Observation", fhirJSON, `{"resourceType":"Observation","id":"a/b"}`, 400},
		{"POST", "Observation", fhirJSON, `{"resourceType":["Observation"]}`, 400},
		{"POST", "Observation", fhirJSON, `{"resourceType":null}`, 400},
		{"POST", "Observation", fhirJSON, `{"resourceType":"observation"}`, 400},
		{"POST", "Observation", fhirJSON, `{"status":"final"}`, 400},
		{"POST", "Observation", fhirJSON, `[` + obs + `]`, 400},
		{"POST", "Observation", fhirJSON, `null`, 400},
		{"POST", "Observation", fhirJSON, ``, 400},
		{"POST", "Observation", fhirJSON, obs + obs, 400},
		{"POST", "Observation", fhirJSON, `{"resourceType":"Observation","resourceType":"Patient"}`, 400},
		{"POST", "Observation", fhirJSON, `{"resourceType":"Observation","subject":{"reference":"Nothing?x=1"}}`, 400},
		{"POST", "Observation", fhirJSON, `{"resourceType":"Observation","subject":{"reference":"Patient?"}}`, 400},
		{"POST", "Observation", fhirJSON, `{"resourceType":"Observation","subject":{"reference":"Patient?a=1;b=2"}}`, 400},
		{"POST", "Observation", fhirJSON, `{"resourceType":"Observation","subject":{"reference":"/Patient?a=1"}}`, 400},
		{"POST", "Observation", "application/fhir+xml", obs, 415},
		{"POST", "Observation", "text/json", obs, 415},
		{"POST", "Observation", "text/plain", obs, 415},
		{"POST", "Observation", "", obs, 415},
		{"POST", "Observation", "application/json-patch+json", `[]`, 415},
		{"POST", "Observation", "application/fhir+json; charset=iso-8859-1", obs, 415},
		{"POST", "Observation", "application/fhir+json; charset=utf-7", obs, 415},
		{"POST", "Observation", "application/fhir+json; fhirVersion=3.0", obs, 415},
		{"POST", "Observation", "application/fhir+json; x=y", obs, 415},
		{"POST", "Observation", "application/fhir+json, application/fhir+xml", obs, 415},
		{"POST", "Observation", "application/fhir+json; charset=utf-8; charset=utf-16", obs, 415},
		{"GET", "Observation/1", fhirJSON, obs, 400},
		{"DELETE", "Observation/1", fhirJSON, obs, 400},
		{"POST", "$x", "application/fhir+xml", "<a/>", 415},
		{"POST", "$x", fhirJSON, `{}`, 400},
		{"POST", "$x", "application/json", `[]`, 400},
		{"POST", "$x", "application/json", `{"resourceType":1}`, 400},
		{"POST", "$x", "application/x-www-form-urlencoded", `a=1`, 415},
		{"POST", "$x", fhirJSON, `{"resourceType":"Parameters","parameter":{}}`, 400},
		{"POST", "$x", fhirJSON, `{"resourceType":"Parameters","parameter":[{"name":"x","resource":{"resourceType":"X"}}]}`, 400},
		{"PATCH", "Observation/1", fhirJSON, obs, 400},
		{"PATCH", "Observation/1", "application/json", `[]`, 415},
		{"PATCH", "Observation/1", "application/xml-patch+xml", `<a/>`, 415},
		{"PATCH", "Observation/1", fhirJSON, `{"resourceType":"Binary"}`, 400},
		{"PATCH", "Observation/1", jsonPatch, `{"op":"test"}`, 400},
		{"PATCH", "Observation/1", jsonPatch, `[1]`, 400},
		{"PATCH", "Observation/1", jsonPatch, `[{"op":"replace","path":"/status"}]`, 400},
		{"PATCH", "Observation/1", jsonPatch, `[{"op":"replace","path":"status","value":1}]`, 400},
		{"PATCH", "Observation/1", jsonPatch, `[{"op":"replace","path":"/a~2","value":1}]`, 400},
		{"PATCH", "Observation/1", jsonPatch, `[{"op":"replace","path":1,"value":1}]`, 400},
		{"PATCH", "Observation/1", jsonPatch, `[{"op":"move","path":"/a"}]`, 400},
		{"PATCH", "Observation/1", jsonPatch, `[{"op":"frobnicate","path":"/a","value":1}]`, 400},
		{"PATCH", "Observation/1", jsonPatch, `[{"op":"add","path":"/a","value":1,"op":"remove"}]`, 400},
	} {
		err := parse(t, c.method, c.url).ReadBody(c.contentType, []byte(c.body))
		refused(t, c.method+" "+c.url+" "+c.contentType+" "+c.body, err, c.status)
	}
	for _, ct := range []string{
		"application/json", "Application/FHIR+JSON", "application/fhir+json;charset=UTF-8", `application/fhir+json; charset="utf-8"; fhirVersion=4.0`,
	} {
		if err := parse(t, "POST", "Observation").ReadBody(ct, []byte(obs)); err != nil {
			t.Errorf("%s: %v", ct, err)
		}
	}
	for _, c := range [][3]string{{"POST", "$x", ""}, {"GET", "Observation/1", ""}, {"POST", "Observation/1/$x", ""}} {
		if err := parse(t, c[0], c[1]).ReadBody("", nil); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	if err := parse(t, "POST", "$graphql").ReadBody("application/json", []byte(`{"query":"{x}"}`)); err != nil {
		t.Error(err)
	}
}

const jsonPatch = "application/json-patch+json"

func TestJSONPatch(t *testing.T) {
	for _, c := range []struct {
		patch string
		facts []string
	}{
		{`[{"op":"replace","path":"/status","value":"final"}]`, []string{`patients=[]`, `conditional_references=[]`}},
		{`[]`, []string{`patients=[]`}},
		{`[{"op":"replace","path":"/subject/reference","value":"Patient/2"}]`, []string{`patient="2"`}},
		{`[{"op":"add","path":"/subject","value":{"reference":"Patient/2"}}]`, []string{`patient="2"`}},
		{`[{"op":"add","path":"/subject","value":{"identifier":{"value":"x"}}}]`, []string{`patients=[""]`}},
		{`[{"op":"remove","path":"/subject"}]`, []string{`patients=[""]`}},
		{`[{"op":"copy","from":"/focus/0","path":"/subject"}]`, []string{`patients=[""]`}},
		{`[{"op":"replace","path":"","value":{}}]`, []string{`patients=[""]`}},
		{`[{"op":"test","path":"/subject","value":1},{"op":"move","from":"/a~1","path":"/b~0"}]`, []string{`patients=[]`}},
		{`[{"op":"replace","path":"/subject/reference","value":"Patient?name=x"}]`, []string{`patients=[""]`, `conditional_references=["Patient?name"]`}},
		{`[{"op":"replace","path":"/device/reference","value":"http://x/fhir/Device?name=x"}]`, []string{`conditional_references=["Device?name"]`}},
		{`[{"op":"replace","path":"/note/0/text","value":"who/Patient? at 10:00"}]`, []string{`conditional_references=[]`}},
	} {
		same(t, c.patch, facts(t, read(t, "PATCH", "Observation/1", jsonPatch, c.patch)), c.facts...)
	}
	same(t, "id", facts(t, read(t, "PATCH", "Patient/1", jsonPatch, `[{"op":"replace","path":"/id","value":"2"}]`)), `patients=["","1"]`, `patient=""`)
}

func TestOfficialExamples(t *testing.T) {
	for name, want := range map[string]string{
		"Observation-example":                   `"example"`,
		"Observation-f001":                      `"f001"`,
		"Patient-example":                       `"example"`,
		"MedicationAdministration-medadmin0301": `"pat1"`,
		"Appointment-example":                   `"example"`,
		"DeviceMetric-example":                  `""`,
	} {
		b, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		typ, _, _ := strings.Cut(name, "-")
		i := read(t, "POST", typ, fhirJSON, string(b))
		same(t, name, facts(t, i), "patient="+want)
		agree(t, i.AppendBody(nil))
	}
}

func TestBodyIsWrittenInOneForm(t *testing.T) {
	i := read(t, "POST", "Observation", fhirJSON, " {\n\"resourceType\" : \"Observati\\u006fn\",\t\"valueQuantity\":{\"value\":1.50e0},\"note\":[{\"text\":\"a\\/b\\n\\u00e9\\ud83d\\ude00\"} ] }\r\n")
	if got, want := string(i.AppendBody([]byte("x"))), `x{"resourceType":"Observation","valueQuantity":{"value":1.50e0},"note":[{"text":"a/b\né😀"}]}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := parse(t, "POST", "$x").AppendBody(nil); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}
