package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
)

// A manufacturer is a simulated one: a CA that gives devices the certificates they
// leave the factory with (IEEE 802.1AR).
type manufacturer struct {
	t    *testing.T
	name string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	made int64
}

func newManufacturer(t *testing.T, name string) *manufacturer {
	t.Helper()
	m := &manufacturer{t: t, name: name}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m.key = key
	m.cert = m.sign(&x509.Certificate{Subject: pkix.Name{Organization: []string{name}}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, key)
	return m
}

func (m *manufacturer) sign(in *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	m.t.Helper()
	m.made++
	in.SerialNumber, in.NotBefore = big.NewInt(m.made), time.Now().Add(-time.Hour)
	in.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // RFC 5280 section 4.1.2.5
	by := m.cert
	if by == nil {
		by = in
	}
	der, err := x509.CreateCertificate(rand.Reader, in, by, key.Public(), m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// device makes a device with a serial number.
func (m *manufacturer) device(serial string) tls.Certificate {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	c := m.sign(&x509.Certificate{Subject: pkix.Name{Organization: []string{m.name}, SerialNumber: serial}, KeyUsage: x509.KeyUsageDigitalSignature}, key)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// anchors writes the trust anchor as an operator has it.
func (m *manufacturer) anchors(h *enrolling, name string) {
	m.t.Helper()
	h.Write(name, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw})))
}

// TestADeviceEnrolsWithItsManufacturersCertificate, from the delivery to the first
// request: imported, waiting, approved, enrolled; and what its manufacturer gave it
// opens nothing else.
func TestADeviceEnrolsWithItsManufacturersCertificate(t *testing.T) {
	t.Parallel()
	acme, bolt := newManufacturer(t, "Acme"), newManufacturer(t, "Bolt")
	h := newEnrolling(t, `, limits: {requests: 1000}, manufacturers: [{name: acme, anchors: manufacturers/acme.pem, registered_as: ["Acme Inc."], models: [M1]}, {name: bolt, anchors: manufacturers/bolt.pem}]`,
		func(h *enrolling) {
			acme.anchors(h, "manufacturers/acme.pem")
			bolt.anchors(h, "manufacturers/bolt.pem")
		})
	if out := h.Must("check"); !strings.Contains(out, "ok    manufacturers' trust anchors") {
		t.Errorf("check: %s", out)
	}
	h.Write("delivery.csv", "id,class,manufacturer,model,serial\n"+
		"monitor-1,patient-monitor,ACME INC.,M1,S1\nmonitor-2,patient-monitor,Acme Inc.,M1,S2\nmonitor-3,patient-monitor,Acme Inc.,M9,S3\nmonitor-4,patient-monitor,bolt,B1,S1\n")
	h.Must("device", "import", "delivery.csv")
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	est := func(pair tls.Certificate) *estClient {
		return &estClient{t: t, http: h.client(pair), base: "https://" + h.addr}
	}
	dev, own := acme.device("S1"), key()
	csr := signingRequest(t, own, "")
	// RFC 7030 section 4.2.3.
	first := est(dev).enroll("simpleenroll", csr)
	if retry, err := strconv.Atoi(first.Header.Get("Retry-After")); first.StatusCode != http.StatusAccepted || err != nil || retry < 1 || !strings.Contains(first.text, "monitor-1 waits for an operator's approval") {
		t.Fatalf("before the approval: %s %q %s", first.Status, first.Header.Get("Retry-After"), first.text)
	}
	h.recorded("enrolment.waiting", 1)
	if out := h.Must("device", "approve"); !strings.Contains(out, "monitor-1") || !strings.Contains(out, "waits since") || strings.Contains(out, "monitor-2") {
		t.Errorf("who waits: %s", out)
	}

	// The manufacturer's certificate opens nothing but enrolment.
	if status := post(h.client(dev), h.URL("/fhir/Observation")); status != 0 {
		t.Errorf("the device listener answers %d to a manufacturer's certificate", status)
	}
	if status := post(h.client(dev), h.url("/fhir/Observation")); status != http.StatusNotFound {
		t.Errorf("the enrolment listener answers %d for a route", status)
	}
	for what, c := range map[string]struct {
		pair tls.Certificate
		op   string
		want int
	}{
		"renewal with it":                   {dev, "simplereenroll", http.StatusForbidden},
		"a serial number nobody expects":    {acme.device("S77"), "simpleenroll", http.StatusForbidden},
		"the serial number of another's":    {bolt.device("S2"), "simpleenroll", http.StatusForbidden},
		"a model the anchor does not enrol": {acme.device("S3"), "simpleenroll", http.StatusForbidden},
		"somebody of the same name":         {newManufacturer(t, "Acme").device("S1"), "simpleenroll", http.StatusForbidden},
		"the same serial number, other key": {acme.device("S1"), "simpleenroll", http.StatusBadRequest},
		"the CA itself":                     {tls.Certificate{Certificate: [][]byte{acme.cert.Raw}, PrivateKey: acme.key}, "simpleenroll", http.StatusForbidden},
	} {
		if a := est(c.pair).enroll(c.op, signingRequest(t, key(), "")); a.StatusCode != c.want || !strings.Contains(a.text, "reference") {
			t.Errorf("%s: %s %s", what, a.Status, a.text)
		}
	}
	h.recorded("enrolment.refused", 7)
	if status, text := h.ask(h.client(dev), "POST", "/enrol/renew", `{"csr": "x"}`); status != http.StatusUnauthorized {
		t.Errorf("renewal in JSON: %d %s", status, text)
	}

	// One by one, and by list.
	out := h.Must("device", "approve", "monitor-1")
	if !strings.Contains(out, "monitor-1 is approved: serial number S1, factory key ") {
		t.Errorf("approve: %s", out)
	}
	enrolled := est(dev).enroll("simpleenroll", csr)
	if enrolled.StatusCode != http.StatusOK || len(enrolled.certs) != 1 {
		t.Fatalf("approved: %s %s", enrolled.Status, enrolled.text)
	}
	pair := tls.Certificate{Certificate: [][]byte{enrolled.certs[0].Raw}, PrivateKey: own}
	if status := post(h.client(pair), h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Errorf("the enrolled device is answered %d", status)
	}
	if a := est(pair).enroll("simplereenroll", signingRequest(t, own, "")); a.StatusCode != http.StatusOK {
		t.Errorf("renewal: %s %s", a.Status, a.text)
	}
	if a := est(dev).enroll("simpleenroll", signingRequest(t, key(), "")); a.StatusCode != http.StatusAccepted {
		t.Errorf("once more with another key: %s %s", a.Status, a.text)
	}
	stdout, stderr, code := h.Run("device", "approve", "--list", "delivery.csv", "monitor-9")
	if code == 0 || !strings.Contains(stdout, "monitor-2 is approved, and is given a certificate when it comes") || !strings.Contains(stdout, "monitor-9: no such device") || !strings.Contains(stderr, "1 of 5 devices were not approved") {
		t.Errorf("by list: %d %s %s", code, stdout, stderr)
	}
	if a := est(bolt.device("S1")).enroll("simpleenroll", signingRequest(t, key(), "monitor-4")); a.StatusCode != http.StatusOK {
		t.Errorf("another manufacturer's of the same serial number: %s %s", a.Status, a.text)
	}
	// Revoked, it has neither.
	h.Must("device", "revoke", "monitor-1", "--yes")
	if a := est(dev).enroll("simpleenroll", signingRequest(t, key(), "")); a.StatusCode != http.StatusForbidden {
		t.Errorf("revoked: %s %s", a.Status, a.text)
	}
	// By rule: a class that needs no approval.
	file, err := os.ReadFile(h.Path("policies", "enrolment", "enrolment.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	h.Write("policies/enrolment/enrolment.yaml", strings.Replace(string(file), "automatic_classes: []", "automatic_classes: [glucose-meter]", 1))
	h.Write("more.csv", "id,class,manufacturer,model,serial\nmeter-1,glucose-meter,bolt,B2,G1\n")
	h.Must("reload")
	h.Must("device", "import", "more.csv")
	if a := est(bolt.device("G1")).enroll("simpleenroll", signingRequest(t, key(), "")); a.StatusCode != http.StatusOK {
		t.Errorf("a class that needs no approval: %s %s", a.Status, a.text)
	}
	var recs []struct {
		Certificates []struct{ Way string }
	}
	if err := json.Unmarshal([]byte(h.Must("device", "list", "--class", "glucose-meter", "--json")), &recs); err != nil || len(recs) != 1 || len(recs[0].Certificates) != 1 {
		t.Errorf("the registry: %+v %v", recs, err)
	}
	if got := h.Must("audit", "search", "--event", "device.enrolled", "--device", "meter-1"); !strings.Contains(got, "proof=manufacturer") || !strings.Contains(got, "manufacturer=bolt") {
		t.Errorf("the record: %s", got)
	}
}

// TestABadTrustAnchorKeepsTheGatewayFromStarting: nothing falls back to anything.
func TestABadTrustAnchorKeepsTheGatewayFromStarting(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, "")
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	acme := newManufacturer(t, "Acme")
	for name, text := range map[string]string{
		"its own root": "root-ca.crt", "a device's": "device.pem", "not there": "absent.pem",
	} {
		h.Write("device.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: acme.device("S1").Leaf.Raw})))
		h.Configure(simple(t) + fmt.Sprintf("enrolment: {address: %q, hosts: [localhost], manufacturers: [{name: acme, anchors: %s}]}\n", h.addr, text))
		out, _, code := h.Run("check")
		if code == 0 || !strings.Contains(out, "FAIL  manufacturers' trust anchors: manufacturer acme: ") {
			t.Errorf("%s: check: %d %s", name, code, out)
		}
		if _, errs, code := h.Run("run", "--config", h.Path("anteroom.yaml")); code == 0 || !strings.Contains(errs, "manufacturer acme: ") {
			t.Errorf("%s: run: %d %s", name, code, errs)
		}
	}
}

// TestCurlWaitsForApprovalWithAManufacturersCertificate: the docs' commands, from 202
// and Retry-After to the certificate.
func TestCurlWaitsForApprovalWithAManufacturersCertificate(t *testing.T) {
	peers.Need(t, "openssl", "curl")
	t.Parallel()
	acme := newManufacturer(t, "acme")
	h := newEnrolling(t, `, manufacturers: [{name: acme, anchors: manufacturers/acme.pem}]`, func(h *enrolling) { acme.anchors(h, "manufacturers/acme.pem") })
	h.Write("delivery.csv", "id,class,manufacturer,serial\nmonitor-1,patient-monitor,acme,S1\n")
	h.Must("device", "import", "delivery.csv")
	dir := t.TempDir()
	factory := acme.device("S1")
	key, err := x509.MarshalPKCS8PrivateKey(factory.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"idevid.crt": {Type: "CERTIFICATE", Bytes: factory.Leaf.Raw}, "idevid.key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := run(t, dir, name, args...)
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return out
	}
	must("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "dev.key", "-subj", "/CN=monitor-1", "-outform", "DER", "-out", "dev.p10")
	must("openssl", "base64", "-in", "dev.p10", "-out", "dev.b64")
	ask := func(out string) string {
		t.Helper()
		return must("curl", "-sS", "-D", "-", "-o", out, "--cacert", h.RootFile(), "--cert", "idevid.crt", "--key", "idevid.key",
			"-H", "Content-Type: application/pkcs10", "--data-binary", "@dev.b64", h.url("/.well-known/est/simpleenroll"))
	}
	if head := ask("wait.txt"); !strings.Contains(head, " 202 ") || !strings.Contains(head, "Retry-After: 300\r\n") {
		t.Errorf("before the approval: %s", head)
	}
	h.Must("device", "approve", "monitor-1")
	if head := ask("dev.p7.b64"); !strings.Contains(head, " 200 ") {
		t.Fatalf("approved: %s", head)
	}
	must("openssl", "base64", "-d", "-in", "dev.p7.b64", "-out", "dev.p7")
	must("openssl", "pkcs7", "-inform", "DER", "-in", "dev.p7", "-print_certs", "-out", "dev.crt")
	if out := must("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", h.RootFile(), "--cert", "dev.crt", "--key", "dev.key",
		"-H", "Content-Type: application/fhir+json", "-d", observation, h.URL("/fhir/Observation")); out != "201" {
		t.Errorf("the device is answered %s", out)
	}
	if out, err := run(t, dir, "curl", "-sS", "--cacert", h.RootFile(), "--cert", "idevid.crt", "--key", "idevid.key", h.URL("/fhir/Observation")); err == nil {
		t.Errorf("the manufacturer's certificate opens the devices' listener: %s", out)
	}
}
