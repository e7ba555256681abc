package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestPoliciesAreTriedOnYesterdaysTraffic: what a real gateway recorded is
// decided again, explained, and found to be what it was.
func TestPoliciesAreTriedOnYesterdaysTraffic(t *testing.T) {
	h := rig.New(t)
	h.Configure(simple(t))
	h.Start()
	monitor := h.Enroll("monitor-1", "patient-monitor")
	pump := h.Enroll("pump-1", "infusion-pump")
	do := func(d *rig.Device, method, path, body string, want int) string {
		t.Helper()
		code, answer := rig.Do(t, h.Client(d), method, h.URL(path), "application/fhir+json", body)
		if code != want {
			t.Fatalf("%s %s: %d: %s", method, path, code, answer)
		}
		return answer
	}
	for range 5 {
		do(monitor, "POST", "/fhir/Observation", observation, http.StatusCreated)
		do(pump, "GET", "/fhir/MedicationRequest?patient=Patient/42", "", http.StatusCreated)
	}
	do(pump, "POST", "/fhir", `{"resourceType":"Bundle","type":"batch","entry":[{"resource":`+observation+
		`,"request":{"method":"POST","url":"Observation"}},{"request":{"method":"GET","url":"Patient/1"}}]}`, http.StatusCreated)
	denied := do(monitor, "GET", "/fhir/Patient/1", "", http.StatusForbidden)
	do(monitor, "GET", "/fhir/Patient/%2e%2e/x", "", http.StatusBadRequest)
	var outcome struct {
		Issue []struct{ Diagnostics string }
	}
	if err := json.Unmarshal([]byte(denied), &outcome); err != nil || len(outcome.Issue) == 0 {
		t.Fatalf("%v: %s", err, denied)
	}
	words := strings.Fields(outcome.Issue[0].Diagnostics)
	id := strings.Trim(words[len(words)-1], ".")

	// The set in force makes the same of it, exactly.
	out := h.Must("policy", "replay", "policies")
	if !strings.Contains(out, "would change") || !strings.Contains(out, ": 0 would change") || strings.Contains(out, "could not be made again") {
		t.Errorf("replay under the same set:\n%s", out)
	}
	if err := os.CopyFS(h.Path("next"), os.DirFS(h.Path("policies"))); err != nil {
		t.Fatal(err)
	}
	h.Write("next/authz/next.rego", `package anteroom.authz

deny contains "pumps search no more" if {
	input.device.class == "infusion-pump"
	input.request.fhir.interaction == "search-type"
}

allow contains "monitors may read patients" if {
	input.device.class == "patient-monitor"
	input.request.fhir.type == "Patient"
	input.request.fhir.interaction == "read"
}
`)
	out = h.Must("policy", "replay", "next", "--html", "replay.html")
	for _, want := range []string{
		": 6 would change", "would-deny", "pumps search no more", "would-allow", "monitors may read patients", "pump-1", "fhir search-type MedicationRequest",
		"1 requests were refused before a policy was asked",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("replay does not say %q:\n%s", want, out)
		}
	}
	if page, err := os.ReadFile(h.Path("replay.html")); err != nil || !strings.Contains(string(page), "pumps search no more") {
		t.Errorf("%v:\n%s", err, page)
	}
	if _, _, code := h.Run("policy", "replay", "next", "--fail-on-change"); code != 1 {
		t.Errorf("exit status %d", code)
	}

	// Why was the monitor denied?
	out = h.Must("policy", "explain", id)
	for _, want := range []string{id, "monitor-1 (patient-monitor) asked for fhir read Patient", ": denied", "which is in force",
		"its class may do this with this type of record", "authz/fhir.rego:", `input.device.class is "patient-monitor"`} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not say %q:\n%s", want, out)
		}
	}
	if out := h.Must("policy", "explain", id, "--policies", "next"); !strings.Contains(out, "DECIDES OTHERWISE") || !strings.Contains(out, "ALLOW  monitors may read patients") {
		t.Errorf("by the next set:\n%s", out)
	}
	if out := h.Must("policy", "explain", id, "--trace"); !strings.Contains(out, "Enter data.anteroom.authz") {
		t.Errorf("no trace:\n%s", out)
	}
	if _, errs, code := h.Run("policy", "explain", "nothing"); code != 1 || !strings.Contains(errs, "holds no such decision") {
		t.Errorf("%d: %s", code, errs)
	}
	// What is the least a pump needs, going by what it did?
	out = h.Must("policy", "suggest", "--class", "infusion-pump")
	for _, want := range []string{"# granted, and not used: Device: read\n", "--- a/classes/infusion-pump.yaml\n", "+++ b/authz/seen_infusion_pump_test.rego\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("suggest does not say %q:\n%s", want, out)
		}
	}
	// And with the gateway stopped, on what it left.
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	if out := h.Must("policy", "replay", "policies"); !strings.Contains(out, ": 0 would change") {
		t.Errorf("offline:\n%s", out)
	}
	if out := h.Must("policy", "explain", id, "--json"); !strings.Contains(out, `"recorded"`) {
		t.Errorf("offline:\n%s", out)
	}
}
