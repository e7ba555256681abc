package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
)

// smallDisk mounts 24 MiB at disk in a hospital's directory, and returns what leaves so
// many bytes of it free; 0 takes the ballast away again.
func smallDisk(t *testing.T, h *rig.Hospital) (leave func(bytes int64)) {
	t.Helper()
	disk := h.Path("disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		if peers.Required() && os.Geteuid() == 0 {
			t.Fatalf("mount: %v", err)
		}
		t.Skip("mounting a small disk needs root")
	}
	t.Cleanup(func() {
		h.Kill()
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	return func(bytes int64) {
		t.Helper()
		ballast := filepath.Join(disk, "ballast")
		if err := os.Remove(ballast); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if bytes == 0 {
			return
		}
		var st syscall.Statfs_t
		if err := syscall.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ballast, make([]byte, int64(st.Bavail)*st.Bsize-bytes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAnAlarmPassesWithNearlyNoDiskLeft: with too little disk for the audit log, reports
// of a life-critical device reach the backend of the route that is configured so, each
// of them recorded, and nothing else does. With less still, nothing at all.
func TestAnAlarmPassesWithNearlyNoDiskLeft(t *testing.T) {
	pki := peers.NewPKI(t)
	var arrived atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if arrived.Add(1); r.Header.Get("X-Break") != "" {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusCreated)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	h := rig.New(t)
	leave := smallDisk(t, h)
	h.Configure(fmt.Sprintf(`routes:
  - {name: alarms, path: /alarms, kind: fhir, backend: ehr, class: life-safety, on_failure: pass}
  - {name: strict, path: /strict, kind: fhir, backend: ehr, class: life-safety}
backends:
  - {name: ehr, addresses: [%q], server_name: localhost, ca_file: %q}
audit: {dir: disk/audit, min_free: 4MiB, rotate_size: 1MiB}
`, server.Listener.Addr().String(), pki.CAFile))
	h.Start()
	monitor := h.Enroll("monitor-1", "patient-monitor", "--life-critical")
	other := h.Enroll("monitor-2", "patient-monitor", "--life-critical=false")
	broken := ""
	ask := func(c *http.Client, method, path, body string) int {
		t.Helper()
		req, err := http.NewRequest(method, h.URL(path), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/fhir+json")
		if broken == "wanted" {
			req.Header.Set("X-Break", "1")
		}
		resp, err := c.Do(req)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		if broken == "wanted" {
			broken = resp.Header.Get("X-Anteroom-Decision-Id")
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	const (
		observation = `{"resourceType":"Observation","status":"final","code":{"text":"x"}}`
		alarm       = `{"resourceType":"Communication","status":"completed"}`
		lookup      = `{"resourceType":"Observation","status":"final","code":{"text":"x"},"device":{"reference":"Device?identifier=1"}}`
	)
	bundle := func(entries ...string) string {
		return `{"resourceType":"Bundle","type":"transaction","entry":[` + strings.Join(entries, ",") + `]}`
	}
	tell := `{"request":{"method":"POST","url":"Observation"},"resource":` + observation + `}`
	c, c2 := h.Client(monitor), h.Client2(monitor)
	for _, path := range []string{"/alarms", "/strict"} {
		if code := ask(c, "POST", path+"/Observation", observation); code != http.StatusCreated {
			t.Fatalf("before, %s: %d", path, code)
		}
	}
	for command, want := range map[string]string{"status": "route alarms PASSES ON FAILURE: with little disk left", "check": "route alarms (WARNING: passes on failure"} {
		if out := h.Must(command); !strings.Contains(out, want) {
			t.Errorf("%s does not warn:\n%s", command, out)
		}
	}
	h.WaitLog(0, "the route passes on failure")
	leave(3 << 20)
	rig.Eventually(t, "requests to be refused", func() bool {
		return ask(c, "POST", "/strict/Observation", observation) == http.StatusServiceUnavailable
	})
	sent := arrived.Load()
	for _, tt := range []struct {
		c                  *http.Client
		method, path, body string
		want               int
	}{
		{c, "POST", "/alarms/Observation", observation, http.StatusCreated},
		{c2, "POST", "/alarms/Communication", alarm, http.StatusCreated},
		{c, "POST", "/alarms", bundle(tell, tell), http.StatusCreated},
		{c, "POST", "/alarms", bundle(tell, `{"request":{"method":"GET","url":"metadata"}}`), http.StatusServiceUnavailable},
		{c, "POST", "/alarms/Observation", lookup, http.StatusServiceUnavailable},
		{c, "GET", "/alarms/metadata", "", http.StatusServiceUnavailable},
		{c, "POST", "/strict/Observation", observation, http.StatusServiceUnavailable},
		{h.Client(other), "POST", "/alarms/Observation", observation, http.StatusServiceUnavailable},
	} {
		if code := ask(tt.c, tt.method, tt.path, tt.body); code != tt.want {
			t.Errorf("%s %s %s: %d, want %d", tt.method, tt.path, tt.body, code, tt.want)
		}
	}
	if n := arrived.Load() - sent; n != 3 {
		t.Errorf("%d requests reached the backend, want 3", n)
	}
	broken = "wanted"
	if code := ask(c, "POST", "/alarms/Observation", observation); code != http.StatusBadGateway {
		t.Errorf("to a backend that breaks: %d", code)
	}
	// One that is beside itself has its share and no more.
	for i := 0; ask(c, "POST", "/alarms/Observation", observation) == http.StatusCreated; i++ {
		if i > 1000 {
			t.Fatal("one device takes all of the reserve")
		}
	}
	if out := h.Must("status"); !strings.Contains(out, "nothing is allowed but reports on routes that pass on failure") || !strings.Contains(out, " were refused, last ") {
		t.Errorf("status:\n%s", out)
	}
	m := h.Metrics()
	for _, want := range []string{`anteroom_route_on_failure_pass{route="alarms"} 1`, `anteroom_on_failure_total{result="passed",route="alarms"}`, `anteroom_on_failure_total{result="refused",route="alarms"}`, "anteroom_audit_reserve_bytes "} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	// A device that is out is out, although that can not be recorded.
	if _, errs, _ := h.Run("device", "quarantine", "monitor-1", "--reason", "odd"); !strings.Contains(errs, "the change was made, but its record is not durable") {
		t.Errorf("quarantined: %s", errs)
	}
	if code := ask(h.Client(monitor), "POST", "/alarms/Observation", observation); code != 0 {
		t.Errorf("a quarantined device: %d", code)
	}
	leave(0)
	rig.Eventually(t, "it to be released", func() bool {
		_, _, code := h.Run("device", "release", "monitor-1")
		return code == 0
	})
	c = h.Client(monitor)
	if code := ask(c, "POST", "/strict/Observation", observation); code != http.StatusCreated {
		t.Errorf("with disk enough again: %d", code)
	}
	// Half of min_free is not for devices.
	leave(1 << 20)
	rig.Eventually(t, "everything to be refused", func() bool {
		return ask(c, "POST", "/strict/Observation", observation) == http.StatusServiceUnavailable
	})
	if code := ask(c, "POST", "/alarms/Communication", alarm); code != http.StatusServiceUnavailable {
		t.Errorf("with less than the reserve left: %d", code)
	}
	leave(0)
	rig.Eventually(t, "requests to be recorded again", func() bool {
		return ask(c, "POST", "/strict/Observation", observation) == http.StatusCreated
	})
	out := h.Must("audit", "search", "--device", "monitor-1", "--route", "alarms", "--json")
	if n := strings.Count(out, `"on_failure":true`); n < 5 || !strings.Contains(out, `"on_failure":true,"reasons":[`) {
		t.Errorf("%d records say why they are in the reserve:\n%s", n, out)
	}
	if out := h.Must("audit", "search", "--decision", broken, "--json"); !strings.Contains(out, `"on_failure":true`) || !strings.Contains(out, `"transaction.undelivered"`) {
		t.Errorf("the log does not say of %q that it did not arrive:\n%s", broken, out)
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := audit.Verify(t.Context(), h.Path("disk/audit"), audit.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}
