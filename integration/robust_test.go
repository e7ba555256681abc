package integration

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

const observation = `{"resourceType":"Observation","status":"final","code":{"text":"hr"}}`

// simple starts a backend in this process that creates whatever it is sent, and
// returns the configuration of a FHIR route to it.
func simple(t *testing.T) string {
	t.Helper()
	pki := peers.NewPKI(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	return fmt.Sprintf(`routes:
  - {name: ehr, path: /fhir, kind: fhir, backend: ehr}
backends:
  - {name: ehr, addresses: [%q], server_name: localhost, ca_file: %q}
`, server.Listener.Addr().String(), pki.CAFile)
}

// control returns the operator's API of a running gateway.
func control(t *testing.T, h *rig.Hospital) *admin.API {
	t.Helper()
	api, err := admin.Dial(t.Context(), h.Path("state", admin.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// enrol enrols a monitor through the socket. It returns an error where the
// gateway may just have been killed.
func enrol(ctx context.Context, api *admin.API, id string) (tls.Certificate, error) {
	key, csr, err := ca.NewKeyAndCSR(ca.KeyKinds()[0], id)
	if err != nil {
		return tls.Certificate{}, err
	}
	iss, err := api.Enroll(ctx, admin.EnrollRequest{Device: device.Record{ID: id, Class: "patient-monitor"}, CSR: csr.Raw})
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(iss.ChainPEM, pem.EncodeToMemory(&pem.Block{Type: "EC " + "PRIVATE KEY", Bytes: der}))
}

// post sends one observation and returns the status, or 0 without an answer.
func post(c *http.Client, url string) int {
	resp, err := c.Post(url, fhirJSON, strings.NewReader(observation))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestKilledFiftyTimesUnderLoadNothingAcknowledgedIsLost is invariant 5.
func TestKilledFiftyTimesUnderLoadNothingAcknowledgedIsLost(t *testing.T) {
	rounds := 50
	if testing.Short() {
		rounds = 5
	}
	h := rig.New(t)
	h.Configure(simple(t))
	busy := h.Enroll("monitor-busy", "patient-monitor")
	// What was asked for and not acknowledged may have happened or not.
	enrolled, revoked, asked := map[string]tls.Certificate{}, map[string]bool{}, map[string]bool{}
	var flushed uint64
	rnd := rand.New(rand.NewPCG(1, 2))
	next := 0
	for range rounds {
		h.Start()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 4 {
			c := h.Client(busy)
			wg.Go(func() {
				for ctx.Err() == nil && post(c, h.URL("/fhir/Observation")) == http.StatusCreated {
				}
			})
		}
		api := control(t, h)
		wg.Go(func() {
			for ctx.Err() == nil {
				next++
				id := fmt.Sprintf("monitor-%04d", next)
				pair, err := enrol(ctx, api, id)
				if err != nil {
					return
				}
				enrolled[id] = pair
				if next%3 == 0 {
					asked[id] = true
					if _, err := api.SetStatus(ctx, admin.StatusRequest{ID: id, To: device.Revoked, Reason: "test"}); err != nil {
						return
					}
					revoked[id] = true
				}
				if st, err := api.Status(ctx); err == nil {
					flushed = max(flushed, st.Audit.Flushed)
				}
			}
		})
		time.Sleep(time.Duration(20+rnd.IntN(150)) * time.Millisecond) // a random moment to be killed in, not a wait for anything
		h.Kill()
		cancel()
		wg.Wait()
		api.Close()
	}
	h.Start()
	api := control(t, h)
	defer api.Close()
	for id := range enrolled {
		rec, err := api.Show(t.Context(), id)
		if err != nil {
			t.Errorf("%s was enrolled and is gone: %v", id, err)
			continue
		}
		if revoked[id] && rec.Status != device.Revoked {
			t.Errorf("%s was revoked and is %s", id, rec.Status)
		}
	}
	// A few of each show that the gateway acts as its registry says.
	tried := map[bool]int{}
	for id, pair := range enrolled {
		if asked[id] && !revoked[id] {
			continue
		}
		if tried[revoked[id]]++; tried[revoked[id]] > 5 {
			continue
		}
		status := post(h.Client(&rig.Device{ID: id, Pair: pair}), h.URL("/fhir/Observation"))
		if revoked[id] != (status == 0) {
			t.Errorf("%s (revoked: %v) was answered %d", id, revoked[id], status)
		}
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	dir := h.Path("state", "audit")
	rep, err := audit.Verify(t.Context(), dir, audit.VerifyOptions{})
	if err != nil {
		t.Fatalf("the log does not verify: %v", err)
	}
	if rep.Last < flushed {
		t.Errorf("record %d was flushed, the last one is %d", flushed, rep.Last)
	}
	said := map[string]bool{}
	for e, err := range audit.Read(t.Context(), dir, audit.ReadOptions{Filter: audit.Filter{Kind: audit.KindDevice}}) {
		if err != nil {
			t.Fatal(err)
		}
		said[e.Event+" "+e.Device] = true
	}
	for id := range enrolled {
		if !said["device.enrolled "+id] || revoked[id] && !said["device.revoked "+id] {
			t.Errorf("the log does not tell of all that was acknowledged about %s", id)
		}
	}
	t.Logf("%d kills: %d enrolments and %d revocations acknowledged, %d records, %d places where a run broke off",
		rounds, len(enrolled), len(revoked), rep.Records, len(rep.Gaps))
	// A machine that is busy with other things enrols little in such short lives.
	if len(enrolled) < rounds/5 || len(rep.Gaps) == 0 {
		t.Error("the gateway was hardly used, or a kill left no trace")
	}
}

// TestQuarantineEndsOneOfAThousandConnections has 1,000 devices with a
// connection each, and quarantines one of them.
func TestQuarantineEndsOneOfAThousandConnections(t *testing.T) {
	const devices = 1000
	h := rig.New(t)
	h.Configure(simple(t))
	h.Start()
	api := control(t, h)
	defer api.Close()
	type session struct {
		conn *tls.Conn
		br   *bufio.Reader
	}
	sessions := make([]session, devices)
	ask := func(s session) error {
		_ = s.conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := fmt.Fprintf(s.conn, "POST /fhir/Observation HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			fhirJSON, len(observation), observation); err != nil {
			return err
		}
		resp, err := http.ReadResponse(s.br, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err == nil && resp.StatusCode != http.StatusCreated {
			err = fmt.Errorf("status %d", resp.StatusCode)
		}
		return err
	}
	for i := range sessions {
		pair, err := enrol(t.Context(), api, fmt.Sprintf("monitor-%04d", i))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", h.Addr, h.TLS(&rig.Device{Pair: pair}))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sessions[i] = session{conn, bufio.NewReader(conn)}
		if err := ask(sessions[i]); err != nil {
			t.Fatalf("device %d: %v", i, err)
		}
	}
	best := time.Hour
	ended := map[int]bool{}
	for _, i := range []int{123, 456, 789} {
		ended[i] = true
		_ = sessions[i].conn.SetDeadline(time.Now().Add(time.Minute))
		gone := make(chan error, 1)
		go func() {
			_, err := sessions[i].br.ReadByte()
			gone <- err
		}()
		began := time.Now()
		if _, err := api.SetStatus(t.Context(), admin.StatusRequest{ID: fmt.Sprintf("monitor-%04d", i), To: device.Quarantined}); err != nil {
			t.Fatal(err)
		}
		if err := <-gone; err == nil {
			t.Fatal("the quarantined device was sent something")
		}
		best = min(best, time.Since(began))
	}
	t.Logf("from the operator's command to the end of the connection, at best of three: %v", best)
	// The promise is 100 ms; a machine under load is no reason to fail, an
	// implementation that polls or times out is.
	if best > 2*time.Second {
		t.Errorf("the connection ended after %v", best)
	}
	for i, s := range sessions {
		if err := ask(s); (err == nil) == ended[i] {
			t.Errorf("device %d: %v", i, err)
		}
	}
}

// TestWhatIsBrokenWhileRunningChangesNothing saves what must not take effect,
// under load, and then what must.
func TestWhatIsBrokenWhileRunningChangesNothing(t *testing.T) {
	h := rig.New(t)
	config := simple(t)
	h.Configure(config)
	h.Start()
	d, pump := h.Enroll("monitor-1", "patient-monitor"), h.Enroll("pump-1", "infusion-pump")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var answered, wrong atomic.Int64
	for range 3 {
		c := h.Client(d)
		wg.Go(func() {
			for ctx.Err() == nil {
				if status := post(c, h.URL("/fhir/Observation")); status != http.StatusCreated {
					wrong.Add(1)
				}
				answered.Add(1)
			}
		})
	}
	settings := func() string { return h.Head() + config }
	good := map[string]string{"anteroom.yaml": settings()}
	for _, name := range []string{"policies/authz/http.rego", "policies/classes/infusion-pump.yaml"} {
		b, err := os.ReadFile(h.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		good[name] = string(b)
	}
	for _, tt := range []struct{ name, file, old, new, want string }{
		{"Rego that does not parse", "policies/authz/http.rego", "package anteroom.authz", "package anteroom.authz\n\nx := 1 +", "authz/http.rego:"},
		{"a field that does not exist", "policies/authz/http.rego", "package anteroom.authz", "package anteroom.authz\n\nallow contains \"x\" if input.devcie.id == \"\"", "devcie"},
		{"a built-in that could call out", "policies/authz/http.rego", "package anteroom.authz", "package anteroom.authz\n\nallow contains \"x\" if http.send({}).status_code == 200", "http.send"},
		{"data that is no YAML", "policies/classes/infusion-pump.yaml", "infusion-pump:", "infusion-pump: [", "infusion-pump.yaml"},
		{"a misspelt setting", "anteroom.yaml", "address: ", "adress: ", "adress"},
		{"a route to nowhere", "anteroom.yaml", "backend: ehr}", "backend: her}", "her"},
		{"a CA file that is not there", "anteroom.yaml", "ca_file: ", "ca_file: /nowhere", "nowhere"},
		{"a port that is taken", "anteroom.yaml", h.Addr, h.Tele, "in use"},
		{"another trust domain", "anteroom.yaml", "trust_domain: hospital", "trust_domain: clinic", "trust_domain"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			broken := strings.Replace(good[tt.file], tt.old, tt.new, 1)
			if broken == good[tt.file] {
				t.Fatal("the test breaks nothing")
			}
			from := len(h.Logs())
			h.Write(tt.file, broken)
			rig.Eventually(t, "the refusal in the log", func() bool {
				s := h.Logs()[from:]
				return strings.Contains(s, "refused") && strings.Contains(s, tt.want)
			})
			if out, errs, code := h.Run("status", "--strict"); code != 1 || !strings.Contains(out, "not in force") || !strings.Contains(out, tt.want) || !strings.Contains(errs, "1 problem") {
				t.Errorf("status does not say that what is there is not in force: exit %d\n%s%s", code, out, errs)
			}
			h.Write(tt.file, good[tt.file])
			if tt.file == "anteroom.yaml" {
				h.WaitLog(from, "configuration loaded")
			}
			rig.Eventually(t, "status to be content", func() bool {
				_, _, code := h.Run("status", "--strict")
				return code == 0
			})
		})
	}
	// The next good save takes effect.
	read := h.URL("/fhir/MedicationRequest/1")
	if status, _ := rig.Do(t, h.Client(pump), "GET", read, "", ""); status != http.StatusCreated {
		t.Errorf("a pump's read was answered %d", status)
	}
	h.Write("policies/classes/infusion-pump.yaml", strings.Replace(good["policies/classes/infusion-pump.yaml"], "MedicationRequest: [read, search-type]", "MedicationRequest: [search-type]", 1))
	rig.Eventually(t, "the new data to decide", func() bool {
		status, _ := rig.Do(t, h.Client(pump), "GET", read, "", "")
		return status == http.StatusForbidden
	})
	h.Write("anteroom.yaml", strings.Replace(settings(), "path: /fhir", "path: /r4", 1))
	cancel()
	wg.Wait()
	rig.Eventually(t, "the new route", func() bool { return post(h.Client(d), h.URL("/r4/Observation")) == http.StatusCreated })
	if answered.Load() == 0 || wrong.Load() > 0 {
		t.Errorf("%d of %d answers were wrong meanwhile", wrong.Load(), answered.Load())
	}
	t.Logf("%d requests meanwhile, none answered wrongly", answered.Load())
	events := map[string]int{}
	for e, err := range audit.Read(t.Context(), h.Path("state", "audit"), audit.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		events[e.Event]++
	}
	if events["policy.refused"] < 4 || events["config.refused"] < 5 {
		t.Errorf("recorded %v", events)
	}
}

// TestTheGatewaysCertificateChangesUnderOpenConnections swaps certificate files.
func TestTheGatewaysCertificateChangesUnderOpenConnections(t *testing.T) {
	h := rig.New(t)
	first, second := peers.NewPKI(t), peers.NewPKI(t)
	put := func(cert, key string) {
		t.Helper()
		for from, to := range map[string]string{cert: "tls/gateway.crt", key: "tls/gateway.key"} {
			b, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			h.Write(to, string(b))
		}
	}
	put(first.CertFile, first.KeyFile)
	h.Write("anteroom.yaml", strings.Replace(h.Head(), "127.0.0.1]}", "127.0.0.1], certificate: {source: files, certificate: tls/gateway.crt, key: tls/gateway.key}}", 1)+simple(t))
	h.Start()
	d := h.Enroll("monitor-1", "patient-monitor")
	client := func(p *peers.PKI) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.Roots, ServerName: "localhost", Certificates: []tls.Certificate{d.Pair}}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	old := client(first)
	if status := post(old, h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Fatalf("answered %d", status)
	}
	from := len(h.Logs())
	put(second.CertFile, first.KeyFile) // do not fit together
	h.WaitLog(from, "refused")
	if status := post(client(first), h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Errorf("a new connection after a broken change: %d", status)
	}
	put(second.CertFile, second.KeyFile)
	rig.Eventually(t, "the new certificate", func() bool { return post(client(second), h.URL("/fhir/Observation")) == http.StatusCreated })
	if status := post(old, h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Errorf("the connection from before was answered %d", status)
	}
}

// TestABackendsTrustIsReadAgain: a reload takes up what a file of the same name says
// now, and refuses one that it can not read.
func TestABackendsTrustIsReadAgain(t *testing.T) {
	h := rig.New(t)
	right, wrong := simple(t), peers.NewPKI(t)
	ca := regexp.MustCompile(`ca_file: "([^"]+)"`).FindStringSubmatch(right)[1]
	put := func(from string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		h.Write("ehr-ca.crt", string(b))
	}
	put(ca)
	h.Configure(strings.Replace(right, ca, h.Path("ehr-ca.crt"), 1))
	h.Start()
	d := h.Enroll("monitor-1", "patient-monitor")
	url := h.URL("/fhir/Observation")
	if status := post(h.Client(d), url); status != http.StatusCreated {
		t.Fatalf("answered %d", status)
	}
	put(wrong.CAFile)
	h.Must("reload")
	if status := post(h.Client(d), url); status == http.StatusCreated {
		t.Error("a backend is trusted by a CA that the file does not hold any more")
	}
	put(ca)
	h.Must("reload")
	rig.Eventually(t, "the backend is trusted again", func() bool { return post(h.Client(d), url) == http.StatusCreated })
	h.Write("ehr-ca.crt", "nothing")
	if _, errs, code := h.Run("reload"); code == 0 || !strings.Contains(errs, "ca_file") {
		t.Errorf("a file without a certificate: %d, %s", code, errs)
	}
	if status := post(h.Client(d), url); status != http.StatusCreated {
		t.Errorf("after the refused reload: %d", status)
	}
}

// TestADiskThatIsFullFailsClosedAndRecovers fills a small disk.
func TestADiskThatIsFullFailsClosedAndRecovers(t *testing.T) {
	h := rig.New(t)
	leave := smallDisk(t, h)
	h.Configure(simple(t) + "audit: {dir: disk/audit, min_free: 4MiB, rotate_size: 1MiB}\n")
	h.Start()
	d := h.Enroll("monitor-1", "patient-monitor")
	c := h.Client(d)
	if status := post(c, h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Fatalf("answered %d", status)
	}
	leave(2 << 20)
	rig.Eventually(t, "requests to be refused", func() bool { return post(c, h.URL("/fhir/Observation")) == http.StatusServiceUnavailable })
	rig.Eventually(t, "readyz to say why", func() bool {
		resp, err := http.Get("http://" + h.Tele + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(b), "audit log")
	})
	if !strings.Contains(h.Must("status"), "UNAVAILABLE") {
		t.Error("status does not say that the log is unavailable")
	}
	leave(0)
	rig.Eventually(t, "requests to be served again", func() bool { return post(c, h.URL("/fhir/Observation")) == http.StatusCreated })
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := audit.Verify(t.Context(), h.Path("disk/audit"), audit.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}
