package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// updates returns routes to a FHIR server and to an update server, which says
// what it was asked for.
func updates(t *testing.T, lane string) string {
	t.Helper()
	pki := peers.NewPKI(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, r.Method+" "+r.URL.Path)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	return fmt.Sprintf(`routes:
  - {name: ehr, path: /fhir, kind: fhir, backend: ehr}
  - {name: files, path: /files, backend: ehr}
  - {name: updates, path: /updates, backend: ehr, environment: maintenance%s}
backends:
  - {name: ehr, addresses: [%q], server_name: localhost, ca_file: %q}
`, lane, server.Listener.Addr().String(), pki.CAFile)
}

// asks sends a request and returns its status, 0 if there was no answer.
func asks(t *testing.T, c *http.Client, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// TestAQuarantinedDeviceReachesItsUpdateServerOnly: with a lane, a quarantined
// device is let in and gets its update, and nothing else that it or anybody
// asked for, however careless the policies are. Without one it is not let in.
func TestAQuarantinedDeviceReachesItsUpdateServerOnly(t *testing.T) {
	h := rig.New(t)
	h.Configure(updates(t, ", quarantine_lane: true"))
	// A policy author's slip: what the edge refuses by itself stays refused.
	h.Write("policies/authz/slip.rego", "package anteroom.authz\n\nallow contains \"files are for everybody\" if input.route.name == \"files\"\n")
	if err := os.Remove(h.Path("policies", "authz", "status.rego")); err != nil {
		t.Fatal(err)
	}
	h.Start()
	pump := h.Enroll("pump-1", "infusion-pump", "--life-critical=false")
	gone := h.Enroll("pump-2", "infusion-pump")
	c := h.Client(pump)
	if code, body := asks(t, c, "GET", h.URL("/fhir/metadata")); code != http.StatusOK {
		t.Fatalf("before: %d %s", code, body)
	}
	h.Must("device", "posture", "pump-1", "--max-cvss", "9.8")
	h.Must("device", "quarantine", "pump-1", "--reason", "old firmware")
	h.Must("device", "revoke", "pump-2", "--reason", "stolen", "--yes")
	if out := h.Must("session", "list"); strings.Contains(out, "pump-1") {
		t.Errorf("a session of before the quarantine lives:\n%s", out)
	}
	if code, body := asks(t, h.Client(gone), "GET", h.URL("/updates/a")); code != 0 {
		t.Errorf("a revoked device: %d %s", code, body)
	}

	// One connection throughout: a refusal does not end it.
	for _, client := range []*http.Client{h.Client(pump), h.Client2(pump)} {
		for _, tt := range []struct {
			method, path string
			want         int
		}{
			{"GET", "/updates/pump/4.3.0.bin", http.StatusOK},
			{"HEAD", "/updates/pump/4.3.0.bin", http.StatusOK},
			{"POST", "/updates/pump/4.3.0.bin", http.StatusForbidden},
			{"DELETE", "/updates/pump", http.StatusForbidden},
			{"GET", "/fhir/metadata", http.StatusForbidden},
			{"GET", "/files/a", http.StatusForbidden},
			{"GET", "/elsewhere", http.StatusNotFound},
			{"GET", "/updates/pump/again", http.StatusOK},
		} {
			if code, body := asks(t, client, tt.method, h.URL(tt.path)); code != tt.want {
				t.Errorf("%s %s: %d %s", tt.method, tt.path, code, body)
			}
		}
	}
	rig.Eventually(t, "the records", func() bool {
		out := h.Must("audit", "search", "--device", "pump-1", "--route", "files", "--json")
		return strings.Contains(out, `"device_status":"quarantined"`) && strings.Contains(out, `"cause":"device"`) && strings.Contains(out, "this route is no lane for it")
	})
	if out := h.Must("audit", "search", "--device", "pump-1", "--route", "updates", "--json"); !strings.Contains(out, `"quarantine_lane":true`) || !strings.Contains(out, "its class may fetch this from the update server") {
		t.Errorf("what it fetched is not recorded as in the lane:\n%s", out)
	}
	for _, command := range []string{"status", "check"} {
		if out := h.Must(command); !strings.Contains(out, "quarantine lane") {
			t.Errorf("%s does not warn of the lane:\n%s", command, out)
		}
	}
	if m := h.Metrics(); !strings.Contains(m, `anteroom_route_quarantine_lane{route="updates"} 1`) {
		t.Errorf("metrics:\n%s", m)
	}
	h.WaitLog(0, "quarantined devices may connect")
	var live []struct {
		Device string `json:"device"`
		Lane   bool   `json:"quarantine_lane"`
	}
	if err := json.Unmarshal([]byte(h.Must("session", "list", "--json")), &live); err != nil {
		t.Fatal(err)
	}
	for _, s := range live {
		if s.Device == "pump-1" && !s.Lane {
			t.Error("the session is not shown as in the lane")
		}
	}

	// Recorded decisions of the lane are made again as they were; that of before
	// can not be, because the device's posture is another now.
	if out := h.Must("policy", "replay", "policies", "--since", "1h"); !strings.Contains(out, "0 would change") || !strings.Contains(out, "note: 1 could not be made again") {
		t.Errorf("replayed under the same set:\n%s", out)
	}

	lane := h.Client(pump)
	if code, _ := asks(t, lane, "GET", h.URL("/updates/a")); code != http.StatusOK {
		t.Fatal("no lane")
	}
	h.Must("device", "posture", "pump-1", "--max-cvss", "0")
	h.Must("device", "release", "pump-1")
	for _, client := range []*http.Client{lane, h.Client(pump)} {
		if code, body := asks(t, client, "GET", h.URL("/fhir/metadata")); code != http.StatusOK {
			t.Errorf("released: %d %s", code, body)
		}
	}

	// The lane goes with the configuration, and what is in it goes too.
	h.Must("device", "quarantine", "pump-1", "--reason", "again")
	if code, _ := asks(t, h.Client(pump), "GET", h.URL("/updates/a")); code != http.StatusOK {
		t.Fatal("no lane")
	}
	b, err := os.ReadFile(h.Path("anteroom.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	h.Write("anteroom.yaml", strings.Replace(string(b), ", quarantine_lane: true", "", 1))
	h.Must("reload")
	if out := h.Must("session", "list"); strings.Contains(out, "pump-1") {
		t.Errorf("a session outlives the lane:\n%s", out)
	}
	if code, body := asks(t, h.Client(pump), "GET", h.URL("/updates/a")); code != 0 {
		t.Errorf("without a lane: %d %s", code, body)
	}
	if out := h.Must("status"); strings.Contains(out, "quarantine lane") {
		t.Errorf("status still warns:\n%s", out)
	}
	h.Write("anteroom.yaml", strings.Replace(string(b), "quarantine_lane: true", "quarantine_lane: true, mode: observe", 1))
	if _, errs, code := h.Run("reload"); code == 0 || !strings.Contains(errs, "a lane for quarantined devices can not be a route that only observes") {
		t.Errorf("a lane that observes: %d %s", code, errs)
	}
}
