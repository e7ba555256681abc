package edge

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if authority != nil {
		authority.Close()
		os.RemoveAll(authorityDir)
	}
	err := goleak.Find(
		// The CA's database library links badger, which links glog.
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		// certmagic's file locks keep themselves fresh and end some seconds after.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
	if code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// All tests share one CA: decrypting its key is slow on purpose.
var (
	authority     *ca.Authority
	authorityDir  string
	authorityOnce sync.Once
)

func sharedCA(t testing.TB) *ca.Authority {
	t.Helper()
	authorityOnce.Do(func() {
		var err error
		if authorityDir, err = os.MkdirTemp("", "edge-ca-"); err != nil {
			t.Fatal(err)
		}
		dir, pass := filepath.Join(authorityDir, "ca"), []byte("correct horse battery staple")
		if _, err := ca.Init(context.Background(), ca.InitConfig{Dir: dir, RootKeyPath: filepath.Join(authorityDir, "root.key"),
			TrustDomain: domain, Organisation: "Test", Passphrase: pass, Clock: time.Now}); err != nil {
			t.Fatal(err)
		}
		authority, err = ca.Open(context.Background(), ca.Config{Dir: dir, TrustDomain: domain, Passphrase: pass,
			Backdate: time.Hour, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
	})
	if authority == nil {
		t.Fatal("there is no CA")
	}
	return authority
}

const domain = "hospital.example"

// registry is a registry in memory that calls its subscribers as the real one
// does: in order, before the change returns.
type registry struct {
	mu   sync.Mutex
	recs map[string]*device.Record
	rev  uint64
	subs []func(old, rec *device.Record)
}

func (r *registry) Get(id string) (*device.Record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.recs[id]
	return rec, ok
}

func (r *registry) Subscribe(f func(old, rec *device.Record)) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs = append(r.subs, f)
	return func() {}
}

func (r *registry) update(id string, f func(*device.Record)) {
	r.mu.Lock()
	old := r.recs[id]
	rec := &device.Record{ID: id}
	if old != nil {
		c := *old
		rec = &c
	}
	f(rec)
	r.rev++
	rec.Revision = r.rev
	r.recs = maps.Clone(r.recs)
	r.recs[id] = rec
	subs := r.subs
	r.mu.Unlock()
	for _, f := range subs {
		f(old, rec)
	}
}

// recorder keeps audit records.
type recorder struct {
	mu   sync.Mutex
	recs []audit.Record
	err  error
}

func (r *recorder) Append(_ context.Context, rec *audit.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	r.recs = append(r.recs, *rec)
	return nil
}

func (r *recorder) events(name string) []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []audit.Record
	for _, rec := range r.recs {
		if rec.Event == name {
			out = append(out, rec)
		}
	}
	return out
}

// echo answers every line with the device's id and the line.
type echo struct{ sessions chan *protocol.Session }

func (echo) ALPN() []string { return []string{"echo"} }

func (e echo) Serve(conn net.Conn, s *protocol.Session) {
	select {
	case e.sessions <- s:
	default:
	}
	br := bufio.NewReader(conn)
	stop := context.AfterFunc(s.Context(), func() { conn.Close() })
	defer stop()
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		if line == "below\n" {
			line = below(conn) + "\n"
		}
		if line == "shown\n" {
			line = shown(conn.(*tls.Conn)) + "\n"
		}
		if _, err := fmt.Fprintf(conn, "%s %s", s.Device().ID, line); err != nil {
			return
		}
	}
}

// below names the type of what a connection is over.
func below(conn net.Conn) string {
	for {
		t, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return fmt.Sprintf("%T", conn)
		}
		conn = t.NetConn()
	}
}

// shown says what a connection keeps of its peer's certificates.
func shown(conn *tls.Conn) string {
	state := conn.ConnectionState()
	n := 0
	for _, certs := range append(state.VerifiedChains, state.PeerCertificates) {
		for _, c := range certs {
			n += len(c.Raw) + len(c.RawTBSCertificate)
		}
	}
	return fmt.Sprintf("%d shown, %d bytes kept", len(state.PeerCertificates), n)
}

// fixture is a server with one listener and everything behind it.
type fixture struct {
	t    testing.TB
	ca   *ca.Authority
	reg  *registry
	log  *recorder
	echo echo
	srv  *Server
	addr string
	now  atomic.Pointer[func() time.Time]
}

// at sets the clock, which connections read meanwhile.
func (f *fixture) at(now func() time.Time) { f.now.Store(&now) }

func newFixture(t testing.TB, edit func(*config.Listener)) *fixture {
	t.Helper()
	f := &fixture{t: t, reg: &registry{recs: map[string]*device.Record{}}, log: &recorder{},
		echo: echo{sessions: make(chan *protocol.Session, 64)}}
	f.at(time.Now)
	f.ca = sharedCA(t)
	dir, ctx := t.TempDir(), context.Background()
	f.srv = New(Config{TrustDomain: domain, Registry: f.reg, Authority: f.ca, Audit: f.log,
		Adapter: func(config.Listener) (protocol.Adapter, error) { return f.echo, nil },
		CertDir: filepath.Join(dir, "certmagic"), Clock: func() time.Time { return (*f.now.Load())() },
		Logger: slog.New(slog.DiscardHandler), Zap: zap.NewNop()})
	cfg := listenerConfig("devices")
	if edit != nil {
		edit(&cfg)
	}
	if err := f.srv.Apply(ctx, []config.Listener{cfg}); err != nil {
		t.Fatal(err)
	}
	f.addr = f.srv.Listeners()[0].Address.String()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		f.srv.Shutdown(ctx)
	})
	return f
}

func listenerConfig(name string) config.Listener {
	return config.Listener{
		Name: name, Address: "127.0.0.1:0", Protocol: "http", Hosts: []string{"localhost"},
		Certificate: config.ServerCertificate{Source: "embedded", TTL: config.Duration(24 * time.Hour)},
		TLS:         config.ListenerTLS{Profile: "modern", Tickets: true},
		Limits:      config.Limits{Connections: 1000, PerDevice: 8, Handshake: config.Duration(20 * time.Second)},
	}
}

// enrol puts a device in the registry with a certificate of the given life.
func (f *fixture) enrol(id string, ttl time.Duration) tls.Certificate {
	f.t.Helper()
	pair := f.issue(ca.Device, id, ttl)
	sum := sha256.Sum256(pair.Certificate[0])
	f.reg.update(id, func(r *device.Record) {
		r.Class, r.Status = "patient-monitor", device.Active
		r.Certificates = append(r.Certificates[:len(r.Certificates):len(r.Certificates)], device.Certificate{
			Serial: pair.Leaf.SerialNumber.String(), Fingerprint: hex.EncodeToString(sum[:]), NotAfter: pair.Leaf.NotAfter})
	})
	return pair
}

func (f *fixture) issue(p ca.Profile, id string, ttl time.Duration) tls.Certificate {
	f.t.Helper()
	key, csr, err := ca.NewKeyAndCSR(ca.KeyKinds()[0], id)
	if err != nil {
		f.t.Fatal(err)
	}
	req := ca.Request{Profile: p, ID: id, CSR: csr, TTL: ttl}
	if p == ca.Server {
		req.ID, req.Names = "", []string{id}
	}
	iss, err := f.ca.Issue(context.Background(), req)
	if err != nil {
		f.t.Fatal(err)
	}
	pair := tls.Certificate{PrivateKey: key, Leaf: iss.Leaf}
	for _, c := range iss.Chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

// foreign makes a certificate for a device of ours from somebody else's CA.
func foreign(t *testing.T, id string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, _ := url.Parse("spiffe://" + domain + "/device/" + id)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: id}, URIs: []*url.URL{uri},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// client returns what a device connects with.
func (f *fixture) client(pairs ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	for _, c := range f.ca.Roots() {
		pool.AddCert(c)
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"echo"}, Certificates: pairs}
}

// returning enrols a device that speaks one version of TLS, and resumes its sessions.
func (f *fixture) returning(id string, version uint16) *tls.Config {
	c := f.client(f.enrol(id, time.Hour))
	c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	c.MinVersion, c.MaxVersion = version, version
	return c
}

// hello connects and says one line. The error is the first of dialling, writing
// and reading: in TLS 1.3 a refusal arrives with the first read.
func (f *fixture) hello(c *tls.Config) (*tls.Conn, string, error) {
	conn, err := tls.Dial("tcp", f.addr, c)
	if err != nil {
		return nil, "", err
	}
	f.t.Cleanup(func() { conn.Close() })
	line, err := say(conn, "hello")
	if err != nil {
		conn.Close()
	}
	return conn, line, err
}

// say sends a line and returns the answer.
func say(conn net.Conn, line string) (string, error) {
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", err
	}
	var out []byte
	var b [1]byte
	for {
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(out), nil
		}
		out = append(out, b[0])
	}
}

// eventually waits for something other goroutines must make true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("waited in vain for: " + what)
}
