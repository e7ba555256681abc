package httpgw

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// secret is what no answer may hold in these tests.
const secret = "Mustermann"

const patientBody = `{"resourceType":"Patient","id":"p1","name":[{"family":"` + secret + `"}],"gender":"female"}`

// A redactRig is a gateway that obliges to redact /name, before a backend that
// answers as it is told to.
type redactRig struct {
	*rig
	asked  *http.Request // what the backend was asked last
	answer func(w http.ResponseWriter)
	done   []string
}

func newRedactRig(t *testing.T) *redactRig {
	rr := &redactRig{}
	rr.rig = newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		rr.asked = r
		rr.answer(w)
	})))
	rr.obliges(duty("redact", protocol.String("/name")))
	rr.g.cfg.Obliged = func(kind, result string) { rr.done = append(rr.done, kind+" "+result) }
	return rr
}

// answers returns an answer with the given fields, name and value in turn.
func answers(status int, body string, fields ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for f := range slices.Chunk(fields, 2) {
			w.Header().Add(f[0], f[1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// TestAnAnswerIsRedacted: with a length, a type and validators that are its own,
// and asked for in a form that can be read.
func TestAnAnswerIsRedacted(t *testing.T) {
	rr := newRedactRig(t)
	rr.answer = answers(200, patientBody, "Content-Type", "application/fhir+json; charset=utf-8", "ETag", `"7"`, "Content-MD5", "x", "Digest", "y",
		"Repr-Digest", "z", "Accept-Ranges", "bytes", "Last-Modified", "Tue, 01 Jan 2030 00:00:00 GMT", "X-Other", "stays", "Trailer", "X-Sum")
	resp, body := rr.ask("GET /fhir/Patient/p1 HTTP/1.1\r\nHost: " + testHost + "\r\nAccept-Encoding: gzip\r\nRange: bytes=0-10\r\nIf-Range: \"7\"\r\n" +
		"If-None-Match: \"7\"\r\nIf-Modified-Since: Tue, 01 Jan 2030 00:00:00 GMT\r\nAccept: application/fhir+xml;q=0.1, application/json\r\nX-Mine: 1\r\n\r\n")
	if want := `{"resourceType":"Patient","id":"p1","gender":"female"}`; resp.StatusCode != 200 || body != want || resp.ContentLength != int64(len(want)) {
		t.Errorf("answered %s, %d: %s", resp.Status, resp.ContentLength, body)
	}
	for _, name := range []string{"Etag", "Content-Md5", "Digest", "Repr-Digest", "Accept-Ranges"} {
		if resp.Header.Get(name) != "" {
			t.Errorf("the answer has a %s of the whole resource", name)
		}
	}
	if resp.Header.Get("X-Other") != "stays" || resp.Header.Get("Last-Modified") == "" || resp.Header.Get("Content-Type") == "" {
		t.Errorf("the answer lost fields: %v", resp.Header)
	}
	for _, name := range []string{"Accept-Encoding", "Range", "If-Range", "If-None-Match", "If-Modified-Since"} {
		if rr.asked.Header.Get(name) != "" {
			t.Errorf("the backend is asked with %s", name)
		}
	}
	if rr.asked.Header.Get("Accept") != "application/fhir+json" || rr.asked.Header.Get("X-Mine") != "1" {
		t.Errorf("the backend is asked with %v", rr.asked.Header)
	}
	if fmt.Sprint(rr.done) != "[redact done]" {
		t.Errorf("counted %q", rr.done)
	}
}

// TestAWritesConditionsStay: they are not about copies.
func TestAWritesConditionsStay(t *testing.T) {
	rr := newRedactRig(t)
	rr.answer = answers(201, patientBody, "Content-Type", "application/fhir+json")
	resp, body := rr.ask("PUT /fhir/Patient/p1 HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Type: application/fhir+json\r\nIf-None-Match: *\r\nIf-Match: W/\"1\"\r\n" +
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(patientBody), patientBody))
	if resp.StatusCode != 201 || strings.Contains(body, secret) {
		t.Errorf("answered %s %s", resp.Status, body)
	}
	if rr.asked.Header.Get("If-None-Match") != "*" || rr.asked.Header.Get("If-Match") == "" {
		t.Errorf("the backend is asked with %v", rr.asked.Header)
	}
}

// TestAnswersWithoutABodyPassWithoutTheLengthOfOne.
func TestAnswersWithoutABodyPassWithoutTheLengthOfOne(t *testing.T) {
	rr := newRedactRig(t)
	for _, tt := range []struct {
		send, method string
		status       int
		fields       []string
	}{
		{strings.Replace(get("/fhir/Patient/p1"), "GET", "HEAD", 1), "HEAD", 200, []string{"Content-Length", "4711", "Content-Type", "application/fhir+xml"}},
		{get("/fhir/Patient/p1"), "GET", 304, []string{"ETag", `"7"`}},
		{"DELETE /fhir/Patient/p1 HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n", "DELETE", 204, nil},
		{post("/fhir/Patient", patientBody), "POST", 201, []string{"Location", "Patient/p1/_history/1", "Content-Length", "0"}},
	} {
		rr.answer = answers(tt.status, "", tt.fields...)
		conn, _ := rr.connect()
		if _, err := io.WriteString(conn, tt.send); err != nil {
			t.Fatal(err)
		}
		resp, body := rr.read(bufio.NewReader(conn), tt.method)
		if tt.method == "HEAD" && (resp.ContentLength > 0 || resp.Header.Get("Content-Length") == "4711") {
			t.Errorf("HEAD tells the length of the whole: %d", resp.ContentLength)
		}
		if resp.StatusCode != tt.status || body != "" || resp.Header.Get("Etag") != "" {
			t.Errorf("%s is answered %s %v %q", tt.method, resp.Status, resp.Header, body)
		}
	}
}

// TestWhatCanNotBeRedactedIsNeverPassed: the device hears nothing of it, and the
// record says so.
func TestWhatCanNotBeRedactedIsNeverPassed(t *testing.T) {
	big := strings.Replace(patientBody, `"gender"`, `"x":"`+strings.Repeat("x", 5000)+`","gender"`, 1)
	json := []string{"Content-Type", "application/fhir+json"}
	for name, answer := range map[string]func(http.ResponseWriter){
		"XML":                     answers(200, "<Patient><name/>"+secret+"</Patient>", "Content-Type", "application/fhir+xml"),
		"no type":                 answers(200, patientBody, "Content-Type", ""),
		"two types":               answers(200, patientBody, append(json, "Content-Type", "text/plain")...),
		"multipart":               answers(200, "--a\r\n\r\n"+patientBody, "Content-Type", "multipart/related; boundary=a"),
		"gzip":                    answers(200, patientBody, append(json, "Content-Encoding", "gzip")...),
		"a part":                  answers(206, patientBody, append(json, "Content-Range", "bytes 0-10/100")...),
		"a part that says 200":    answers(200, patientBody, append(json, "Content-Range", "bytes 0-10/100")...),
		"a delta":                 answers(226, patientBody, json...),
		"no JSON":                 answers(200, secret, json...),
		"two members of a name":   answers(200, strings.Replace(patientBody, `"name"`, `"name":1,"name"`, 1), json...),
		"no resource":             answers(200, `{"data":"`+secret+`"}`, json...),
		"too large":               answers(200, big, json...),
		"too large, and declared": answers(200, big, append(json, "Content-Length", fmt.Sprint(len(big)))...),
		"an error in HTML":        answers(500, "<html>"+secret, "Content-Type", "text/html"),
		"cut short": func(w http.ResponseWriter) {
			answers(200, patientBody[:60], append(json, "Content-Length", fmt.Sprint(len(patientBody)))...)(w)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			rr := newRedactRig(t)
			rr.g.cfg.Listener.Limits.DecisionBytes = config.Size(4096)
			rr.answer = answer
			resp, body := rr.ask(get("/fhir/Patient/p1"))
			if resp.StatusCode != http.StatusBadGateway || strings.Contains(body, secret) || !strings.Contains(body, "OperationOutcome") {
				t.Errorf("answered %s %s", resp.Status, body)
			}
			if strings.Contains(fmt.Sprint(resp.Header), secret) {
				t.Errorf("in its head: %v", resp.Header)
			}
			if _, _, u := rr.judge.take(); len(u) != 1 || !strings.HasPrefix(u[0], "not redacted: ") || strings.Contains(u[0], secret) {
				t.Errorf("undelivered: %q", u)
			}
			if fmt.Sprint(rr.done) != "[redact failed]" {
				t.Errorf("counted %q", rr.done)
			}
		})
	}
}

// TestWhatCouldNotBeRedactedIsNotAskedFor.
func TestWhatCouldNotBeRedactedIsNotAskedFor(t *testing.T) {
	rr := newRedactRig(t)
	rr.answer = answers(200, patientBody, "Content-Type", "application/fhir+json")
	for name, send := range map[string]string{
		"no FHIR":            get("/api/Patient"),
		"XML by Accept":      "GET /fhir/Patient/p1 HTTP/1.1\r\nHost: " + testHost + "\r\nAccept: application/fhir+xml\r\n\r\n",
		"XML by _format":     get("/fhir/Patient/p1?_format=xml"),
		"something untold":   get("/fhir/Patient/p1?_format=text/turtle"),
		"an upgrade":         shake + "\r\n",
		"a batch, XML asked": post("/fhir?_format=xml", fmt.Sprintf(bundle, "batch")),
	} {
		rr.asked = nil
		resp, body := rr.ask(send)
		if resp.StatusCode != http.StatusForbidden || rr.asked != nil || strings.Contains(body, secret) {
			t.Errorf("%s: answered %s, asked %v", name, resp.Status, rr.asked != nil)
		}
	}
}

// TestEntriesOfABundleAreRedactedEachByItsDecision: also when some of them were
// denied and the answer is put together here.
func TestEntriesOfABundleAreRedactedEachByItsDecision(t *testing.T) {
	entry := func(typ string) string {
		return `{"resource":{"resourceType":"` + typ + `","name":"` + secret + `","note":"` + secret + `","id":"1"},"response":{"status":"200 OK"}}`
	}
	for _, tt := range []struct {
		kind, denied string
		entries      []string
	}{
		{"batch", "", []string{entry("Observation"), entry("Patient"), entry("Observation")}},
		{"transaction", "", []string{entry("Observation"), entry("Patient"), entry("Observation")}},
		{"batch", "Patient", []string{entry("Observation"), entry("Observation")}},
	} {
		rr := newRedactRig(t)
		if tt.denied != "" {
			rr.judge.deny = denyType(tt.denied)
		}
		rr.judge.oblige = func(_ *protocol.Route, tx *protocol.Transaction) []protocol.Obligation {
			switch {
			case tx.Of == "":
				return nil
			case tx.Part == 0:
				return []protocol.Obligation{duty("redact", protocol.String("/name"))}
			}
			return []protocol.Obligation{duty("redact", protocol.Strings("/note", "/name"))}
		}
		rr.answer = answers(200, `{"resourceType":"Bundle","type":"`+tt.kind+`-response","entry":[`+strings.Join(tt.entries, ",")+"]}", "Content-Type", "application/fhir+json", "ETag", `"1"`)
		resp, body := rr.ask(post("/fhir", fmt.Sprintf(bundle, tt.kind)))
		if resp.StatusCode != 200 || strings.Count(body, secret) != 1 || !strings.Contains(body, `{"resourceType":"Observation","note":"`+secret+`","id":"1"}`) {
			t.Errorf("%s without %q: answered %s %s", tt.kind, tt.denied, resp.Status, body)
		}
		rr.answer = answers(200, `{"resourceType":"Bundle","type":"`+tt.kind+`-response","entry":[`+entry("Patient")+"]}", "Content-Type", "application/fhir+json")
		if resp, body := rr.ask(post("/fhir", fmt.Sprintf(bundle, tt.kind))); resp.StatusCode != http.StatusBadGateway || strings.Contains(body, secret) {
			t.Errorf("%s with one answer: answered %s %s", tt.kind, resp.Status, body)
		}
	}
}

// TestAnEntryWhoseObligationCanNotBeMetIsDeniedAlone: as one that the policy
// denies is.
func TestAnEntryWhoseObligationCanNotBeMetIsDeniedAlone(t *testing.T) {
	rr := newRedactRig(t)
	rr.judge.oblige = func(_ *protocol.Route, tx *protocol.Transaction) []protocol.Obligation {
		if tx.Resource == "Patient" {
			return []protocol.Obligation{duty("mirror", protocol.String("nowhere"))}
		}
		return nil
	}
	rr.answer = answers(200, `{"resourceType":"Bundle","type":"batch-response","entry":[{"response":{"status":"201"}},{"response":{"status":"200"}}]}`, "Content-Type", "application/fhir+json")
	resp, body := rr.ask(post("/fhir", fmt.Sprintf(bundle, "batch")))
	if want := `[{"response":{"status":"201"}},{"response":{"status":"403 Forbidden"`; resp.StatusCode != 200 || !strings.Contains(body, want) {
		t.Errorf("answered %s %s", resp.Status, body)
	}
	if resp, _ := rr.ask(post("/fhir", fmt.Sprintf(bundle, "transaction"))); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a transaction is answered %s", resp.Status)
	}
}
