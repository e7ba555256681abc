package integration

import (
	"encoding/json"
	"fmt"
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

// TestADevicePostsWhatItsClassMayAndNothingElse posts the official R4 examples
// as a device of each class: every example of a type the class may create is
// stored by a real FHIR server and read back as it was; of every other type an
// example is refused.
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
			c := h.Client(d)
			c.Transport.(*http.Transport).MaxIdleConnsPerHost = 8
			stored, refused := 0, 0
			var wg sync.WaitGroup
			slots := make(chan struct{}, 8)
			var mu sync.Mutex
			for typ, examples := range byType {
				may := slices.Contains(types[typ], "create")
				if !may {
					examples = examples[:1]
				}
				for _, e := range examples {
					slots <- struct{}{}
					wg.Go(func() {
						defer func() { <-slots }()
						ok := postExample(t, h, server, c, e, may, slices.Contains(types[typ], "read"))
						mu.Lock()
						defer mu.Unlock()
						if may && ok {
							stored++
						} else if !may {
							refused++
						}
					})
				}
			}
			wg.Wait()
			t.Logf("%s: %d examples stored and read back, %d types refused", class, stored, refused)
			if stored == 0 || refused < 100 {
				t.Errorf("only %d stored and %d refused", stored, refused)
			}
		})
	}
}

// postExample posts one example through the gateway and checks what comes of it.
// It reports whether it was stored and read back.
func postExample(t *testing.T, h *rig.Hospital, server *peers.FHIRServer, c *http.Client, e peers.Example, may, read bool) bool {
	status, body := rig.Do(t, c, http.MethodPost, h.URL("/fhir/"+e.Type), fhirJSON, string(e.Body))
	if !may {
		// An example that FHIR itself forbids is told apart by its status.
		if status != http.StatusForbidden && status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: answered %d, want 403", e.Name, status)
		}
		checkOutcome(t, e.Name, body)
		return false
	}
	if status != http.StatusCreated {
		direct, _ := rig.Do(t, server.Client, http.MethodPost, server.URL+"/"+e.Type, fhirJSON, string(e.Body))
		if direct != status {
			t.Errorf("%s: answered %d through the gateway, %d directly: %s", e.Name, status, direct, body)
		}
		return false
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Errorf("%s: answer: %v", e.Name, err)
		return false
	}
	id, _ := got["id"].(string)
	if read {
		if status, body = rig.Do(t, c, http.MethodGet, h.URL("/fhir/"+e.Type+"/"+id), "", ""); status != http.StatusOK {
			t.Errorf("%s: reading it back: %d", e.Name, status)
			return false
		}
		got = nil
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Errorf("%s: read back: %v", e.Name, err)
			return false
		}
	}
	var want map[string]any
	if err := json.Unmarshal(e.Body, &want); err != nil {
		t.Fatal(err)
	}
	for _, own := range []string{"id", "meta"} {
		delete(got, own)
		delete(want, own)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: came back changed", e.Name)
	}
	return true
}

// checkOutcome checks that a refusal is ours, in FHIR, and says nothing of a
// policy.
func checkOutcome(t *testing.T, name, body string) {
	t.Helper()
	var o struct {
		ResourceType string `json:"resourceType"`
		Issue        []struct {
			Severity, Code, Diagnostics string
		} `json:"issue"`
	}
	if err := json.Unmarshal([]byte(body), &o); err != nil || o.ResourceType != "OperationOutcome" || len(o.Issue) != 1 ||
		o.Issue[0].Severity != "error" || o.Issue[0].Code == "" {
		t.Errorf("%s: not an OperationOutcome: %s", name, body)
	}
	for _, word := range []string{"class", "rule", "rego", "policy", "nothing allows"} {
		if strings.Contains(strings.ToLower(body), word) {
			t.Errorf("%s: the refusal tells of the policy: %s", name, body)
		}
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
