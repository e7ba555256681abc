package httpgw

import (
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
)

// TestReportsAreReadWhereThatMatters: on a route that passes reports on failure, a body
// that no rule reads is read to say whether it is one; elsewhere it is not. What can not
// be read goes on as ever, and is none.
func TestReportsAreReadWhereThatMatters(t *testing.T) {
	const plain = `{"resourceType":"Observation","subject":{"reference":"Patient/p1"}}`
	const lookup = `{"resourceType":"Observation","subject":{"reference":"Patient?identifier=1"}}`
	long := `{"resourceType":"Observation","status":"` + strings.Repeat("x", 2000) + `"}`
	r := newRig(t, serveBackend(t, &corpus.Backend{}))
	r.judge.unasked = func(...string) bool { return true }
	r.g.cfg.Listener.Limits.DecisionBytes = 1000
	var got []string
	r.judge.deny = func(_ *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		what := tx.Action
		if tx.Report {
			what += " report"
		}
		got = append(got, what)
		return protocol.CauseNone
	}
	pass := func(on bool) {
		for _, route := range r.g.table.Load().routes {
			route.PassOnFailure = on
		}
	}
	bundle := func(entries string) string {
		return `{"resourceType":"Bundle","type":"transaction","entry":[` + entries + `]}`
	}
	tell := `{"request":{"method":"POST","url":"Observation"},"resource":` + plain + `}`
	for _, tt := range []struct {
		name, send, want, facts string
		pass                    bool
	}{
		{"an observation", post("/fhir/Observation", plain), "create report", `patients:[~"p1"]`, true},
		{"again", post("/fhir/Observation", plain), "create report", `patients:[~"p1"]`, true},
		{"on another route", post("/fhir/Observation", plain), "create", `patients:[]`, false},
		{"that looks something up", post("/fhir/Observation", lookup), "create", `conditional_references:["Patient?identifier"]`, true},
		{"with a condition", post("/fhir/Observation", plain, "If-None-Exist: identifier=x"), "conditional-create", "", true},
		{"with a parameter", post("/fhir/Observation?_format=json", plain), "create", "", true},
		{"that has its origin created too", post("/fhir/Observation", plain, "X-Provenance: {\"resourceType\":\"Provenance\"}"), "create", "", true},
		{"as some servers read it, too", post("/fhir/Observation", plain, "X_Provenance: {\"resourceType\":\"Provenance\"}"), "create", "", true},
		{"that looks whether it is there", post("/fhir/Observation", plain, "X-Upsert-Extistence-Check: disabled"), "create", "", true},
		{"that goes on to others", post("/fhir/Observation", plain, "X-Cascade: delete"), "create", "", true},
		{"with a field that tells of it", post("/fhir/Observation", plain, "X-Request-Id: 4"), "create report", "", true},
		{"of no length", "POST /fhir/Observation HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Type: application/fhir+json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n", "create", `patients:[]`, true},
		{"that is long", post("/fhir/Observation", long), "create", `patients:[]`, true},
		{"in a coding", post("/fhir/Observation", "xxx", "Content-Encoding: gzip"), "create", `patients:[]`, true},
		{"in XML", strings.Replace(post("/fhir/Observation", "<Observation/>"), "json", "xml", 1), "create", `patients:[]`, true},
		{"an order", post("/fhir/MedicationRequest", `{"resourceType":"MedicationRequest"}`), "create", `patients:[]`, true},
		{"a read", get("/fhir/Patient/1"), "read", "", true},
		{"a transaction", post("/fhir", bundle(tell)), "transaction report, create report", "", true},
		{"one with a read", post("/fhir", bundle(tell+`,{"request":{"method":"GET","url":"Patient/1"}}`)), "transaction, create report, read", "", true},
		{"one with its origin", post("/fhir", bundle(tell), "X-Provenance: {}"), "transaction, create", "", true},
		{"plain HTTP", post("/api/x", plain), "POST", "", true},
	} {
		got = nil
		pass(tt.pass)
		resp, body := r.ask(tt.send)
		judged, _, _ := r.judge.take()
		if resp.StatusCode != 200 || len(judged) == 0 {
			t.Fatalf("%s: %s %s", tt.name, resp.Status, body)
		}
		if s := strings.Join(got, ", "); s != tt.want || !strings.Contains(judged[0].request, tt.facts) {
			t.Errorf("%s: %q, want %q; %s", tt.name, s, tt.want, judged[0].request)
		}
	}
}
