package httpgw

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testHost = "gateway.example"
	// patience bounds every wait for something that must happen.
	patience = 2 * time.Minute
)

// A bench judges as a test tells it to and remembers what it was asked.
type bench struct {
	deny    func(r *protocol.Route, tx *protocol.Transaction) protocol.Cause
	unasked func(path ...string) bool // facts the policy does not reach
	// oblige says what an allowed transaction obliges to; the adapter is asked as
	// the real judge asks it.
	oblige func(r *protocol.Route, tx *protocol.Transaction) []protocol.Obligation
	wait   time.Duration // told to whoever is beyond a limit, or spends

	mu          sync.Mutex
	count       int
	judged      []judged
	refused     []refusal
	undelivered []string
	spent       int64
}

// judged is what a test may want to know of a transaction after it.
type judged struct {
	route, protocol, action, resource string
	of                                string
	part                              int
	allow                             bool
	request                           string // facts, rendered
	bytes                             int64
}

type refusal struct{ code, why, route string }

func (b *bench) Judge(_ context.Context, _ *protocol.Session, r *protocol.Route, tx *protocol.Transaction) protocol.Verdict {
	cause := protocol.CauseNone
	if b.deny != nil {
		cause = b.deny(r, tx)
	}
	var duties *protocol.Obligations
	if b.oblige != nil && cause == protocol.CauseNone {
		var err error
		if duties, err = protocol.Oblige(b.oblige(r, tx)); err != nil {
			panic(err)
		}
		if duties != nil && tx.Obliged.Unable(tx, duties) != "" {
			cause, duties = protocol.CauseObligation, nil
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	b.judged = append(b.judged, judged{r.Name, tx.Protocol, tx.Action, tx.Resource, tx.Of, tx.Part, cause == protocol.CauseNone, render(protocol.Object(tx.Facts...)), tx.Bytes})
	return protocol.Verdict{ID: fmt.Sprintf("d%d", b.count), Allow: cause == protocol.CauseNone, Cause: cause, Obligations: duties, RetryAfter: b.wait}
}

func (b *bench) Spend(_ *protocol.Session, o *protocol.Obligations, n int64) time.Duration {
	if o == nil || len(o.Bytes) == 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spent += n
	return b.wait
}

func (b *bench) Refused(_ context.Context, _ *protocol.Session, r *protocol.Route, _ *protocol.Transaction, code, why string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	name := ""
	if r != nil {
		name = r.Name
	}
	b.refused = append(b.refused, refusal{code, why, name})
	return fmt.Sprintf("r%d", b.count)
}

func (b *bench) Undelivered(_ *protocol.Session, _, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.undelivered = append(b.undelivered, why)
}

func (b *bench) Reaches(_ *protocol.Session, path ...string) bool {
	return b.unasked == nil || !b.unasked(path...)
}

// take returns what was asked since the last call.
func (b *bench) take() (j []judged, r []refusal, u []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j, r, u = b.judged, b.refused, b.undelivered
	b.judged, b.refused, b.undelivered = nil, nil, nil
	return j, r, u
}

// render writes a value as JSON would, for comparison.
func render(v protocol.Value) string {
	switch v.Kind() {
	case protocol.KindNull:
		return "null"
	case protocol.KindBool, protocol.KindInt:
		return fmt.Sprint(v.Number())
	case protocol.KindString:
		if v.IsSensitive() {
			return fmt.Sprintf("~%q", v.Text())
		}
		return fmt.Sprintf("%q", v.Text())
	case protocol.KindList:
		var parts []string
		for _, e := range v.Elems() {
			parts = append(parts, render(e))
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	var parts []string
	for _, f := range v.Fields() {
		parts = append(parts, f.Name+":"+render(f.Value))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// newBackend returns a backend at an address, of plain HTTP.
func newBackend(t testing.TB, addr string) *upstream.Backend {
	b, err := upstream.New(config.Backend{
		Name: "b", Addresses: []string{addr}, Insecure: true, Connect: config.Duration(patience), Timeout: config.Duration(patience),
		MaxIdle: 4, IdleTimeout: config.Duration(patience), Health: config.BackendHealth{Failures: 1 << 20},
	}, upstream.Options{Logger: slog.New(slog.DiscardHandler), Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// serveBackend starts an HTTP server and returns the backend that leads to it.
func serveBackend(t testing.TB, h http.Handler) *upstream.Backend {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	srv.Start()
	t.Cleanup(srv.Close)
	return newBackend(t, srv.Listener.Addr().String())
}

// A rig is a gateway with its judge, before one backend.
type rig struct {
	t       testing.TB
	g       *Gateway
	judge   *bench
	tls     protocol.TLS
	secure  bool                    // connections are TLS
	session func(*protocol.Session) // called with each before it is served
	served  sync.WaitGroup
}

// newRig returns a gateway whose routes are the corpus's, and which allows
// everything but on the denied one.
func newRig(t testing.TB, b Backend) *rig {
	r := &rig{t: t, judge: &bench{}, tls: protocol.TLS{SNI: testHost, ALPN: "http/1.1"}}
	var routes []config.Route
	for _, c := range corpus.Routes() {
		route := config.Route{Name: c.Name, Path: c.Path, StripPrefix: c.StripPrefix, WebSocket: c.WebSocket, Kind: "http", Backend: "b", Class: "clinical"}
		if c.FHIR {
			route.Kind = "fhir"
		}
		routes = append(routes, route)
	}
	r.judge.deny = func(r *protocol.Route, _ *protocol.Transaction) protocol.Cause {
		if r.Name == "denied" {
			return protocol.CausePolicy
		}
		return protocol.CauseNone
	}
	g, err := New(Config{
		Listener: config.Listener{Name: "devices", Address: "127.0.0.1:8443", Hosts: []string{testHost}, Limits: testLimits()},
		Judge:    r.judge, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	table, err := NewTable(routes, []config.Backend{{Name: "b"}}, map[string]Backend{"b": b})
	if err != nil {
		t.Fatal(err)
	}
	g.SetTable(table)
	r.g = g
	t.Cleanup(r.served.Wait)
	return r
}

// testLimits are the documented defaults of a listener.
func testLimits() config.Limits {
	return config.Limits{
		Idle: config.Duration(10 * time.Minute), Head: config.Duration(patience), Stall: config.Duration(time.Minute),
		HeadBytes: 32 << 10, HeaderFields: 100, DecisionBytes: 4 << 20, BundleEntries: 1000, Streams: 100,
	}
}

// connect returns the device's end of a connection that the gateway serves, and
// its session.
func (r *rig) connect() (net.Conn, *protocol.Session) {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	ours, err := ln.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	if r.secure {
		cert, key := deviceCert(r.t), deviceKey
		ours = tls.Server(ours, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}})
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	s := r.newSession()
	r.served.Go(func() {
		defer ours.Close()
		stop := context.AfterFunc(s.Context(), func() { ours.Close() })
		defer stop()
		defer s.End(io.EOF)
		if tc, ok := ours.(*tls.Conn); ok && tc.Handshake() != nil {
			return
		}
		r.g.Serve(ours, s)
	})
	return conn, s
}

func (r *rig) newSession() *protocol.Session {
	s := protocol.NewSession(&device.Record{ID: "pump-1", Class: "infusion-pump", Serial: "S/1", Location: "Ward 3 äöü"})
	s.ID, s.Listener, s.Remote, s.Started = "s1", "devices", netip.MustParseAddrPort("192.0.2.7:4711"), time.Now()
	if r.secure {
		r.tls.Version = "1.3"
	}
	s.TLS, s.Certificate, s.Fingerprint = r.tls, deviceCert(r.t).Raw, "00"
	if r.session != nil {
		r.session(s)
	}
	return s
}

// deviceKey is the key of every certificate here.
var deviceKey, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)

// deviceCert returns a certificate that is good enough to be shown to backends.
var deviceCertOnce = sync.OnceValues(func() (*x509.Certificate, error) {
	key := deviceKey
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pump-1"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
})

func deviceCert(t testing.TB) *x509.Certificate {
	c, err := deviceCertOnce()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends raw bytes over a connection of its own and returns the one answer,
// body and all, as text.
func (r *rig) ask(raw string) (*http.Response, string) {
	r.t.Helper()
	conn, _ := r.connect()
	defer conn.Close()
	if _, err := io.WriteString(conn, raw); err != nil {
		r.t.Fatal(err)
	}
	return r.read(bufio.NewReader(conn), http.MethodGet)
}

// read reads one final answer.
func (r *rig) read(br *bufio.Reader, method string) (*http.Response, string) {
	r.t.Helper()
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		r.t.Fatalf("reading the answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("reading the answer's body: %v", err)
	}
	return resp, string(body)
}

// get returns a plain request for a path.
func get(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
}

// eventually waits for something that must come true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
