package fhir

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// batch makes a batch of entries.
func batch(entries ...string) string {
	return `{"resourceType":"Bundle","type":"batch","entry":[` + strings.Join(entries, ",") + `]}`
}

func entry(method, url, more string) string {
	return fmt.Sprintf(`{"request":{"method":%q,"url":%q}%s}`, method, url, more)
}

func TestEntriesAreInteractions(t *testing.T) {
	const obs = `,"resource":{"resourceType":"Observation","subject":{"reference":"Patient/1"}}`
	for _, c := range []struct {
		entry string
		facts []string
	}{
		{entry("GET", "Patient/1", ""), []string{`interaction="read"`, `type="Patient"`, `id="1"`, `patient="1"`}},
		{entry("HEAD", "Patient/1", ""), []string{`interaction="read"`}},
		{entry("GET", "Patient?name=x%20y&_count=3", ""), []string{`interaction="search-type"`, `params=["name"]`, `result_params=["_count"]`}},
		{entry("GET", "?_type=Patient", ""), []string{`interaction="search-system"`}},
		{entry("GET", "Patient/1/Observation", ""), []string{`interaction="search-compartment"`, `patient="1"`}},
		{entry("GET", "metadata", ""), []string{`interaction="capabilities"`}},
		{entry("GET", "Patient/1/_history/3", ""), []string{`interaction="vread"`, `version="3"`}},
		{entry("GET", "_history", ""), []string{`interaction="history-system"`}},
		{entry("GET", "Patient/1/$everything", ""), []string{`interaction="operation"`, `operation="$everything"`}},
		{entry("POST", "$x", `,"resource":{"resourceType":"Parameters"}`), []string{`interaction="operation"`}},
		{entry("POST", "$x", ""), []string{`interaction="operation"`}},
		{entry("POST", "Observation", obs), []string{`interaction="create"`, `patient="1"`, `body={"id":"","patient":"1","type":"Observation"}`}},
		{entry("PUT", "Observation/7", `,"resource":{"resourceType":"Observation","id":"7"}`), []string{`interaction="update"`, `id="7"`}},
		{entry("PUT", "Observation?identifier=x", obs), []string{`interaction="conditional-update"`, `conditional=true`}},
		{entry("DELETE", "Observation/7", ""), []string{`interaction="delete"`}},
		{entry("DELETE", "Observation?identifier=x", ""), []string{`interaction="conditional-delete"`}},
		{entry("PATCH", "Observation/7", `,"resource":{"resourceType":"Binary","contentType":"application/json-patch+json","data":"W10="}`), []string{`interaction="patch"`, `patients=[""]`}},
		{entry("PATCH", "Observation/7", `,"resource":{"resourceType":"Parameters"}`), []string{`interaction="patch"`}},
		{entry("POST", "Bundle", `,"resource":{"resourceType":"Bundle","type":"document"}`), []string{`interaction="create"`, `type="Bundle"`}},
		{`{"request":{"method":"POST","url":"Observation","ifNoneExist":"identifier=x&patient=2"}` + obs + `}`,
			[]string{`interaction="conditional-create"`, `preconditions=["if-none-exist"]`, `patients=["1","2"]`}},
		{`{"request":{"method":"PUT","url":"Observation/1","ifMatch":"W/\"4\"","ifNoneMatch":"*","ifModifiedSince":"2020-01-01T00:00:00Z"}` + obs + `}`,
			[]string{`interaction="update"`, `version="4"`, `preconditions=["if-match","if-modified-since","if-none-match"]`}},
	} {
		i := read(t, "POST", "", fhirJSON, batch(c.entry))
		if len(i.Entries()) != 1 {
			t.Fatalf("%s: %d entries", c.entry, len(i.Entries()))
		}
		same(t, c.entry, facts(t, i.Entries()[0]), append(c.facts, `entry=true`)...)
	}
}

func TestBundleFacts(t *testing.T) {
	i := read(t, "POST", "?_format=json", "application/json", strings.Replace(batch(
		entry("GET", "Patient/1", ""),
		entry("POST", "Observation", `,"resource":{"resourceType":"Observation","subject":{"reference":"Patient?name=x"}}`),
	), "batch", "transaction", 1))
	same(t, "transaction", facts(t, i), `interaction="transaction"`, `type=""`, `entry=false`, `patients=["","1"]`, `patient=""`,
		`conditional_references=["Patient?name"]`, `result_params=["_format"]`,
		`entries=[{"id":"1","interaction":"read","type":"Patient"},{"id":"","interaction":"create","type":"Observation"}]`)
	same(t, "none", facts(t, read(t, "POST", "", fhirJSON, `{"resourceType":"Bundle","type":"batch"}`)), `interaction="batch"`, `entries=[]`)
}

// An entry that refers to another one of the Bundle is about whom that one is.
func TestReferencesBetweenEntries(t *testing.T) {
	post := func(url, typ, more string) string {
		return fmt.Sprintf(`{"fullUrl":%q,"request":{"method":"POST","url":%q},"resource":{"resourceType":%q%s}}`, url, typ, typ, more)
	}
	i := read(t, "POST", "", fhirJSON, batch(
		post("urn:uuid:a", "Patient", ""),
		`{"fullUrl":"urn:uuid:b","request":{"method":"PUT","url":"Patient/7"},"resource":{"resourceType":"Patient","id":"7"}}`,
		post("urn:uuid:c", "Practitioner", ""),
		`{"fullUrl":"http://x/Patient/9","request":{"method":"POST","url":"Device"},"resource":{"resourceType":"Device"}}`,
		post("urn:uuid:1", "Observation", `,"subject":{"reference":"urn:uuid:a"}`),
		post("urn:uuid:2", "Observation", `,"subject":{"reference":"urn:uuid:b"},"performer":[{"reference":"urn:uuid:c"}]`),
		post("urn:uuid:3", "Observation", `,"subject":{"reference":"urn:uuid:z"}`),
		post("urn:uuid:4", "Observation", `,"subject":{"reference":"http://x/Patient/9"}`),
	))
	for k, want := range map[int]string{4: `[""]`, 5: `["7"]`, 6: `[""]`, 7: `[""]`} {
		same(t, fmt.Sprint("entry ", k), facts(t, i.Entries()[k]), "patients="+want)
	}
}

func TestRefusedBundles(t *testing.T) {
	const obs = `,"resource":{"resourceType":"Observation"}`
	in := func(e string) string { return batch(entry("GET", "Patient/1", ""), e) }
	for _, c := range []struct {
		body   string
		status int
	}{
		{`{"resourceType":"Bundle"}`, 400},
		{`{"type":"batch"}`, 400},
		{`{"resourceType":"Patient","type":"batch"}`, 400},
		{`{"resourceType":"Bundle","type":"Batch"}`, 400},
		{`{"resourceType":"Bundle","type":"collection"}`, 400},
		{`{"resourceType":"Bundle","type":"message"}`, 400},
		{`{"resourceType":"Bundle","type":"history"}`, 400},
		{`{"resourceType":"Bundle","type":["batch"]}`, 400},
		{`{"resourceType":"Bundle","type":"batch","entry":{}}`, 400},
		{`{"resourceType":"Bundle","type":"batch","entry":null}`, 400},
		{`{"resourceType":"Bundle","type":"batch","entry":[1]}`, 400},
		{`{"resourceType":"Bundle","type":"batch","type":"transaction"}`, 400},
		{`{"resourceType":"Bundle","type":"batch","id":7}`, 400},
		{`[]`, 400}, {``, 400}, {`{}`, 400},
		{in(`{}`), 400},
		{in(`{"request":1}`), 400},
		{in(`{"request":{"method":"GET"}}`), 400},
		{in(`{"request":{"url":"Patient/1"}}`), 400},
		{in(`{"request":{"method":1,"url":"Patient/1"}}`), 400},
		{in(`{"request":{"method":"GET","url":["Patient/1"]}}`), 400},
		{in(`{"request":{"method":"GET","url":"Patient/1","method":"DELETE"}}`), 400},
		{in(`{"request":{"method":"PUT","url":"Observation/1","ifMatch":3}` + obs + `}`), 400},
		{in(`{"request":{"method":"PUT","url":"Observation/1","ifMatch":"3"}` + obs + `}`), 400},
		{in(`{"request":{"method":"POST","url":"Observation","ifNoneExist":""}` + obs + `}`), 400},
		{in(`{"request":{"method":"PUT","url":"Observation/1","ifNoneExist":"a=1"}` + obs + `}`), 400},
		{in(entry("GET", "", "")), 400},
		{in(entry("GET", "/Patient/1", "")), 400},
		{in(entry("GET", "//evil/Patient/1", "")), 400},
		{in(entry("GET", "http://evil/Patient/1", "")), 400},
		{in(entry("GET", "https:Patient/1", "")), 400},
		{in(entry("GET", "./Patient/1", "")), 400},
		{in(entry("GET", "../Patient/1", "")), 400},
		{in(entry("GET", "Observation/../Patient/1", "")), 400},
		{in(entry("GET", "Patient/%31", "")), 400},
		{in(entry("GET", "Patient%2f1", "")), 400},
		{in(entry("GET", "%50atient/1", "")), 400},
		{in(entry("GET", "Patient/1#x", "")), 400},
		{in(entry("GET", "Patient?name=x#y", "")), 400},
		{in(entry("GET", "Patient//1", "")), 400},
		{in(entry("GET", "Patient/1/", "")), 400},
		{in(entry("GET", "Patient/1;x=y", "")), 400},
		{in(entry("GET", "Patient\\\\1", "")), 400},
		{in(entry("GET", " Patient/1", "")), 400},
		{in(entry("GET", "Patient/1 ", "")), 400},
		{in(entry("GET", "Patient?name=a b", "")), 400},
		{in(entry("GET", "Patient?name=a;b=c", "")), 400},
		{in(entry("GET", "Patient?name=%0a", "")), 400},
		{in(entry("GET", "Patient?name=ä", "")), 400},
		{in(entry("GET", "Patient/1?a=1", "")), 400},
		{in(entry("GET", "Nothing/1", "")), 404},
		{in(entry("get", "Patient/1", "")), 405},
		{in(entry("OPTIONS", "Patient/1", "")), 405},
		{in(entry("POST", "Patient/1", obs)), 405},
		{in(entry("POST", "?_format=json", "")), 400},
		{in(entry("POST", "?_format=json", `,"resource":{"resourceType":"Bundle","type":"batch"}`)), 400},
		{in(entry("POST", "Patient/_search", "")), 400},
		{in(entry("POST", "_search", "")), 400},
		{in(entry("POST", "Patient", obs)), 400},
		{in(entry("PUT", "Patient/1", obs)), 400},
		{in(entry("PUT", "Observation/1", `,"resource":{"resourceType":"Observation","id":"2"}`)), 400},
		{in(entry("POST", "Observation", "")), 400},
		{in(entry("PUT", "Observation/1", "")), 400},
		{in(entry("PATCH", "Observation/1", "")), 400},
		{in(entry("PATCH", "Observation/1", obs)), 400},
		{in(entry("POST", "Observation", `,"resource":null`)), 400},
		{in(entry("POST", "Observation", `,"resource":[]`)), 400},
		{in(entry("GET", "Patient/1", obs)), 400},
		{in(entry("DELETE", "Observation/1", obs)), 400},
		{in(entry("PUT", "Observation", obs)), 400},
		{in(entry("POST", "Bundle", `,"resource":{"resourceType":"Bundle","type":"batch"}`)), 400},
		{in(entry("POST", "$x", `,"resource":{"resourceType":"Bundle","type":"transaction"}`)), 400},
		{in(entry("POST", "$x", `,"resource":{"x":1}`)), 400},
		{batch(`{"fullUrl":"urn:uuid:a","request":{"method":"GET","url":"Patient/1"}}`, `{"fullUrl":"urn:uuid:a","request":{"method":"GET","url":"Patient/1"}}`), 400},
		{in(`{"fullUrl":1,"request":{"method":"GET","url":"Patient/1"}}`), 400},
		{batch(strings.Repeat(entry("GET", "Patient/1", "")+",", 1000) + entry("GET", "Patient/1", "")), 413},
	} {
		refused(t, c.body, parse(t, "POST", "").ReadBody(fhirJSON, []byte(c.body)), c.status)
	}
	if err := parse(t, "POST", "").ReadBody(fhirJSON, []byte(batch(strings.Repeat(entry("GET", "Patient/1", "")+",", 999)+entry("GET", "Patient/1", "")))); err != nil {
		t.Error(err)
	}
}

func TestOfficialTransaction(t *testing.T) {
	b, err := os.ReadFile("testdata/Bundle-bundle-transaction.json")
	if err != nil {
		t.Fatal(err)
	}
	i := read(t, "POST", "", fhirJSON, string(b))
	var got []string
	for _, e := range i.Entries() {
		got = append(got, e.Code())
	}
	want := "create conditional-create update conditional-update update delete conditional-delete operation search-type read"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

// What is sent on is the URL that was judged, in its one form.
func TestEntryURLsAreWrittenInOneForm(t *testing.T) {
	i := read(t, "POST", "", fhirJSON, batch(
		`{"request":{"method":"G\u0045T","url":"P\u0061tient?n%61me=%4a%c3%a4+b&_id=1"}}`,
		`{"request":{"method":"POST","url":"Observation","ifNoneExist":"identifier=%61%7cb"},"resource":{"resourceType":"Observation"}}`))
	want := batch(entry("GET", "Patient?name=J%C3%A4%20b&_id=1", ""),
		`{"request":{"method":"POST","url":"Observation","ifNoneExist":"identifier=a|b"},"resource":{"resourceType":"Observation"}}`)
	if got := string(i.AppendBody(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, n := i.Split([]*Issue{nil, nil}); string(got) != want || n != 2 {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSplitAndJoin(t *testing.T) {
	body := `{"id":"x","entry":[` + entry("GET", "Patient/1", "") + "," + entry("GET", "Patient/2", "") + "," + entry("GET", "Patient/3", "") +
		`],"resourceType":"Bundle","type":"batch"}`
	denial := &Issue{Code: "forbidden", Text: "not allowed", Decision: "d1"}
	const said = `{"response":{"status":"403 Forbidden","outcome":{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"forbidden",` +
		`"details":{"text":"not allowed"},"diagnostics":"decision d1"}]}}}`
	for _, c := range []struct {
		denied                     []*Issue
		sent, answer, joined, fail string
	}{
		{[]*Issue{nil, denial, nil}, entry("GET", "Patient/1", "") + "," + entry("GET", "Patient/3", ""),
			`{"type":"batch-response","entry":[{"a":1},{"b":2}],"id":"r","resourceType":"Bundle"}`,
			`{"type":"batch-response","id":"r","resourceType":"Bundle","entry":[{"a":1},` + said + `,{"b":2}]}`, ""},
		{[]*Issue{denial, denial, nil}, entry("GET", "Patient/3", ""), `{"resourceType":"Bundle","type":"batch-response","entry":[{"b":2}]}`,
			`{"resourceType":"Bundle","type":"batch-response","entry":[` + said + `,` + said + `,{"b":2}]}`, ""},
		{[]*Issue{denial, denial, denial}, "", "", `{"resourceType":"Bundle","type":"batch-response","entry":[` + said + `,` + said + `,` + said + `]}`, ""},
		{[]*Issue{nil, nil, denial}, entry("GET", "Patient/1", "") + "," + entry("GET", "Patient/2", ""), `{"resourceType":"Bundle","type":"batch-response","entry":[{"b":2}]}`, "", "1 entries of 2"},
		{[]*Issue{nil, denial, nil}, entry("GET", "Patient/1", "") + "," + entry("GET", "Patient/3", ""), `{"resourceType":"Bundle","type":"batch-response","entry":[{},{},{}]}`, "", "3 entries of 2"},
		{[]*Issue{nil, denial, denial}, entry("GET", "Patient/1", ""), "", "", "there is none"},
		{[]*Issue{nil, denial, denial}, entry("GET", "Patient/1", ""), "<xml/>", "", "JSON"},
		{[]*Issue{nil, denial, denial}, entry("GET", "Patient/1", ""), `{"resourceType":"OperationOutcome"}`, "", "no batch-response"},
		{[]*Issue{nil, denial, denial}, entry("GET", "Patient/1", ""), `{"resourceType":"Bundle","type":"searchset","entry":[{}]}`, "", "no batch-response"},
		{[]*Issue{nil, denial, denial}, entry("GET", "Patient/1", ""), `{"resourceType":"Bundle","type":"batch-response"}`, "", "0 entries of 1"},
	} {
		i := read(t, "POST", "", fhirJSON, body)
		sent, _ := i.Split(c.denied)
		if want := `{"id":"x","entry":[` + c.sent + `],"resourceType":"Bundle","type":"batch"}`; string(sent) != want {
			t.Errorf("sent %s\nwant %s", sent, want)
		}
		var answer []byte
		if c.answer != "" {
			answer = []byte(c.answer)
		}
		got, err := i.Join(c.denied, answer)
		switch {
		case c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)):
			t.Errorf("got %s, %v; want an error with %q", got, err, c.fail)
		case c.fail == "" && (err != nil || string(got) != c.joined):
			t.Errorf("got  %s, %v\nwant %s", got, err, c.joined)
		}
	}
}

func TestSplitIsForBatchesOnly(t *testing.T) {
	for _, i := range []*Interaction{
		parse(t, "GET", "Patient/1"),
		parse(t, "POST", ""),
		read(t, "POST", "", fhirJSON, `{"resourceType":"Bundle","type":"transaction"}`),
		read(t, "POST", "", fhirJSON, batch(entry("GET", "Patient/1", ""))),
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: was split", i.Code())
				}
			}()
			i.Split(nil)
		}()
	}
}
