package integration

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// clientPatience bounds one run of a client program.
const clientPatience = time.Minute

// client runs a client program and returns everything it printed and whether it
// was content.
func client(t *testing.T, stdin string, argv ...string) (string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clientPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s did not end in %v:\n%s", argv[0], clientPatience, out.String())
	}
	return out.String(), err == nil
}

// TestCurlSpeaksBothVersionsOfHTTP is the README's command.
func TestCurlSpeaksBothVersionsOfHTTP(t *testing.T) {
	peers.Need(t, "curl", "fhir-server")
	h, _ := hospital(t)
	d := h.Enroll("monitor-1", "patient-monitor")
	body := filepath.Join(t.TempDir(), "observation.json")
	if err := os.WriteFile(body, []byte(`{"resourceType":"Observation","status":"final","code":{"text":"hr"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	curl := func(args ...string) (string, bool) {
		return client(t, "", append([]string{"curl", "-sS", "--cacert", h.RootFile(), "-w", "\n%{http_version} %{http_code}"}, args...)...)
	}
	cert := []string{"--cert", d.Cert, "--key", d.Key}
	for flag, version := range map[string]string{"--http1.1": "1.1", "--http2": "2"} {
		out, ok := curl(append(cert, flag, "-H", "Content-Type: application/fhir+json", "-d", "@"+body, h.URL("/fhir/Observation"))...)
		if !ok || !strings.HasSuffix(out, version+" 201") {
			t.Errorf("%s: %s", flag, out)
		}
		out, ok = curl(append(cert, flag, h.URL("/fhir/Patient/1"))...)
		if !ok || !strings.HasSuffix(out, version+" 403") || !strings.Contains(out, "OperationOutcome") {
			t.Errorf("%s: %s", flag, out)
		}
	}
	if out, ok := curl(h.URL("/fhir/metadata")); ok || !strings.Contains(strings.ToLower(out), "certificate required") {
		t.Errorf("without a certificate: %s", out)
	}
}

// foreignDevice makes a certificate with an enrolled device's identity, from an
// authority that is not ours, and returns openssl's arguments for it.
func foreignDevice(t *testing.T, id string) []string {
	t.Helper()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "foreign.crt"), filepath.Join(dir, "foreign.key")
	if out, ok := client(t, "", "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert,
		"-days", "1", "-subj", "/CN="+id, "-addext", "subjectAltName=URI:spiffe://"+rig.TrustDomain+"/device/"+id, "-addext", "extendedKeyUsage=clientAuth"); !ok {
		t.Fatalf("no certificate: %s", out)
	}
	return []string{"-cert", cert, "-key", key}
}

// TestOpenSSLHearsWhyItIsRefused uses the client everybody debugs TLS with.
func TestOpenSSLHearsWhyItIsRefused(t *testing.T) {
	peers.Need(t, "openssl", "fhir-server")
	h, _ := hospital(t)
	d := h.Enroll("monitor-1", "patient-monitor")
	const get = "GET /fhir/metadata HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	openssl := func(args ...string) string {
		out, _ := client(t, get, append([]string{"openssl", "s_client", "-connect", h.Addr, "-servername", "localhost",
			"-CAfile", h.RootFile(), "-verify_return_error", "-ign_eof"}, args...)...)
		return out
	}
	cert := []string{"-cert", d.Cert, "-key", d.Key}
	for _, version := range []string{"-tls1_3", "-tls1_2"} {
		if out := openssl(append(cert, version)...); !strings.Contains(out, "HTTP/1.1 200 OK") {
			t.Errorf("%s: %s", version, out)
		}
	}
	// RFC 8446 section 4.4.2.4, RFC 5246 section 7.4.6.
	foreign := foreignDevice(t, d.ID)
	for _, tt := range []struct {
		name, alert string
		args        []string
	}{
		{"TLS 1.3, no certificate", "alert certificate required", []string{"-tls1_3"}},
		{"TLS 1.2, no certificate", "alert handshake failure", []string{"-tls1_2"}},
		{"TLS 1.3, another CA's certificate", "alert unknown ca", append(foreign, "-tls1_3")},
		{"TLS 1.2, another CA's certificate", "alert unknown ca", append(foreign, "-tls1_2")},
	} {
		if out := openssl(tt.args...); !strings.Contains(out, tt.alert) || strings.Contains(out, "HTTP/1.1") {
			t.Errorf("%s: no %q: %s", tt.name, tt.alert, out)
		}
	}
	for _, version := range []string{"-tls1_1", "-tls1"} {
		if out := openssl(append(cert, version, "-cipher", "ALL:@SECLEVEL=0")...); strings.Contains(out, "HTTP/1.1 200") {
			t.Errorf("%s is spoken: %s", version, out)
		}
	}
	if out := openssl(append(cert, "-tls1_2", "-cipher", "AES128-SHA:ECDHE-ECDSA-AES128-SHA")...); strings.Contains(out, "HTTP/1.1 200") {
		t.Errorf("CBC suites are spoken: %s", out)
	}
	// A session from before the revocation is worth nothing after it.
	for _, version := range []string{"-tls1_3", "-tls1_2"} {
		id := "monitor" + strings.ReplaceAll(strings.ReplaceAll(version, "_", "-"), "-tls", "-")
		r := h.Enroll(id, "patient-monitor")
		own := []string{"-cert", r.Cert, "-key", r.Key, version}
		session := filepath.Join(t.TempDir(), "session")
		if out := openssl(append(own, "-sess_out", session)...); !strings.Contains(out, "200 OK") {
			t.Fatalf("%s: %s", version, out)
		}
		if out := openssl(append(own, "-sess_in", session)...); !strings.Contains(out, "Reused") || !strings.Contains(out, "200 OK") {
			t.Errorf("%s does not resume: %s", version, out)
		}
		h.Must("device", "revoke", id, "--yes", "--reason", "stolen")
		for _, args := range [][]string{append(own, "-sess_in", session), own} {
			if out := openssl(args...); strings.Contains(out, "HTTP/1.1") || !strings.Contains(out, "alert bad certificate") {
				t.Errorf("%s, revoked: %s", version, out)
			}
		}
	}
}

// nodeClient sends one request with Node's https or http2 module.
const nodeClient = `
const [version, port, ca, cert, key, path, body] = process.argv.slice(2);
const fs = require('fs');
const tls = {ca: fs.readFileSync(ca), cert: fs.readFileSync(cert), key: fs.readFileSync(key), servername: 'localhost'};
const done = (status, text) => { console.log(version, status, text); process.exit(0); };
const headers = body ? {'content-type': 'application/fhir+json', 'content-length': Buffer.byteLength(body)} : {};
if (version === 'h1') {
  const req = require('https').request({...tls, host: '127.0.0.1', port, path, method: body ? 'POST' : 'GET', headers: {...headers, host: 'localhost'}}, res => {
    let text = ''; res.on('data', d => text += d); res.on('end', () => done(res.statusCode, text));
  });
  req.on('error', e => done(0, e.message)); req.end(body || undefined);
} else {
  const s = require('http2').connect('https://localhost:' + port, tls);
  s.on('error', e => done(0, e.message));
  const req = s.request({':method': body ? 'POST' : 'GET', ':path': path, ...headers});
  let status = 0, text = '';
  req.on('response', h => status = h[':status']); req.on('data', d => text += d); req.on('end', () => done(status, text));
  req.end(body || undefined);
}`

// TestNodeSpeaksBothVersionsOfHTTP uses an independent implementation of both.
func TestNodeSpeaksBothVersionsOfHTTP(t *testing.T) {
	peers.Need(t, "node", "fhir-server")
	h, _ := hospital(t)
	d := h.Enroll("monitor-1", "patient-monitor")
	script := filepath.Join(t.TempDir(), "client.cjs")
	if err := os.WriteFile(script, []byte(nodeClient), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(h.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"h1", "h2"} {
		for path, want := range map[string]string{"/fhir/Observation": " 201 ", "/fhir/Patient": " 403 "} {
			body := fmt.Sprintf(`{"resourceType":%q,"status":"final","code":{"text":"hr"}}`, filepath.Base(path))
			out, ok := client(t, "", "node", script, version, port, h.RootFile(), d.Cert, d.Key, path, body)
			if !ok || !strings.HasPrefix(out, version+want) {
				t.Errorf("%s %s: %s", version, path, out)
			}
		}
	}
}

// TestTheDemoHoldsItsOwn is the README's first command.
func TestTheDemoHoldsItsOwn(t *testing.T) {
	out, ok := client(t, "", rig.Binary(t), "demo", "--for", "5s")
	if !ok {
		t.Fatalf("the demo failed:\n%s", out)
	}
	for _, want := range []string{
		"no certificate", "certificate required", "foreign certificate", "unknown certificate authority", "revoked device", "bad certificate",
		"compromised monitor", "status 403", "monitor-icu-01", "pump-icu-02", "vent-icu-03", "ct-radiology-04", "glucose-ward-05", "wearables-ward-06",
		"all of them verify",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not show %q:\n%s", want, out)
		}
	}
	for _, name := range []string{"Adler", "Brandt", "Conti", "Dahl", "Ines"} {
		if strings.Contains(out, name) {
			t.Errorf("the demo shows the name of a patient, %q", name)
		}
	}
}
