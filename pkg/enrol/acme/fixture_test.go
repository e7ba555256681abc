package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/town"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

const (
	domain = town.Domain
	lis    = "lis.hospital.example"
	lis2   = "lis2.hospital.example"
)

func TestMain(m *testing.M) { os.Exit(town.Main(m)) }

// A hall is an enrolment listener with ACME, and everything behind it.
type hall struct {
	t         *testing.T
	cfg       *config.File
	devices   *device.Registry
	ca        *ca.Authority
	registrar *enrol.Registrar
	tokens    *enrol.Tokens
	log       *audit.Log
	logDir    string
	store     store.Store
	url       string
	http      *http.Client
	ahead     atomic.Int64
	// shown is the certificate that a server shows for acme-tls/1, names what DNS says.
	shown *x509.Certificate
	names map[string][]netip.Addr
}

// newHall opens a listener. acme is the configuration's enrolment.acme.
func newHall(t *testing.T, acme string) *hall {
	t.Helper()
	shared := town.Share(t)
	h := &hall{t: t, names: map[string][]netip.Addr{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "anteroom-acme-")
	must(err)
	t.Cleanup(func() {
		// What the audit log had under way when it was closed may end a moment later.
		for range 100 {
			if os.RemoveAll(dir) == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s can not be removed", dir)
	})
	clock := func() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }
	h.cfg, err = config.Parse(filepath.Join(dir, "anteroom.yaml"), []byte(`trust_domain: `+domain+`
organisation: Test
ca: {passphrase: {env: X}}
audit: {flush_time: 1ms}
enrolment: {address: "127.0.0.1:0", hosts: [127.0.0.1], limits: {requests: 100000, failures: 3}, acme: `+acme+`}
listeners: [{name: devices, address: "127.0.0.1:1", hosts: [gw.example]}]
`))
	must(err)
	st, err := bolt.Open(filepath.Join(dir, "registry.db"))
	must(err)
	h.store = st
	h.devices, err = device.Open(t.Context(), st, device.Options{Clock: clock})
	must(err)
	h.logDir = filepath.Join(dir, "audit")
	h.log, err = audit.Open(t.Context(), audit.Config{Dir: h.logDir, Origin: audit.Origin(domain), Audit: h.cfg.Audit, Clock: clock})
	must(err)
	h.tokens, err = enrol.OpenTokens(st, filepath.Join(dir, "enrolment.key"), clock)
	must(err)
	registrar := enrol.New(enrol.Config{Devices: h.devices, CA: shared.CA, Audit: h.log, Tokens: h.tokens, Clock: clock, Logger: slog.New(slog.DiscardHandler),
		Policy:   func(context.Context) (*policy.Set, error) { return shared.Policy, nil },
		Settings: func() *config.File { return h.cfg }})
	h.ca, h.registrar = shared.CA, registrar
	srv, err := web.New(web.Config{
		Registrar: registrar, Audit: h.log, Settings: func() config.Enrolment { return h.cfg.Enrolment }, Clock: clock, Logger: slog.New(slog.DiscardHandler),
		Neighbourhood: func(a netip.Addr) netip.Addr { return a },
		Endpoints: Endpoints(Config{Registrar: registrar, Store: st, Settings: func() config.ACME { return h.cfg.Enrolment.ACME }, Clock: clock,
			Show: func(context.Context, net.Conn, string) (*x509.Certificate, error) {
				if h.shown == nil {
					return nil, errors.New("nothing is shown")
				}
				return h.shown, nil
			},
			Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
				a, ok := h.names[strings.TrimSuffix(name, ".")]
				if !ok {
					return nil, errors.New("no such host")
				}
				return a, nil
			},
		}),
	})
	must(err)
	key, csr, err := ca.NewKeyAndCSR(ca.P256, "")
	must(err)
	own, err := shared.CA.Issue(t.Context(), ca.Request{Profile: ca.Server, CSR: csr, Names: []string{"127.0.0.1"}, TTL: time.Hour})
	must(err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{own.Chain[0].Raw, own.Chain[1].Raw}, PrivateKey: key}}})
	must(err)
	srv.Serve(ln)
	h.url = "https://" + ln.Addr().String()
	pool := x509.NewCertPool()
	pool.AddCert(shared.CA.Roots()[0])
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	h.http = &http.Client{Transport: tr, Timeout: time.Minute}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		srv.Close(context.Background())
		if err := errors.Join(h.log.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	return h
}

// refusals returns device and text of the refusals in the log.
func (h *hall) refusals() []string { return h.events("enrolment.refused") }

// events returns device and text of the records of an event.
func (h *hall) events(name string) (out []string) {
	h.t.Helper()
	if err := h.log.Flush(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	for e, err := range audit.Read(h.t.Context(), h.logDir, audit.ReadOptions{Filter: audit.Filter{Event: name}}) {
		if err != nil {
			h.t.Fatal(err)
		}
		out = append(out, fmt.Sprint(e.Device, ": ", e.Error))
	}
	return out
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// A client speaks ACME as the tests need it, wrong where they want it wrong.
type client struct {
	h   *hall
	key crypto.Signer
	kid string
	// What the next request has in place of the right thing.
	alg, nonce, url, contentType string
	extra                        map[string]any
	forge                        bool
}

func (h *hall) client() *client {
	h.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	return &client{h: h, key: key}
}

// public returns an ECDSA key's JWK.
func public(t testing.TB, key crypto.Signer) map[string]any {
	t.Helper()
	k, err := key.Public().(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"kty": "EC", "crv": "P-256", "x": b64(k[1:33]), "y": b64(k[33:])}
}

// sign makes a JWS in flattened form.
func sign(t testing.TB, key crypto.Signer, head map[string]any, payload []byte) []byte {
	t.Helper()
	hj, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	text := b64(hj) + "." + b64(payload)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return flat(t, hj, payload, append(pad(r), pad(s)...))
}

func pad(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }

func flat(t testing.TB, head, payload, sig []byte) []byte {
	t.Helper()
	out, err := json.Marshal(map[string]string{"protected": b64(head), "payload": b64(payload), "signature": b64(sig)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// An answer is what a request is answered with.
type answer struct {
	status int
	head   http.Header
	body   []byte
	json   map[string]any
}

func (a *answer) text(name string) string { s, _ := a.json[name].(string); return s }

// problem returns the type of an error, behind its URN.
func (a *answer) problem() string { return strings.TrimPrefix(a.text("type"), errorURN) }

func (h *hall) nonce() string {
	h.t.Helper()
	resp, err := h.http.Head(h.url + noncePath)
	if err != nil {
		h.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("Replay-Nonce")
}

// post makes a signed request; payload nil is a read.
func (c *client) post(url string, payload any) *answer {
	t := c.h.t
	t.Helper()
	var body []byte
	if payload != nil {
		var err error
		if body, err = json.Marshal(payload); err != nil {
			t.Fatal(err)
		}
	}
	if strings.HasPrefix(url, "/") {
		url = c.h.url + url
	}
	head := map[string]any{"alg": "ES256", "nonce": c.nonce, "url": url}
	if c.nonce == "" {
		head["nonce"] = c.h.nonce()
	}
	if c.kid != "" {
		head["kid"] = c.kid
	} else {
		head["jwk"] = public(t, c.key)
	}
	if c.alg != "" {
		head["alg"] = c.alg
	}
	if c.url != "" {
		head["url"] = c.url
	}
	for k, v := range c.extra {
		head[k] = v
	}
	raw := sign(t, c.key, head, body)
	if c.forge {
		raw = bytes.Replace(raw, []byte(`"payload":"`), []byte(`"payload":"AAAA`), 1)
	}
	contentType := c.contentType
	if contentType == "" {
		contentType = "application/jose+json"
	}
	c.alg, c.nonce, c.url, c.contentType, c.extra, c.forge = "", "", "", "", nil, false
	return c.h.send(url, contentType, raw)
}

func (h *hall) send(url, contentType string, raw []byte) *answer {
	h.t.Helper()
	resp, err := h.http.Post(url, contentType, bytes.NewReader(raw))
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode, head: resp.Header}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		h.t.Fatal(err)
	}
	_ = json.Unmarshal(a.body, &a.json)
	return a
}

// binding makes an external account binding for a device.
func (h *hall) binding(id string) (kid string, key []byte) {
	h.t.Helper()
	_, tok, err := h.tokens.Create(h.t.Context(), id, "jane", time.Hour, false)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.tokens.Binding(tok)
}

// bound is a payload of newAccount, with what is wrong with it.
func (c *client) bound(kid string, key []byte, head map[string]any) map[string]any {
	t := c.h.t
	t.Helper()
	hd := map[string]any{"alg": "HS256", "kid": kid, "url": c.h.url + newAccount}
	for k, v := range head {
		hd[k] = v
	}
	hj, err := json.Marshal(hd)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(public(t, c.key))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(b64(hj) + "." + b64(payload)))
	return map[string]any{"externalAccountBinding": json.RawMessage(flat(t, hj, payload, mac.Sum(nil))), "termsOfServiceAgreed": true}
}

// register adds a device and opens an account for it.
func (h *hall) register(rec *device.Record) *client {
	h.t.Helper()
	if rec.Class == "" {
		rec.Class = "server"
	}
	if _, err := h.devices.Create(h.t.Context(), rec); err != nil {
		h.t.Fatal(err)
	}
	return h.open(rec.ID)
}

func (h *hall) open(id string) *client {
	h.t.Helper()
	c := h.client()
	kid, key := h.binding(id)
	a := c.post(newAccount, c.bound(kid, key, nil))
	if a.status != http.StatusCreated || !strings.HasPrefix(a.head.Get("Location"), h.url+accountPath) {
		h.t.Fatalf("no account: %d %s", a.status, a.body)
	}
	c.kid = a.head.Get("Location")
	return c
}

type ident = map[string]string

// order makes an order and returns it and the challenges of its first authorization
// by type.
func (c *client) order(ids ...ident) (o *answer, challenges map[string]map[string]any) {
	t := c.h.t
	t.Helper()
	o = c.post(newOrder, map[string]any{"identifiers": ids})
	if o.status != http.StatusCreated || o.text("status") != "pending" {
		t.Fatalf("no order: %d %s", o.status, o.body)
	}
	return o, c.challenges(o, 0)
}

func (c *client) challenges(o *answer, i int) map[string]map[string]any {
	t := c.h.t
	t.Helper()
	list, _ := o.json["authorizations"].([]any)
	a := c.post(list[i].(string), nil)
	if a.status != http.StatusOK {
		t.Fatalf("no authorization: %d %s", a.status, a.body)
	}
	out := map[string]map[string]any{}
	all, _ := a.json["challenges"].([]any)
	for _, ch := range all {
		m := ch.(map[string]any)
		out[m["type"].(string)] = m
	}
	return out
}

// authorization is the key authorization of a challenge.
func (c *client) authorization(ch map[string]any) string {
	raw, err := json.Marshal(public(c.h.t, c.key))
	if err != nil {
		c.h.t.Fatal(err)
	}
	k, err := readJWK(raw)
	if err != nil {
		c.h.t.Fatal(err)
	}
	return k.authorization(ch["token"].(string))
}

// again reads an order once more.
func (c *client) again(o *answer) *answer {
	c.h.t.Helper()
	return c.post(o.head.Get("Location"), nil)
}

// csr makes a signing request for names.
func csrFor(t testing.TB, key crypto.Signer, cn string, names ...string) map[string]string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"csr": b64(der)}
}

// A site is a web server that answers http-01 challenges in whatever way.
type site struct {
	port    int
	handler atomic.Pointer[http.HandlerFunc]
	asked   atomic.Int64
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = ln.Addr().(*net.TCPAddr).Port
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		(*s.handler.Load())(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return s
}

// says has the site answer every challenge with a text.
func (s *site) says(text string) {
	s.does(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
}

func (s *site) does(f http.HandlerFunc) { s.handler.Store(&f) }

// neighbours is a hall for one server with two names, whose site is returned.
func neighbours(t *testing.T) (*hall, *site, *client) {
	t.Helper()
	s := newSite(t)
	h := newHall(t, fmt.Sprintf(`{servers: [{device: lis-1, names: [%s, %s], address: 127.0.0.1, http_port: %d, tls_port: %d}]}`, lis, lis2, s.port, s.port))
	return h, s, h.register(&device.Record{ID: "lis-1"})
}
