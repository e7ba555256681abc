package integration

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
	"github.com/smallstep/scep"
	"github.com/smallstep/scep/x509util"
	"golang.org/x/crypto/acme"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
	enrolment "github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/step"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// An asking is a request for a certificate, whichever way it goes.
type asking struct {
	id, token string
	key       *rsa.PrivateKey
	csr       []byte
}

// An outcome is what the way said in its own form, in one line, and all of the
// text; or the certificate.
type outcome struct {
	form, text string
	leaf       *x509.Certificate
}

// A wayIn is one of the ways to a certificate.
type wayIn struct {
	name string // as records have it
	ask  func(asking) outcome
}

// refusing is a gateway at which every way is open, with tokens made beforehand:
// one that serves for each way, one that is over and one that is used up.
type refusing struct {
	*enrolling
	dir            string
	good           map[string]string // by device
	late, used     string
	names          map[string]acmeAccount // of a token
	ra             []*x509.Certificate
	account        *acme.Client
	http           *http.Client
	httpPort       int
	challenge      chan string
	own, theirs    *rsa.PrivateKey
	weak           *rsa.PrivateKey
	lateID, usedID string
}

func newRefusing(t *testing.T) *refusing {
	t.Helper()
	h := &refusing{enrolling: &enrolling{rig.New(t), t, rig.FreeAddr(t)}, dir: t.TempDir(), good: map[string]string{}, names: map[string]acmeAccount{},
		httpPort: peers.FreePort(t), challenge: make(chan string, 16), lateID: "late-1", usedID: "used-1"}
	h.Configure(simple(t) + fmt.Sprintf("enrolment: {address: %q, hosts: [localhost, 127.0.0.1], limits: {requests: 10000, failures: 1000}, scep: {enabled: true}, "+
		"acme: {servers: [{device: acme-1, names: [%s], address: 127.0.0.1, http_port: %d}]}}\n", h.addr, lis, h.httpPort))
	h.Write("devices.csv", "id,class\nest-1,patient-monitor\ntoken-1,patient-monitor\nstep-1,patient-monitor\nscep-1,patient-monitor\nacme-1,server\nlate-1,patient-monitor\nused-1,patient-monitor\n")
	h.Must("device", "import", "devices.csv")
	// Tokens are made where the clock can be set.
	st, err := bolt.Open(h.Path("state", "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	ago := time.Duration(0)
	tokens, err := enrolment.OpenTokens(st, h.Path("state", "enrolment.key"), func() time.Time { return time.Now().Add(-ago) })
	if err != nil {
		t.Fatal(err)
	}
	create := func(id string) string {
		t.Helper()
		text, tok, err := tokens.Create(t.Context(), id, "test", time.Hour, false)
		if err != nil {
			t.Fatal(err)
		}
		name, key := tokens.Binding(tok)
		h.names[text] = acmeAccount{KeyID: name, HMACKey: base64.RawURLEncoding.EncodeToString(key)}
		return text
	}
	for _, way := range []string{"est", "token", "step", "scep", "acme"} {
		h.good[way+"-1"] = create(way + "-1")
	}
	h.used = create(h.usedID)
	ago = 2 * time.Hour
	h.late = create(h.lateID)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	for bits, key := range map[int][]**rsa.PrivateKey{2048: {&h.own, &h.theirs}, 1024: {&h.weak}} {
		for _, k := range key {
			if *k, err = rsa.GenerateKey(rand.Reader, bits); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.Start()
	h.http = h.client() // one connection; an address may have so many
	if out := h.plain(asking{token: h.used, key: h.theirs, csr: h.csr(h.theirs, "", "")}); out.leaf == nil {
		t.Fatalf("the first use of a token: %+v", out)
	}
	status, text := h.ask(h.http, "GET", "/scep?operation=GetCACert", "")
	p7, err := pkcs7.Parse([]byte(text))
	if err != nil {
		t.Fatalf("GetCACert: %d %v", status, err)
	}
	h.ra = p7.Certificates
	h.answerHTTP()
	return h
}

// csr makes a signing request.
func (h *refusing) csr(key crypto.Signer, cn, challenge string, change ...func(*x509.CertificateRequest)) []byte {
	h.t.Helper()
	in := &x509util.CertificateRequest{CertificateRequest: x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, ChallengePassword: challenge}
	for _, f := range change {
		f(&in.CertificateRequest)
	}
	der, err := x509util.CreateCertificateRequest(rand.Reader, in, key)
	if err != nil {
		h.t.Fatal(err)
	}
	return der
}

func request10(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func (h *refusing) post(path string, in any) (int, string) {
	h.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.enrolling.ask(h.http, "POST", path, string(body))
}

func (h *refusing) certificate(text string) *x509.Certificate {
	h.t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		h.t.Fatalf("no certificate: %s", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *refusing) plain(a asking) outcome {
	h.t.Helper()
	status, text := h.post("/enrol", map[string]string{"token": a.token, "csr": request10(a.csr)})
	var out struct{ Certificate, Error, Code, Reference string }
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		h.t.Fatalf("%d %s", status, text)
	}
	if status == http.StatusOK {
		return outcome{leaf: h.certificate(out.Certificate)}
	}
	return outcome{form: fmt.Sprint(status, " ", out.Code), text: out.Error + " reference " + out.Reference}
}

func (h *refusing) est(a asking) outcome {
	h.t.Helper()
	c := &estClient{t: h.t, http: h.http, base: "https://" + h.addr, user: a.id, pass: a.token}
	r := c.enroll("simpleenroll", a.csr)
	if r.StatusCode == http.StatusOK {
		return outcome{leaf: r.certs[0]}
	}
	form := fmt.Sprint(r.StatusCode)
	if strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Basic ") {
		form += " Basic"
	}
	return outcome{form: form, text: r.text}
}

func (h *refusing) step(a asking) outcome {
	h.t.Helper()
	now := time.Now()
	ott, err := step.Token(a.token, a.id, "https://"+h.addr, strings.Repeat("0", 64), now, now.Add(time.Hour))
	if err != nil {
		h.t.Fatal(err)
	}
	status, text := h.post("/1.0/sign", map[string]string{"csr": request10(a.csr), "ott": ott})
	var out struct {
		CRT, Message string
		Status       int
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil || status != http.StatusCreated && out.Status != status {
		h.t.Fatalf("%d %s", status, text)
	}
	if status == http.StatusCreated {
		return outcome{leaf: h.certificate(out.CRT)}
	}
	return outcome{form: fmt.Sprint(status), text: out.Message}
}

// scep is smallstep's library, with AES-256 and SHA-256.
func (h *refusing) scep(a asking) outcome {
	h.t.Helper()
	self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "itself"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, a.key.Public(), a.key)
	if err != nil {
		h.t.Fatal(err)
	}
	signer, err := x509.ParseCertificate(der)
	if err != nil {
		h.t.Fatal(err)
	}
	m, err := scep.NewCSRRequest(&x509.CertificateRequest{Raw: a.csr, PublicKey: a.key.Public()},
		&scep.PKIMessage{MessageType: scep.PKCSReq, Recipients: h.ra[:1], SignerKey: a.key, SignerCert: signer})
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := h.http.Post(h.url("/scep?operation=PKIOperation"), "application/x-pki-message", strings.NewReader(string(m.Raw)))
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return outcome{form: fmt.Sprint(resp.StatusCode), text: string(text)}
	}
	reply, err := scep.ParsePKIMessage(text, scep.WithCACerts(h.ra))
	if err != nil {
		h.t.Fatalf("the answer: %v", err)
	}
	if reply.PKIStatus == scep.SUCCESS {
		if err := reply.DecryptPKIEnvelope(signer, a.key); err != nil {
			h.t.Fatalf("the answer: %v", err)
		}
		return outcome{leaf: reply.CertRepMessage.Certificate}
	}
	return outcome{form: strings.Fields(reply.FailInfo.String())[0], text: string(text)}
}

// answerHTTP answers for the server's name as http-01 asks.
func (h *refusing) answerHTTP() {
	h.t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", h.httpPort))
	if err != nil {
		h.t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, <-h.challenge)
	})}
	go func() { _ = srv.Serve(ln) }()
	h.t.Cleanup(func() { _ = srv.Close() })
}

// acme is Go's client: an account for each token, and an order for the name that the
// device of the account may have, or for another.
func (h *refusing) acme(a asking) outcome {
	h.t.Helper()
	said := func(err error) outcome {
		h.t.Helper()
		p, ok := errors.AsType[*acme.Error](err)
		if !ok {
			h.t.Fatalf("ACME: %v", err)
		}
		return outcome{form: fmt.Sprint(p.StatusCode, " ", strings.TrimPrefix(p.ProblemType, "urn:ietf:params:acme:error:")), text: p.Detail}
	}
	if h.account == nil || a.token != h.good["acme-1"] {
		mac, err := base64.RawURLEncoding.DecodeString(h.names[a.token].HMACKey)
		if err != nil {
			h.t.Fatal(err)
		}
		c := &acme.Client{Key: ecKey(h.t), DirectoryURL: h.url("/acme/directory"), HTTPClient: h.http}
		_, err = c.Register(h.t.Context(), &acme.Account{ExternalAccountBinding: &acme.ExternalAccountBinding{KID: h.names[a.token].KeyID, Key: mac}}, acme.AcceptTOS)
		if err != nil {
			return said(err)
		}
		h.account = c
	}
	c, name := h.account, lis
	if a.id != "acme-1" {
		name = "ehr.hospital.example"
	}
	o, err := c.AuthorizeOrder(h.t.Context(), acme.DomainIDs(name))
	if err != nil {
		return said(err)
	}
	z, err := c.GetAuthorization(h.t.Context(), o.AuthzURLs[0])
	if err != nil {
		return said(err)
	}
	for _, ch := range z.Challenges {
		if ch.Type == "http-01" && z.Status != acme.StatusValid {
			text, err := c.HTTP01ChallengeResponse(ch.Token)
			if err != nil {
				h.t.Fatal(err)
			}
			h.challenge <- text
			if _, err := c.Accept(h.t.Context(), ch); err != nil {
				return said(err)
			}
		}
	}
	if _, err := c.WaitOrder(h.t.Context(), o.URI); err != nil {
		return said(err)
	}
	der, _, err := c.CreateOrderCert(h.t.Context(), o.FinalizeURL, a.csr, true)
	if err != nil {
		return said(err)
	}
	leaf, err := x509.ParseCertificate(der[0])
	if err != nil {
		h.t.Fatal(err)
	}
	return outcome{leaf: leaf}
}

// cli is an operator, who shows no token.
func (h *refusing) cli(a asking) outcome {
	h.t.Helper()
	file := filepath.Join(h.dir, "request.csr")
	if err := os.WriteFile(file, []byte(request10(a.csr)), 0o600); err != nil {
		h.t.Fatal(err)
	}
	_, errs, code := h.Run("device", "enroll", a.id, "--class", "patient-monitor", "--csr", file, "--out", h.dir)
	if code == 0 {
		text, err := os.ReadFile(filepath.Join(h.dir, a.id+".crt"))
		if err != nil {
			h.t.Fatal(err)
		}
		return outcome{leaf: h.certificate(string(text))}
	}
	if strings.Count(strings.TrimSpace(errs), "\n") > 0 {
		h.t.Errorf("more than one line: %q", errs)
	}
	return outcome{form: fmt.Sprint("exit ", code), text: errs}
}
