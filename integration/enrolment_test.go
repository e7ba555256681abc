package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// enrolling is a hospital whose gateway lets devices enrol.
type enrolling struct {
	*rig.Hospital
	t    *testing.T
	addr string
}

func newEnrolling(t *testing.T, extra string, prepare ...func(*enrolling)) *enrolling {
	t.Helper()
	h := &enrolling{rig.New(t), t, rig.FreeAddr(t)}
	for _, f := range prepare {
		f(h)
	}
	h.Configure(simple(t) + fmt.Sprintf("enrolment: {address: %q, hosts: [localhost, 127.0.0.1]%s}\n", h.addr, extra))
	h.Start()
	return h
}

func (h *enrolling) url(path string) string { return "https://" + h.addr + path }

// token has the operator make a token, and returns it.
func (h *enrolling) token(id string, flags ...string) string {
	h.t.Helper()
	var tok struct{ Token string }
	out := h.Must(append([]string{"device", "token", id, "--json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &tok); err != nil || tok.Token == "" {
		h.t.Fatalf("device token: %v in %s", err, out)
	}
	return tok.Token
}

// client returns a client that trusts the hospital's root, with a certificate or
// without.
func (h *enrolling) client(pairs ...tls.Certificate) *http.Client {
	h.t.Helper()
	pem, err := os.ReadFile(h.Path("root-ca.crt"))
	if err != nil {
		h.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: pairs, MinVersion: tls.VersionTLS12}}
	h.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// ask makes a request and returns status and body.
func (h *enrolling) ask(c *http.Client, method, path, body string) (int, string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url(path), strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// recorded waits until the log has so many records of an event.
func (h *enrolling) recorded(event string, n int) {
	h.t.Helper()
	var out string
	rig.Eventually(h.t, fmt.Sprintf("%d records of %s", n, event), func() bool {
		out = h.Must("audit", "search", "--event", event)
		return strings.Count(out, event) >= n
	})
	if got := strings.Count(out, event); got != n {
		h.t.Errorf("%d records of %s, want %d: %s", got, event, n, out)
	}
}

// run runs a peer program in a directory and returns what it printed.
func run(t *testing.T, dir, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "STEPPATH="+filepath.Join(dir, "step"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestADeviceEnrolsAndRenewsByESTWithOpenSSLAndCurl: the whole of EST with the
// tools that a device maker has at hand, and then the certificate opens the
// device's listener.
func TestADeviceEnrolsAndRenewsByESTWithOpenSSLAndCurl(t *testing.T) {
	peers.Need(t, "openssl", "curl")
	t.Parallel()
	h := newEnrolling(t, "")
	token := h.token("monitor-1", "--class", "patient-monitor")
	dir := t.TempDir()
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := run(t, dir, name, args...)
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return out
	}
	curl := func(args ...string) string {
		t.Helper()
		return must("curl", append([]string{"-sS", "--fail-with-body", "--cacert", h.Path("root-ca.crt")}, args...)...)
	}
	// The CA's certificates, as RFC 7030 section 4.1 has a device learn them.
	curl("-o", "cacerts.b64", h.url("/.well-known/est/cacerts"))
	must("openssl", "base64", "-d", "-in", "cacerts.b64", "-out", "cacerts.p7")
	list := must("openssl", "pkcs7", "-inform", "DER", "-in", "cacerts.p7", "-print_certs")
	if strings.Count(list, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("cacerts: %s", list)
	}
	curl("-o", "csrattrs.b64", h.url("/.well-known/est/"+rig.TrustDomain+"/csrattrs"))
	must("openssl", "base64", "-d", "-in", "csrattrs.b64", "-out", "csrattrs.der")
	if out := must("openssl", "asn1parse", "-inform", "DER", "-in", "csrattrs.der"); !strings.Contains(out, "prime256v1") || !strings.Contains(out, "ecdsa-with-SHA256") {
		t.Errorf("csrattrs: %s", out)
	}

	must("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "dev.key", "-subj", "/CN=monitor-1", "-outform", "DER", "-out", "dev.p10")
	must("openssl", "base64", "-in", "dev.p10", "-out", "dev.b64")
	head := curl("-D", "-", "-o", "dev.p7.b64", "-u", "monitor-1:"+token, "-H", "Content-Type: application/pkcs10", "-H", "Content-Transfer-Encoding: base64",
		"--data-binary", "@dev.b64", h.url("/.well-known/est/simpleenroll"))
	if !strings.Contains(head, "application/pkcs7-mime; smime-type=certs-only") {
		t.Errorf("the head of the answer: %s", head)
	}
	decode := func(name string) {
		t.Helper()
		must("openssl", "base64", "-d", "-in", name+".p7.b64", "-out", name+".p7")
		must("openssl", "pkcs7", "-inform", "DER", "-in", name+".p7", "-print_certs", "-out", name+".crt")
		text := must("openssl", "x509", "-in", name+".crt", "-noout", "-subject", "-ext", "subjectAltName,extendedKeyUsage")
		if !strings.Contains(text, "URI:spiffe://hospital.example/device/monitor-1") || !strings.Contains(text, "TLS Web Client Authentication") {
			t.Errorf("%s: %s", name, text)
		}
	}
	decode("dev")
	works := func(name string) {
		t.Helper()
		out := must("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", h.Path("root-ca.crt"), "--cert", name+".crt", "--key", "dev.key",
			"-H", "Content-Type: application/fhir+json", "-d", `{"resourceType":"Observation","status":"final","code":{"text":"pulse"}}`, "https://"+h.Addr+"/fhir/Observation")
		if out != "201" {
			t.Errorf("with %s the device is answered %s", name, out)
		}
	}
	works("dev")

	// Renewal, with a signing request made from the certificate.
	must("openssl", "x509", "-x509toreq", "-in", "dev.crt", "-signkey", "dev.key", "-copy_extensions", "none", "-out", "renew.pem")
	must("openssl", "req", "-in", "renew.pem", "-outform", "DER", "-out", "renew.p10")
	must("openssl", "base64", "-in", "renew.p10", "-out", "renew.b64")
	curl("--cert", "dev.crt", "--key", "dev.key", "-o", "renew.p7.b64", "-H", "Content-Type: application/pkcs10", "--data-binary", "@renew.b64",
		h.url("/.well-known/est/simplereenroll"))
	decode("renew")
	works("renew")
	if out := h.Must("device", "show", "monitor-1"); strings.Count(out, "\ncertificate ") != 2 {
		t.Errorf("the registry: %s", out)
	}

	// What is refused says so in EST's own form.
	for what, c := range map[string]struct {
		args []string
		want string
	}{
		"nobody":              {[]string{"-H", "Content-Type: application/pkcs10", "--data-binary", "@dev.b64", h.url("/.well-known/est/simpleenroll")}, `(?is)401 .*www-authenticate: Basic realm=`},
		"a token of another":  {[]string{"-u", "monitor-2:" + token, "-H", "Content-Type: application/pkcs10", "--data-binary", "@dev.b64", h.url("/.well-known/est/simpleenroll")}, `(?is)401 .*www-authenticate: Basic.*reference`},
		"no signing request":  {[]string{"--cert", "dev.crt", "--key", "dev.key", "-H", "Content-Type: application/pkcs10", "-d", "hello", h.url("/.well-known/est/simplereenroll")}, `(?s)400 .*malformed`},
		"another type":        {[]string{"--cert", "dev.crt", "--key", "dev.key", "-d", "hello", h.url("/.well-known/est/simplereenroll")}, `415 `},
		"another label":       {[]string{h.url("/.well-known/est/other.example/cacerts")}, `404 `},
		"keys made by others": {[]string{"-X", "POST", h.url("/.well-known/est/serverkeygen")}, `404 `},
	} {
		out := must("curl", append([]string{"-sS", "-i", "--cacert", h.Path("root-ca.crt")}, c.args...)...)
		if !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s: %s", what, out)
		}
	}
	h.recorded("enrolment.refused", 2)
	if !strings.Contains(h.Metrics(), `anteroom_enrolments_total{result="granted",way="est"} 2`) {
		t.Error("the metrics do not count two enrolments")
	}
}

// TestAnUnenrolledDeviceReachesNothingButEnrolment: no route of the device
// listener answers at the enrolment listener, whoever asks, and without a
// certificate the device listener answers nobody.
func TestAnUnenrolledDeviceReachesNothingButEnrolment(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, "")
	enrolled := h.Enroll("monitor-1", "patient-monitor")
	h.token("monitor-2", "--class", "patient-monitor")
	body := `{"resourceType":"Observation","status":"final","code":{"text":"pulse"}}`
	if status := post(h.Client(enrolled), h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Fatalf("the route is not there: %d", status)
	}
	h.recorded("transaction.decided", 1)
	for who, c := range map[string]*http.Client{"nobody": h.client(), "an enrolled device": h.client(enrolled.Pair)} {
		for _, path := range []string{"/fhir/Observation", "/fhir", "/", "/metrics", "/healthz", "/v1/device.list", "/enrol/../fhir/Observation", "/enrol/", "/%65nrol", "/enrol?x=1", "//enrol", "/.well-known/est", "/ENROL"} {
			for _, method := range []string{"GET", "POST", "PUT", "CONNECT", "OPTIONS"} {
				if method == "CONNECT" {
					continue // Go's client makes a tunnel of it; the raw one is below
				}
				if status, text := h.ask(c, method, path, body); status != http.StatusNotFound && status != http.StatusBadRequest && status != http.StatusTooManyRequests {
					t.Errorf("%s: %s %s is answered %d %s", who, method, path, status, text)
				}
			}
		}
	}
	for _, raw := range []string{
		"CONNECT " + h.Addr + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET https://" + h.Addr + "/fhir/Observation HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /roots.pem HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		answer := h.raw(raw)
		if !regexp.MustCompile(`^(HTTP/1\.[01] (400|404|405|421|429|505) |$)`).MatchString(answer) {
			t.Errorf("%q is answered %q", raw, answer)
		}
	}
	// Without a certificate of ours there is no way into the device listener.
	if _, err := h.client().Get("https://" + h.Addr + "/fhir/Observation"); err == nil {
		t.Error("the device listener answers nobody's request")
	}
	// The log is whole when the gateway has stopped.
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	h.recorded("transaction.decided", 1)
}

// raw sends bytes over TLS and returns the beginning of the answer.
func (h *enrolling) raw(text string) string {
	h.t.Helper()
	cfg := h.client().Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.ServerName = "localhost"
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(h.t.Context(), "tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		h.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return ""
	}
	buf := make([]byte, 4096)
	n, _ := conn.Read(buf)
	return string(buf[:n])
}

// TestATokenEnrolsOverPlainJSON, once, over restarts of the gateway too.
func TestATokenEnrolsOverPlainJSON(t *testing.T) {
	peers.Need(t, "openssl")
	t.Parallel()
	h := newEnrolling(t, "")
	token := h.token("pump-1", "--class", "infusion-pump")
	dir := t.TempDir()
	csr := func(name string) string {
		t.Helper()
		if out, err := run(t, dir, "openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", name+".key", "-subj", "/CN=pump-1", "-out", name+".csr"); err != nil {
			t.Fatalf("openssl: %v: %s", err, out)
		}
		text, err := os.ReadFile(filepath.Join(dir, name+".csr"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	call := func(path string, c *http.Client, in map[string]string) (status int, out struct {
		Device, Certificate, Roots, Error, Code, Reference string
	}) {
		t.Helper()
		body, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		status, text := h.ask(c, "POST", path, string(body))
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatalf("%d %s: %v", status, text, err)
		}
		return status, out
	}
	good := csr("dev")
	status, out := call("/enrol", h.client(), map[string]string{"token": token, "csr": good})
	root, err := os.ReadFile(h.Path("root-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if status != http.StatusOK || out.Device != "pump-1" || !bytes.Equal([]byte(out.Roots), root) {
		t.Fatalf("%d %+v", status, out)
	}
	h.Kill()
	h.Start()
	// The answer was lost; the same key asks again, and another one.
	if status, again := call("/enrol", h.client(), map[string]string{"token": token, "csr": good}); status != http.StatusOK || again.Certificate != out.Certificate {
		t.Errorf("the same again: %d %+v", status, again)
	}
	status, no := call("/enrol", h.client(), map[string]string{"token": token, "csr": csr("thief")})
	if status != http.StatusUnauthorized || no.Code != "proof" || !strings.Contains(no.Error, "was used at") || no.Reference == "" {
		t.Errorf("a replay: %d %+v", status, no)
	}
	h.recorded("enrolment.refused", 1)
	if found := h.Must("audit", "search", "--event", "enrolment.refused", "--json"); !strings.Contains(found, no.Reference) {
		t.Errorf("the reference %s is not in %s", no.Reference, found)
	}
	key, err := os.ReadFile(filepath.Join(dir, "dev.key"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(out.Certificate), key)
	if err != nil {
		t.Fatal(err)
	}
	if status, renewed := call("/enrol/renew", h.client(pair), map[string]string{"csr": csr("next")}); status != http.StatusOK || renewed.Certificate == out.Certificate {
		t.Errorf("renewal: %d %+v", status, renewed)
	}
	if status, no := call("/enrol/renew", h.client(), map[string]string{"csr": good}); status != http.StatusUnauthorized {
		t.Errorf("renewal without a certificate: %d %+v", status, no)
	}
	// Revoked, it renews no more.
	h.Must("device", "revoke", "pump-1", "--yes")
	if status, no := call("/enrol/renew", h.client(pair), map[string]string{"csr": good}); status != http.StatusUnauthorized || !strings.Contains(no.Error, "revoked") {
		t.Errorf("renewal after the revocation: %d %+v", status, no)
	}
	// Whoever guesses is locked out.
	locked := false
	for range 10 {
		status, text := h.ask(h.client(), "POST", "/enrol", fmt.Sprintf(`{"token": %q, "csr": ""}`, strings.Repeat("0", 35)))
		if locked = status == http.StatusTooManyRequests; locked {
			break
		}
		if status != http.StatusUnauthorized {
			t.Fatalf("a guess is answered %d %s", status, text)
		}
	}
	if !locked {
		t.Error("nobody was locked out")
	}
	h.recorded("enrolment.locked", 1)
}

// TestSmallstepsStepEnrolsAndRenews: smallstep's own command line, unchanged, with
// a token of ours in its form.
func TestSmallstepsStepEnrolsAndRenews(t *testing.T) {
	peers.Need(t, "step", "openssl")
	t.Parallel()
	h := newEnrolling(t, "")
	token := strings.TrimSpace(h.token("pump-1", "--class", "infusion-pump", "--step"))
	dir := t.TempDir()
	step := func(args ...string) (string, error) { return run(t, dir, "step", args...) }
	must := func(args ...string) {
		t.Helper()
		if out, err := step(args...); err != nil {
			t.Fatalf("step %v: %v\n%s", args, err, out)
		}
	}
	at := func(command string, args ...string) []string {
		return append([]string{"ca", command, "--ca-url", h.url(""), "--root", h.Path("root-ca.crt")}, args...)
	}
	// The token says where the gateway is and by which root it is known: a device
	// that has nothing but the token is enough.
	must("ca", "certificate", "pump-1", "dev.crt", "dev.key", "--token", token)
	serial := func() string {
		t.Helper()
		out, err := run(t, dir, "openssl", "x509", "-in", "dev.crt", "-noout", "-serial", "-ext", "subjectAltName")
		if err != nil || !strings.Contains(out, "URI:spiffe://hospital.example/device/pump-1") || strings.Contains(out, "DNS:") {
			t.Fatalf("the certificate: %v %s", err, out)
		}
		return out
	}
	first := serial()
	must(at("renew", "--force", "dev.crt", "dev.key")...)
	second := serial()
	must(at("rekey", "--force", "dev.crt", "dev.key")...)
	if third := serial(); first == second || second == third {
		t.Errorf("serial numbers %s %s %s", first, second, third)
	}
	if out, err := step(at("health")...); err != nil || !strings.Contains(out, "ok") {
		t.Errorf("health: %v %s", err, out)
	}
	fingerprint, err := step("certificate", "fingerprint", h.Path("root-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(fingerprint string) (string, error) {
		_ = os.Remove(filepath.Join(dir, "fetched.crt"))
		return step("ca", "root", "fetched.crt", "--ca-url", h.url(""), "--fingerprint", strings.TrimSpace(fingerprint))
	}
	if out, err := fetch(fingerprint); err != nil {
		t.Error(out)
	}
	// A root that comes and goes meanwhile.
	h.Write("new-pass", "another passphrase for it\n")
	h.Must("ca", "root", "new", "--out", h.Path("safe"), "--trust-domain", rig.TrustDomain, "--organisation", "Test Hospital", "--passphrase-file", h.Path("new-pass"))
	h.Must("ca", "root", "add", h.Path("safe", "root-ca.crt"))
	next := strings.ReplaceAll(fingerprintOf(t, h.Hospital, h.Path("safe", "root-ca.crt")), ":", "")
	if out, err := fetch(next); err != nil {
		t.Errorf("a new root: %s", out)
	}
	must(at("roots", "roots.pem")...)
	if got := splitPEM(t, filepath.Join(dir, "roots.pem")); len(got) != 2 {
		t.Errorf("%d roots", len(got))
	}
	h.Must("ca", "root", "remove", next, "--yes")
	if out, err := fetch(next); err == nil || !strings.Contains(out, "no root that is trusted here") {
		t.Errorf("a root that is gone: %v %s", err, out)
	}
	if out, err := step(at("certificate", "--token", token, "pump-1", "thief.crt", "thief.key")...); err == nil || !strings.Contains(out, "was used at") {
		t.Errorf("the token again: %v %s", err, out)
	}
	if out := h.Must("device", "show", "pump-1"); strings.Count(out, "\ncertificate ") != 3 {
		t.Errorf("the registry: %s", out)
	}
	// It revokes its last certificate with that; the device and the others stay.
	revoke := at("revoke", "--cert", "dev.crt", "--key", "dev.key", "--reasonCode")
	if out, err := step(append(revoke, "CertificateHold")...); err == nil || !strings.Contains(out, "the reason is none of") {
		t.Errorf("for a while: %v %s", err, out)
	}
	must(append(revoke, "KeyCompromise")...)
	if out, err := step(append(revoke, "Superseded")...); err == nil || !strings.Contains(out, "was revoked before") {
		t.Errorf("revoked again: %v %s", err, out)
	}
	if out := h.Must("device", "show", "pump-1"); !strings.Contains(out, "active since") || strings.Count(out, ", revoked ") != 1 || !strings.Contains(out, "(key compromise)") {
		t.Errorf("the registry: %s", out)
	}
	h.recorded("certificate.revoked", 1)
	if out, err := step(at("revoke", "4711")...); err == nil || !strings.Contains(out, "there are no provisioners here") {
		t.Errorf("by a serial number: %v %s", err, out)
	}
	h.Must("device", "revoke", "pump-1", "--yes")
	if out, err := step(at("renew", "--force", "dev.crt", "dev.key")...); err == nil || !strings.Contains(out, "revoked") {
		t.Errorf("renewal after the revocation: %v %s", err, out)
	}
}
