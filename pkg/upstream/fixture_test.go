package upstream

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for; nothing that works comes near it.
const patience = 10 * time.Second

// name is what good backends in these tests prove to be.
const name = "ehr.hospital.test"

// authority is a CA of its own.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t testing.TB, cn string) *authority {
	a := &authority{t: t, key: newKey(t)}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	check(t, err)
	a.cert, err = x509.ParseCertificate(der)
	check(t, err)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return k
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate for a server and client; change may alter it.
func (a *authority) issue(cn string, change func(*x509.Certificate)) tls.Certificate {
	a.n++
	key := newKey(a.t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1 + a.n), Subject: pkix.Name{CommonName: cn}, DNSNames: []string{cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	check(a.t, err)
	leaf, err := x509.ParseCertificate(der)
	check(a.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func write(t testing.TB, path string, data []byte) string {
	check(t, os.WriteFile(path, data, 0o600))
	return path
}

// files writes a certificate and its key.
func files(t testing.TB, dir string, c tls.Certificate) (cert, key string) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	check(t, err)
	return write(t, filepath.Join(dir, "client.pem"), pemOf("CERTIFICATE", c.Certificate[0])),
		write(t, filepath.Join(dir, "client.key"), pemOf("PRIVATE KEY", der))
}

func pinOf(c tls.Certificate) string {
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}

// peer is a server that does with each connection what a script says.
type peer struct {
	addr  string
	conns atomic.Int64  // connections whose handshake was done
	reqs  atomic.Int64  // requests counted by read
	done  chan struct{} // closed when the test ends
}

// serve starts a peer; a nil configuration makes it speak plain TCP. The script's
// connection is closed when it returns, and all of them when the test ends.
func serve(t testing.TB, c *tls.Config, script func(p *peer, n int64, conn net.Conn, r *bufio.Reader)) *peer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	p := &peer{addr: l.Addr().String(), done: make(chan struct{})}
	var mu sync.Mutex
	var wg sync.WaitGroup
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				if c != nil {
					tc := tls.Server(conn, c)
					if tc.Handshake() != nil {
						return
					}
					conn = tc
				}
				script(p, p.conns.Add(1), conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() {
		close(p.done)
		l.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return p
}

// read reads one request with its body, or returns nil at the connection's end.
func (p *peer) read(r *bufio.Reader) (*http.Request, []byte) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, nil
	}
	p.reqs.Add(1)
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, nil
	}
	return req, body
}

// answering is a script that gives every request the same answer.
func answering(answer string) func(*peer, int64, net.Conn, *bufio.Reader) {
	return func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
		for {
			if req, _ := p.read(r); req == nil {
				return
			}
			if _, err := io.WriteString(conn, answer); err != nil {
				return
			}
		}
	}
}

// hang is a script that takes nothing and says nothing.
func hang(p *peer, _ int64, _ net.Conn, _ *bufio.Reader) { <-p.done }

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// world is one CA and a good server certificate.
type world struct {
	ca   *authority
	cert tls.Certificate
}

func newWorld(t testing.TB) *world {
	ca := newAuthority(t, "hospital CA")
	return &world{ca, ca.issue(name, nil)}
}

func (w *world) tls() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{w.cert}} }

func backendConfig(addrs ...string) config.Backend {
	return config.Backend{
		Name: "ehr", Addresses: addrs, ServerName: name, Retries: 1, MaxIdle: 4,
		Connect: config.Duration(patience), Timeout: config.Duration(patience), IdleTimeout: config.Duration(time.Minute),
		Health: config.BackendHealth{Failures: 3, Cooldown: config.Duration(time.Minute), Timeout: config.Duration(patience)},
	}
}

func (w *world) backend(t testing.TB, cfg config.Backend, opt Options) *Backend {
	t.Helper()
	if opt.Roots == nil {
		opt.Roots = w.ca.pool()
	}
	b, err := New(cfg, opt)
	check(t, err)
	t.Cleanup(func() { check(t, b.Close()) })
	return b
}

func request(t testing.TB, method, target string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://placeholder"+target, body)
	check(t, err)
	req.Host = "gateway.hospital.test"
	return req
}

// stream is a body that can be read once, and knows whether it was closed.
type stream struct {
	io.Reader
	closed atomic.Int64
}

func (s *stream) Read(p []byte) (int, error) {
	if s.closed.Load() > 0 {
		return 0, fmt.Errorf("read of a closed body")
	}
	return s.Reader.Read(p)
}

func (s *stream) Close() error { s.closed.Add(1); return nil }

// get sends a GET and returns the body.
func get(t testing.TB, b *Backend) string {
	t.Helper()
	resp, err := b.RoundTrip(request(t, "GET", "/", nil))
	check(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	return string(body)
}

// dead returns an address nobody listens on.
func dead(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}

// eventually waits until f holds.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
