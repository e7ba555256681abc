package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// beside are the requests that are made at least, some before and some after a
// certificate is renewed.
const beside = 300

// renewed makes requests, each over a handshake of its own, until the gateway shows
// another certificate than at first, and then some. None of them may fail. A
// connection from before stays.
func renewed(t *testing.T, h *rig.Hospital, cfg *tls.Config) {
	t.Helper()
	body := `{"resourceType":"Observation","status":"final","code":{"text":"pulse"}}`
	send := func(c *http.Client) *x509.Certificate {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+h.Addr+"/fhir/Observation", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = cfg.ServerName
		req.Header.Set("Content-Type", "application/fhir+json")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("a request failed: %v\n%s", err, h.Logs())
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusCreated {
			t.Fatalf("a request failed: %s, %v", resp.Status, err)
		}
		return resp.TLS.PeerCertificates[0]
	}
	stays := &http.Transport{TLSClientConfig: cfg}
	defer stays.CloseIdleConnections()
	first := send(&http.Client{Transport: stays})
	each := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	seen := map[string]int{}
	for n, after := 0, 0; n < beside || after < beside/10; n++ {
		serial := send(each).SerialNumber.String()
		seen[serial]++
		if serial != first.SerialNumber.String() {
			after++
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %d requests the certificate was not renewed\n%s", n, h.Logs())
		case <-time.After(20 * time.Millisecond):
		}
	}
	if len(seen) < 2 {
		t.Errorf("requests by certificate: %v", seen)
	}
	if last := send(&http.Client{Transport: stays}); !last.Equal(first) {
		t.Error("the connection from before was not kept")
	}
	t.Logf("%d certificates over new handshakes: %v", len(seen), seen)
}

// TestAListenersCertificateIsRenewedUnderLoadWithNoFailedRequest, of the embedded
// CA: a certificate of a minute is renewed every twenty seconds.
func TestAListenersCertificateIsRenewedUnderLoadWithNoFailedRequest(t *testing.T) {
	t.Parallel()
	h := rig.New(t)
	h.Write("anteroom.yaml", strings.Replace(h.Head(), "hosts: [localhost, 127.0.0.1]}", "hosts: [localhost, 127.0.0.1], certificate: {ttl: 1m}}", 1)+simple(t))
	h.Start()
	renewed(t, h, h.TLS(h.Enroll("monitor-1", "patient-monitor")))
}

// TestAGatewaysCertificateComesFromAnothersACME, and is renewed under load with no
// failed request: the gateway is a server beside the other one, which lists it.
func TestAGatewaysCertificateComesFromAnothersACME(t *testing.T) {
	t.Parallel()
	h := rig.New(t)
	_, port, _ := strings.Cut(h.Addr, ":")
	const name = "gateway-2.hospital.example"
	ca := &enrolling{rig.New(t), t, rig.FreeAddr(t)}
	ca.Write("anteroom.yaml", strings.Replace(ca.Head(), "ca: {", "ca: {class_ttl: {gateway: 1m}, ", 1)+simple(t)+fmt.Sprintf(
		"enrolment: {address: %q, hosts: [localhost], limits: {requests: 1200}, acme: {servers: [{device: gateway-2, names: [%s], address: 127.0.0.1, tls_port: %s}]}}\n", ca.addr, name, port))
	ca.Start()
	a := ca.account("gateway-2", "--class", "gateway")
	h.Write("secrets/acme", a.HMACKey+"\n")
	h.Write("anteroom.yaml", strings.Replace(h.Head(), "hosts: [localhost, 127.0.0.1]}", fmt.Sprintf(
		"hosts: [%s], certificate: {source: acme, directory: %q, email: it@hospital.example, ca_file: %q, ttl: 1m, account: {key_id: %s, hmac_key: {file: secrets/acme}}}}",
		name, a.Directory, ca.RootFile(), a.KeyID), 1)+simple(t))
	h.Start()
	cfg := h.TLS(h.Enroll("monitor-1", "patient-monitor"))
	cfg.RootCAs, cfg.ServerName = ca.Roots(), name
	rig.Eventually(t, "a certificate of the other gateway", func() bool {
		conn, err := tls.Dial("tcp", h.Addr, cfg)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	renewed(t, h, cfg)
	if err := os.Remove(h.Path("secrets/acme")); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(ca.Must("device", "show", "gateway-2"), "\ncertificate "); n < 2 {
		t.Errorf("%d certificates in the other's registry", n)
	}
}
