package acme

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// failed makes an order, tries a challenge of it and holds that it failed in a way
// that is told, recorded and final.
func (c *client) failed(what, kind, problem, text string) {
	h := c.h
	h.t.Helper()
	o, chs := c.order(ident{"type": "dns", "value": lis})
	before := len(h.refusals())
	a := c.post(chs[kind]["url"].(string), map[string]any{})
	p, _ := a.json["error"].(map[string]any)
	if a.status != http.StatusOK || a.text("status") != "invalid" || p["type"] != errorURN+problem || !strings.Contains(fmt.Sprint(p["detail"]), text) ||
		!strings.Contains(fmt.Sprint(p["subproblems"]), lis) {
		h.t.Errorf("%s: %d %s, want %s with %q", what, a.status, a.body, problem, text)
	}
	if got := h.refusals()[before:]; len(got) != 1 || !strings.HasPrefix(got[0], "lis-1: "+problem+": ") {
		h.t.Errorf("%s: records %q", what, got)
	}
	if a := c.again(o); a.text("status") != "invalid" || a.json["error"] == nil {
		h.t.Errorf("%s: the order: %s", what, a.body)
	}
}

// TestAWrongAnswerToHTTP01 fails the order; nothing is followed, read for long, or
// told of what the site said.
func TestAWrongAnswerToHTTP01(t *testing.T) {
	t.Parallel()
	_, s, c := neighbours(t)
	elsewhere := newSite(t)
	elsewhere.says("nothing")
	for what, x := range map[string]struct {
		does          http.HandlerFunc
		problem, text string
	}{
		"another text": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a secret of the network") }, incorrectResponse, "something else"},
		"a status":     {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "a secret of the network", 404) }, incorrectResponse, "status 404"},
		"a redirection": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, fmt.Sprintf("http://127.0.0.1:%d/", elsewhere.port), http.StatusFound)
		}, incorrectResponse, "status 302"},
		"a flood": {func(w http.ResponseWriter, _ *http.Request) {
			for range 1000 {
				fmt.Fprint(w, strings.Repeat("a secret of the network", 100))
			}
		}, incorrectResponse, "larger than"},
		"a large head": {func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1000))
			}
		}, connection, "no answer by HTTP"},
		"no HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				fmt.Fprint(conn, "SSH-2.0-a secret of the network\r\n")
				conn.Close()
			}
		}, connection, "no answer by HTTP"},
	} {
		s.does(x.does)
		c.failed(what, http01, x.problem, x.text)
	}
	if elsewhere.asked.Load() > 0 {
		t.Error("a redirection was followed")
	}
	for _, r := range c.h.refusals() {
		if strings.Contains(r, "secret") {
			t.Errorf("the record tells what the site said: %s", r)
		}
	}
	c.h.cfg.Enrolment.ACME.Servers[0].HTTPPort = closedPort(t)
	c.failed("nobody there", http01, connection, "nobody answers")
}

func closedPort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// TestANameLeadsNowhereButIntoItsNetworks: whatever DNS says, the gateway connects
// to nothing outside of the configured networks, and to nothing of its own.
func TestANameLeadsNowhereButIntoItsNetworks(t *testing.T) {
	t.Parallel()
	h := newHall(t, fmt.Sprintf(`{servers: [{device: lis-1, names: [%s], networks: [10.20.0.0/16, 127.0.0.0/8, "fd00:20::/64", 169.254.0.0/16]}]}`, lis))
	c := h.register(&device.Record{ID: "lis-1"})
	c.failed("no such name", http01, dnsFailed, "can not be looked up")
	for _, to := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "10.21.0.1", "192.0.2.1", "169.254.169.254", "fe80::1%lo", "0.0.0.0", "::", "fd00:21::1", "224.0.0.1"} {
		h.names[lis] = []netip.Addr{netip.MustParseAddr(to)}
		c.failed(to, http01, dnsFailed, "nowhere in the networks")
		c.failed(to, tlsALPN01, dnsFailed, "nowhere in the networks")
	}
	s := &h.cfg.Enrolment.ACME.Servers[0]
	for to, fine := range map[string]bool{"10.20.3.4": true, "::ffff:10.20.3.4": true, "fd00:20::4": true, "10.20.3.4 mapped": false, "10.19.255.255": false} {
		a, err := netip.ParseAddr(to)
		if got := err == nil && allowed(s, a.Unmap()); got != fine {
			t.Errorf("%s: %v", to, got)
		}
	}
}

func TestWhereAServerMayBeIsSaidNarrowly(t *testing.T) {
	for text, want := range map[string]string{
		`{device: a, names: [a.example]}`:                                                                        "either address or networks",
		`{device: a, names: [a.example], address: 10.0.0.1, networks: [10.0.0.0/8]}`:                             "either address or networks",
		`{device: a, names: [a.example], address: localhost}`:                                                    "is not the IP address",
		`{device: a, names: [a.example], address: 0.0.0.0}`:                                                      "is not the IP address",
		`{device: a, names: [a.example], networks: [0.0.0.0/0]}`:                                                 "too wide",
		`{device: a, names: [a.example], networks: ["::/0"]}`:                                                    "too wide",
		`{device: a, names: [a.example], networks: [10.0.0.1/8]}`:                                                "not a CIDR range",
		`{device: a, names: ["*.example"], address: 10.0.0.1}`:                                                   "not a DNS name",
		`{device: a, names: [a.example, a.example], address: 10.0.0.1}`:                                          "listed twice",
		`{device: a, names: [a.example], address: 10.0.0.1, http_port: 0}`:                                       "from 1 to 65535",
		`{device: a, names: [a.example], address: 10.0.0.1}, {device: a, names: [b.example], address: 10.0.0.1}`: "another entry",
	} {
		_, err := config.Parse("/x/anteroom.yaml", []byte(`trust_domain: a.example
organisation: Test
ca: {passphrase: {env: X}}
enrolment: {acme: {servers: [`+text+`]}}
listeners: [{name: devices, address: "127.0.0.1:1", hosts: [gw.example]}]
`))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestTLSALPN01TakesTheOneRightCertificate (RFC 8737 §3).
func TestTLSALPN01TakesTheOneRightCertificate(t *testing.T) {
	t.Parallel()
	h, _, c := neighbours(t)
	key := newKey(t)
	show := func(names []string, exts ...pkix.Extension) {
		t.Helper()
		in := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), DNSNames: names, ExtraExtensions: exts}
		der, err := x509.CreateCertificate(rand.Reader, in, in, key.Public(), key)
		if err == nil {
			h.shown, err = x509.ParseCertificate(der)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	extension := func(text string, critical bool) pkix.Extension {
		t.Helper()
		sum := sha256.Sum256([]byte(text))
		der, err := asn1.Marshal(sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return pkix.Extension{Id: oidACMEIdentifier, Critical: critical, Value: der}
	}
	c.failed("nothing shown", tlsALPN01, tlsFailed, "showed no certificate")
	for what, f := range map[string]func(want string){
		"another text": func(string) { show([]string{lis}, extension("x", true)) },
		"not critical": func(want string) { show([]string{lis}, extension(want, false)) },
		"no extension": func(string) { show([]string{lis}) },
		"another name": func(want string) { show([]string{lis2}, extension(want, true)) },
		"a name more":  func(want string) { show([]string{lis, lis2}, extension(want, true)) },
		"something behind it": func(want string) {
			e := extension(want, true)
			e.Value = append(e.Value, 0)
			show([]string{lis}, e)
		},
	} {
		_, chs := c.order(ident{"type": "dns", "value": lis})
		f(c.authorization(chs[tlsALPN01]))
		if a := c.post(chs[tlsALPN01]["url"].(string), map[string]any{}); a.text("status") != "invalid" || !strings.Contains(string(a.body), incorrectResponse) {
			t.Errorf("%s: %s", what, a.body)
		}
	}
	o, chs := c.order(ident{"type": "dns", "value": lis})
	show([]string{lis}, extension(c.authorization(chs[tlsALPN01]), true))
	if a := c.post(chs[tlsALPN01]["url"].(string), map[string]any{}); a.text("status") != "valid" {
		t.Fatalf("%s", a.body)
	}
	if a := c.post(o.text("finalize"), csrFor(t, newKey(t), "", lis)); a.text("status") != "valid" {
		t.Errorf("%s", a.body)
	}
}

// TestOneOrderIsTriedOnceAtATime: requests that come at the same time do not have
// the gateway connect twice, and one that waits holds up no other order.
func TestOneOrderIsTriedOnceAtATime(t *testing.T) {
	t.Parallel()
	h, s, c := neighbours(t)
	o, chs := c.order(ident{"type": "dns", "value": lis})
	began, end := make(chan struct{}), make(chan struct{})
	s.does(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-end
		fmt.Fprint(w, c.authorization(chs[http01]))
	})
	done := make(chan *answer)
	first := &client{h: h, key: c.key, kid: c.kid}
	go func() { done <- first.post(chs[http01]["url"].(string), map[string]any{}) }()
	<-began
	h.holds("a second try", c.post(chs[http01]["url"].(string), map[string]any{}), http.StatusTooManyRequests, rateLimited, "at this order already")
	h.holds("the other challenge", c.post(chs[tlsALPN01]["url"].(string), map[string]any{}), http.StatusTooManyRequests, rateLimited, "")
	if a := c.again(o); a.text("status") != "pending" {
		t.Errorf("%s", a.body)
	}
	close(end)
	if a := <-done; a.text("status") != "valid" {
		t.Errorf("%s", a.body)
	}
	if s.asked.Load() != 1 {
		t.Errorf("asked %d times", s.asked.Load())
	}
}
