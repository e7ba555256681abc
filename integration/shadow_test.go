package integration

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// addShadow puts a second policy set beside the enforced one: a copy with one
// more rule.
func addShadow(t *testing.T, h *rig.Hospital, rule string) {
	t.Helper()
	if err := os.CopyFS(h.Path("tried"), os.DirFS(h.Path("policies"))); err != nil {
		t.Fatal(err)
	}
	h.Write("tried/authz/new.rego", "package anteroom.authz\n\n"+rule+"\n")
	file := h.Path("anteroom.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h.Write("anteroom.yaml", strings.Replace(string(b), "policy: {enforce: policies}", "policy: {enforce: policies, shadow: tried, shadow_share: 100}", 1))
}

// TestAShadowSetDecidesNothingAndSaysWhatItWouldHave: a second set runs beside
// the enforced one on live traffic; what differs is in status, metrics and the
// audit log; and a set that can not be loaded harms nothing.
func TestAShadowSetDecidesNothingAndSaysWhatItWouldHave(t *testing.T) {
	h := rig.New(t)
	h.Configure(simple(t))
	addShadow(t, h, `deny contains "monitors shall be silent" if input.device.class == "patient-monitor"`)
	h.Start()
	monitor := h.Enroll("monitor-1", "patient-monitor")
	pump := h.Enroll("pump-1", "infusion-pump")
	h.WaitLog(0, "set=shadow")

	post := func(d *rig.Device) {
		t.Helper()
		if code, body := rig.Do(t, h.Client(d), "POST", h.URL("/fhir/Observation"), "application/fhir+json", observation); code != http.StatusCreated {
			t.Fatalf("%d: %s", code, body)
		}
	}
	for range 3 {
		post(monitor)
		post(pump)
	}
	const row = `3 × monitor-1: would-deny "monitors shall be silent"`
	rig.Eventually(t, "the shadow's differences", func() bool {
		out := h.Must("policy", "status")
		return strings.Contains(out, row) && strings.Contains(out, "6 decisions compared, 3 differ; 0 skipped")
	})
	if out := h.Must("status"); !strings.Contains(out, row) {
		t.Errorf("status says nothing of it:\n%s", out)
	}
	if m := h.Metrics(); !strings.Contains(m, `anteroom_shadow_differences{change="would-deny",device="monitor-1",rule="monitors shall be silent"} 3`) {
		t.Errorf("metrics:\n%s", m)
	}

	// A bad save is reported, changes nothing, and keeps nobody from starting.
	from := len(h.Logs())
	h.Write("tried/authz/new.rego", "package anteroom.authz\n\ndeny contains broken if input.devcie\n")
	h.WaitLog(from, "authz/new.rego:3")
	post(monitor)
	if out := h.Must("policy", "status"); !strings.Contains(out, "SHADOW REFUSED") || !strings.Contains(out, row[len("3"):]) {
		t.Errorf("after a bad save:\n%s", out)
	}
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	if out := h.Must("audit", "search", "--event", "policy.shadow.differs", "--json"); !strings.Contains(out, "monitors shall be silent") {
		t.Errorf("the audit log says nothing of it:\n%s", out)
	}
	h.Start()
	post(monitor)
	if out := h.Must("policy", "status"); !strings.Contains(out, "nothing from "+h.Path("tried")+" is compared") {
		t.Errorf("with a bad set from the start:\n%s", out)
	}
	from = len(h.Logs())
	h.Write("tried/authz/new.rego", "package anteroom.authz\n\ndeny contains \"good again\" if false\n")
	h.WaitLog(from, "set=shadow")
	rig.Eventually(t, "the repaired shadow", func() bool {
		return strings.Contains(h.Must("policy", "status"), "compared with")
	})
}

// TestARouteObservesBeforeItEnforces: the first day with a policy: nothing is
// refused, and everything that would have been is shown.
func TestARouteObservesBeforeItEnforces(t *testing.T) {
	h := rig.New(t)
	h.Configure(strings.Replace(simple(t), "kind: fhir,", "kind: fhir, mode: observe,", 1))
	h.Start()
	monitor := h.Enroll("monitor-1", "patient-monitor")
	c := h.Client(monitor)
	if code, body := rig.Do(t, c, "DELETE", h.URL("/fhir/Patient/1"), "", ""); code != http.StatusCreated {
		t.Fatalf("observed, and refused: %d %s", code, body)
	}
	if code, _ := rig.Do(t, c, "GET", h.URL("/elsewhere"), "", ""); code != http.StatusNotFound {
		t.Errorf("what no route is for: %d", code)
	}
	for _, command := range []string{"status", "policy status"} {
		if out := h.Must(strings.Fields(command)...); !strings.Contains(strings.ToLower(out), "observe") {
			t.Errorf("%s does not say that nothing is enforced:\n%s", command, out)
		}
	}
	if !strings.Contains(h.Logs(), "only observes") {
		t.Error("the log does not say it")
	}
	if m := h.Metrics(); !strings.Contains(m, `anteroom_route_observing{route="ehr"} 1`) || !strings.Contains(m, `result="would-deny"`) {
		t.Errorf("metrics:\n%s", m)
	}
	rig.Eventually(t, "the record", func() bool {
		return strings.Contains(h.Must("audit", "search", "--device", "monitor-1", "--json"), `"would_deny":true`)
	})
	h.Must("device", "quarantine", "monitor-1", "--reason", "odd")
	if resp, err := h.Client(monitor).Get(h.URL("/fhir/metadata")); err == nil {
		b, _ := io.ReadAll(resp.Body)
		t.Errorf("a quarantined device is observed: %d %s", resp.StatusCode, b)
	}
}
