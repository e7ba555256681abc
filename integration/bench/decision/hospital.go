package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// patience bounds every wait for the gateway.
const patience = time.Minute

// A hospital is a gateway set up with the commands an operator types, and three
// of its devices. What stands behind it is not there: what is allowed is answered
// with an error of the way, and that is how a client here tells it from a deny.
type hospital struct {
	program, dir string
	url          string
	devices      map[string]*http.Client
}

// classes are the enrolled devices, by class.
var classes = []string{"patient-monitor", "infusion-pump", "ct-scanner"}

func newHospital(ctx context.Context, program, dir string) (*hospital, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	h := &hospital{program: program, dir: dir, url: "https://localhost:" + ports[0], devices: map[string]*http.Client{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := h.anteroom(ctx, "init", "--dir", ".", "--trust-domain", "bench.example", "--organisation", "Bench", "--host", "localhost", "--listen", "127.0.0.1:"+ports[0], "--yes"); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "anteroom.yaml")
	text, err := os.ReadFile(conf)
	if err != nil {
		return nil, err
	}
	head, _, _ := strings.Cut(strings.Replace(string(text), "127.0.0.1:9464", "127.0.0.1:"+ports[1], 1), "# What devices may reach")
	head += "routes:\n  - {name: ehr, path: /fhir, kind: fhir, backend: away}\n  - {name: pacs, path: /dicom-web, backend: away}\n" +
		"backends:\n  - {name: away, addresses: [\"127.0.0.1:1\"], system_roots: true}\n"
	if err := os.WriteFile(conf, []byte(head), 0o600); err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(filepath.Join(dir, "root-ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("root-ca.crt holds no certificate")
	}
	for _, class := range classes {
		if _, err := h.anteroom(ctx, "device", "enroll", class, "--class", class, "--out", "enrolled"); err != nil {
			return nil, err
		}
		out := filepath.Join(dir, "enrolled", class)
		pair, err := tls.LoadX509KeyPair(out+".crt", out+".key")
		if err != nil {
			return nil, err
		}
		h.devices[class] = &http.Client{Timeout: patience, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}}}
	}
	return h, nil
}

// freePorts returns TCP ports of 127.0.0.1 that were free a moment ago.
func freePorts(n int) (out []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		out = append(out, port)
	}
	return out, nil
}

// anteroom runs a command and returns what it printed.
func (h *hospital) anteroom(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Dir = h.dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("anteroom %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, errs.Bytes())
	}
	return out, nil
}

// whileRunning runs the gateway while f runs.
func (h *hospital) whileRunning(ctx context.Context, f func() error) (err error) {
	log, err := os.Create(filepath.Join(h.dir, "gateway.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, h.program, "run")
	cmd.Dir, cmd.Stdout, cmd.Stderr = h.dir, log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		stop := cmd.Process.Signal(syscall.SIGTERM)
		if werr := cmd.Wait(); err == nil {
			err = errors.Join(stop, werr)
		}
	}()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := h.ask(ctx, classes[0], http.MethodGet, "/fhir/metadata", ""); err == nil {
			break
		} else if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("the gateway does not answer: %w", err)
		}
	}
	return f()
}

const observation = `{"resourceType":"Observation","status":"final","code":{"text":"pulse"}}`

// ask sends one request of a device and reports whether the policy allowed it.
func (h *hospital) ask(ctx context.Context, device, method, path, body string) (allowed bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, h.url+path, strings.NewReader(body))
	if err != nil {
		return false, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	resp, err := h.devices[device].Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return false, err
	}
	switch resp.StatusCode {
	case http.StatusForbidden:
		return false, nil
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true, nil
	}
	return false, fmt.Errorf("%s %s: %s", method, path, resp.Status)
}

// edits times saves: from the moment a rule is written to the first answer that
// it decided.
func (h *hospital) edits(ctx context.Context, n int, r *report) error {
	file := filepath.Join(h.dir, "policies", "authz", "edited.rego")
	var took []float64
	for i := range n {
		deny := i%2 == 0
		text := fmt.Sprintf("package anteroom.authz\n\n# Edit %d.\ndeny contains \"not today\" if {\n\tinput.device.class == \"patient-monitor\"\n\t%v\n}\n", i, deny)
		start := time.Now()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		for {
			allowed, err := h.ask(ctx, "patient-monitor", http.MethodPost, "/fhir/Observation", observation)
			if err != nil {
				return err
			}
			if allowed != deny {
				break
			}
			if time.Since(start) > patience {
				return fmt.Errorf("edit %d did not become live", i)
			}
		}
		took = append(took, time.Since(start).Seconds())
	}
	r.add(figure{what: "from a save to the first answer it decided, at a running gateway", unit: "s", limit: 1, values: took})
	return os.Remove(file)
}

// traffic has devices ask what they ask in a day, once each, for the log.
func (h *hospital) traffic(ctx context.Context) error {
	for _, t := range []struct{ class, method, path, body string }{
		{"patient-monitor", "POST", "/fhir/Observation", observation},
		{"patient-monitor", "POST", "/fhir/Observation", observation},
		{"patient-monitor", "POST", "/fhir/Flag", `{"resourceType":"Flag","status":"active","code":{"text":"alarm"},"subject":{"reference":"Patient/1"}}`},
		{"patient-monitor", "GET", "/fhir/Patient/1", ""},
		{"infusion-pump", "GET", "/fhir/MedicationRequest?patient=Patient/42", ""},
		{"infusion-pump", "POST", "/fhir/Observation", observation},
		{"infusion-pump", "DELETE", "/fhir/Device/7", ""},
		{"ct-scanner", "GET", "/dicom-web/studies/1.2.3/series", ""},
	} {
		if _, err := h.ask(ctx, t.class, t.method, t.path, t.body); err != nil {
			return err
		}
	}
	return nil
}
