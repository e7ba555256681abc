package integration

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/smallstep/pkcs7"
)

// An estClient is a client of the tests' own, written from the text of RFC 7030
// and its examples in appendix A: it knows nothing of Anteroom.
type estClient struct {
	t    *testing.T
	http *http.Client
	base string
	user string // with a password: HTTP basic (section 3.2.3)
	pass string
}

// An estAnswer is what a server answered.
type estAnswer struct {
	*http.Response
	text  string
	certs []*x509.Certificate // of 200 with application/pkcs7-mime
}

func (c *estClient) do(method, op, contentType string, body io.Reader) *estAnswer {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+"/.well-known/est/"+op, body)
	if err != nil {
		c.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Content-Transfer-Encoding", "base64")
	}
	if c.user != "" {
		req.SetBasicAuth(c.user, c.pass)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatalf("%s: %v", op, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	a := &estAnswer{Response: resp, text: string(b)}
	if resp.StatusCode != http.StatusOK {
		return a
	}
	if enc := resp.Header.Get("Content-Transfer-Encoding"); enc != "base64" {
		c.t.Errorf("%s: Content-Transfer-Encoding %q", op, enc)
	}
	for line := range strings.Lines(a.text) {
		if len(strings.TrimRight(line, "\r\n")) > 76 { // RFC 2045 section 6.8
			c.t.Errorf("%s: a line of %d characters", op, len(line))
		}
	}
	der, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\r", "", "\n", "").Replace(a.text))
	if err != nil {
		c.t.Fatalf("%s: %v", op, err)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/pkcs7-mime") {
		p7, err := pkcs7.Parse(der)
		if err != nil || len(p7.Signers) != 0 {
			c.t.Fatalf("%s: not a certs-only message: %v", op, err)
		}
		a.certs = p7.Certificates
	}
	return a
}

// enroll asks for a certificate by simpleenroll or simplereenroll.
func (c *estClient) enroll(op string, csr []byte) *estAnswer {
	c.t.Helper()
	return c.do("POST", op, "application/pkcs10", strings.NewReader(base64.StdEncoding.EncodeToString(csr)))
}

func signingRequest(t *testing.T, key crypto.Signer, cn string, sans ...string) []byte {
	t.Helper()
	in := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}
	for _, s := range sans {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		in.URIs = append(in.URIs, u)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, in, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestESTKeepsToItsRFC: each operation, each way to write a request, and each
// reason to refuse, with a client written from RFC 7030.
func TestESTKeepsToItsRFC(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, ", quota: {certificates: 6}, limits: {requests: 1000, failures: 100}")
	ecKey := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	client := func(pairs ...tls.Certificate) *estClient {
		return &estClient{t: t, http: h.client(pairs...), base: "https://" + h.addr}
	}
	// Section 4.1.3 and its example: certs-only, the root among them.
	cas := client().do("GET", "cacerts", "", nil)
	if cas.StatusCode != 200 || len(cas.certs) != 2 || cas.certs[1].CheckSignature(cas.certs[1].SignatureAlgorithm, cas.certs[1].RawTBSCertificate, cas.certs[1].Signature) != nil {
		t.Fatalf("cacerts: %s %d", cas.Status, len(cas.certs))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(cas.certs[1])
	between.AddCert(cas.certs[0])

	// Section 4.2.1: with a secret, then with the certificate.
	c := client()
	c.user, c.pass = "monitor-1", h.token("monitor-1", "--class", "patient-monitor")
	key := ecKey(elliptic.P256())
	first := c.enroll("simpleenroll", signingRequest(t, key, "monitor-1"))
	if first.StatusCode != 200 || len(first.certs) != 1 {
		t.Fatalf("simpleenroll: %s %s", first.Status, first.text)
	}
	leaf := first.certs[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the certificate does not chain to what cacerts gave: %v", err)
	}
	pair := func(leaf *x509.Certificate, key crypto.Signer) tls.Certificate {
		return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	}
	mine := client(pair(leaf, key))
	// Section 4.2.2: renewing with the key there is, and rekeying, with the names
	// there are. Old and new devices have other keys, and write bodies in their way.
	san := "spiffe://hospital.example/device/monitor-1"
	if a := mine.enroll("simplereenroll", signingRequest(t, key, "monitor-1", san)); a.StatusCode != 200 || !a.certs[0].PublicKey.(*ecdsa.PublicKey).Equal(key.Public()) {
		t.Errorf("renewal: %s %s", a.Status, a.text)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a := mine.enroll("simpleenroll", signingRequest(t, edKey, "")); a.StatusCode != 200 {
		t.Errorf("enrolling with the certificate (section 3.3.2): %s %s", a.Status, a.text)
	}
	der := signingRequest(t, ecKey(elliptic.P384()), "")
	for what, body := range map[string]io.Reader{
		"DER": bytes.NewReader(der),
		"PEM": bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		"base64 with line breaks, chunked": io.MultiReader(strings.NewReader(base64.StdEncoding.EncodeToString(der[:48])+"\n"),
			strings.NewReader(base64.StdEncoding.EncodeToString(der[48:])+"\r\n")),
	} {
		if a := mine.do("POST", "simplereenroll", "application/pkcs10", body); a.StatusCode != 200 {
			t.Errorf("%s: %s %s", what, a.Status, a.text)
		}
	}
	if a := mine.enroll("simplereenroll", signingRequest(t, key, "")); a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
		t.Errorf("more than the quota: %s %s", a.Status, a.text)
	}

	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	sha1, err := os.ReadFile("../pkg/ca/testdata/sha1.csr")
	if err != nil {
		t.Fatal(err)
	}
	fresh := client()
	fresh.user, fresh.pass = "monitor-2", h.token("monitor-2", "--class", "patient-monitor")
	for what, c := range map[string]struct {
		csr  []byte
		text string
	}{
		"a weak key":         {signingRequest(t, weak, ""), "1024 bits"},
		"SHA-1":              {sha1, "not secure"},
		"another's identity": {signingRequest(t, ecKey(elliptic.P256()), "", san), "identity that is not monitor-2's"},
		"another's name":     {signingRequest(t, ecKey(elliptic.P256()), "monitor-1"), "made out to monitor-1"},
		"another's key":      {signingRequest(t, key, ""), "another device's"},
		"nothing":            {nil, "malformed"},
	} {
		if a := fresh.enroll("simpleenroll", c.csr); a.StatusCode != http.StatusBadRequest || !strings.Contains(a.text, c.text) || !strings.Contains(a.text, "reference") {
			t.Errorf("%s: %s %s", what, a.Status, a.text)
		}
	}
	if a := fresh.enroll("simpleenroll", make([]byte, 64<<10)); a.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %s %s", a.Status, a.text)
	}
	for what, c := range map[string]*estClient{
		"no proof":            client(),
		"a wrong secret":      {t: t, http: h.client(), base: "https://" + h.addr, user: "monitor-2", pass: strings.Repeat("A", 35)},
		"another's id":        {t: t, http: h.client(), base: "https://" + h.addr, user: "monitor-1", pass: fresh.pass},
		"a replayed secret":   {t: t, http: h.client(), base: "https://" + h.addr, user: "monitor-1", pass: c.pass},
		"no id that there is": {t: t, http: h.client(), base: "https://" + h.addr, user: "../etc", pass: fresh.pass},
	} {
		if a := c.enroll("simpleenroll", signingRequest(t, ecKey(elliptic.P256()), "")); a.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s: %s %s", what, a.Status, a.text)
		}
	}
	if a := client().enroll("simplereenroll", der); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("renewal without a certificate: %s", a.Status)
	}
	// A certificate of another CA proves nothing, however it looks.
	foreign := ecKey(elliptic.P256())
	u, err := url.Parse(san)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: leaf.SerialNumber, Subject: leaf.Subject, Issuer: leaf.Issuer, URIs: []*url.URL{u}, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, ExtKeyUsage: leaf.ExtKeyUsage}
	forged, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, foreign.Public(), foreign)
	if err != nil {
		t.Fatal(err)
	}
	thief := client(tls.Certificate{Certificate: [][]byte{forged}, PrivateKey: foreign})
	if a := thief.enroll("simplereenroll", signingRequest(t, foreign, "")); a.StatusCode != http.StatusForbidden {
		t.Errorf("a forged certificate: %s %s", a.Status, a.text)
	}
	h.Must("device", "quarantine", "monitor-1")
	if a := mine.enroll("simplereenroll", signingRequest(t, key, "")); a.StatusCode != http.StatusForbidden || !strings.Contains(a.text, "quarantined") {
		t.Errorf("in quarantine: %s %s", a.Status, a.text)
	}
	if a := fresh.enroll("simpleenroll", signingRequest(t, ecKey(elliptic.P256()), "monitor-2")); a.StatusCode != 200 {
		t.Errorf("after all that, the token: %s %s", a.Status, a.text)
	}
	// Every refusal of a request with a proof has its record: the quota, six bad
	// requests and the large one, four secrets, the forgery, the quarantine.
	h.recorded("enrolment.refused", 14)
	h.recorded("device.renewed", 5)
}
