package fhir

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

const fhirMedia = "application/fhir+json; charset=utf-8"

// pointers reads pointers as a policy would write them.
func pointers(t testing.TB, texts ...string) []protocol.Pointer {
	t.Helper()
	o, err := protocol.Oblige([]protocol.Obligation{{Kind: protocol.KindRedact, Value: protocol.Strings(texts...)}})
	if err != nil {
		t.Fatalf("%q: %v", texts, err)
	}
	return o.Redact
}

func TestRedact(t *testing.T) {
	for _, tt := range []struct{ name, at, in, want string }{
		{"a member", "/name", `{"resourceType":"P","name":1,"b":2}`, `{"resourceType":"P","b":2}`},
		{"a member below another", "/subject/display", `{"resourceType":"O","subject":{"reference":"P/1","display":"Jane"}}`, `{"resourceType":"O","subject":{"reference":"P/1"}}`},
		{"what is left empty", "/a/b/c", `{"resourceType":"O","a":{"b":{"c":1}},"d":{}}`, `{"resourceType":"O","d":{}}`},
		{"a name goes through lists", "/name/family", `{"resourceType":"P","name":[{"family":"a","use":"x"},{"family":"b"}]}`, `{"resourceType":"P","name":[{"use":"x"}]}`},
		{"through lists of lists", "/a/b", `{"resourceType":"P","a":[[{"b":1,"c":1}],{"b":1}]}`, `{"resourceType":"P","a":[[{"c":1}]]}`},
		{"every element", "/name/*/family", `{"resourceType":"P","name":[{"family":"a","use":"x"}]}`, `{"resourceType":"P","name":[{"use":"x"}]}`},
		{"one element", "/name/1", `{"resourceType":"P","name":["a","b","c"]}`, `{"resourceType":"P","name":["a","c"]}`},
		{"below one element", "/name/1/x", `{"resourceType":"P","name":[{"x":1},{"x":1,"y":1}]}`, `{"resourceType":"P","name":[{"x":1},{"y":1}]}`},
		{"an index that is none", "/name/01", `{"resourceType":"P","name":["a","b"]}`, `{"resourceType":"P","name":["a","b"]}`},
		{"every member", "/a/*", `{"resourceType":"P","a":{"b":1,"c":2}}`, `{"resourceType":"P"}`},
		{"everything but what it is", "/*", `{"resourceType":"P","a":{"b":1},"c":[2]}`, `{"resourceType":"P"}`},
		{"a choice of types", "/value[x]", `{"resourceType":"O","valueQuantity":{"value":1},"valueString":"x","values":1,"value":1}`, `{"resourceType":"O","values":1,"value":1}`},
		{"a choice with its extensions", "/value[x]", `{"resourceType":"O","valueString":"x","_valueString":{"id":"1"}}`, `{"resourceType":"O"}`},
		{"an element with its extensions", "/birthDate", `{"resourceType":"P","birthDate":"1970","_birthDate":{"extension":[{"valueDateTime":"1970-01-01"}]}}`, `{"resourceType":"P"}`},
		{"its extensions without the element", "/birthDate", `{"resourceType":"P","_birthDate":{"extension":[{"valueDateTime":"1970-01-01"}]}}`, `{"resourceType":"P"}`},
		{"all of a list with its companions", "/given/*", `{"resourceType":"P","given":["a","b"],"_given":[null,{"id":"y"}],"x":[]}`, `{"resourceType":"P","x":[]}`},
		{"all of an empty list", "/x/*", `{"resourceType":"P","x":[]}`, `{"resourceType":"P","x":[]}`},
		{"extensions alone", "/_birthDate", `{"resourceType":"P","birthDate":"1970","_birthDate":{"id":"1"}}`, `{"resourceType":"P","birthDate":"1970"}`},
		{"an element with its companion at that place", "/given/0", `{"resourceType":"P","given":["a","b"],"_given":[{"id":"x"},{"id":"y"}]}`, `{"resourceType":"P","given":["b"],"_given":[{"id":"y"}]}`},
		{"the last companion", "/given/0", `{"resourceType":"P","given":["a","b"],"_given":[{"id":"x"},null]}`, `{"resourceType":"P","given":["b"]}`},
		{"a companion keeps its place", "/_given/0", `{"resourceType":"P","given":["a","b"],"_given":[{"id":"x"},{"id":"y"}]}`, `{"resourceType":"P","given":["a","b"],"_given":[null,{"id":"y"}]}`},
		{"a companion that is left empty keeps its place", "/_given/0/id", `{"resourceType":"P","given":["a","b"],"_given":[{"id":"x"},{"id":"y"}]}`, `{"resourceType":"P","given":["a","b"],"_given":[null,{"id":"y"}]}`},
		{"no companion is left", "/_given/*/id", `{"resourceType":"P","given":["a","b"],"_given":[{"id":"x"},null]}`, `{"resourceType":"P","given":["a","b"]}`},
		{"the narrative goes with anything", "/nothing", `{"resourceType":"P","text":{"status":"generated","div":"<div>Jane</div>"},"a":1}`, `{"resourceType":"P","a":1}`},
		{"and that of sections", "/nothing", `{"resourceType":"C","section":[{"title":"x","text":{"status":"generated","div":"<div>Jane</div>"}}]}`, `{"resourceType":"C","section":[{"title":"x"}]}`},
		{"other text stays", "/nothing", `{"resourceType":"O","code":{"text":"pulse"}}`, `{"resourceType":"O","code":{"text":"pulse"}}`},
		{"each resource of a Bundle", "/name", `{"resourceType":"Bundle","type":"searchset","total":2,"entry":[{"fullUrl":"u","resource":{"resourceType":"P","name":"a","id":"1"}},{"resource":{"resourceType":"Q","name":1}}]}`,
			`{"resourceType":"Bundle","type":"searchset","total":2,"entry":[{"fullUrl":"u","resource":{"resourceType":"P","id":"1"}},{"resource":{"resourceType":"Q"}}]}`},
		{"contained ones, and in Parameters", "/name", `{"resourceType":"Parameters","parameter":[{"name":"x","resource":{"resourceType":"O","contained":[{"resourceType":"P","name":"a","id":"1"}]}}]}`,
			`{"resourceType":"Parameters","parameter":[{"name":"x","resource":{"resourceType":"O","contained":[{"resourceType":"P","id":"1"}]}}]}`},
		{"a name with a slash", "/a~1b~0/c", `{"resourceType":"P","a/b~":{"c":1,"d":1}}`, `{"resourceType":"P","a/b~":{"d":1}}`},
		{"nothing where there is nothing", "/a/b/c", `{"resourceType":"P","a":1}`, `{"resourceType":"P","a":1}`},
		{"numbers and texts stay as they are written", "/a", `{"resourceType":"P","v":1.50,"w":"\u00e4\n","a":1}`, `{"resourceType":"P","v":1.50,"w":"ä\n","a":1}`},
	} {
		got, n, err := Redact(fhirMedia, []byte(tt.in), Redaction{All: pointers(t, tt.at)})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		want := tt.want
		if tt.at == "/a" {
			want = strings.Replace(want, `,"a":1`, "", 1)
		}
		if string(got) != want {
			t.Errorf("%s: got %s\nwant %s", tt.name, got, want)
		}
		if (n == 0) != (string(got) == tt.in) {
			t.Errorf("%s: %d things taken out", tt.name, n)
		}
	}
}

// TestWhatCanNotBeRedactedIsNotShown: whatever is not surely read as it will be.
func TestWhatCanNotBeRedactedIsNotShown(t *testing.T) {
	good := `{"resourceType":"P","name":1}`
	for name, tt := range map[string]struct{ media, body string }{
		"XML":                    {"application/fhir+xml", good},
		"nothing said":           {"", good},
		"HTML":                   {"text/html", good},
		"NDJSON":                 {"application/fhir+ndjson", good},
		"another charset":        {"application/fhir+json; charset=utf-16", good},
		"two members of a name":  {fhirMedia, `{"resourceType":"P","name":1,"name":2}`},
		"and of another case":    {fhirMedia, `{"resourceType":"P","name":1,"Name":2}`},
		"an escape in a name":    {fhirMedia, `{"resourceType":"P","n\u0061me":1}`},
		"a byte order mark":      {fhirMedia, "\xef\xbb\xbf" + good},
		"more than one document": {fhirMedia, good + good},
		"half a document":        {fhirMedia, good[:10]},
		"nothing":                {fhirMedia, ""},
		"no object":              {fhirMedia, `[` + good + `]`},
		"no resource":            {fhirMedia, `{"data":{"Patient":{"name":1}}}`},
		"a type that is none":    {fhirMedia, `{"resourceType":1,"name":1}`},
		"too deep":               {fhirMedia, `{"resourceType":"P","a":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}`},
	} {
		if got, _, err := Redact(tt.media, []byte(tt.body), Redaction{All: pointers(t, "/name")}); err == nil || got != nil {
			t.Errorf("%s: got %s, %v", name, got, err)
		}
	}
}

// TestRedactionTakesTimeByTheSizeOfTheAnswer: a backend must not be able to make
// it take longer than that, with what is beside each other in great numbers.
func TestRedactionTakesTimeByTheSizeOfTheAnswer(t *testing.T) {
	const n = 100_000
	var members, list, companions strings.Builder
	for i := range n {
		fmt.Fprintf(&members, `,"valueA%d":1,"_valueA%d":1`, i, i)
		list.WriteString(`,"a"`)
		companions.WriteString(`,null`)
	}
	for at, body := range map[string]string{
		"/*":        `{"resourceType":"P"` + members.String() + `}`,
		"/value[x]": `{"resourceType":"P"` + members.String() + `}`,
		"/given/*":  `{"resourceType":"P","given":["a"` + list.String() + `],"_given":[{"id":"x"}` + companions.String() + `]}`,
		"/given/0":  `{"resourceType":"P","given":["a"` + list.String() + `],"_given":[{"id":"x"}` + companions.String() + `]}`,
	} {
		began := time.Now()
		if _, n, err := Redact(fhirMedia, []byte(body), Redaction{All: pointers(t, at)}); err != nil || n == 0 {
			t.Errorf("%s: %d, %v", at, n, err)
		}
		// It takes milliseconds; by the square of it, it would take minutes.
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s took %v", at, took)
		}
	}
}

// TestTheAnswersToEntriesAreRedactedEachByItsOwn: and not at all if it is not
// known which answers what.
func TestTheAnswersToEntriesAreRedactedEachByItsOwn(t *testing.T) {
	in := `{"resourceType":"Bundle","type":"batch-response","entry":[
		{"resource":{"resourceType":"P","a":1,"b":1,"c":1},"response":{"status":"200"}},
		{"resource":{"resourceType":"P","a":1,"b":1,"c":1}},
		{"response":{"status":"404","outcome":{"resourceType":"OperationOutcome","a":1,"b":1,"c":1}}}]}`
	r := Redaction{All: pointers(t, "/a"), Entries: [][]protocol.Pointer{pointers(t, "/b"), nil, pointers(t, "/c")}}
	got, _, err := Redact(fhirMedia, []byte(in), r)
	want := `{"resourceType":"Bundle","type":"batch-response","entry":[{"resource":{"resourceType":"P","c":1},"response":{"status":"200"}},` +
		`{"resource":{"resourceType":"P","b":1,"c":1}},{"response":{"status":"404","outcome":{"resourceType":"OperationOutcome","b":1}}}]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	got, _, err = Redact(fhirMedia, []byte(`{"resourceType":"OperationOutcome","a":1,"b":1,"c":1,"d":1}`), r)
	if err != nil || string(got) != `{"resourceType":"OperationOutcome","d":1}` {
		t.Errorf("an outcome for all of them: %s, %v", got, err)
	}
	for _, bad := range []string{
		`{"resourceType":"Bundle","type":"batch-response","entry":[{"resource":{"resourceType":"P"}}]}`,
		`{"resourceType":"Bundle","type":"batch-response"}`,
		strings.Replace(in, "batch-response", "searchset", 1),
		`{"resourceType":"P","a":1}`,
	} {
		if got, _, err := Redact(fhirMedia, []byte(bad), r); err == nil {
			t.Errorf("%s is redacted as %s", bad, got)
		}
	}
}

func TestWhetherJSONWillDo(t *testing.T) {
	for _, tt := range []struct {
		accept, format string
		want           bool
	}{
		{"", "", true}, {"*/*", "", true}, {"application/fhir+json", "", true}, {"application/json;q=0.1, application/fhir+xml", "", true},
		{"application/*", "", true}, {"application/fhir+xml", "json", true}, {"", "application/fhir json", true},
		{"application/fhir+xml", "", false}, {"application/json;q=0", "", false}, {"text/html", "", false}, {"*/*", "xml", false},
		{"*/*", "application/fhir+xml", false}, {"*/*", "html/json", false}, {"application/fhir+json", "ttl", false},
	} {
		if got := AnswersJSON(tt.accept, tt.format); got != tt.want {
			t.Errorf("%q, %q: %v", tt.accept, tt.format, got)
		}
	}
}

// plainRedact is redaction again, on the values of encoding/json and without a
// thought for cost. It knows nothing of companions' places.
func plainRedact(v any, ps []protocol.Pointer) any {
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				walk(v[k])
			}
			if _, ok := v["resourceType"]; ok {
				for _, p := range ps {
					plainPoint(v, p)
				}
			}
			if text, ok := v["text"].(map[string]any); ok && text["div"] != nil {
				v["text"] = gone{}
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(v)
	out, _ := plainSettle(v, true)
	return out
}

type gone struct{}

func plainPoint(v any, p protocol.Pointer) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			switch {
			case !pointsAt(p[0], k):
			case len(p) > 1:
				plainPoint(e, p[1:])
			default:
				v[k] = gone{}
			}
		}
	case []any:
		n, isIndex := indexOf(p[0])
		for i := range v {
			switch {
			case !isIndex && p[0] != "*":
				plainPoint(v[i], p)
			case isIndex && n != i:
			case len(p) > 1:
				plainPoint(v[i], p[1:])
			default:
				v[i] = gone{}
			}
		}
	}
}

func plainSettle(v any, root bool) (any, bool) {
	switch v := v.(type) {
	case gone:
		return nil, false
	case map[string]any:
		had := len(v)
		for k := range v {
			if e, ok := plainSettle(v[k], false); ok {
				v[k] = e
			} else {
				delete(v, k)
			}
		}
		return v, root || had == 0 || len(v) > 0
	case []any:
		var left []any
		for i := range v {
			if e, ok := plainSettle(v[i], false); ok {
				left = append(left, e)
			}
		}
		if len(v) == 0 {
			return v, true
		}
		return left, root || len(left) > 0
	}
	return v, true
}

func decoded(t testing.TB, b []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return v
}

// checkRedact compares a redaction with the plain one, and redacts once more,
// which must find nothing left.
func checkRedact(t *testing.T, body []byte, ps []protocol.Pointer) {
	got, _, err := Redact(fhirMedia, body, Redaction{All: ps})
	if err != nil {
		return
	}
	again, n, err := Redact(fhirMedia, got, Redaction{All: ps})
	indexed := slices.ContainsFunc(ps, func(p protocol.Pointer) bool {
		return slices.ContainsFunc(p, func(s string) bool { _, is := indexOf(s); return is })
	})
	// What is behind an index moves up to it, in the answer that is redacted.
	if err != nil || !indexed && (n != 0 || !bytes.Equal(again, got)) {
		t.Fatalf("%q: once more, %d: %v\n%s\n%s", ps, n, err, got, again)
	}
	if bytes.Contains(body, []byte(`"_`)) {
		return // lists of companions are in the table
	}
	if want := plainRedact(decoded(t, body), ps); !reflect.DeepEqual(decoded(t, got), want) {
		b, _ := json.Marshal(want)
		t.Fatalf("%q of %s:\ngot  %s\nwant %s", ps, body, got, b)
	}
}

// TestRedactionTakesOutWhatIsPointedAtAndNothingElse: with every pointer there is
// into real resources, and those that generalise it.
func TestRedactionTakesOutWhatIsPointedAtAndNothingElse(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		var walk func(v any, p protocol.Pointer)
		try := func(p protocol.Pointer) {
			if s := p.String(); len(p) > 0 && p[len(p)-1] != "resourceType" && !seen[s] {
				seen[s] = true
				n++
				checkRedact(t, body, []protocol.Pointer{p})
			}
		}
		walk = func(v any, p protocol.Pointer) {
			try(p)
			try(slices.DeleteFunc(slices.Clone(p), func(s string) bool { _, is := indexOf(s); return is }))
			switch v := v.(type) {
			case map[string]any:
				for k, e := range v {
					walk(e, append(p[:len(p):len(p)], k))
				}
			case []any:
				for _, token := range []string{"0", "*"} {
					walk(v[0], append(p[:len(p):len(p)], token))
				}
			}
		}
		walk(decoded(t, body), nil)
	}
	if n < 500 {
		t.Errorf("only %d pointers", n)
	}
}

func FuzzRedact(f *testing.F) {
	for _, s := range [][2]string{
		{`{"resourceType":"P","name":[{"family":"a","given":["b","c"]}]}`, "/name/*/given/0"},
		{`{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"P","text":{"div":"x"},"a":{}}}]}`, "/a\n/*/b"},
		{`{"resourceType":"O","valueQuantity":{"value":1.50},"contained":[{"resourceType":"P"}]}`, "/value[x]\n/contained/0"},
		{`{"resourceType":"P","given":["a"],"_given":[{"id":"x"}]}`, "/_given/0/id\n/given"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, body, texts string) {
		o, err := protocol.Oblige([]protocol.Obligation{{Kind: protocol.KindRedact, Value: protocol.Strings(strings.Split(texts, "\n")...)}})
		if err != nil {
			return
		}
		checkRedact(t, []byte(body), o.Redact)
	})
}

func BenchmarkRedact(b *testing.B) {
	body, err := os.ReadFile("testdata/Patient-example.json")
	if err != nil {
		b.Fatal(err)
	}
	r := Redaction{All: pointers(b, "/name/family", "/telecom", "/value[x]")}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Redact(fhirMedia, body, r); err != nil {
			b.Fatal(err)
		}
	}
}
