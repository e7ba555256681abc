package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// obliging is a rule file that obliges to a little of everything.
const obliging = `package anteroom.authz

allow contains "monitors may search here" if {
	input.device.class == "patient-monitor"
	input.request.fhir.interaction == "search-type"
}

obligations contains {"redact": ["/subject/display", "/performer", "/value[x]"], "tag": "less"} if {
	input.request.fhir.interaction in {"read", "search-type"}
	input.request.fhir.type == "Observation"
}

obligations contains {"mirror": "second"} if input.request.fhir.interaction == "create"

obligations contains {"mirror": "nowhere"} if input.request.fhir.type == "Flag"

obligations contains {"limit_rps": 1} if input.request.fhir.type == "DeviceMetric"

obligations contains {"max_session_s": 1} if input.request.fhir.interaction == "capabilities"
`

// TestWhatAPolicyObligesToIsDone: between a real device's client, the gateway and
// two real FHIR servers, over both versions of HTTP.
func TestWhatAPolicyObligesToIsDone(t *testing.T) {
	peers.Need(t, "fhir-server")
	first, second := peers.StartFHIR(t, ""), peers.StartFHIR(t, "")
	h := rig.New(t)
	h.Configure(fmt.Sprintf(`routes:
  - {name: ehr, path: /fhir, kind: fhir, backend: ehr}
backends:
  - {name: ehr, addresses: [%q], ca_file: %q}
  - {name: second, addresses: [%q], ca_file: %q}
`, first.Addr, first.PKI.CAFile, second.Addr, second.PKI.CAFile))
	h.Write("policies/authz/obliging.rego", obliging)
	h.Start()
	monitor := h.Enroll("monitor-1", "patient-monitor")
	const obs = `{"resourceType":"Observation","status":"final","code":{"text":"hr"},"subject":{"reference":"Patient/p1","display":"Jane Roe"},` +
		`"performer":[{"display":"Dr. Who"}],"valueQuantity":{"value":80},"text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">Jane Roe</div>"}}`
	for version, client := range map[string]func(*rig.Device) *http.Client{"HTTP/1.1": h.Client, "HTTP/2": h.Client2} {
		c := client(monitor)
		second.Reset()
		r := ask(t, c, http.MethodPost, h.URL("/fhir/Observation"), obs, "Content-Type", fhirJSON)
		if r.status != http.StatusCreated {
			t.Fatalf("%s: created: %d %s", version, r.status, r.body)
		}
		made := object(t, "created", r.body)
		id, _ := made["id"].(string)
		t.Run(version+" redact", func(t *testing.T) { checkRedacted(t, h, first, c, id, made) })
		t.Run(version+" mirror", func(t *testing.T) { checkMirrored(t, h, first, second, c) })
		t.Run(version+" limit", func(t *testing.T) { checkLimited(t, h, c) })
		t.Run(version+" max_session", func(t *testing.T) { checkAged(t, h, c) })
	}
	var rec struct {
		Decision struct {
			Tags        []string
			Obligations map[string]any
		}
	}
	out := h.Must("audit", "search", "--tag", "less", "--allowed", "--json")
	line, _, _ := strings.Cut(out, "\n")
	if err := json.Unmarshal([]byte(line), &rec); err != nil || !reflect.DeepEqual(rec.Decision.Tags, []string{"less"}) ||
		fmt.Sprint(rec.Decision.Obligations) != "map[redact:[/performer /subject/display /value[x]] tag:[less]]" {
		t.Errorf("recorded %v: %s", err, line)
	}
	for _, line := range []string{`{kind="redact",result="done"}`, `{kind="mirror",result="sent"}`, `{kind="mirror",result="unable"}`, `{kind="limit_rps",result="refused"}`} {
		if !strings.Contains(h.Metrics(), "anteroom_obligations_total"+line) {
			t.Errorf("no metric %s", line)
		}
	}
	h.Write("r.json", `{"request": {"protocol": "fhir", "action": "read", "resource": "Observation", "fhir": {"interaction": "read", "type": "Observation"}}}`)
	if out := h.Must("policy", "eval", "--device", "monitor-1", "--request", "r.json"); !strings.Contains(out, "and    redact /performer /subject/display /value[x], tag less") {
		t.Errorf("tried:\n%s", out)
	}
}

// checkRedacted reads, searches for and batches a resource that is redacted.
func checkRedacted(t *testing.T, h *rig.Hospital, server *peers.FHIRServer, c *http.Client, id string, made map[string]any) {
	url := "/Observation/" + id
	whole := ask(t, server.Client, http.MethodGet, server.URL+url, "")
	if !strings.Contains(string(whole.body), "Jane Roe") {
		t.Fatalf("the server has no such thing: %s", whole.body)
	}
	want := object(t, "whole", whole.body)
	for _, gone := range []string{"performer", "valueQuantity", "text"} {
		delete(want, gone)
	}
	want["subject"] = map[string]any{"reference": "Patient/p1"}
	r := ask(t, c, http.MethodGet, h.URL("/fhir"+url), "", "If-None-Match", whole.header.Get("Etag"), "Range", "bytes=0-99")
	if got := object(t, "redacted", r.body); r.status != http.StatusOK || !reflect.DeepEqual(got, want) || r.header.Get("Etag") != "" {
		t.Errorf("read: %d %v %s\nwant %v", r.status, r.header, r.body, want)
	}
	search := ask(t, c, http.MethodGet, h.URL("/fhir/Observation?_id="+id), "")
	batch := ask(t, c, http.MethodPost, h.URL("/fhir"), `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Observation/`+id+`"}}]}`, "Content-Type", fhirJSON)
	for what, r := range map[string]reply{"search": search, "batch": batch} {
		var b struct {
			Entry []struct{ Resource map[string]any }
		}
		if err := json.Unmarshal(r.body, &b); err != nil || r.status != http.StatusOK || len(b.Entry) != 1 || !reflect.DeepEqual(b.Entry[0].Resource, want) {
			t.Errorf("%s: %d %v %s", what, r.status, err, r.body)
		}
	}
	if r := ask(t, c, http.MethodGet, h.URL("/fhir"+url), "", "Accept", "application/fhir+xml"); r.status != http.StatusForbidden || strings.Contains(string(r.body), "Jane") {
		t.Errorf("XML: %d %s", r.status, r.body)
	}
	if made["performer"] == nil {
		t.Error("what is not obliged to be redacted is")
	}
}

// checkMirrored waits for the copy of what was created.
func checkMirrored(t *testing.T, h *rig.Hospital, first, second *peers.FHIRServer, c *http.Client) {
	var copies []peers.Arrival
	rig.Eventually(t, "a copy", func() bool { copies = second.Arrivals(); return len(copies) > 0 })
	one := copies[0]
	for _, a := range first.Arrivals() {
		if id := a.Headers["x-anteroom-decision-id"]; id != "" && id == one.Headers["x-anteroom-decision-id"] {
			if a.URL != one.URL || a.Method != one.Method || a.Body != one.Body || one.Headers["x-anteroom-mirror"] != "1" {
				t.Errorf("sent\n%+v\nand\n%+v", a, one)
			}
			r := ask(t, c, http.MethodPost, h.URL("/fhir/Flag"), `{"resourceType":"Flag","status":"active","code":{"text":"x"},"subject":{"reference":"Patient/p1"}}`, "Content-Type", fhirJSON)
			if r.status != http.StatusForbidden {
				t.Errorf("a mirror that is nowhere: %d %s", r.status, r.body)
			}
			return
		}
	}
	t.Errorf("the copy is of no request: %+v", one)
}

// checkLimited asks for too much at once, and then for as much as there may be.
func checkLimited(t *testing.T, h *rig.Hospital, c *http.Client) {
	var mu sync.Mutex
	var refused []reply
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			r := ask(t, c, http.MethodGet, h.URL("/fhir/DeviceMetric/none"), "")
			if r.status == http.StatusTooManyRequests {
				mu.Lock()
				refused = append(refused, r)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(refused) == 0 {
		t.Fatal("all of twenty a second were allowed, of one that may be")
	}
	for _, r := range refused {
		checkOutcome(t, "refused", r)
		if after := r.header.Get("Retry-After"); after != "1" || !strings.Contains(string(r.body), `"throttled"`) {
			t.Errorf("Retry-After %q: %s", after, r.body)
		}
	}
	if r := ask(t, c, http.MethodGet, h.URL("/fhir/Communication/none"), ""); r.status != http.StatusNotFound {
		t.Errorf("what has no limit is answered %d", r.status)
	}
	rig.Eventually(t, "an answer again", func() bool {
		return ask(t, c, http.MethodGet, h.URL("/fhir/DeviceMetric/none"), "").status == http.StatusNotFound
	})
}

// checkAged asks until the connection has reached its age, and every request is
// answered.
func checkAged(t *testing.T, h *rig.Hospital, c *http.Client) {
	fresh := 0
	rig.Eventually(t, "a new connection", func() bool {
		trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
			if !i.Reused {
				fresh++
			}
		}})
		req, err := http.NewRequestWithContext(trace, http.MethodGet, h.URL("/fhir/metadata"), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("a connection that has its age was not finished with an answer: %v", err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("answered %d", resp.StatusCode)
		}
		return fresh >= 2
	})
}
