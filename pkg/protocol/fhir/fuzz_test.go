package fhir

import (
	"errors"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
)

// codes holds every code of an interaction.
var codes = map[string]bool{
	codeRead: true, codeVRead: true, codeUpdate: true, codePatch: true, codeDelete: true, codeHistoryInstance: true, codeHistoryType: true,
	codeHistorySystem: true, codeCreate: true, codeSearchType: true, codeSearchSystem: true, codeSearchCompartment: true, codeCapabilities: true,
	codeOperation: true, codeBatch: true, codeTransaction: true, codeConditionalCreate: true, codeConditionalUpdate: true,
	codeConditionalPatch: true, codeConditionalDelete: true,
}

// sound checks what is true of every interaction that was accepted.
func sound(t *testing.T, i *Interaction) {
	m := facts(t, i)
	if !codes[i.code] || i.typ != "" && !isType(i.typ) || i.id != "" && !isID(i.id) {
		t.Fatalf("got %+v", m)
	}
	if i.level == levelInstance && i.id == "" && i.compartmentID == "" || i.level != levelInstance && i.id != "" {
		t.Fatalf("level %s: %+v", i.level, m)
	}
	for _, p := range i.patients() {
		system, value, named := strings.Cut(p, "|")
		if p != "" && !isID(p) && (!named || identifier(system, value) != p) {
			t.Fatalf("%q is neither an id nor an identifier", p)
		}
	}
	if strings.HasPrefix(i.code, "conditional-") && !i.search.narrowed {
		t.Fatalf("a condition of nothing: %+v", m)
	}
	if (i.code == codeRead || i.code == codeDelete || i.code == codeUpdate) && len(i.search.params)+len(i.search.includes) > 0 {
		t.Fatalf("%s with a search: %+v", i.code, m)
	}
}

// refusal checks what is true of every refusal: it has a status and a code, and
// nothing of the device's in its text but where that was.
func refusal(t *testing.T, err error) {
	var r *Refusal
	if !errors.As(err, &r) || r.Status < 400 || r.Status > 499 || r.Code == "" || r.Why == "" {
		t.Fatalf("got %#v", err)
	}
	for i := range len(r.Why) {
		if r.Why[i] < ' ' || r.Why[i] > '~' {
			t.Fatalf("got %q", r.Why)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range [][3]string{
		{"GET", "Patient/1", ""}, {"POST", "Observation", "identifier=a|b"}, {"GET", "Observation?subject:Patient.name=x&_include=*", ""},
		{"PUT", "Observation?identifier=1", ""}, {"POST", "Patient/1/Observation/_search", ""}, {"GET", "Patient/1/_history/2", ""},
		{"POST", "Patient/$match", ""}, {"DELETE", "Patient?_has:Observation:patient:code=1", ""}, {"GET", "?_type=Patient&patient=1,Patient/2", ""},
		{"PATCH", "Device/1", ""}, {"HEAD", "metadata?mode=full", ""}, {"GET", "Patient/1/*", ""},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, method, url, ifNoneExist string) {
		path, query, _ := strings.Cut(url, "?")
		ps, ref := parseForm(query, 1000)
		if ref != nil {
			refusal(t, ref)
			return
		}
		again, ref := parseForm(string(appendForm(nil, ps)), 1000)
		if ref != nil || !reflect.DeepEqual(ps, again) {
			t.Fatalf("%q: %q, %q, %v", query, ps, again, ref)
		}
		r := &Request{Method: method, Path: strings.Split(path, "/"), Query: ps}
		if ifNoneExist != "" {
			r.Header = http.Header{"If-None-Exist": {ifNoneExist}}.Values
		}
		i, err := Parse(r, Limits{})
		if err != nil {
			refusal(t, err)
			return
		}
		sound(t, i)
		// An entry's URL is no less strict than a request's.
		p, q, ref := entryURL(url, 1000)
		if ref == nil && !reflect.DeepEqual(q, ps) {
			t.Fatalf("%q: %q and %q", url, p, q)
		}
	})
}

// bodied are the requests that FuzzReadBody gives a body to.
var bodied = [][3]string{
	{"POST", "", fhirJSON}, {"POST", "Observation", fhirJSON}, {"PUT", "Patient/1", fhirJSON}, {"PATCH", "Observation/1", jsonPatch},
	{"PATCH", "Observation/1", fhirJSON}, {"POST", "Patient/$match", "application/json"}, {"POST", "Observation/_search", "application/x-www-form-urlencoded"},
	{"PUT", "Appointment?identifier=1", fhirJSON}, {"GET", "Patient/1", fhirJSON},
}

func FuzzReadBody(f *testing.F) {
	for _, name := range samples(f) {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(0), b)
		f.Add(uint8(1), b)
	}
	for _, s := range []string{
		batch(entry("GET", "Patient/1", ""), entry("POST", "Observation", `,"resource":{"resourceType":"Observation","subject":{"reference":"Patient?a=1"}}`)),
		batch(`{"fullUrl":"urn:uuid:a","request":{"method":"PUT","url":"Patient/7","ifMatch":"W/\"1\""},"resource":{"resourceType":"Patient","id":"7"}}`),
	} {
		f.Add(uint8(0), []byte(s))
	}
	f.Add(uint8(3), []byte(`[{"op":"add","path":"/subject","value":{"reference":"Patient/2"}}]`))
	f.Add(uint8(5), []byte(`{"resourceType":"Parameters","parameter":[{"name":"patient","valueId":"2","part":[{"name":"x","resource":{"resourceType":"Patient"}}]}]}`))
	f.Add(uint8(6), []byte("patient=1&_id:not=2&code%3ain=3"))
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		c := bodied[int(kind)%len(bodied)]
		i := parse(t, c[0], c[1])
		if err := i.ReadBody(c[2], body); err != nil {
			refusal(t, err)
			return
		}
		sound(t, i)
		for _, e := range i.Entries() {
			sound(t, e)
		}
		// What is sent on is understood as what was judged.
		sent := i.AppendBody(nil)
		j := parse(t, c[0], c[1])
		if err := j.ReadBody(c[2], sent); err != nil {
			t.Fatalf("%q is sent on as %q, which is refused: %v", body, sent, err)
		}
		if a, b := facts(t, i), facts(t, j); !reflect.DeepEqual(a, b) {
			t.Fatalf("%q is sent on as %q:\n%v\n%v", body, sent, a, b)
		}
		if len(i.Entries()) != len(j.Entries()) {
			t.Fatalf("%q: %d entries, sent on %d", body, len(i.Entries()), len(j.Entries()))
		}
		for k := range i.Entries() {
			if a, b := facts(t, i.entries[k]), facts(t, j.entries[k]); !reflect.DeepEqual(a, b) {
				t.Fatalf("entry %d of %q is sent on as %q:\n%v\n%v", k, body, sent, a, b)
			}
		}
	})
}
