package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestMicroMDMsClientEnrolsAndRenewsBySCEP: a foreign client, unchanged, in plain
// HTTP. It is one of those that know SHA-1 and DES only, so its class has to be named.
func TestMicroMDMsClientEnrolsAndRenewsBySCEP(t *testing.T) {
	peers.Need(t, "scepclient", "openssl")
	t.Parallel()
	plain := rig.FreeAddr(t)
	h := newEnrolling(t, fmt.Sprintf(`, scep: {enabled: true, address: %q, legacy_classes: [patient-monitor]}`, plain))
	token := h.token("monitor-1", "--class", "patient-monitor")
	other := h.token("pump-1", "--class", "infusion-pump")
	dir := t.TempDir()
	enrol := func(id string, args ...string) (string, error) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, id), 0o700); err != nil {
			t.Fatal(err)
		}
		return run(t, dir, "scepclient", append([]string{"-server-url", "http://" + plain + "/scep", "-private-key", filepath.Join(id, "dev.key"), "-certificate", filepath.Join(id, "dev.crt"),
			"-cn", id, "-key-encipherment-selector"}, args...)...)
	}
	serial := func() string {
		t.Helper()
		out, err := run(t, dir, "openssl", "x509", "-in", "monitor-1/dev.crt", "-noout", "-serial", "-ext", "subjectAltName")
		if err != nil || !strings.Contains(out, "URI:spiffe://hospital.example/device/monitor-1") {
			t.Fatalf("the certificate: %v %s", err, out)
		}
		return out
	}
	if out, err := enrol("pump-1", "-challenge", other); err == nil || !strings.Contains(out, "badAlg") {
		t.Errorf("a class that is not named: %v %s", err, out)
	}
	if out, err := enrol("monitor-1", "-challenge", strings.Repeat("0", 35)); err == nil || !strings.Contains(out, "badMessageCheck") {
		t.Errorf("a wrong challenge password: %v %s", err, out)
	}
	for _, name := range []string{"csr.pem", "self.pem"} { // it would use them again
		if err := os.Remove(filepath.Join(dir, "monitor-1", name)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := enrol("monitor-1", "-challenge", token); err != nil {
		t.Fatalf("enrolment: %v %s", err, out)
	}
	first := serial()
	if out, err := enrol("monitor-1"); err != nil {
		t.Fatalf("renewal: %v %s", err, out)
	}
	if second := serial(); second == first {
		t.Errorf("renewal brings the same certificate: %s", second)
	}
	// The certificate opens the device's listener.
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "monitor-1/dev.crt"), filepath.Join(dir, "monitor-1/dev.key"))
	if err != nil {
		t.Fatal(err)
	}
	if status := post(h.Client(&rig.Device{Pair: pair}), h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Errorf("the device is answered %d", status)
	}
	h.recorded("enrolment.refused", 2)
	h.Must("device", "revoke", "monitor-1", "--yes")
	if out, err := enrol("monitor-1"); err == nil || !strings.Contains(out, "badMessageCheck") {
		t.Errorf("renewal after the revocation: %v %s", err, out)
	}
	if out := h.Must("audit", "search", "--event", "device.enrolled"); !strings.Contains(out, "way=scep") {
		t.Errorf("the record: %s", out)
	}
}

// TestNothingButSCEPIsAnsweredInPlainHTTP, and SCEP itself over TLS too.
func TestNothingButSCEPIsAnsweredInPlainHTTP(t *testing.T) {
	t.Parallel()
	plain := rig.FreeAddr(t)
	h := newEnrolling(t, fmt.Sprintf(`, limits: {requests: 1000}, scep: {enabled: true, address: %q}`, plain))
	ask := func(method, path, host string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+plain+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		resp, err := http.DefaultClient.Do(req)
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
	for _, path := range []string{"/scep", "/cgi-bin/pkiclient.exe"} {
		if status, body := ask("GET", path+"?operation=GetCACaps", ""); status != http.StatusOK || !strings.Contains(body, "SCEPStandard") || strings.Contains(body, "DES3") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	for _, path := range []string{"/enrol", "/enrol/renew", "/roots.pem", "/.well-known/est/cacerts", "/.well-known/est/simpleenroll", "/health", "/1.0/sign", "/fhir/Observation", "/", "/scep/", "/scep/x?operation=GetCACaps", "/metrics"} {
		for _, method := range []string{"GET", "POST"} {
			if status, body := ask(method, path, ""); status != http.StatusNotFound {
				t.Errorf("%s %s: %d %s", method, path, status, body)
			}
		}
	}
	if status, _ := ask("GET", "/scep?operation=GetCACaps", "elsewhere.example"); status != http.StatusMisdirectedRequest {
		t.Errorf("another host: %d", status)
	}
	if status, _ := ask("DELETE", "/scep", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("another method: %d", status)
	}
	if status, body := h.ask(h.client(), "GET", "/scep?operation=GetCACaps", ""); status != http.StatusOK || !strings.Contains(body, "AES") {
		t.Errorf("over TLS: %d %s", status, body)
	}
	if status, body := h.ask(h.client(), "GET", "/roots.pem?"+url.Values{"x": {"y"}}.Encode(), ""); status != http.StatusNotFound {
		t.Errorf("a query where none may be: %d %s", status, body)
	}
	if out := h.Must("status"); !strings.Contains(out, plain) {
		t.Errorf("status: %s", out)
	}
}
