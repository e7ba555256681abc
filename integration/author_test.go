package integration

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// noPatients is the rule that an author writes: monitors may not read Patient.
// In the shipped set nothing lets them, so the class is given it first.
const noPatients = `package anteroom.authz

# METADATA
# title: Monitors do not read patients
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
deny contains "monitors may not read Patient" if {
	input.device.class == "patient-monitor"
	input.request.fhir.type == "Patient"
}
`

const noPatientsTest = `package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

test_monitors_do_not_read_patients if {
	said := "monitors may not read Patient"
	said in authz.deny with input as example.monitor with input.request.fhir.type as "Patient"
	not said in authz.deny with input as example.monitor
}
`

// TestAnAuthorEditsBreaksAndMends: what is saved decides; what is broken is said
// with its file and line, and the set before it goes on deciding; whatever
// happens to the files, nothing is decided by half a set.
func TestAnAuthorEditsBreaksAndMends(t *testing.T) {
	h := rig.New(t)
	h.Configure(simple(t))
	h.Start()
	d := h.Enroll("monitor-1", "patient-monitor")
	client := h.Client(d)
	status := func() int { return post(client, h.URL("/fhir/Observation")) }
	if got := status(); got != http.StatusCreated {
		t.Fatalf("status %d", got)
	}

	// Edit, save, see it live.
	h.Write("policies/authz/mine.rego", noMonitors)
	rig.Eventually(t, "the saved rule in force", func() bool { return status() == http.StatusForbidden })
	inForce := func() string {
		t.Helper()
		out := h.Must("policy", "status")
		m := regexp.MustCompile(`(?m)^policy +([0-9a-f]{40}) `).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("policy status says %s", out)
		}
		return m[1]
	}
	was := inForce()

	// Break it.
	from := len(h.Logs())
	h.Write("policies/authz/mine.rego", strings.Replace(noMonitors, "input.device.class", "input.devcie.class", 1))
	const slip = `authz/mine.rego:3: rego_type_error: undefined ref: input.devcie.class: input has no field \"devcie\", did you mean \"device\"?`
	h.WaitLog(from, slip)
	if got := status(); got != http.StatusForbidden {
		t.Errorf("status %d: a broken save decides", got)
	}
	if now := inForce(); now != was {
		t.Errorf("in force is %s, and was %s", now, was)
	}
	said := strings.ReplaceAll(slip, `\"`, `"`)
	for command, word := range map[string]string{"policy status": "REFUSED", "status": "PROBLEM"} {
		if out := h.Must(strings.Fields(command)...); !strings.Contains(out, word) || !strings.Contains(out, said) {
			t.Errorf("%s does not say what is refused:\n%s", command, out)
		}
	}
	if out := h.Must("audit", "search", "--event", "policy.refused"); !strings.Contains(out, "authz/mine.rego:3") {
		t.Errorf("the audit log does not say it:\n%s", out)
	}
	if _, errs, code := h.Run("policy", "check", "policies"); code != 1 || !strings.Contains(errs, "1 error") {
		t.Errorf("policy check: %d: %s", code, errs)
	}
	// A gateway that is started now has no set to go back to, and says so.
	if out, _, code := h.Run("check"); code == 0 {
		t.Errorf("anteroom check is content:\n%s", out)
	}

	// Mend it by taking it away.
	if err := os.Remove(h.Path("policies/authz/mine.rego")); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, "the rule's end", func() bool { return status() == http.StatusCreated })
	if out := h.Must("policy", "status"); strings.Contains(out, "REFUSED") {
		t.Errorf("what is mended is still refused:\n%s", out)
	}
}

// TestAnAuthorRollsOutARuleAndTakesItBack: the way of a rule from its test to its
// rollback, with the commands of docs/policy.md.
func TestAnAuthorRollsOutARuleAndTakesItBack(t *testing.T) {
	h, push := pushing(t)
	class, err := os.ReadFile(h.Path("policies/classes/patient-monitor.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	generous := strings.Replace(string(class), "    types:\n", "    types:\n      Patient: [read]\n", 1)
	if generous == string(class) {
		t.Fatal("the class file has no types")
	}
	h.Write("policies/classes/patient-monitor.yaml", generous)
	push("monitors read Patient")
	client := h.Client(h.Enroll("monitor-1", "patient-monitor"))
	read := func() int {
		t.Helper()
		code, _ := rig.Do(t, client, "GET", h.URL("/fhir/Patient/1"), "", "")
		return code
	}
	if got := read(); got != http.StatusCreated { // the backend answers so to everything
		t.Fatalf("status %d", got)
	}

	if err := os.CopyFS(h.Path("next"), os.DirFS(h.Path("policies"))); err != nil {
		t.Fatal(err)
	}
	h.Write("next/authz/patient.rego", noPatients)
	h.Write("next/authz/patient_test.rego", noPatientsTest)
	h.Must("policy", "check", "next", "--strict")
	h.Must("policy", "test", "next", "--threshold", "95")
	out := h.Must("policy", "replay", "next")
	if !strings.Contains(out, ": 1 would change") || !strings.Contains(out, "monitors may not read Patient") {
		t.Errorf("replay says %s", out)
	}
	if got := read(); got != http.StatusCreated {
		t.Errorf("status %d: what is only tried decides", got)
	}
	out = h.Must("policy", "push", "next", "-m", "monitors may not read Patient", "--cert", "jane/jane.crt", "--key", "jane/jane.key")
	if !strings.Contains(out, "Revision 2 ") || !strings.Contains(out, "is in force; before it was revision 1 ") {
		t.Errorf("push says %s", out)
	}
	if got := read(); got != http.StatusForbidden {
		t.Errorf("status %d after the push", got)
	}
	if out := h.Must("policy", "diff", "1", "2"); !strings.Contains(out, `+ deny contains "monitors may not read Patient"`) {
		t.Errorf("diff says %s", out)
	}
	h.Must("policy", "rollback")
	if got := read(); got != http.StatusCreated {
		t.Errorf("status %d after the rollback", got)
	}
}

// TestWhatIsRememberedIsCountedAndCanBeSwitchedOff: metrics and status show what
// the cache does, and policy.cache: off leaves none.
func TestWhatIsRememberedIsCountedAndCanBeSwitchedOff(t *testing.T) {
	h := rig.New(t)
	config := simple(t)
	h.Configure(config)
	h.Start()
	client := h.Client(h.Enroll("monitor-1", "patient-monitor"))
	ask := func() {
		t.Helper()
		for range 3 {
			if got := post(client, h.URL("/fhir/Observation")); got != http.StatusCreated {
				t.Fatalf("status %d", got)
			}
		}
	}
	ask()
	for _, want := range []string{"anteroom_policy_cache_hits 2\n", "anteroom_policy_cache_misses 1\n", "anteroom_policy_cache_evictions 0\n", "anteroom_policy_cache_entries 1\n"} {
		if m := h.Metrics(); !strings.Contains(m, want) {
			t.Errorf("metrics do not say %q:\n%s", want, m)
		}
	}
	if out := h.Must("policy", "status"); !strings.Contains(out, "2 of 3 decisions remembered") {
		t.Errorf("policy status says %s", out)
	}
	// A running gateway forgets at once.
	h.Write("anteroom.yaml", strings.Replace(h.Head()+config, "{enforce: policies}", "{enforce: policies, cache: off}", 1))
	h.Must("reload")
	ask()
	for _, want := range []string{"anteroom_policy_cache_hits 0\n", "anteroom_policy_cache_misses 0\n", "anteroom_policy_cache_entries 0\n"} {
		if m := h.Metrics(); !strings.Contains(m, want) {
			t.Errorf("switched off, metrics do not say %q:\n%s", want, m)
		}
	}
	if out := h.Must("policy", "status"); !strings.Contains(out, "no decision is remembered: policy.cache is off") {
		t.Errorf("policy status says %s", out)
	}
}
