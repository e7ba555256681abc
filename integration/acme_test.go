package integration

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

const lis = "lis.hospital.example"

// acmeAccount is what an installer is given, to open an account.
type acmeAccount struct{ Directory, KeyID, HMACKey string }

// account has the operator make a token in the form that ACME clients take.
func (h *enrolling) account(id string, flags ...string) acmeAccount {
	h.t.Helper()
	var tok struct {
		Token string
		ACME  struct {
			Directory string
			KeyID     string `json:"key_id"`
			HMACKey   string `json:"hmac_key"`
		}
	}
	out := h.Must(append([]string{"device", "token", id, "--acme", "--json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &tok); err != nil || tok.Token != "" || tok.ACME.HMACKey == "" {
		h.t.Fatalf("device token --acme: %v in %s", err, out)
	}
	return acmeAccount(tok.ACME)
}

// leaf reads the first certificate of a file, and verifies it as a client of the
// server would.
func (h *enrolling) leaf(path, name string) *x509.Certificate {
	h.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil {
		h.t.Fatalf("%s: %s", path, text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	between := x509.NewCertPool()
	between.AppendCertsFromPEM(rest)
	if _, err := c.Verify(x509.VerifyOptions{DNSName: name, Roots: h.Roots(), Intermediates: between}); err != nil {
		h.t.Errorf("%s: %v", path, err)
	}
	if len(c.URIs) > 0 {
		h.t.Errorf("the certificate of a server says an identity: %v", c.URIs)
	}
	return c
}

// revoked holds the registry to one certificate of a device having been revoked for a
// reason, and OpenSSL to finding it on the list.
func (h *enrolling) revoked(leaf *x509.Certificate, id, reason string) {
	h.t.Helper()
	if out := h.Must("device", "show", id); !strings.Contains(out, "revoked 20") || !strings.Contains(out, "by itself ("+reason+")") || !strings.Contains(out, " "+leaf.SerialNumber.String()+" until ") {
		h.t.Errorf("the registry: %s", out)
	}
	list := h.Path("ca.crl")
	h.Must("ca", "crl", "--out", list)
	out, err := run(h.t, h.Path(), "openssl", "crl", "-in", list, "-noout", "-text")
	if err != nil || !strings.Contains(out, fmt.Sprintf("Serial Number: %X", leaf.SerialNumber)) && !strings.Contains(out, fmt.Sprintf("Serial Number: 0%X", leaf.SerialNumber)) {
		h.t.Errorf("the list: %v %s", err, out)
	}
}

// neighbour is a gateway that gives a server beside it certificates for a name.
func neighbour(t *testing.T) (h *enrolling, httpAddr, tlsAddr string) {
	t.Helper()
	httpPort, tlsPort := peers.FreePort(t), peers.FreePort(t)
	h = newEnrolling(t, fmt.Sprintf(", limits: {requests: 1200}, acme: {servers: [{device: lis-1, names: [%s], address: 127.0.0.1, http_port: %d, tls_port: %d}]}", lis, httpPort, tlsPort))
	return h, fmt.Sprintf("127.0.0.1:%d", httpPort), fmt.Sprintf("127.0.0.1:%d", tlsPort)
}

// TestAServerIsGivenACertificateByLego, and renews it, over either challenge; with
// the account of a device that was revoked it gets none.
func TestAServerIsGivenACertificateByLego(t *testing.T) {
	peers.Need(t, "lego", "openssl")
	t.Parallel()
	h, httpAddr, tlsAddr := neighbour(t)
	dir := t.TempDir()
	lego := func(path, acc, challenge string, more ...string) (string, error) {
		t.Helper()
		how := []string{"--http", "--http.port", httpAddr}
		if challenge == "tls" {
			how = []string{"--tls", "--tls.port", tlsAddr}
		}
		a := strings.Split(acc, " ")
		args := append([]string{"--server", a[0], "--email", "it@hospital.example", "--accept-tos", "--eab", "--kid", a[1], "--hmac", a[2], "--path", path, "--domains", lis}, how...)
		return run(t, dir, "env", append([]string{"LEGO_CA_CERTIFICATES=" + h.RootFile(), "lego"}, append(args, more...)...)...)
	}
	a := h.account("lis-1", "--class", "server")
	acc := strings.Join([]string{a.Directory, a.KeyID, a.HMACKey}, " ")
	for _, challenge := range []string{"http", "tls"} {
		path := filepath.Join(dir, challenge)
		if challenge == "tls" {
			// Another machine of the server's: an account of its own.
			a = h.account("lis-1")
			acc = strings.Join([]string{a.Directory, a.KeyID, a.HMACKey}, " ")
		}
		if out, err := lego(path, acc, challenge, "run"); err != nil {
			t.Fatalf("%s: %v\n%s", challenge, err, out)
		}
		file := filepath.Join(path, "certificates", lis+".crt")
		first := h.leaf(file, lis)
		if out, err := lego(path, acc, challenge, "renew", "--days", "9999", "--no-random-sleep"); err != nil {
			t.Fatalf("%s: %v\n%s", challenge, err, out)
		}
		if again := h.leaf(file, lis); again.SerialNumber.Cmp(first.SerialNumber) == 0 {
			t.Errorf("%s: it was not renewed", challenge)
		}
	}
	// The certificate opens nothing here.
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls", "certificates", lis+".crt"), filepath.Join(dir, "tls", "certificates", lis+".key"))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := h.Client(&rig.Device{Pair: pair}).Get(h.URL("/fhir/Observation")); err == nil {
		resp.Body.Close()
		t.Errorf("the device listener answers a server's certificate: %s", resp.Status)
	}
	// It is revoked by its account, and that goes on.
	file := filepath.Join(dir, "tls", "certificates", lis+".crt")
	revoked := h.leaf(file, lis)
	if out, err := lego(filepath.Join(dir, "tls"), acc, "tls", "revoke", "--keep", "--reason", "6"); err == nil || !strings.Contains(out, "badRevocationReason") {
		t.Errorf("on hold: %v\n%s", err, out)
	}
	if out, err := lego(filepath.Join(dir, "tls"), acc, "tls", "revoke", "--keep", "--reason", "4"); err != nil {
		t.Fatalf("revoke: %v\n%s", err, out)
	}
	h.revoked(revoked, "lis-1", "superseded")
	if out, err := lego(filepath.Join(dir, "tls"), acc, "tls", "revoke", "--keep"); err == nil || !strings.Contains(out, "alreadyRevoked") {
		t.Errorf("once more: %v\n%s", err, out)
	}
	if out, err := lego(filepath.Join(dir, "tls"), acc, "tls", "renew", "--days", "9999", "--no-random-sleep"); err != nil {
		t.Fatalf("after it: %v\n%s", err, out)
	}
	if out, _, code := h.Run("device", "renew", "lis-1", "--out", filepath.Join(dir, "device")); code == 0 {
		t.Errorf("a server was given a device's certificate: %s", out)
	}
	h.Must("device", "revoke", "lis-1", "--reason", "decommissioned", "--yes")
	if out, err := lego(filepath.Join(dir, "tls"), acc, "tls", "renew", "--days", "9999", "--no-random-sleep"); err == nil || !strings.Contains(out, "unauthorized") {
		t.Errorf("after the revocation: %v\n%s", err, out)
	}
	// A token that was used opens no second account.
	if out, err := lego(filepath.Join(dir, "thief"), acc, "tls", "run"); err == nil || !strings.Contains(out, "good once") {
		t.Errorf("a second use of the token: %v\n%s", err, out)
	}
	h.recorded("enrolment.account", 2)
	if !strings.Contains(h.Metrics(), `anteroom_enrolments_total{result="granted",way="acme"} 5`) {
		t.Error("the metrics do not count five certificates")
	}
}

// TestAServerIsGivenACertificateByCertbot, and renews it, over a restart of the
// gateway: accounts and orders are still there.
func TestAServerIsGivenACertificateByCertbot(t *testing.T) {
	peers.Need(t, "certbot", "openssl")
	t.Parallel()
	h, httpAddr, _ := neighbour(t)
	dir := t.TempDir()
	certbot := func(args ...string) (string, error) {
		t.Helper()
		return run(t, dir, "env", append([]string{"REQUESTS_CA_BUNDLE=" + h.RootFile(), "certbot"}, append(args, "-n",
			"--config-dir", filepath.Join(dir, "etc"), "--work-dir", filepath.Join(dir, "lib"), "--logs-dir", filepath.Join(dir, "log"))...)...)
	}
	a := h.account("lis-1", "--class", "server")
	_, port, _ := strings.Cut(httpAddr, ":")
	certonly := []string{"certonly", "--standalone", "--preferred-challenges", "http", "--http-01-port", port, "--http-01-address", "127.0.0.1",
		"--server", a.Directory, "--eab-kid", a.KeyID, "--register-unsafely-without-email", "--agree-tos", "-d", lis}
	if out, err := certbot(append(certonly, "--eab-hmac-key", "AAAA"+a.HMACKey[4:])...); err == nil || !strings.Contains(out, "token is not known") {
		t.Errorf("with another key: %v\n%s", err, out)
	}
	if out, err := certbot(append(certonly, "--eab-hmac-key", a.HMACKey)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file := filepath.Join(dir, "etc", "live", lis, "fullchain.pem")
	first := h.leaf(file, lis)
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	h.Start()
	if out, err := certbot("renew", "--force-renewal", "--no-random-sleep-on-renew"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if again := h.leaf(file, lis); again.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Error("it was not renewed")
	}
	if out := h.Must("device", "show", "lis-1"); strings.Count(out, "\ncertificate ") != 2 {
		t.Errorf("the registry: %s", out)
	}
	// The account has one revoked, and the certificate's own key another.
	again := h.leaf(file, lis)
	archive := func(name string) string { return filepath.Join(dir, "etc", "archive", lis, name) }
	if out, err := certbot("revoke", "--cert-path", archive("cert1.pem"), "--reason", "cessationOfOperation", "--no-delete-after-revoke", "--server", a.Directory); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h.revoked(first, "lis-1", "cessation of operation")
	if out, err := certbot("revoke", "--cert-path", archive("cert2.pem"), "--key-path", archive("privkey1.pem"), "--no-delete-after-revoke", "--server", a.Directory); err == nil {
		t.Errorf("with another's key: %s", out)
	}
	if out, err := certbot("revoke", "--cert-path", archive("cert2.pem"), "--key-path", archive("privkey2.pem"), "--reason", "keyCompromise", "--no-delete-after-revoke", "--server", a.Directory); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h.revoked(again, "lis-1", "key compromise")
	// Another name, which nobody listed.
	if out, err := certbot("certonly", "--standalone", "--http-01-port", port, "--http-01-address", "127.0.0.1", "--server", a.Directory, "-d", "ehr.hospital.example"); err == nil {
		t.Errorf("another name: %s", out)
	}
	h.recorded("enrolment.refused", 2)
	if out := h.Must("audit", "search", "--event", "enrolment.refused"); !strings.Contains(out, "rejectedIdentifier: the name is not one of those that the configuration lists for lis-1") {
		t.Errorf("records: %s", out)
	}
}

// TestACMEsDirectoryIsThere for whoever asks; nothing else of it is.
func TestACMEsDirectoryIsThere(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, "")
	status, text := h.ask(h.client(), http.MethodGet, "/acme/directory", "")
	var dir map[string]any
	if err := json.Unmarshal([]byte(text), &dir); err != nil || status != http.StatusOK || dir["newOrder"] == nil {
		t.Fatalf("%d %s", status, text)
	}
	for _, path := range []string{"/acme", "/acme/order/", "/acme/order", "/acme/order/x/y", "/acme/order/..", "/acme/certificate/%61"} {
		if status, text := h.ask(h.client(), http.MethodPost, path, "{}"); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, text := h.ask(h.client(), http.MethodPost, "/acme/new-account", strings.Repeat(" ", 100<<10)); status != http.StatusRequestEntityTooLarge || !strings.Contains(text, "urn:ietf:params:acme:error:malformed") {
		t.Errorf("a body too large: %d %s", status, text)
	}
}
