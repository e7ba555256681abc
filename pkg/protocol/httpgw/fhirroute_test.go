package httpgw

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
)

// post returns a FHIR request with a body.
func post(path, body string, fields ...string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Type: application/fhir+json\r\n" + strings.Join(append(fields, ""), "\r\n") +
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

// denyType denies what is done to one type of resource.
func denyType(typ string) func(*protocol.Route, *protocol.Transaction) protocol.Cause {
	return func(_ *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		if tx.Resource == typ {
			return protocol.CausePolicy
		}
		return protocol.CauseNone
	}
}

func TestFHIRRequestsAreJudgedAsInteractions(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	for _, tt := range []struct{ send, action, resource, fact string }{
		{get("/fhir/Patient/p1"), "read", "Patient", `id:~"p1"`},
		{get("/fhir/Observation?patient=p1"), "search", "Observation", `"p1"`},
		{post("/fhir/Observation", `{"resourceType":"Observation","subject":{"reference":"Patient/p1"}}`), "create", "Observation", `"p1"`},
		{get("/fhir/metadata"), "capabilities", "system", ""},
	} {
		if resp, body := r.ask(tt.send); resp.StatusCode != 200 {
			t.Errorf("%q is answered %s %s", tt.send, resp.Status, body)
		}
		judged, refused, _ := r.judge.take()
		if len(judged) != 1 {
			t.Fatalf("%q: judged %+v, refused %+v", tt.send, judged, refused)
		}
		if j := judged[0]; j.protocol != "fhir" || !strings.HasPrefix(j.action, tt.action) || j.resource != tt.resource || !strings.Contains(j.request, tt.fact) {
			t.Errorf("%q is judged as %+v", tt.send, j)
		}
	}
}

const bundle = `{"resourceType":"Bundle","type":%q,"entry":[
	{"request":{"method":"POST","url":"Observation"},"resource":{"resourceType":"Observation","status":"final"}},
	{"request":{"method":"GET","url":"Patient/p1"}},
	{"request":{"method":"GET","url":"Observation/o1"}}]}`

// TestEveryEntryOfABundleIsJudged: and a transaction is all or nothing.
func TestEveryEntryOfABundleIsJudged(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	resp, body := r.ask(post("/fhir", fmt.Sprintf(bundle, "transaction")))
	if resp.StatusCode != 200 {
		t.Fatalf("answered %s %s", resp.Status, body)
	}
	judged, _, _ := r.judge.take()
	if len(judged) != 4 {
		t.Fatalf("judged %d times, want the Bundle and 3 entries", len(judged))
	}
	for i, j := range judged[1:] {
		if j.of != "d1" || j.part != i {
			t.Errorf("entry %d is part %d of %q", i, j.part, j.of)
		}
	}
	if reqs, _ := backend.Take(); len(reqs) != 1 {
		t.Errorf("%d requests arrived", len(reqs))
	}
	r.judge.deny = denyType("Patient")
	resp, body = r.ask(post("/fhir", fmt.Sprintf(bundle, "transaction")))
	if resp.StatusCode != 403 || !strings.Contains(body, "OperationOutcome") {
		t.Errorf("a transaction with a denied entry is answered %s %s", resp.Status, body)
	}
	if reqs, _ := backend.Take(); len(reqs) != 0 {
		t.Errorf("%d requests arrived", len(reqs))
	}
}

// TestABatchGoesOnWithoutItsDeniedEntries: each answer stands where its entry
// stood, whatever form and coding of the answer the device asked for.
func TestABatchGoesOnWithoutItsDeniedEntries(t *testing.T) {
	arrived := make(chan string, 1)
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		arrived <- string(b)
		if req.Header.Get("Accept-Encoding") != "" || req.Header.Get("Accept") != "application/fhir+json" || req.URL.RawQuery != "" {
			t.Errorf("the backend may answer in a form that can not be read: %v %q", req.Header, req.URL.RawQuery)
		}
		_, _ = io.WriteString(w, `{"resourceType":"Bundle","type":"batch-response","entry":[{"response":{"status":"201"}},{"response":{"status":"200"}}]}`)
	})))
	r.judge.deny = denyType("Patient")
	resp, body := r.ask(post("/fhir?_format=json", fmt.Sprintf(bundle, "batch"), "Accept-Encoding: gzip"))
	if resp.StatusCode != 200 {
		t.Fatalf("answered %s %s", resp.Status, body)
	}
	if sent := <-arrived; strings.Contains(sent, "Patient") {
		t.Errorf("arrived: %s", sent)
	}
	var answer struct {
		Entry []struct{ Response struct{ Status string } }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range answer.Entry {
		got = append(got, e.Response.Status[:3])
	}
	if want := []string{"201", "403", "200"}; !slices.Equal(got, want) {
		t.Errorf("answered %q, want %q", got, want)
	}
}

// TestABatchOfWhichNothingIsLeftAsksNobody.
func TestABatchOfWhichNothingIsLeftAsksNobody(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.judge.deny = func(_ *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		if tx.Of != "" {
			return protocol.CausePolicy
		}
		return protocol.CauseNone
	}
	resp, body := r.ask(post("/fhir", fmt.Sprintf(bundle, "batch")))
	if resp.StatusCode != 200 || strings.Count(body, "OperationOutcome") != 3 {
		t.Errorf("answered %s %s", resp.Status, body)
	}
	if reqs, _ := backend.Take(); len(reqs) != 0 {
		t.Errorf("%d requests arrived", len(reqs))
	}
}

// TestAnEntryThatCanNotBeDecidedStopsTheBatch: what is not decided is not sent,
// and the device may try again.
func TestAnEntryThatCanNotBeDecidedStopsTheBatch(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.judge.deny = func(_ *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		if tx.Of != "" && tx.Part == 2 {
			return protocol.CauseFault
		}
		return protocol.CauseNone
	}
	if resp, body := r.ask(post("/fhir", fmt.Sprintf(bundle, "batch"))); resp.StatusCode != 503 {
		t.Errorf("answered %s %s", resp.Status, body)
	}
	if reqs, _ := backend.Take(); len(reqs) != 0 {
		t.Errorf("%d requests arrived", len(reqs))
	}
}

// TestABodyNobodyAsksAboutStreams: it is larger than a decision may need, and
// the transaction says what was left out.
func TestABodyNobodyAsksAboutStreams(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.judge.unasked = func(...string) bool { return true }
	var omitted [][]string
	r.judge.deny = func(_ *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		omitted = tx.Omitted
		return protocol.CauseNone
	}
	big := `{"resourceType":"Binary","data":"` + strings.Repeat("A", 5<<20) + `"}`
	resp, body := r.ask(post("/fhir/Binary", big))
	if resp.StatusCode != 200 {
		t.Fatalf("answered %s %s", resp.Status, body)
	}
	if _, bodies := backend.Take(); len(bodies) != 1 || bodies[0] != big {
		t.Error("the body did not arrive as it was sent")
	}
	if len(omitted) == 0 {
		t.Error("the transaction does not say what was left out")
	}
	// A Bundle is the question itself, whoever asks.
	if resp, _ := r.ask(post("/fhir", `{"resourceType":"Bundle","type":"batch","x":"`+strings.Repeat("A", 5<<20)+`"}`)); resp.StatusCode != 413 {
		t.Errorf("a large Bundle is answered %s", resp.Status)
	}
}

// TestASlashAtTheEndOfAFHIRPathIsNone: FHIR knows none, and what is judged is
// what is sent.
func TestASlashAtTheEndOfAFHIRPathIsNone(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.ask(get("/fhir/Patient/p1/"))
	if reqs, _ := backend.Take(); len(reqs) != 1 || reqs[0].RequestURI != "/fhir/Patient/p1" {
		t.Errorf("arrived: %v", reqs)
	}
	if judged, _, _ := r.judge.take(); len(judged) != 1 || !strings.Contains(judged[0].request, `path:["fhir","Patient",~"p1"]`) {
		t.Errorf("judged: %+v", judged)
	}
}
