package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

const fhirJSON = "application/fhir+json"

// ehr returns the configuration of a route to a FHIR server.
func ehr(s *peers.FHIRServer) string {
	return fmt.Sprintf(`routes:
  - {name: ehr, path: /fhir, kind: fhir, backend: ehr}
backends:
  - {name: ehr, addresses: [%q], ca_file: %q}
`, s.Addr, s.PKI.CAFile)
}

// hospital starts a FHIR server and a gateway before it.
func hospital(t *testing.T) (*rig.Hospital, *peers.FHIRServer) {
	t.Helper()
	server := peers.StartFHIR(t, "")
	h := rig.New(t)
	h.Configure(ehr(server))
	h.Start()
	return h, server
}

// shippedClasses returns, for each shipped class, the interactions with each
// type that its data file names.
func shippedClasses(t *testing.T) map[string]map[string][]string {
	t.Helper()
	files, err := filepath.Glob("../policies/classes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no classes: %v", err)
	}
	out := map[string]map[string][]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]struct {
			FHIR struct {
				Types map[string][]string `yaml:"types"`
			} `yaml:"fhir"`
		}
		if err := yaml.Unmarshal(b, &doc); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for class, d := range doc {
			out[class] = d.FHIR.Types
		}
	}
	return out
}

// A reply is an answer to a request over either version of HTTP.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// ask sends a request with the given fields, name and value in turn.
func ask(t *testing.T, c *http.Client, method, url, body string, fields ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for f := range slices.Chunk(fields, 2) {
		req.Header.Set(f[0], f[1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	r := reply{status: resp.StatusCode, header: resp.Header}
	if r.body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatalf("%s %s: body: %v", method, url, err)
	}
	return r
}

// outcomes counts what became of examples.
type outcomes struct {
	mu                         sync.Mutex
	stored, alsoDirect, denied int
}

// atOnce is how many examples are under way at a time.
const atOnce = 8

// TestADevicePostsWhatItsClassMayAndNothingElse posts the official R4 examples
// as a device of each class, over HTTP/1.1 and HTTP/2 in turn: every example of
// a type the class may create is stored by a real FHIR server and read back as
// it was; of every other type an example is refused, and none reaches the server.
func TestADevicePostsWhatItsClassMayAndNothingElse(t *testing.T) {
	peers.Need(t, "fhir-server", "fhir-examples")
	h, server := hospital(t)
	byType := map[string][]peers.Example{}
	for e := range peers.Examples(t) {
		byType[e.Type] = append(byType[e.Type], e)
	}
	for class, types := range shippedClasses(t) {
		d := h.Enroll("dev-"+class, class, "--life-critical")
		t.Run(class, func(t *testing.T) {
			server.Reset()
			clients := []*http.Client{h.Client(d), h.Client2(d)}
			clients[0].Transport.(*http.Transport).MaxIdleConnsPerHost = atOnce
			var n outcomes
			var wg sync.WaitGroup
			slots := make(chan struct{}, atOnce)
			sent := 0
			for typ, examples := range byType {
				may := slices.Contains(types[typ], "create")
				if !may {
					examples = examples[:1]
				}
				for _, e := range examples {
					c := clients[sent%len(clients)]
					sent++
					slots <- struct{}{}
					wg.Go(func() {
						defer func() { <-slots }()
						if may {
							n.store(t, h, server, c, e, slices.Contains(types[typ], "read"))
						} else {
							n.refuse(t, h, c, e)
						}
					})
				}
			}
			wg.Wait()
			t.Logf("%s: %d examples stored and read back, %d refused by the server also when it is asked directly, %d types refused by the gateway",
				class, n.stored, n.alsoDirect, n.denied)
			if n.stored == 0 || n.denied < 100 {
				t.Errorf("only %d stored and %d refused", n.stored, n.denied)
			}
			for _, a := range server.Arrivals() {
				typ, _, _ := strings.Cut(strings.TrimPrefix(a.URL, "/fhir/"), "/")
				if a.Headers["x-anteroom-device-id"] != "" && !slices.Contains(types[typ], "create") {
					t.Errorf("%s %s reached the server", a.Method, a.URL)
				}
			}
		})
	}
}

// refuse posts an example of a type the device may not create.
func (n *outcomes) refuse(t *testing.T, h *rig.Hospital, c *http.Client, e peers.Example) {
	r := ask(t, c, http.MethodPost, h.URL("/fhir/"+e.Type), string(e.Body), "Content-Type", fhirJSON)
	if r.status != http.StatusForbidden {
		t.Errorf("%s: answered %d, want 403", e.Name, r.status)
	}
	checkOutcome(t, e.Name, r)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.denied++
}

// store posts an example the device may create, and compares it with what the
// server says it stored. What the server refuses it has to refuse without the
// gateway, too.
func (n *outcomes) store(t *testing.T, h *rig.Hospital, server *peers.FHIRServer, c *http.Client, e peers.Example, read bool) {
	r := ask(t, c, http.MethodPost, h.URL("/fhir/"+e.Type), string(e.Body), "Content-Type", fhirJSON)
	if r.status != http.StatusCreated {
		direct := ask(t, server.Client, http.MethodPost, server.URL+"/"+e.Type, string(e.Body), "Content-Type", fhirJSON)
		if direct.status != r.status {
			t.Errorf("%s: answered %d through the gateway, %d directly: %s", e.Name, r.status, direct.status, r.body)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.alsoDirect++
		return
	}
	got := object(t, e.Name, r.body)
	if id, _ := got["id"].(string); read {
		if r = ask(t, c, http.MethodGet, h.URL("/fhir/"+e.Type+"/"+id), ""); r.status != http.StatusOK {
			t.Errorf("%s: reading it back: %d", e.Name, r.status)
			return
		}
		got = object(t, e.Name, r.body)
	}
	want := object(t, e.Name, e.Body)
	for _, own := range []string{"id", "meta"} {
		delete(got, own)
		delete(want, own)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: came back changed", e.Name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stored++
}

// object decodes a JSON object.
func object(t *testing.T, name string, text []byte) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal(text, &o); err != nil {
		t.Errorf("%s: %v: %s", name, err, text)
	}
	return o
}

// checkOutcome checks that a refusal is ours, in FHIR, names the decision, and
// says nothing of a policy.
func checkOutcome(t *testing.T, name string, r reply) {
	t.Helper()
	var o struct {
		ResourceType string `json:"resourceType"`
		Issue        []struct {
			Severity, Code, Diagnostics string
		} `json:"issue"`
	}
	id := r.header.Get("X-Anteroom-Decision-Id")
	if err := json.Unmarshal(r.body, &o); err != nil || o.ResourceType != "OperationOutcome" || len(o.Issue) != 1 ||
		o.Issue[0].Severity != "error" || o.Issue[0].Code == "" || id == "" || !strings.Contains(o.Issue[0].Diagnostics, id) {
		t.Errorf("%s: not an OperationOutcome with the decision %q: %s", name, id, r.body)
	}
	if got := r.header.Get("Content-Type"); got != fhirJSON+"; charset=utf-8" {
		t.Errorf("%s: media type %q", name, got)
	}
	for _, word := range []string{"class", "rule", "rego", "policy", "nothing allows"} {
		if strings.Contains(strings.ToLower(string(r.body)), word) {
			t.Errorf("%s: the refusal tells of the policy: %s", name, r.body)
		}
	}
}

// arrived returns the n requests that must have reached the server.
func arrived(t *testing.T, server *peers.FHIRServer, n int) []peers.Arrival {
	t.Helper()
	all := server.Arrivals()
	if len(all) == n {
		return all
	}
	t.Errorf("%d requests reached the server, want %d", len(all), n)
	for _, a := range all {
		t.Logf("%s %s %.200s", a.Method, a.URL, a.Body)
	}
	return nil
}

// TestFHIRIsKeptInEveryDetailThatMatters goes through what a status alone does
// not show, over both versions of HTTP.
func TestFHIRIsKeptInEveryDetailThatMatters(t *testing.T) {
	peers.Need(t, "fhir-server")
	h, server := hospital(t)
	monitor, scanner := h.Enroll("monitor-1", "patient-monitor"), h.Enroll("ct-1", "ct-scanner")
	const obs = `{"resourceType":"Observation","status":"final","identifier":[{"system":"urn:m","value":"7"}],"code":{"text":"hr"},"subject":{"reference":"Patient/p1"}}`
	for version, client := range map[string]func(*rig.Device) *http.Client{"HTTP/1.1": h.Client, "HTTP/2": h.Client2} {
		c, ct := client(monitor), client(scanner)
		t.Run(version+" conditional create", func(t *testing.T) {
			server.Reset()
			// The search behind it finds what is there, so it needs its own right.
			fields := []string{"Content-Type", fhirJSON, "If-None-Exist", "identifier=urn:m%7C7"}
			first := ask(t, c, http.MethodPost, h.URL("/fhir/Observation"), obs, fields...)
			again := ask(t, c, http.MethodPost, h.URL("/fhir/Observation"), obs, fields...)
			if first.status != http.StatusCreated || again.status != http.StatusOK ||
				object(t, "first", first.body)["id"] != object(t, "again", again.body)["id"] {
				t.Errorf("answered %d %s, then %d %s", first.status, first.body, again.status, again.body)
			}
			denied := ask(t, ct, http.MethodPost, h.URL("/fhir/Observation"), obs, fields...)
			if denied.status != http.StatusForbidden {
				t.Errorf("a class that may only create: %d", denied.status)
			}
			checkOutcome(t, "denied", denied)
			for _, a := range arrived(t, server, 2) {
				if got := a.Headers["if-none-exist"]; got != "identifier=urn:m%7C7" {
					t.Errorf("arrived with If-None-Exist %q", got)
				}
			}
		})
		t.Run(version+" batch", func(t *testing.T) {
			server.Reset()
			r := ask(t, c, http.MethodPost, h.URL("/fhir"), `{"resourceType":"Bundle","type":"batch","entry":[
				{"resource":{"resourceType":"Patient"},"request":{"method":"POST","url":"Patient"}},
				{"resource":`+obs+`,"request":{"method":"POST","url":"Observation"}},
				{"request":{"method":"GET","url":"Patient/p1/$everything"}},
				{"request":{"method":"DELETE","url":"Observation/1"}},
				{"resource":`+obs+`,"request":{"method":"POST","url":"Observation"}}]}`, "Content-Type", fhirJSON)
			var b struct {
				ResourceType, Type string
				Entry              []struct {
					Response struct {
						Status  string
						Outcome struct{ ResourceType string }
					}
				}
			}
			if err := json.Unmarshal(r.body, &b); err != nil || r.status != http.StatusOK || b.Type != "batch-response" || len(b.Entry) != 5 {
				t.Fatalf("answered %d %s", r.status, r.body)
			}
			for i, want := range []string{"403", "201", "403", "403", "201"} {
				got := b.Entry[i].Response
				if !strings.HasPrefix(got.Status, want) || want == "403" && got.Outcome.ResourceType != "OperationOutcome" {
					t.Errorf("entry %d: %+v, want %s", i, got, want)
				}
			}
			for _, a := range arrived(t, server, 1) {
				if strings.Count(a.Body, `"request"`) != 2 || strings.Count(a.Body, `"POST"`) != 2 || strings.Count(a.Body, `"Observation"`) != 4 {
					t.Errorf("arrived: %s", a.Body)
				}
			}
		})
		t.Run(version+" transaction", func(t *testing.T) {
			server.Reset()
			whole := func(entries string) reply {
				return ask(t, c, http.MethodPost, h.URL("/fhir"), `{"resourceType":"Bundle","type":"transaction","entry":[`+entries+`]}`, "Content-Type", fhirJSON)
			}
			good := `{"resource":` + obs + `,"request":{"method":"POST","url":"Observation"}}`
			if r := whole(good + "," + good); r.status != http.StatusOK || strings.Count(string(r.body), `"201"`) != 2 {
				t.Errorf("allowed entries: %d %s", r.status, r.body)
			}
			server.Reset()
			r := whole(good + `,{"request":{"method":"GET","url":"Patient/p1"}}`)
			if r.status != http.StatusForbidden {
				t.Errorf("with an entry that is denied: %d", r.status)
			}
			checkOutcome(t, "transaction", r)
			arrived(t, server, 0)
		})
		t.Run(version+" own record", func(t *testing.T) {
			server.Reset()
			for id, want := range map[string]int{"monitor-1": http.StatusOK, "monitor-2": http.StatusForbidden} {
				r := ask(t, c, http.MethodPut, h.URL("/fhir/Device/"+id), `{"resourceType":"Device","id":"`+id+`"}`, "Content-Type", fhirJSON)
				if r.status != want {
					t.Errorf("%s: %d %s", id, r.status, r.body)
				}
			}
		})
		t.Run(version+" what is not certain", func(t *testing.T) {
			server.Reset()
			// Of a Bundle the decision needs all, whatever the policies ask.
			good := `{"resourceType":"Bundle","type":"batch","entry":[{"resource":` + obs + `,"request":{"method":"POST","url":"Observation"}}]}`
			for name, tt := range map[string]struct {
				body   string
				fields []string
				status int
			}{
				"compressed":    {good, []string{"Content-Type", fhirJSON, "Content-Encoding", "gzip"}, http.StatusUnsupportedMediaType},
				"XML":           {`<Bundle xmlns="http://hl7.org/fhir"/>`, []string{"Content-Type", "application/fhir+xml"}, http.StatusUnsupportedMediaType},
				"duplicate key": {strings.Replace(good, `"type":`, `"type":"transaction","type":`, 1), []string{"Content-Type", fhirJSON}, http.StatusBadRequest},
				"trailing data": {good + good, []string{"Content-Type", fhirJSON}, http.StatusBadRequest},
				"truncated":     {good[:len(good)-1], []string{"Content-Type", fhirJSON}, http.StatusBadRequest},
				"another type":  {obs, []string{"Content-Type", fhirJSON}, http.StatusBadRequest},
			} {
				r := ask(t, c, http.MethodPost, h.URL("/fhir"), tt.body, tt.fields...)
				if r.status != tt.status {
					t.Errorf("%s: %d %s, want %d", name, r.status, r.body, tt.status)
				}
				checkOutcome(t, name, r)
			}
			arrived(t, server, 0)
		})
		t.Run(version+" refusal in XML", func(t *testing.T) {
			r := ask(t, c, http.MethodGet, h.URL("/fhir/Patient/p1"), "", "Accept", "application/fhir+xml")
			if r.status != http.StatusForbidden || r.header.Get("Content-Type") != "application/fhir+xml; charset=utf-8" || !strings.Contains(string(r.body), "<OperationOutcome ") {
				t.Errorf("%d %v %s", r.status, r.header, r.body)
			}
		})
	}
}

// TestFHIRInteractionsPassAndAreRefusedOverBothVersionsOfHTTP goes through what
// is more than a create.
func TestFHIRInteractionsPassAndAreRefusedOverBothVersionsOfHTTP(t *testing.T) {
	peers.Need(t, "fhir-server")
	h, server := hospital(t)
	monitor := h.Enroll("monitor-1", "patient-monitor")
	pump := h.Enroll("pump-1", "infusion-pump")
	wearable := h.Enroll("wearable-1", "wearable-gateway")
	const obs = `{"resourceType":"Observation","status":"final","code":{"text":"hr"},"subject":{"reference":"Patient/p1"},"valueQuantity":{"value":60}}`
	entry := func(typ, body string) string {
		return fmt.Sprintf(`{"resource":%s,"request":{"method":"POST","url":%q}}`, body, typ)
	}
	bundle := func(kind string, entries ...string) string {
		return fmt.Sprintf(`{"resourceType":"Bundle","type":%q,"entry":[%s]}`, kind, strings.Join(entries, ","))
	}
	const patient = `{"resourceType":"Patient","name":[{"family":"Intruder"}]}`
	tests := []struct {
		name                    string
		d                       *rig.Device
		method, path, typ, body string
		status                  int
		want                    string // in the answer
		arrivals                int    // at the server
	}{
		{"capabilities", monitor, "GET", "/fhir/metadata", "", "", 200, "CapabilityStatement", 1},
		{"create at the base with a slash at its end", monitor, "POST", "/fhir/Observation/", fhirJSON, obs, 201, `"Observation"`, 1},
		{"search by GET for one patient", pump, "GET", "/fhir/MedicationRequest?patient=Patient/p1", "", "", 200, "searchset", 1},
		{"search by POST for one patient", pump, "POST", "/fhir/MedicationRequest/_search", "application/x-www-form-urlencoded", "patient=Patient%2Fp1", 200, "searchset", 1},
		{"search for everybody", pump, "GET", "/fhir/MedicationRequest", "", "", 403, "OperationOutcome", 0},
		{"search with an include the class has not", pump, "GET", "/fhir/MedicationRequest?patient=p1&_include=MedicationRequest:patient", "", "", 403, "OperationOutcome", 0},
		{"reading a patient", monitor, "GET", "/fhir/Patient/p1", "", "", 403, "OperationOutcome", 0},
		{"everything of a patient", monitor, "GET", "/fhir/Patient/p1/$everything", "", "", 403, "OperationOutcome", 0},
		{"system history", monitor, "GET", "/fhir/_history", "", "", 403, "OperationOutcome", 0},
		{"delete", monitor, "DELETE", "/fhir/Observation/1", "", "", 403, "OperationOutcome", 0},
		{"batch of allowed entries", wearable, "POST", "/fhir", fhirJSON, bundle("batch", entry("Observation", obs), entry("Observation", obs)), 200, "201", 1},
		{"batch with an entry that is denied", wearable, "POST", "/fhir", fhirJSON, bundle("batch", entry("Observation", obs), entry("Patient", patient)), 200, "403", 1},
		{"batch whose entries are all denied", wearable, "POST", "/fhir", fhirJSON, bundle("batch", entry("Patient", patient)), 200, "403", 0},
		{"transaction with an entry that is denied", monitor, "POST", "/fhir", fhirJSON, bundle("transaction", entry("Observation", obs), entry("Patient", patient)), 403, "OperationOutcome", 0},
		{"transaction of a class that may send none", wearable, "POST", "/fhir", fhirJSON, bundle("transaction", entry("Observation", obs)), 403, "OperationOutcome", 0},
		{"a body of another type than the URL's in a batch", wearable, "POST", "/fhir", fhirJSON, bundle("batch", entry("Observation", patient)), 400, "OperationOutcome", 0},
		{"an unknown type", monitor, "GET", "/fhir/Banana/1", "", "", 404, "OperationOutcome", 0},
		{"outside every route", monitor, "GET", "/elsewhere", "", "", 404, "problem", 0},
	}
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, tt := range tests {
			t.Run(version+" "+tt.name, func(t *testing.T) {
				server.Reset()
				c := h.Client(tt.d)
				if version == "HTTP/2.0" {
					c = h.Client2(tt.d)
				}
				status, body := rig.Do(t, c, tt.method, h.URL(tt.path), tt.typ, tt.body)
				if status != tt.status {
					t.Errorf("answered %d, want %d: %s", status, tt.status, body)
				}
				if tt.want != "problem" && !strings.Contains(body, tt.want) {
					t.Errorf("the answer has no %q: %s", tt.want, body)
				}
				arrived := server.Arrivals()
				if len(arrived) != tt.arrivals {
					t.Fatalf("%d requests reached the server, want %d", len(arrived), tt.arrivals)
				}
				for _, a := range arrived {
					if strings.Contains(a.Body, "Intruder") {
						t.Error("a denied entry reached the server")
					}
					if a.Headers["x-anteroom-device-id"] != tt.d.ID || !strings.HasPrefix(a.Headers["client-cert"], ":") {
						t.Errorf("the server was not told who: %v", a.Headers)
					}
				}
			})
		}
	}
}
