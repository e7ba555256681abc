package rig

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TrustDomain is the trust domain of every test hospital.
const TrustDomain = "hospital.example"

// patience bounds every wait for something that must happen. It is long because
// machines are slow, not because anything takes that long.
const patience = 60 * time.Second

// A Hospital is a directory set up by `anteroom init`, and the gateway that
// runs on it.
type Hospital struct {
	t    testing.TB
	Dir  string
	Bin  string // of commands; see Binary
	Addr string // of the device listener
	Tele string // of the telemetry listener
	// Config is written to anteroom.yaml by Start, after init's own head.
	Config string

	cmd  *exec.Cmd
	done chan error
	logs *lockedBuffer
}

// New runs `anteroom init` in a fresh directory and picks free ports.
func New(t testing.TB) *Hospital {
	t.Helper()
	h := &Hospital{t: t, Dir: t.TempDir(), Bin: Binary(t), logs: &lockedBuffer{}}
	h.Addr, h.Tele = FreeAddr(t), FreeAddr(t)
	h.Must("init", "--dir", h.Dir, "--trust-domain", TrustDomain, "--organisation", "Test Hospital",
		"--host", "localhost", "--host", "127.0.0.1", "--yes")
	t.Cleanup(func() { h.Kill() })
	return h
}

// FreeAddr returns a loopback address with a port that was free a moment ago.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// Path returns a path below the hospital's directory.
func (h *Hospital) Path(elem ...string) string {
	return filepath.Join(append([]string{h.Dir}, elem...)...)
}

// Write writes a file below the hospital's directory, as an editor would that
// saves in place.
func (h *Hospital) Write(name, content string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.Path(name)), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.Path(name), []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// Configure writes anteroom.yaml: one HTTP listener named devices on h.Addr,
// and the given routes and backends sections (YAML, at top level).
func (h *Hospital) Configure(sections string) {
	h.t.Helper()
	h.Write("anteroom.yaml", h.Head()+sections)
}

// Head returns everything of the configuration but routes and backends.
func (h *Hospital) Head() string {
	return fmt.Sprintf(`version: 1
trust_domain: %s
organisation: Test Hospital
state_dir: state
ca: {passphrase: {file: secrets/ca-passphrase}}
policy: {enforce: policies}
telemetry: {address: %q}
listeners:
  - {name: devices, address: %q, hosts: [localhost, 127.0.0.1]}
`, TrustDomain, h.Tele, h.Addr)
}

// Run runs an anteroom command in the hospital and returns what it printed and
// its exit status.
func (h *Hospital) Run(args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Bin, args...)
	cmd.Dir = h.Dir
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		h.t.Fatalf("anteroom %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errb.String(), cmd.ProcessState.ExitCode()
}

// Must is Run for a command that has to succeed; it returns standard output.
func (h *Hospital) Must(args ...string) string {
	h.t.Helper()
	out, errs, code := h.Run(args...)
	if code != 0 {
		h.t.Fatalf("anteroom %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// Start starts the gateway and waits until it is ready.
func (h *Hospital) Start() {
	h.t.Helper()
	h.StartOnly()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		select {
		case err := <-h.done:
			h.cmd = nil
			h.t.Fatalf("the gateway ended at start: %v\n%s", err, h.logs.String())
		default:
		}
		resp, err := http.Get("http://" + h.Tele + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.t.Fatalf("the gateway was not ready in %v\n%s", patience, h.logs.String())
}

// Metrics returns what the gateway says to Prometheus.
func (h *Hospital) Metrics() string {
	h.t.Helper()
	resp, err := http.Get("http://" + h.Tele + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// StartOnly starts the gateway and does not wait.
func (h *Hospital) StartOnly() {
	h.t.Helper()
	cmd := exec.Command(gateway(h.t), "run", "--config", h.Path("anteroom.yaml"))
	cmd.Dir = h.Dir
	cmd.Stdout, cmd.Stderr = h.logs, h.logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.cmd, h.done = cmd, make(chan error, 1)
	go func(done chan error) { done <- cmd.Wait() }(h.done)
}

// PID returns the gateway's process id.
func (h *Hospital) PID() int { return h.cmd.Process.Pid }

// Signal sends the gateway a signal.
func (h *Hospital) Signal(s os.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(s); err != nil {
		h.t.Fatal(err)
	}
}

// Stop ends the gateway as systemd would, and returns its exit error.
func (h *Hospital) Stop() error {
	h.t.Helper()
	h.Signal(syscall.SIGTERM)
	select {
	case err := <-h.done:
		h.cmd = nil
		return err
	case <-time.After(patience):
		h.t.Fatalf("the gateway did not stop in %v\n%s", patience, h.logs.String())
		return nil
	}
}

// Kill ends the gateway as a power cut would.
func (h *Hospital) Kill() {
	if h.cmd == nil {
		return
	}
	h.cmd.Process.Kill()
	<-h.done
	h.cmd = nil
}

// Logs returns what the gateway wrote so far.
func (h *Hospital) Logs() string { return h.logs.String() }

// WaitLog waits until the gateway's log, from the given offset on, holds a text.
func (h *Hospital) WaitLog(from int, text string) {
	h.t.Helper()
	Eventually(h.t, "log line "+text, func() bool {
		s := h.Logs()
		return len(s) > from && strings.Contains(s[from:], text)
	})
}

// Eventually waits until ok is true, and fails the test if it never is.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited %v in vain for: %s", patience, what)
}

// A Device is an enrolled device with its key and certificate as files.
type Device struct {
	ID, Cert, Key string
	Pair          tls.Certificate
}

// Enroll enrols a device with the command an installer types.
func (h *Hospital) Enroll(id, class string, flags ...string) *Device {
	h.t.Helper()
	out := h.Path("enrolled", id)
	h.Must(append([]string{"device", "enroll", id, "--class", class, "--out", out}, flags...)...)
	d := &Device{ID: id, Cert: filepath.Join(out, id+".crt"), Key: filepath.Join(out, id+".key")}
	var err error
	if d.Pair, err = tls.LoadX509KeyPair(d.Cert, d.Key); err != nil {
		h.t.Fatal(err)
	}
	return d
}

// RootFile returns the path of the root certificate.
func (h *Hospital) RootFile() string { return h.Path("root-ca.crt") }

// Roots returns the pool a device checks the gateway against.
func (h *Hospital) Roots() *x509.CertPool {
	h.t.Helper()
	pem, err := os.ReadFile(h.RootFile())
	if err != nil {
		h.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		h.t.Fatal("no root certificate")
	}
	return pool
}

// TLS returns a device's client configuration; d may be nil for none.
func (h *Hospital) TLS(d *Device) *tls.Config {
	c := &tls.Config{RootCAs: h.Roots(), ServerName: "localhost"}
	if d != nil {
		c.Certificates = []tls.Certificate{d.Pair}
	}
	return c
}

// Client returns a device's HTTP/1.1 client. Its connections are closed when
// the test ends.
func (h *Hospital) Client(d *Device) *http.Client {
	tr := &http.Transport{TLSClientConfig: h.TLS(d), TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	h.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// ClientOf is Client for a device that knows other roots, in a file.
func (h *Hospital) ClientOf(d *Device, roots string) *http.Client {
	h.t.Helper()
	pem, err := os.ReadFile(roots)
	if err != nil {
		h.t.Fatal(err)
	}
	c := h.Client(d)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		h.t.Fatal("no root certificate")
	}
	c.Transport.(*http.Transport).TLSClientConfig.RootCAs = pool
	return c
}

// Client2 returns a device's HTTP/2 client.
func (h *Hospital) Client2(d *Device) *http.Client {
	tr := &http.Transport{TLSClientConfig: h.TLS(d), Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP2(true)
	h.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// URL returns an https URL on the gateway.
func (h *Hospital) URL(path string) string {
	_, port, err := net.SplitHostPort(h.Addr)
	if err != nil {
		h.t.Fatal(err)
	}
	return "https://localhost:" + port + path
}

// Do sends a request and returns the status and the whole body.
func Do(t testing.TB, c *http.Client, method, url, contentType, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: body: %v", method, url, err)
	}
	return resp.StatusCode, string(b)
}

// lockedBuffer collects a process's output while others read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
