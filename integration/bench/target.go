package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// A target is a gateway that is measured.
type target interface {
	name() string
	// prepare finds or builds the program, writes what does not change between
	// rounds, and returns its version. Its error says what to install.
	prepare(ctx context.Context, r *rig) (version string, err error)
	// start starts it, pinned to the server's CPU, and waits until it listens.
	// The caller stops it.
	start(ctx context.Context, r *rig) (*running, error)
}

// A seeder is a target that knows its devices one by one. Where a scenario is
// about many, it wants them before it starts. It returns a target of its own for
// them, so that other scenarios do not pay for their number.
type seeder interface {
	seed(ctx context.Context, r *rig, s seeding) (target, error)
}

// A seeding says how many devices a target must know.
type seeding struct {
	name    string // seedings of one name add up
	devices int    // with certificates of their own
	others  int    // that never come
}

// A running target and how a device reaches it.
type running struct {
	*process
	aide *process // a second program that does part of the job; nil if there is none
	// decides says that requests are decided, so that one that no monitor may
	// make must be refused.
	decides bool
	port    int
	cert    string // the device's chain and key
	key     string
	roots   string // what the gateway's own certificate chains to
	// scanner is a device that may store and read studies.
	scanner pair
	// devices is a file of as many devices as the scenario asked for
	// (fleet.ReadDevices); empty if one device may be any number.
	devices string
	// home is Anteroom's directory, and revoked how many of the devices were
	// revoked in rounds before this one.
	home    string
	revoked int
	// accepted is when the first request was answered.
	accepted time.Time
	// beside is the gateway to compare with, where a scenario asks for one.
	beside *running
	// bulkPort is where studies go, if that is another port.
	bulkPort int
}

// cpu returns the CPU time that all of the target has used so far.
func (t *running) cpu() (time.Duration, error) { return addUp(t, (*process).cpu) }

// memory returns what all of the target holds in memory, in bytes.
func (t *running) memory() (int64, error) { return addUp(t, (*process).memory) }

// addUp adds up what is asked of each of the target's programs.
func addUp[N time.Duration | int64](t *running, ask func(*process) (N, error)) (N, error) {
	sum, err := ask(t.process)
	if err != nil || t.aide == nil {
		return sum, err
	}
	more, err := ask(t.aide)
	return sum + more, err
}

// stop ends all of the target.
func (t *running) stop() {
	t.process.stop()
	if t.aide != nil {
		t.aide.stop()
	}
}

func (t *running) url() string { return fmt.Sprintf("https://%s:%d", frontHost, t.port) }

// allTargets lists every target, nginx first: ratios are to it.
func allTargets(opt options) []target {
	return []target{&nginx{}, &haproxy{}, &caddy{path: opt.caddy}, &nginxOPA{path: opt.opa}, &bareRelay{}, &anteroom{path: opt.anteroom}}
}

func names(ts []target) []string {
	ns := make([]string, len(ts))
	for i, t := range ts {
		ns[i] = t.name()
	}
	return ns
}

// selectTargets returns those named in the comma-separated list, in its order.
func selectTargets(all []target, list string) ([]target, error) {
	var picked []target
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(t target) bool { return t.name() == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("no target %q; there are %s", name, strings.Join(names(all), ", "))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

// checkWithin bounds one request of check.
const checkWithin = 10 * time.Second

// check proves, before a target is measured, that it does the job: TLS 1.3, a
// request with the device's certificate reaches the backend and its answer
// comes back, a request without a certificate does not, nor one that the
// policies refuse where there are any.
func (t *running) check(ctx context.Context, r *rig) error {
	body, err := os.ReadFile(r.body)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(t.roots)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", t.roots)
	}
	device, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		return fmt.Errorf("load the device's certificate: %w", err)
	}
	mutual := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{device}, MinVersion: tls.VersionTLS12}
	status, answer, version, err := t.send(ctx, http.MethodPost, fhirPath, string(body), mutual)
	t.accepted = time.Now()
	switch {
	case err != nil:
		return fmt.Errorf("a request with a certificate: %w: %s", err, t.out)
	case status != http.StatusCreated || !strings.Contains(answer, `"resourceType":"Observation"`):
		return fmt.Errorf("a request with a certificate is answered with %d %.200q: %s", status, answer, t.out)
	case version != tls.VersionTLS13:
		return fmt.Errorf("speaks %s, not TLS 1.3", tls.VersionName(version))
	}
	status, _, _, err = t.send(ctx, http.MethodPost, fhirPath, string(body), &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	if err == nil && status < 400 {
		return fmt.Errorf("a request without a certificate is answered with %d", status)
	}
	if !t.decides {
		return nil
	}
	status, _, _, err = t.send(ctx, http.MethodGet, "/fhir/Patient/1", "", mutual)
	if err == nil && status < 400 {
		return fmt.Errorf("a request that no policy allows is answered with %d", status)
	}
	return err
}

// send sends one request over a connection of its own.
func (t *running) send(ctx context.Context, method, path, body string, conf *tls.Config) (status int, answer string, version uint16, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, t.url()+path, strings.NewReader(body))
	if err != nil {
		return 0, "", 0, err
	}
	req.Header.Set("Content-Type", "application/fhir+json")
	tr := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return 0, "", 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, string(b), resp.TLS.Version, err
}
