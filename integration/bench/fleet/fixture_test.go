package fleet

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// patienceInTests bounds waits for what must happen.
const patienceInTests = time.Minute

// serve starts an HTTP server that asks for a client certificate, and returns a
// plan whose device it accepts.
func serve(t *testing.T, h http.Handler) Plan {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), DNSNames: []string{"gateway.example"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	p := Plan{
		ServerName: "gateway.example", Group: "X25519", Method: "POST", Path: "/x",
		Cert: write("cert.pem", "CERTIFICATE", der), Key: write("key.pem", "PRIVATE KEY", private),
	}
	p.Roots = p.Cert
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	p.Addr = srv.Listener.Addr().String()
	return p
}

// A crowd is a fleet that runs in the test's own process.
type crowd struct {
	t      *testing.T
	in     io.WriteCloser
	events chan Event
	code   chan int
}

// start carries out a plan.
func start(t *testing.T, p Plan) *crowd {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	c := &crowd{t: t, in: inW, events: make(chan Event, 1024), code: make(chan int, 1)}
	go func() {
		c.code <- Main(t.Context(), string(text), inR, outW)
		outW.Close()
	}()
	go func() {
		defer close(c.events)
		for lines := bufio.NewScanner(outR); lines.Scan(); {
			var e Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				e.Error = err.Error()
			}
			c.events <- e
		}
	}()
	t.Cleanup(func() { inW.Close() })
	return c
}

func (c *crowd) await(name string) Event {
	c.t.Helper()
	select {
	case e := <-c.events:
		if e.Event != name {
			c.t.Fatalf("the fleet says %+v, want %q", e, name)
		}
		return e
	case <-time.After(patienceInTests):
		c.t.Fatalf("the fleet does not say %q", name)
	}
	return Event{}
}

func (c *crowd) say(word string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, word+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// created answers as a FHIR server does, and counts connections.
func created(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusCreated)
}
