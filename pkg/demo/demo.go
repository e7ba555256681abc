package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/gateway"
	"github.com/anteroom-iomt/anteroom/policies"
)

// Config says how to run the demo.
type Config struct {
	Out   io.Writer
	Color bool
	// For ends the demo so long after it is set up; 0 leaves that to the context.
	For time.Duration
	// Dir keeps the hospital; "" makes a temporary directory and removes it.
	Dir string
}

const (
	host        = "gateway.demo"
	trustDomain = "hospital.demo"
	revokedID   = "pump-lost-07"
	monitorID   = "monitor-icu-01"
)

// A hospital is the demo's, set up and running.
type hospital struct {
	dir     string
	screen  *screen
	gateway *gateway.Gateway
	api     *admin.API
	back    *backend
	backSrv *http.Server
	addr    string
	roots   *x509.CertPool
	pairs   map[string]tls.Certificate
	ready   time.Duration // from nothing to serving
}

// Run sets the hospital up, lets it work until ctx ends or cfg.For is over, and
// says what happened. It returns an error if anything got through that must not, or did
// not that must.
func Run(ctx context.Context, cfg Config) (err error) {
	dir := cfg.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "anteroom-demo-"); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		defer os.RemoveAll(dir)
	}
	h := &hospital{dir: dir, screen: newScreen(cfg.Out, cfg.Color), pairs: map[string]tls.Certificate{}, back: newBackend()}
	began := time.Now()
	if err := h.open(ctx); err != nil {
		return errors.Join(fmt.Errorf("demo: %w", err), h.close())
	}
	h.ready = time.Since(began)
	h.screen.opened(h)
	// The gateway outlives the day's end, so that whoever is in the middle of
	// something, or has not had a turn yet, meets it and not a closed door.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	running := make(chan error, 1)
	go func() { running <- h.gateway.Run(work) }()
	day, end := ctx, context.CancelFunc(func() {})
	if cfg.For > 0 {
		day, end = context.WithTimeout(ctx, cfg.For)
	}
	h.work(day)
	end()
	// The log is read and verified after the gateway has sealed it.
	stop()
	auditDir := h.gateway.AuditDir()
	if err := errors.Join(<-running, h.close()); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	rep, err := audit.Verify(context.WithoutCancel(ctx), auditDir, audit.VerifyOptions{})
	if err != nil {
		return fmt.Errorf("demo: the audit log does not verify: %w", err)
	}
	return h.screen.summary(h, rep)
}

// open makes CA, configuration, backend and gateway, and enrols the devices.
func (h *hospital) open(ctx context.Context) error {
	pass := ca.GeneratePassphrase()
	at := func(names ...string) string { return filepath.Join(append([]string{h.dir}, names...)...) }
	if err := os.MkdirAll(at("state"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(at("passphrase"), []byte(pass), 0o600); err != nil {
		return err
	}
	if _, err := ca.Init(ctx, ca.InitConfig{Dir: at("state", admin.CADir), RootKeyPath: at("root.key"), TrustDomain: trustDomain,
		Organisation: "Demo Hospital", Passphrase: []byte(pass), Clock: time.Now}); err != nil {
		return err
	}
	if err := policies.Write(at("policies")); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	text := fmt.Sprintf(configuration, trustDomain, host, ln.Addr())
	cfg, err := config.Parse(at("anteroom.yaml"), []byte(text))
	if err != nil {
		ln.Close()
		return err
	}
	if err := h.backend(ctx, cfg, ln); err != nil {
		ln.Close()
		return err
	}
	cfg.Path = ""
	log := slog.New(slog.DiscardHandler)
	if h.gateway, err = gateway.New(ctx, cfg, gateway.Options{Version: "demo", Logger: log, Clock: time.Now, Judged: h.screen.judged}); err != nil {
		return err
	}
	h.api = h.gateway.API()
	h.addr = h.gateway.Addr("devices").String()
	for _, p := range profiles {
		if err := h.enrol(ctx, device.Record{ID: p.id, Class: p.class, Model: p.model, Location: p.location, LifeCritical: p.lifeCritical}); err != nil {
			return err
		}
	}
	if err := h.enrol(ctx, device.Record{ID: revokedID, Class: "infusion-pump", Location: "icu"}); err != nil {
		return err
	}
	_, err = h.api.SetStatus(ctx, admin.StatusRequest{ID: revokedID, To: device.Revoked, Reason: "stolen from a corridor"})
	return err
}

// configuration is the demo's anteroom.yaml: trust domain, host, backend.
const configuration = `version: 1
trust_domain: %s
organisation: Demo Hospital
state_dir: state
ca: {passphrase: {file: passphrase}}
policy: {enforce: policies}
telemetry: {address: "off"}
listeners:
  - {name: devices, address: "127.0.0.1:0", hosts: [%s]}
routes:
  - {name: fhir, path: /fhir, kind: fhir, backend: clinical}
  - {name: pacs, path: /dicom-web, backend: clinical}
backends:
  - {name: clinical, addresses: ["%s"], server_name: clinical.demo}
`

// backend starts the clinical system, with a certificate of the hospital's CA.
func (h *hospital) backend(ctx context.Context, cfg *config.File, ln net.Listener) error {
	st, err := admin.OpenState(ctx, cfg, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		return err
	}
	h.roots = x509.NewCertPool()
	h.roots.AppendCertsFromPEM(st.CA.RootsPEM())
	key, csr, err := ca.NewKeyAndCSR(ca.KeyKinds()[0], "clinical.demo")
	if err != nil {
		return errors.Join(err, st.Close())
	}
	iss, err := st.CA.Issue(ctx, ca.Request{Profile: ca.Server, CSR: csr, TTL: 24 * time.Hour, Names: []string{"clinical.demo"}})
	if err = errors.Join(err, st.Close()); err != nil {
		return err
	}
	pair := tls.Certificate{PrivateKey: key}
	for _, c := range iss.Chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	for id, body := range patients {
		h.back.put("Patient", id, body)
	}
	h.back.put("MedicationRequest", "order-1", `{"resourceType":"MedicationRequest","id":"order-1","status":"active","intent":"order",`+
		`"medicationCodeableConcept":{"text":"Norepinephrine 5 ml/h"},"subject":{"reference":"Patient/p1"}}`)
	h.backSrv = &http.Server{
		Handler: h.back, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}},
	}
	go func() { _ = h.backSrv.ServeTLS(ln, "", "") }()
	return nil
}

// enrol enrols a device; its key stays here, which is where the device is.
func (h *hospital) enrol(ctx context.Context, rec device.Record) error {
	key, csr, err := ca.NewKeyAndCSR(ca.KeyKinds()[0], rec.ID)
	if err != nil {
		return err
	}
	iss, err := h.api.Enroll(ctx, admin.EnrollRequest{Device: rec, CSR: csr.Raw})
	if err != nil {
		return err
	}
	keyPEM, err := ca.KeyPEM(key)
	if err != nil {
		return err
	}
	h.pairs[rec.ID], err = tls.X509KeyPair(iss.ChainPEM, keyPEM)
	return err
}

// client returns an HTTP client with the given certificates.
func (h *hospital) client(pairs ...tls.Certificate) *http.Client {
	return &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", h.addr)
			},
			TLSClientConfig: &tls.Config{RootCAs: h.roots, ServerName: host, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(pairs) == 0 {
					return &tls.Certificate{}, nil
				}
				return &pairs[0], nil
			}},
		},
	}
}

// work lets devices and attackers loose until ctx ends.
func (h *hospital) work(ctx context.Context) {
	var wg sync.WaitGroup
	for i, p := range profiles {
		d := &simulated{profile: p, base: "https://" + host, client: h.client(h.pairs[p.id]), rnd: rand.New(rand.NewPCG(uint64(i), 1))} //nolint:gosec // vital signs are no secret
		wg.Go(func() { d.run(ctx) })
	}
	wg.Go(func() { h.attack(ctx) })
	wg.Wait()
}

// close stops the backend, and the gateway if it does not run.
func (h *hospital) close() error {
	if h.backSrv != nil {
		return h.backSrv.Close()
	}
	return nil
}
