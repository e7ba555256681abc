package integration

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// from returns a client of a device that connects from a loopback address.
func from(c *http.Client, addr string) *http.Client {
	tr := c.Transport.(*http.Transport).Clone()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	tr.DialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
		return d.DialContext(ctx, network, to)
	}
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// TestACopiedCertificateIsFound: two that use one certificate at once are reported
// once, with what to do; a person who knows better says so.
func TestACopiedCertificateIsFound(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, "")
	device, other := h.Enroll("monitor-1", "patient-monitor"), h.Enroll("monitor-2", "patient-monitor")
	theirs, ours := from(h.Client(device), "127.0.0.2"), from(h.Client(device), "127.0.0.3")
	defer theirs.CloseIdleConnections()
	defer ours.CloseIdleConnections()
	honest := h.Client(other)
	for range 5 {
		for _, c := range []*http.Client{theirs, ours, honest} {
			if status := post(c, h.URL("/fhir/Observation")); status != http.StatusCreated {
				t.Fatalf("%d", status)
			}
		}
	}
	h.recorded("finding.opened", 1)
	out := h.Must("device", "findings")
	for _, want := range []string{"monitor-1: clone: certificate SHA-256 ", "127.0.0.2", "127.0.0.3", "anteroom device revoke monitor-1, then enrol the device anew", "anteroom device accept monitor-1 clone"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	if out := h.Must("device", "show", "monitor-1"); !strings.Contains(out, "FINDING") {
		t.Errorf("the device: %s", out)
	}
	if out := h.Must("status"); !strings.Contains(out, "the certificates of 1 device are in use at two places at once") {
		t.Errorf("status: %s", out)
	}
	if m := h.Metrics(); !strings.Contains(m, `anteroom_findings{kind="clone"} 1`) || !strings.Contains(m, `anteroom_findings_total{kind="clone"} 1`) {
		t.Error("the metrics do not count it")
	}
	h.Must("device", "accept", "monitor-1", "clone")
	for range 8 {
		post(theirs, h.URL("/fhir/Observation"))
		post(ours, h.URL("/fhir/Observation"))
	}
	if out := h.Must("device", "findings"); !strings.Contains(out, "Nothing was found.") {
		t.Errorf("after it was accepted: %s", out)
	}
	h.recorded("finding.opened", 1)
	h.recorded("finding.accepted", 1)
}

// TestAWrongDeviceClockIsFound: by the Date of requests, and by the alert with which
// a device refuses our certificate; both say "device clock" and what to do.
func TestAWrongDeviceClockIsFound(t *testing.T) {
	peers.Need(t, "openssl")
	t.Parallel()
	h := newEnrolling(t, "")
	device := h.Enroll("monitor-1", "patient-monitor")
	client := h.Client(device)
	dated := func(ahead time.Duration) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL("/fhir/Observation"), strings.NewReader(observation))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/fhir+json")
		req.Header.Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		if status, text := answered(t, client, req); status != http.StatusCreated {
			t.Fatalf("%d %s", status, text)
		}
	}
	dated(-3 * time.Hour)
	dated(time.Second)
	dated(-3 * time.Hour) // once, and once more, is not in a row
	dated(0)
	if out := h.Must("device", "show", "monitor-1"); !strings.Contains(out, "\nclock ") || strings.Contains(out, "FINDING") {
		t.Errorf("a clock that is right: %s", out)
	}
	dated(-3 * time.Hour)
	dated(-3 * time.Hour)
	h.recorded("finding.opened", 1)
	if out := h.Must("device", "show", "monitor-1"); !strings.Contains(out, "the device clock is 3h0m0s slow") && !strings.Contains(out, "the device clock is 3h0m1s slow") || !strings.Contains(out, "Set the device's clock") {
		t.Errorf("the device: %s", out)
	}
	for range 3 {
		dated(0)
	}
	h.recorded("finding.over", 1)

	// A device that is ahead of its time breaks the handshake off.
	later := strconv.FormatInt(time.Now().AddDate(30, 0, 0).Unix(), 10)
	client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", "s_client", "-connect", h.Addr, "-CAfile", h.Path("root-ca.crt"), "-verify_return_error", "-attime", later)
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Fatalf("openssl takes a certificate that has ended: %s", out)
	}
	h.recorded("finding.opened", 2)
	rig.Eventually(t, "a record of the alert", func() bool {
		out := h.Must("audit", "search", "--event", "tls.refused")
		return strings.Contains(out, "code=device-clock") && strings.Contains(out, "the device clock is wrong. Set the device's clock")
	})
	if out := h.Must("device", "findings"); !strings.Contains(out, "from where only this one came in the last day") {
		t.Errorf("findings: %s", out)
	}
	// One that says no more than that it does not like the certificate.
	cfg := client.Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.Time = func() time.Time { return time.Now().AddDate(-30, 0, 0) }
	if conn, err := tls.Dial("tcp", h.Addr, cfg); err == nil {
		conn.Close()
		t.Fatal("Go takes a certificate that is not valid yet")
	}
	rig.Eventually(t, "a record of the other alert", func() bool {
		out := h.Must("audit", "search", "--event", "tls.refused")
		return strings.Contains(out, "code=device-refuses-us") && strings.Contains(out, "its device clock is wrong")
	})
}
