package scep

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/town"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

const domain = town.Domain

func TestMain(m *testing.M) { os.Exit(town.Main(m)) }

// A desk answers SCEP in plain HTTP on a port of its own.
type desk struct {
	t       testing.TB
	dir     string
	url     string
	cfg     *config.File
	log     *audit.Log
	devices *device.Registry
	tokens  *enrol.Tokens
	new     *enrol.Newcomers
	to      *Recipient
}

func newDesk(t testing.TB, extra string, makers ...config.Manufacturer) *desk {
	t.Helper()
	shared := town.Share(t)
	d := &desk{t: t, dir: t.TempDir()}
	var err error
	d.cfg, err = config.Parse(filepath.Join(d.dir, "anteroom.yaml"), []byte(`trust_domain: `+domain+`
organisation: Test
ca: {passphrase: {env: X}}
audit: {flush_time: 1ms}
listeners: [{name: devices, address: "127.0.0.1:0", hosts: [gw.example]}]
enrolment: {address: "127.0.0.1:0", hosts: ["127.0.0.1"], limits: {requests: 100000, failures: 100000}, scep: {enabled: true`+extra+`}}
`))
	must(t, err)
	st, err := bolt.Open(filepath.Join(d.dir, "registry.db"))
	must(t, err)
	d.devices, err = device.Open(t.Context(), st, device.Options{})
	must(t, err)
	d.log, err = audit.Open(t.Context(), audit.Config{Dir: filepath.Join(d.dir, "audit"), Origin: audit.Origin(domain), Audit: d.cfg.Audit, Clock: time.Now})
	must(t, err)
	d.tokens, err = enrol.OpenTokens(st, filepath.Join(d.dir, "enrolment.key"), time.Now)
	must(t, err)
	d.new = enrol.NewNewcomers(st, time.Now)
	logger := slog.New(slog.DiscardHandler)
	g := enrol.New(enrol.Config{Devices: d.devices, CA: shared.CA, Audit: d.log, Tokens: d.tokens, Newcomers: d.new, Clock: time.Now, Logger: logger,
		Policy:   func(context.Context) (*policy.Set, error) { return shared.Policy, nil },
		Settings: func() *config.File { return d.cfg }})
	mk, err := enrol.LoadMakers(makers, g.Authorities)
	must(t, err)
	d.to, err = OpenRecipient(t.Context(), shared.CA, filepath.Join(d.dir, "scep.pem"), time.Now)
	must(t, err)
	srv, err := web.New(web.Config{Registrar: g, Audit: d.log, Settings: func() config.Enrolment { return d.cfg.Enrolment }, Clock: time.Now, Logger: logger,
		Neighbourhood: func(a netip.Addr) netip.Addr { return a },
		Endpoints:     Endpoints(Config{Registrar: g, Makers: mk, Recipient: d.to, Legacy: func() bool { return len(d.cfg.Enrolment.SCEP.LegacyClasses) > 0 }})})
	must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv.Serve(ln)
	d.url = "http://" + ln.Addr().String() + "/scep"
	t.Cleanup(func() {
		srv.Close(context.Background())
		if err := errors.Join(d.log.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// token registers a device and makes its token.
func (d *desk) token(id, class string) string {
	d.t.Helper()
	if _, ok := d.devices.Get(id); !ok {
		_, err := d.devices.Create(d.t.Context(), &device.Record{ID: id, Class: class})
		must(d.t, err)
	}
	text, _, err := d.tokens.Create(d.t.Context(), id, "jane", time.Hour, false)
	must(d.t, err)
	return text
}

// refusals returns the codes of the refusals that are recorded.
func (d *desk) refusals() (out []string) {
	d.t.Helper()
	must(d.t, d.log.Flush(d.t.Context()))
	for e, err := range audit.Read(d.t.Context(), filepath.Join(d.dir, "audit"), audit.ReadOptions{Filter: audit.Filter{Event: "enrolment.refused"}}) {
		must(d.t, err)
		var detail struct{ Code string }
		must(d.t, json.Unmarshal(e.Detail, &detail))
		out = append(out, detail.Code)
	}
	return out
}

// enrolled returns the detail of the record of a device's enrolment.
func (d *desk) enrolled(id string) (out string) {
	d.t.Helper()
	must(d.t, d.log.Flush(d.t.Context()))
	for e, err := range audit.Read(d.t.Context(), filepath.Join(d.dir, "audit"), audit.ReadOptions{Filter: audit.Filter{Event: "device.enrolled", Device: id}}) {
		must(d.t, err)
		out = string(e.Detail)
	}
	return out
}

// keys of RSA take long to make; those of a client are shared.
var clientKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	var out []*rsa.PrivateKey
	for range 3 {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		out = append(out, k)
	}
	return out
})

// A client is one of the tests' own.
type client struct {
	t    testing.TB
	d    *desk
	key  *rsa.PrivateKey
	cert *x509.Certificate // that it signs with
	hash crypto.Hash
	how  *sealing
	to   *x509.Certificate
}

func (d *desk) client(key int) *client {
	c := &client{t: d.t, d: d, key: clientKeys()[key], hash: crypto.SHA256, how: sealings[0], to: d.to.Certificate()}
	c.cert = c.self()
	return c
}

// self is a certificate that the client makes itself (RFC 8894 §2.3).
func (c *client) self() *x509.Certificate {
	in := &x509.Certificate{SerialNumber: big.NewInt(4711), Subject: pkix.Name{CommonName: "itself"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, in, in, &c.key.PublicKey, c.key)
	must(c.t, err)
	out, err := x509.ParseCertificate(der)
	must(c.t, err)
	return out
}

// csr is a signing request with a challenge password.
func (c *client) csr(cn, challenge string) []byte {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, c.key)
	must(c.t, err)
	if challenge == "" {
		return der
	}
	// Put the attribute in by hand: crypto/x509 writes none of this kind.
	parsed, err := x509.ParseCertificateRequest(der)
	must(c.t, err)
	var body cryptobyte.String
	tbs := cryptobyte.String(parsed.RawTBSCertificateRequest)
	if !tbs.ReadASN1(&body, asn1.SEQUENCE) {
		c.t.Fatal("no request")
	}
	body = body[:len(body)-2] // the empty attributes, a0 00
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(body)
		b.AddASN1(tag(0), func(b *cryptobyte.Builder) {
			b.AddBytes(attribute(oidChallengePassword, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(challenge)) })
			}))
		})
	})
	raw := b.BytesOrPanic()
	h := crypto.SHA256.New()
	h.Write(raw)
	sig, err := rsa.SignPKCS1v15(rand.Reader, c.key, crypto.SHA256, h.Sum(nil))
	must(c.t, err)
	var out cryptobyte.Builder
	out.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(raw)
		addAlgorithm(b, digests[0].withK, nil)
		b.AddASN1BitString(sig)
	})
	return out.BytesOrPanic()
}

// seal encrypts to the gateway.
func (c *client) seal(content []byte) []byte {
	out, err := seal(content, c.to, c.how)
	must(c.t, err)
	return out
}

// message signs a message; change changes its attributes.
func (c *client) message(kind string, content []byte, change ...func(list [][]byte) [][]byte) []byte {
	h := c.hash.New()
	h.Write(content)
	sum := h.Sum(nil)
	text := func(s string) cryptobyte.BuilderContinuation {
		return func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
		}
	}
	list := [][]byte{
		attribute(oidContentType, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidData) }),
		attribute(oidMessageDigest, func(b *cryptobyte.Builder) { b.AddASN1OctetString(sum) }),
		attribute(oidMessageType, text(kind)),
		attribute(oidTransactionID, text("transaction-1")),
		attribute(oidSenderNonce, func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte("0123456789abcdef")) }),
	}
	for _, f := range change {
		list = f(list)
	}
	var signed cryptobyte.Builder
	signed.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
		for _, a := range list {
			b.AddBytes(a)
		}
	})
	h = c.hash.New()
	h.Write(signed.BytesOrPanic())
	sig, err := rsa.SignPKCS1v15(rand.Reader, c.key, c.hash, h.Sum(nil))
	must(c.t, err)
	digest := oid(nil)
	for _, d := range digests {
		if d.hash == c.hash {
			digest = d.id
		}
	}
	var b cryptobyte.Builder
	info(&b, oidSignedData, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { addAlgorithm(b, digest, nil) })
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidData)
			b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddASN1OctetString(content) })
		})
		b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddBytes(c.cert.Raw) })
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				addIdentifier(b, c.cert)
				addAlgorithm(b, digest, nil)
				b.AddASN1(tag(0), func(b *cryptobyte.Builder) {
					for _, a := range list {
						b.AddBytes(a)
					}
				})
				addAlgorithm(b, oidRSA, nil)
				b.AddASN1OctetString(sig)
			})
		})
	})
	return b.BytesOrPanic()
}

// An answered is what the gateway said.
type answered struct {
	http     int
	status   string
	failInfo string
	text     string
	leaf     *x509.Certificate
}

// send posts a message and reads the answer, as strictly as one of the gateway's own.
func (c *client) send(msg []byte) *answered {
	t := c.t
	t.Helper()
	resp, err := http.Post(c.d.url+"?operation=PKIOperation", "application/x-pki-message", strings.NewReader(string(msg)))
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	out := &answered{http: resp.StatusCode, text: string(body)}
	if resp.StatusCode != http.StatusOK {
		return out
	}
	m, err := parse(body)
	must(t, err)
	must(t, m.verify())
	if m.kind != certRep || m.transaction != "transaction-1" || !m.signer.Equal(c.d.to.Certificate()) || m.hash != c.hash && c.hash != crypto.MD5 {
		t.Fatalf("the answer is not one to the message: %+v", m)
	}
	in := cryptobyte.String(m.attributes)
	var list, one, values, value cryptobyte.String
	if !in.ReadASN1(&list, asn1.SET) {
		t.Fatal("no attributes")
	}
	for !list.Empty() {
		var kind oid
		var form asn1.Tag
		if !list.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&kind) || !one.ReadASN1(&values, asn1.SET) || !values.ReadAnyASN1(&value, &form) {
			t.Fatal("an attribute")
		}
		switch {
		case kind.Equal(oidPKIStatus):
			out.status = string(value)
		case kind.Equal(oidFailInfo):
			out.failInfo = string(value)
		case kind.Equal(oidFailInfoText):
			out.text = string(value)
		case kind.Equal(oidRecipientNonce) && string(value) != "0123456789abcdef":
			t.Errorf("the answer has the nonce %q", value)
		}
	}
	if out.status != success {
		if m.content != nil {
			t.Error("an envelope in an answer that is no success")
		}
		return out
	}
	e, err := readEnvelope(m.content, c.cert)
	must(t, err)
	if e.how != c.how {
		t.Errorf("the answer is encrypted by %v, and the message by %v", e.how.id, c.how.id)
	}
	plain, err := e.open(c.key)
	must(t, err)
	out.leaf = certificates(t, plain)[0]
	return out
}

// certificates reads a certs-only message.
func certificates(t testing.TB, der []byte) []*x509.Certificate {
	t.Helper()
	in, err := contentOf(der, oidSignedData)
	must(t, err)
	var certs cryptobyte.String
	if !in.SkipASN1(asn1.INTEGER) || !in.SkipASN1(asn1.SET) || !in.SkipASN1(asn1.SEQUENCE) || !in.ReadASN1(&certs, tag(0)) {
		t.Fatal("not a certs-only message")
	}
	out, err := x509.ParseCertificates(certs)
	must(t, err)
	return out
}

func (d *desk) get(query string) (int, string, http.Header) {
	d.t.Helper()
	resp, err := http.Get(d.url + "?" + query)
	must(d.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(d.t, err)
	return resp.StatusCode, string(body), resp.Header
}
