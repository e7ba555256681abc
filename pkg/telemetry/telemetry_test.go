package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, s *Server, path string) (int, string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	c := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	resp, err := c.Get("http://" + s.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestHealth(t *testing.T) {
	var why error
	s, err := Serve("127.0.0.1:0", NewMetrics(), func() error { return why })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := get(t, s, path); code != 200 || body != "ok\n" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	why = errors.New("the audit log takes no records: disk full")
	if code, body := get(t, s, "/readyz"); code != 503 || !strings.Contains(body, "disk full") {
		t.Errorf("readyz: %d %q", code, body)
	}
	if code, _ := get(t, s, "/healthz"); code != 200 {
		t.Error("a gateway that is not ready is still alive")
	}
	for _, path := range []string{"/", "/debug/pprof/", "/metrics/"} {
		if code, _ := get(t, s, path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
	if _, err := Serve(s.Addr().String(), NewMetrics(), nil); err == nil {
		t.Error("an address in use was taken")
	}
}

// TestMetrics fills every metric and holds the text that is scraped, and that
// nothing in it names a device or could grow without bound.
func TestMetrics(t *testing.T) {
	m := NewMetrics()
	m.Transaction("devices", "fhir", "fhir", "allow", 3*time.Microsecond)
	m.Transaction("devices", "fhir", "fhir", "deny", 0)
	for _, status := range []int{0, 101, 200, 404, 503, 999} {
		m.Request("devices", "fhir", status, time.Millisecond)
	}
	m.Handshake("devices", "ok")
	m.Turn(20 * time.Millisecond)
	m.PlanDistrusted("bbbb")
	m.BackendShare("ehr", "served", time.Second)
	m.BackendShare("gone", "refused", time.Minute)
	m.Session("devices", 1)
	m.Session("devices", 1)
	m.Session("devices", -1)
	m.PolicyLoaded("aaaa")
	m.PolicyLoaded("bbbb")
	m.PolicyRefused()
	m.BackendUp("ehr", "ehr:443", true)
	m.BackendUp("pacs", "pacs:443", false)
	m.BackendUp("gone", "gone:443", true)
	m.BackendGone("gone")
	m.Gauge("anteroom_audit_records", "Records.", func() float64 { return 7 })
	m.Gauges("anteroom_devices", "Devices.", "device_status", func() map[string]float64 { return map[string]float64{"active": 3, "revoked": 1} })
	s, err := Serve("127.0.0.1:0", m, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, body := get(t, s, "/metrics")
	for _, want := range []string{
		`anteroom_transactions_total{listener="devices",protocol="fhir",result="allow",route="fhir"} 1`,
		`anteroom_transactions_total{listener="devices",protocol="fhir",result="deny",route="fhir"} 1`,
		`anteroom_decision_seconds_count 1`,
		`anteroom_http_requests_total{listener="devices",route="fhir",status="none"} 2`,
		`anteroom_http_requests_total{listener="devices",route="fhir",status="5xx"} 1`,
		`anteroom_handshakes_total{listener="devices",result="ok"} 1`,
		`anteroom_handshake_wait_seconds_bucket{le="0.01"} 0`,
		`anteroom_handshake_wait_seconds_bucket{le="0.1"} 1`,
		`anteroom_policy_plan_distrusted_total 1`,
		`anteroom_backend_device_waits_total{backend="ehr",result="served"} 1`,
		`anteroom_backend_device_wait_seconds_total{backend="ehr"} 1`,
		`anteroom_sessions{listener="devices"} 1`,
		`anteroom_policy_info{revision="bbbb"} 1`,
		`anteroom_policy_loads_total{result="refused"} 1`,
		`anteroom_backend_up{address="ehr:443",backend="ehr"} 1`,
		`anteroom_backend_up{address="pacs:443",backend="pacs"} 0`,
		`anteroom_audit_records 7`,
		`anteroom_devices{device_status="active"} 3`,
		`anteroom_devices{device_status="revoked"} 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(body, "aaaa") || strings.Contains(body, `="gone`) {
		t.Error("what is no more is still told")
	}
	bounded := map[string]bool{"listener": true, "route": true, "protocol": true, "result": true, "status": true, "device_status": true, "revision": true,
		"backend": true, "address": true, "le": true, "version": true, "quantile": true}
	for _, l := range regexp.MustCompile(`[{,](\w+)="`).FindAllStringSubmatch(body, -1) {
		if !bounded[l[1]] {
			t.Errorf("label %s: is the number of its values bounded, and none of them a device?", l[1])
		}
	}
}

// TestTwoGatewaysSideBySide share nothing.
func TestTwoGatewaysSideBySide(t *testing.T) {
	a, b := NewMetrics(), NewMetrics()
	a.Handshake("devices", "ok")
	got, err := b.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range got {
		if f.GetName() == "anteroom_handshakes_total" {
			t.Error("one counts the other's handshakes")
		}
	}
}

func TestLogger(t *testing.T) {
	var buf bytes.Buffer
	log, err := NewLogger(config.Telemetry{LogLevel: "warn", LogFormat: "json"}, &buf)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("no")
	log.Warn("yes", "listener", "devices")
	var line map[string]any
	if err := json.Unmarshal(buf.Bytes(), &line); err != nil || line["msg"] != "yes" || line["listener"] != "devices" {
		t.Errorf("%s %v", buf.Bytes(), err)
	}
	if _, err := NewLogger(config.Telemetry{LogLevel: "loud"}, &buf); err == nil {
		t.Error("an unknown level was taken")
	}
}

func TestZap(t *testing.T) {
	var buf bytes.Buffer
	z := Zap(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelInfo}))).Named("certmagic").With(zap.String("host", "gw.example"))
	z.Info("what a library finds interesting")
	if buf.Len() > 0 {
		t.Errorf("logged: %s", &buf)
	}
	child := z.With(zap.Int("try", 1))
	z.With(zap.Int("try", 2)).Warn("renewal is late")
	child.Error("renewal failed", zap.Error(errors.New("refused")))
	lines := strings.Split(strings.TrimSpace(buf.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	for i, want := range [][]string{
		{"level=WARN", `msg="renewal is late"`, "part=certmagic", "host=gw.example", "try=2"},
		{"level=ERROR", `msg="renewal failed"`, "try=1", "error=refused"},
	} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("%s: no %s", lines[i], w)
			}
		}
	}
}
