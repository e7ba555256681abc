package integration

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// operators makes the people of a drill and returns the flags each signs with.
func operators(h *rig.Hospital) map[string][]string {
	out := map[string][]string{}
	for name, role := range map[string]string{"jane": "enroller", "bob": "security-officer", "eve": "security-officer", "ann": "auditor"} {
		h.Must("operator", "add", name, "--role", role, "--out", name)
		out[name] = []string{"--cert", name + "/" + name + ".crt", "--key", name + "/" + name + ".key"}
	}
	return out
}

var grantID = regexp.MustCompile(`bg-[0-9a-z]{8}`)

// glass runs a break-glass command.
func glass(h *rig.Hospital, by []string, args ...string) string {
	return h.Must(append(append([]string{"break-glass"}, args...), by...)...)
}

// TestTheBreakGlassDrill is what a site should try before it needs it: a device is
// denied, one operator asks and can not approve, a second one does, the device is
// served and every record says under which grant; a power cut changes nothing, and
// with the grant goes what it allowed. A revoked device stays out throughout.
func TestTheBreakGlassDrill(t *testing.T) {
	e := startEcho(t)
	h := rig.New(t)
	h.Configure(`routes:
  - {name: ehr, path: /fhir, kind: fhir, backend: b}
  - {name: live, path: /live, websocket: true, backend: b}
backends:
  - {name: b, addresses: ["` + e.addr + `"], ca_file: "` + e.ca + `"}
`)
	// In an emergency the live channel is open too.
	h.Write("policies/authz/live.rego", `package anteroom.authz

allow contains "an emergency needs the live channel" if {
	input.break_glass.active == true
	input.route.name == "live"
}
`)
	by := operators(h)
	h.Start()
	monitor, gone := h.Enroll("monitor-1", "patient-monitor"), h.Enroll("monitor-2", "patient-monitor")
	chart := h.URL("/fhir/Patient/4711")
	c := h.Client(monitor)
	// The echo server has no such page; what matters is whether it was asked.
	served := func(when string, want bool) {
		t.Helper()
		e.take()
		code, body := asks(t, c, "GET", chart)
		if got := len(e.take()) > 0; got != want || want == (code == http.StatusForbidden) {
			t.Fatalf("%s: served %t, want %t: %d %s", when, got, want, code, body)
		}
	}
	out := func(when string) {
		t.Helper()
		if code, body := asks(t, h.Client(gone), "GET", chart); code != 0 {
			t.Errorf("%s: a revoked device is heard: %d %s", when, code, body)
		}
	}
	served("before", false)
	if _, resp, err := dial(t, h, monitor, "/live"); err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("the live channel, before: %v", err)
	}

	id := grantID.FindString(glass(h, by["bob"], "open", "--class", "patient-monitor", "--for", "40m", "--reason", "EHR terminals are down"))
	served("requested", false)
	if _, stderr, code := h.Run(append([]string{"break-glass", "approve", id}, by["bob"]...)...); code == 0 || !strings.Contains(stderr, "bob asked for "+id+", and the second person must be another") {
		t.Fatalf("approved by who asked: %d %s", code, stderr)
	}
	served("approved by who asked", false)
	h.Must("device", "revoke", "monitor-2", "--reason", "stolen", "--yes")
	from := len(h.Logs())
	if text := glass(h, by["eve"], "approve", id); !strings.HasPrefix(text, "BREAK-GLASS "+id+" is open for patient-monitors (1 in service) until ") {
		t.Errorf("approve says %s", text)
	}
	served("approved", true)
	out("approved")
	if code, _ := asks(t, c, "DELETE", chart); code != http.StatusForbidden {
		t.Errorf("an emergency deletes: %d", code)
	}
	h.WaitLog(from, "BREAK-GLASS is open")
	if strings.Contains(h.Logs(), "terminals are down") {
		t.Error("the log holds a reason, which may name somebody")
	}
	if _, _, err := dial(t, h, monitor, "/live"); err != nil {
		t.Fatal(err)
	}
	if text := h.Must("status"); !strings.Contains(text, "BREAK-GLASS "+id+" is open for patient-monitors until ") || !strings.Contains(text, "(opened by bob, approved by eve)") {
		t.Errorf("status says nothing:\n%s", text)
	}
	if m := h.Metrics(); !strings.Contains(m, "anteroom_break_glass_active 1") || !strings.Contains(m, `anteroom_break_glass_decisions_total{result="allow"} 2`) ||
		!strings.Contains(m, `anteroom_break_glass_decisions_total{result="deny"} 1`) {
		t.Errorf("metrics:\n%s", m)
	}
	recorded := `"break_glass":{"id":"` + id + `","reason":"EHR terminals are down","until":"`
	rig.Eventually(t, "the records", func() bool {
		return strings.Count(h.Must("audit", "search", "--device", "monitor-1", "--event", "transaction.decided", "--json"), recorded) == 3
	})

	// A power cut: the grant holds, and its end is known.
	h.Kill()
	from = len(h.Logs())
	h.Start()
	h.WaitLog(from, "BREAK-GLASS "+id+" is open for patient-monitors until ")
	c = h.Client(monitor)
	served("after a power cut", true)
	out("after a power cut")

	// Quarantine is stronger; a release brings the grant's device back under it.
	h.Must("device", "quarantine", "monitor-1", "--reason", "odd")
	if code, body := asks(t, h.Client(monitor), "GET", chart); code != 0 {
		t.Errorf("quarantined, and heard: %d %s", code, body)
	}
	h.Must("device", "release", "monitor-1")
	c = h.Client(monitor)
	served("released", true)
	live, _, err := dial(t, h, monitor, "/live")
	if err != nil {
		t.Fatal(err)
	}

	if text := glass(h, nil, "close", id); !strings.HasPrefix(text, "Closed "+id+": nothing is allowed under it any more\n") {
		t.Errorf("close says %s", text)
	}
	served("closed", false)
	if _, _, err := live.Read(t.Context()); websocket.CloseStatus(err) == websocket.StatusNormalClosure || err == nil {
		t.Errorf("what lived on the grant goes on: %v", err)
	}
	if m := h.Metrics(); !strings.Contains(m, "anteroom_break_glass_active 0") || !strings.Contains(m, "anteroom_break_glass_unreviewed 1") {
		t.Errorf("metrics:\n%s", m)
	}
	h.Kill()
	h.Start()
	c = h.Client(monitor)
	served("closed, and after a power cut", false)
	if text := h.Must("status"); !strings.Contains(text, "break-glass "+id+", closed at ") || !strings.Contains(text, "was not reviewed") {
		t.Errorf("status:\n%s", text)
	}
	if _, stderr, code := h.Run(append([]string{"break-glass", "review", id, "-m", "fine"}, by["bob"]...)...); code == 0 || !strings.Contains(stderr, "the second person must be another") {
		t.Errorf("reviewed by who opened it: %d %s", code, stderr)
	}
	glass(h, by["ann"], "review", id, "-m", "terminals were down, three reads")
	if text := h.Must("break-glass", "list"); !strings.Contains(text, "No grant is open") {
		t.Errorf("list:\n%s", text)
	}
	text := h.Must("audit", "search", id)
	for _, event := range []string{"break-glass.requested", "operator.failed", "break-glass.opened", "break-glass.closed", "break-glass.reviewed"} {
		if !strings.Contains(text, event) {
			t.Errorf("%s is not recorded:\n%s", event, text)
		}
	}
	if text := h.Must("policy", "replay", "policies", "--since", "1h"); !strings.Contains(text, "0 would change") || strings.Contains(text, "could not be made again") {
		t.Errorf("replayed under the same set:\n%s", text)
	}
}

// TestAnEmergencyEndsByItself: at its time, with nobody near, though the gateway was
// killed meanwhile.
func TestAnEmergencyEndsByItself(t *testing.T) {
	h := rig.New(t)
	h.Configure(simple(t))
	by := operators(h)
	h.Start()
	monitor := h.Enroll("monitor-1", "patient-monitor")
	id := grantID.FindString(glass(h, by["jane"], "open", "--device", "monitor-1", "--route", "ehr", "--for", "5s", "--reason", "a drill"))
	glass(h, by["bob"], "approve", id)
	h.Kill()
	h.Start()
	h.WaitLog(0, "break-glass is over")
	if code, body := asks(t, h.Client(monitor), "GET", h.URL("/fhir/Patient/4711")); code != http.StatusForbidden {
		t.Errorf("still open: %d %s", code, body)
	}
	if text := h.Must("break-glass", "list"); !strings.Contains(text, "expired, NOT REVIEWED") {
		t.Errorf("list:\n%s", text)
	}
	rig.Eventually(t, "its record", func() bool { return strings.Contains(h.Must("audit", "search", id), "break-glass.expired") })
}
