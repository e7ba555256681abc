package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

const noMonitors = `package anteroom.authz

deny contains "no monitor writes any more" if input.device.class == "patient-monitor"
`

// pushing starts a gateway on which what is pushed is in force, and returns how
// jane pushes.
func pushing(t *testing.T) (h *rig.Hospital, push func(message string, flags ...string) string) {
	t.Helper()
	h = rig.New(t)
	config := simple(t)
	h.Configure(config)
	h.Write("anteroom.yaml", strings.Replace(h.Head()+config, "{enforce: policies}", "{enforce: policies, source: pushed}", 1))
	h.Must("operator", "add", "jane", "--role", "policy-author", "--out", "jane")
	h.Start()
	return h, func(message string, flags ...string) string {
		t.Helper()
		return h.Must(append([]string{"policy", "push", "policies", "-m", message, "--cert", "jane/jane.crt", "--key", "jane/jane.key"}, flags...)...)
	}
}

// A revision on trial decides for its devices only, and goes when it denies a
// life-critical one too often; no later than the next transaction.
func TestARevisionOnTrialGoesByItself(t *testing.T) {
	h, push := pushing(t)
	tried, other := h.Client(h.Enroll("monitor-1", "patient-monitor", "--life-critical")), h.Client(h.Enroll("monitor-2", "patient-monitor"))
	url := h.URL("/fhir/Observation")
	expect := func(when string, c *http.Client, want int) {
		t.Helper()
		if got := post(c, url); got != want {
			t.Fatalf("%s: status %d, want %d", when, got, want)
		}
	}
	push("as shipped")
	h.Write("policies/authz/none.rego", noMonitors)
	if out := push("no monitors", "--canary", "monitor-1", "--max-denials", "2", "--window", "1h"); !strings.Contains(out, "is on trial with monitor-1") {
		t.Errorf("policy push says %s", out)
	}
	for _, when := range []string{"first", "second"} {
		expect(when, tried, http.StatusForbidden)
		expect(when, other, http.StatusCreated)
	}
	if out := h.Must("status"); !strings.Contains(out, "2 denied; 2 of them new, 2 of life-critical devices (more than 2 within 1h0m0s ends it)") {
		t.Errorf("status says %s", out)
	}
	expect("one too many", tried, http.StatusForbidden)
	expect("after the trial", tried, http.StatusCreated)
	rig.Eventually(t, "the end of the trial in the history", func() bool {
		return strings.Contains(h.Must("policy", "history"), "[rolled back by itself: it denied life-critical devices more than 2 transactions within 1h0m0s")
	})
	rig.Eventually(t, "its record", func() bool {
		return strings.Contains(h.Must("audit", "search", "--kind", "policy"), "policy.canary-failed")
	})
	if out := h.Must("policy", "status"); strings.Contains(out, "TRIAL") {
		t.Errorf("policy status says %s", out)
	}
	h.Kill()
	h.Start()
	expect("after a restart", tried, http.StatusCreated)
}

// What was acknowledged decides after kill -9: the push, the trial, its
// promotion, the way back.
func TestRevisionsOutliveTheGateway(t *testing.T) {
	h, push := pushing(t)
	one, two := h.Enroll("monitor-1", "patient-monitor"), h.Enroll("monitor-2", "patient-monitor")
	check := func(when string, first, second int) {
		t.Helper()
		for _, state := range []string{when, when + ", killed and started"} {
			for i, want := range []int{first, second} {
				d := one
				if i == 1 {
					d = two
				}
				if got := post(h.Client(d), h.URL("/fhir/Observation")); got != want {
					t.Errorf("%s: %s: status %d, want %d", state, d.ID, got, want)
				}
			}
			h.Kill()
			h.Start()
		}
	}
	push("as shipped")
	check("pushed", http.StatusCreated, http.StatusCreated)
	h.Write("policies/authz/none.rego", noMonitors)
	check("the directory changed", http.StatusCreated, http.StatusCreated)
	push("no monitors", "--canary", "monitor-1")
	check("on trial", http.StatusForbidden, http.StatusCreated)
	h.Must("policy", "promote")
	check("promoted", http.StatusForbidden, http.StatusForbidden)
	h.Must("policy", "rollback")
	check("rolled back", http.StatusCreated, http.StatusCreated)
}

// What a session holds is asked again when a trial of its device begins, when it
// is ended and when it ends by itself.
func TestAWebSocketEndsWithTheTrial(t *testing.T) {
	e := startEcho(t)
	h := socketHospital(t, e)
	h.Kill()
	config, err := os.ReadFile(h.Path("anteroom.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	h.Write("anteroom.yaml", strings.Replace(string(config), "{enforce: policies}", "{enforce: policies, source: pushed}", 1))
	h.Must("operator", "add", "jane", "--role", "policy-author", "--out", "jane")
	d := h.Enroll("monitor-1", "patient-monitor", "--life-critical")
	other := h.Enroll("monitor-2", "patient-monitor")
	h.Start()
	push := func(denied, more string, flags ...string) {
		t.Helper()
		h.Write("policies/authz/live.rego", fmt.Sprintf(socketRule, denied)+more)
		h.Must(append([]string{"policy", "push", "policies", "-m", "sockets", "--cert", "jane/jane.crt", "--key", "jane/jane.key"}, flags...)...)
	}
	ends := func(when string, c *websocket.Conn) {
		t.Helper()
		if err := end(t, c); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
			t.Errorf("%s: the WebSocket ended with %v, not with 1008", when, err)
		}
		e.gone(t)
	}
	push(`"nobody"`, "")
	mine, theirs := open(t, h, d), open(t, h, other)
	push(`input.device.id`, "", "--canary", "monitor-1", "--max-denials", "9")
	ends("a trial that denies", mine)
	say(t, theirs, "not on trial")

	h.Must("policy", "rollback")
	push(`"monitor-1"`, "")
	push(`"nobody"`, "", "--canary", "monitor-1")
	mine = open(t, h, d)
	h.Must("policy", "rollback")
	ends("a trial that allowed is ended", mine)

	push(`"nobody"`, "\ndeny contains \"no FHIR\" if input.route.name == \"ehr\"\n", "--canary", "monitor-1")
	mine = open(t, h, d)
	if got := post(h.Client(d), h.URL("/fhir/Observation")); got != http.StatusForbidden {
		t.Errorf("status %d for what the trial denies", got)
	}
	ends("a trial that allowed ends by itself", mine)
	say(t, theirs, "still not on trial")
}
