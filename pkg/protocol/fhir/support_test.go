package fhir

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// request makes a Request of a method and a URL below the base.
func request(t testing.TB, method, url string, fields ...string) *Request {
	t.Helper()
	path, query, _ := strings.Cut(url, "?")
	r := &Request{Method: method}
	if path != "" {
		r.Path = strings.Split(path, "/")
	}
	var f *Refusal
	if r.Query, f = parseForm(query, 1000); f != nil {
		t.Fatalf("%s: %v", url, f)
	}
	h := http.Header{}
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	r.Header = h.Values
	return r
}

func parse(t testing.TB, method, url string, fields ...string) *Interaction {
	t.Helper()
	i, err := Parse(request(t, method, url, fields...), Limits{})
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return i
}

// read parses and reads a body.
func read(t testing.TB, method, url, contentType, body string) *Interaction {
	t.Helper()
	i := parse(t, method, url)
	if err := i.ReadBody(contentType, []byte(body)); err != nil {
		t.Fatalf("%s %s %s: %v", method, url, body, err)
	}
	return i
}

// refused checks that err is a refusal with the status.
func refused(t testing.TB, what string, err error, status int) {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		t.Errorf("%s: got %v, want a refusal with %d", what, err, status)
		return
	}
	if r.Status != status || r.Code == "" || r.Why == "" {
		t.Errorf("%s: got %d %s %q, want %d", what, r.Status, r.Code, r.Why, status)
	}
}

const fhirJSON = "application/fhir+json"

// facts returns the facts of an interaction as Go values.
func facts(t testing.TB, i *Interaction) map[string]any {
	t.Helper()
	var tx protocol.Transaction
	i.Transaction(&tx)
	if tx.Protocol != "fhir" || len(tx.Facts) != 1 || tx.Facts[0].Name != "fhir" {
		t.Fatalf("got %+v", tx)
	}
	return plain(t, tx.Facts[0].Value).(map[string]any)
}

func plain(t testing.TB, v protocol.Value) any {
	switch v.Kind() {
	case protocol.KindBool:
		return v.True()
	case protocol.KindInt:
		return v.Number()
	case protocol.KindString:
		return v.Text()
	case protocol.KindList:
		l := []any{}
		for _, e := range v.Elems() {
			l = append(l, plain(t, e))
		}
		return l
	case protocol.KindObject:
		m := map[string]any{}
		for _, f := range v.Fields() {
			if _, twice := m[f.Name]; twice {
				t.Errorf("the fact %s is there twice", f.Name)
			}
			m[f.Name] = plain(t, f.Value)
		}
		return m
	}
	return nil
}

// text is the JSON of a fact, and "-" of one that is missing.
func text(t testing.TB, m map[string]any, name string) string {
	t.Helper()
	v, ok := m[name]
	if !ok {
		return "-"
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// same checks facts written as name=JSON.
func same(t testing.TB, what string, m map[string]any, want ...string) {
	t.Helper()
	for _, w := range want {
		name, v, _ := strings.Cut(w, "=")
		if got := text(t, m, name); got != v {
			t.Errorf("%s: %s is %s, want %s", what, name, got, v)
		}
	}
}
