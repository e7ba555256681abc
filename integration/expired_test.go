package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestAShelfDeviceRenewsAtTheEnrolmentListenerOnly: an expired certificate opens no
// device listener, and nothing at the enrolment listener but renewal; there every
// protocol takes it, within the grace of its class, once.
func TestAShelfDeviceRenewsAtTheEnrolmentListenerOnly(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, ", class_grace: {infusion-pump: 24h}")
	out := t.TempDir()
	expired := func(id, class string) tls.Certificate {
		t.Helper()
		h.Must("device", "enroll", id, "--class", class, "--ttl", "1s", "--out", out)
		pair, err := tls.LoadX509KeyPair(filepath.Join(out, id+".crt"), filepath.Join(out, id+".key"))
		if err != nil {
			t.Fatal(err)
		}
		rig.Eventually(t, "the certificate of "+id+" to end", func() bool { return time.Now().After(pair.Leaf.NotAfter) })
		return pair
	}
	csr := func(id string) []byte {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	est := func(id string, pair tls.Certificate) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url("/.well-known/est/simplereenroll"),
			strings.NewReader(base64.StdEncoding.EncodeToString(csr(id))))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/pkcs10")
		return answered(t, h.client(pair), req)
	}

	pump := expired("pump-1", "infusion-pump")
	for _, path := range []string{"/fhir/Observation", "/enrol/renew", "/.well-known/est/simplereenroll"} {
		if resp, err := h.client(pump).Post("https://"+h.Addr+path, "application/fhir+json", strings.NewReader("{}")); err == nil {
			resp.Body.Close()
			t.Errorf("the device listener answers %s %d", path, resp.StatusCode)
		}
	}
	h.recorded("transaction.decided", 0)
	if status, text := h.ask(h.client(pump), "GET", "/fhir/Observation", ""); status != http.StatusNotFound {
		t.Errorf("a route at the enrolment listener: %d %s", status, text)
	}
	// EST, with another key.
	if status, text := est("pump-1", pump); status != http.StatusOK {
		t.Fatalf("EST: %d %s", status, text)
	}
	// The certificate that ended is over now, by every way.
	if status, text := est("pump-1", pump); status != http.StatusForbidden || !strings.Contains(text, "another certificate after it") {
		t.Errorf("EST again: %d %s", status, text)
	}
	if status, text := h.ask(h.client(pump), "POST", "/1.0/renew", ""); status != http.StatusUnauthorized {
		t.Errorf("smallstep's renewal of what was superseded: %d %s", status, text)
	}
	// smallstep's renewal, with the same key: the new certificate opens the device
	// listener.
	pump = expired("pump-2", "infusion-pump")
	status, text := h.ask(h.client(pump), "POST", "/1.0/renew", "")
	var signed struct {
		Chain []string `json:"certChain"`
	}
	if err := json.Unmarshal([]byte(text), &signed); err != nil || status != http.StatusCreated || len(signed.Chain) != 2 {
		t.Fatalf("smallstep's: %d %s", status, text)
	}
	block, _ := pem.Decode([]byte(signed.Chain[0]))
	pump.Certificate, pump.Leaf = [][]byte{block.Bytes}, nil
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+h.Addr+"/fhir/Observation", nil)
	if err != nil {
		t.Fatal(err)
	}
	answered(t, h.client(pump), req) // a decision on it, whichever, is what a session takes
	h.recorded("transaction.decided", 1)
	// A class without a grace, a device in quarantine, and JSON's form of it.
	monitor := expired("monitor-1", "patient-monitor")
	if status, text := est("monitor-1", monitor); status != http.StatusForbidden || !strings.Contains(text, "an operator renews it") {
		t.Errorf("a class without a grace: %d %s", status, text)
	}
	pump = expired("pump-3", "infusion-pump")
	h.Must("device", "quarantine", "pump-3")
	body, err := json.Marshal(map[string]string{"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr("pump-3")}))})
	if err != nil {
		t.Fatal(err)
	}
	if status, text := h.ask(h.client(pump), "POST", "/enrol/renew", string(body)); status != http.StatusForbidden || !strings.Contains(text, "quarantined") {
		t.Errorf("in quarantine: %d %s", status, text)
	}
	// Without its key a certificate is not shown at all: the handshake fails.
	thief := expired("pump-4", "infusion-pump")
	thief.PrivateKey = pump.PrivateKey
	if resp, err := h.client(thief).Post(h.url("/1.0/renew"), "application/json", nil); err == nil {
		resp.Body.Close()
		t.Errorf("without its key: %d", resp.StatusCode)
	}
	found := h.Must("audit", "search", "--event", "device.renewed")
	if strings.Count(found, "proof=expired-certificate") != 2 || strings.Count(found, "expired_at=") != 2 {
		t.Errorf("recorded: %s", found)
	}
}

// answered does a request and returns status and body.
func answered(t *testing.T, c *http.Client, req *http.Request) (int, string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	var b strings.Builder
	if err := resp.Write(&b); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b.String()
}

// TestSmallstepsStepRenewsWhatHasEnded: step shows a certificate that has ended in a
// token that its key signed, and does so before its end if it is told to.
func TestSmallstepsStepRenewsWhatHasEnded(t *testing.T) {
	peers.Need(t, "step")
	t.Parallel()
	h := newEnrolling(t, ", class_grace: {infusion-pump: 24h, patient-monitor: 1s}")
	dir := t.TempDir()
	renew := func(id string, flags ...string) (string, error) {
		t.Helper()
		return run(t, dir, "step", append(append([]string{"ca", "renew", "--force", "--ca-url", h.url(""), "--root", h.RootFile()}, flags...), id+".crt", id+".key")...)
	}
	leaf := func(id string) *x509.Certificate {
		t.Helper()
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, id+".crt"), filepath.Join(dir, id+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
	ended := func(id, class string, ago time.Duration, flags ...string) *x509.Certificate {
		t.Helper()
		h.Must(append([]string{"device", "enroll", id, "--class", class, "--ttl", "1s", "--out", dir}, flags...)...)
		old := leaf(id)
		rig.Eventually(t, "the certificate of "+id+" to end", func() bool { return time.Now().After(old.NotAfter.Add(ago)) })
		return old
	}
	for id, kind := range map[string]string{"pump-1": "p256", "pump-2": "rsa2048"} {
		old := ended(id, "infusion-pump", 0, "--key", kind)
		copied, err := os.ReadFile(filepath.Join(dir, id+".crt"))
		if err != nil {
			t.Fatal(err)
		}
		if out, err := renew(id); err != nil {
			t.Fatalf("%s: %v %s", kind, err, out)
		}
		if next := leaf(id); !next.NotAfter.After(time.Now()) || next.SerialNumber.Cmp(old.SerialNumber) == 0 {
			t.Errorf("%s: renewed until %v", kind, next.NotAfter)
		}
		if out, err := renew(id, "--mtls=false"); err != nil {
			t.Errorf("%s, in force, with a token: %v %s", kind, err, out)
		}
		// What has ended was the latest no more.
		if err := os.WriteFile(filepath.Join(dir, id+".crt"), copied, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := renew(id); err == nil || !strings.Contains(out, "another certificate after it") {
			t.Errorf("%s, a copy: %v %s", kind, err, out)
		}
	}
	ended("monitor-1", "patient-monitor", 2*time.Second)
	if out, err := renew("monitor-1"); err == nil || !strings.Contains(out, "an operator renews it") {
		t.Errorf("after the grace: %v %s", err, out)
	}
	ended("pump-3", "infusion-pump", 0)
	h.Must("device", "quarantine", "pump-3")
	if out, err := renew("pump-3"); err == nil || !strings.Contains(out, "quarantined") {
		t.Errorf("in quarantine: %v %s", err, out)
	}
	// What is no token is recorded too.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url("/renew"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer a.b.c")
	if status, text := answered(t, h.client(), req); status != http.StatusUnauthorized || !strings.Contains(text, "reference") {
		t.Errorf("no token: %d %s", status, text)
	}
	h.recorded("enrolment.refused", 5)
	found := h.Must("audit", "search", "--event", "device.renewed")
	if strings.Count(found, "proof=expired-certificate") != 2 || strings.Count(found, "way=step") != 4 {
		t.Errorf("recorded: %s", found)
	}
}
