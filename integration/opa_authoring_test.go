package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

// TestStockOPAWorksOnTheSameDirectory: an author's editor, habits and CI know
// the opa program. It tests, formats and evaluates the directory the gateway
// enforces, with the same results.
func TestStockOPAWorksOnTheSameDirectory(t *testing.T) {
	dir := shipped(t)
	rep, err := policy.Test(t.Context(), dir, policy.TestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var results []struct {
		Name string `json:"name"`
		Fail bool   `json:"fail"`
	}
	out := opa(t, dir, "test", "--format", "json", ".")
	if err := json.Unmarshal([]byte(out), &results); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(results) != len(rep.Results) || !rep.OK() {
		t.Errorf("opa ran %d tests, anteroom %d", len(results), len(rep.Results))
	}
	for _, r := range results {
		if r.Fail {
			t.Errorf("opa test: %s fails", r.Name)
		}
	}
	if out := opa(t, dir, "fmt", "--list", "."); strings.TrimSpace(out) != "" {
		t.Errorf("opa fmt would write otherwise:\n%s", out)
	}
	opa(t, dir, "check", "--strict", ".")

	// One question, asked of the stock evaluator with a whole input.
	input := filepath.Join(t.TempDir(), "input.json")
	const monitor = `{"device": {"id": "m", "class": "patient-monitor", "status": "active", "location": "", "life_critical": false,
		"tags": {}, "posture": {"max_cvss": 0, "age_days": 1, "assessed": true}}, "route": {"environment": "production"},
		"request": {"protocol": "fhir", "action": "%", "resource": "Observation", "fhir": {"interaction": "%", "type": "Observation", "id": "",
		"operation": "", "params": [], "modifiers": [], "includes": [], "chains": [], "result_params": [], "conditional": false}}}`
	for action, want := range map[string]bool{"create": true, "delete": false} {
		if err := os.WriteFile(input, []byte(strings.ReplaceAll(monitor, "%", action)), 0o600); err != nil {
			t.Fatal(err)
		}
		var decision struct {
			Allow   bool     `json:"allow"`
			Reasons []string `json:"reasons"`
		}
		out := opa(t, dir, "eval", "--format", "raw", "-d", ".", "-i", input, "data.anteroom.authz.decision")
		if err := json.Unmarshal([]byte(out), &decision); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		reasons := []string{"its class may do this with this type of record"}
		if decision.Allow != want || want && !reflect.DeepEqual(decision.Reasons, reasons) {
			t.Errorf("opa eval of %s: %+v", action, decision)
		}
	}
}
