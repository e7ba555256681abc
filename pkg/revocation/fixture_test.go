package revocation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

const domain = "hospital.example"

var pass = []byte("a passphrase for tests")

// made is a directory with a CA that tests copy: making one is slow on purpose.
var made = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "anteroom-revocation-")
	if err != nil {
		return "", err
	}
	madeIn = dir
	_, err = ca.Init(context.Background(), ca.InitConfig{Dir: filepath.Join(dir, "ca"), TrustDomain: domain, Organisation: "Test", Passphrase: pass})
	if err != nil {
		return dir, err
	}
	return dir, os.CopyFS(filepath.Join(dir, "pristine"), os.DirFS(filepath.Join(dir, "ca")))
})

// madeIn is made's directory, or "" if no test of this process asked for it, as in
// the processes of a fuzz target.
var madeIn string

// shared is a CA for tests that leave its clock alone and do not close it: opening
// one is slow on purpose too.
var shared = sync.OnceValues(func() (*ca.Authority, error) {
	dir, err := made()
	if err != nil {
		return nil, err
	}
	return ca.Open(context.Background(), ca.Config{Dir: filepath.Join(dir, "ca"), TrustDomain: domain, Passphrase: pass, Backdate: time.Hour})
})

func TestMain(m *testing.M) {
	code := m.Run()
	if madeIn != "" {
		if a, err := shared(); err == nil {
			a.Close()
		}
		os.RemoveAll(madeIn)
	}
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon")); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines leaked:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// An office is a CA, a registry and the book of both.
type office struct {
	t       *testing.T
	ca      *ca.Authority
	devices *device.Registry
	book    *Book

	mu    sync.Mutex
	ahead time.Duration
}

func (o *office) clock() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Now().Add(o.ahead)
}

// wait lets time pass.
func (o *office) wait(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ahead += d
}

func newOffice(t *testing.T) *office {
	t.Helper()
	from, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return openOffice(t, filepath.Join(from, "pristine"))
}

// newSharedOffice returns an office with a registry of its own and the CA that
// tests share.
func newSharedOffice(t *testing.T) *office {
	t.Helper()
	a, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t, ca: a}
	o.open(t.TempDir())
	return o
}

// newForeignOffice returns an office of another CA's.
func newForeignOffice(t *testing.T) *office {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if _, err := ca.Init(t.Context(), ca.InitConfig{Dir: dir, TrustDomain: domain, Organisation: "Another", Passphrase: pass}); err != nil {
		t.Fatal(err)
	}
	return openOffice(t, dir)
}

func openOffice(t *testing.T, from string) *office {
	t.Helper()
	dir, o := t.TempDir(), &office{t: t}
	if err := os.CopyFS(filepath.Join(dir, "ca"), os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	var err error
	o.ca, err = ca.Open(t.Context(), ca.Config{Dir: filepath.Join(dir, "ca"), TrustDomain: domain, Passphrase: pass, Backdate: time.Hour, Clock: o.clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.ca.Close(); err != nil {
			t.Error(err)
		}
	})
	o.open(dir)
	return o
}

// open opens a registry in a directory, and the book.
func (o *office) open(dir string) {
	o.t.Helper()
	store, err := bolt.Open(filepath.Join(dir, "registry.db"))
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		if err := store.Close(); err != nil {
			o.t.Error(err)
		}
	})
	if o.devices, err = device.Open(o.t.Context(), store, device.Options{Clock: o.clock}); err != nil {
		o.t.Fatal(err)
	}
	o.book = NewBook(Config{CA: o.ca, Devices: o.devices, NextUpdate: func() time.Duration { return 24 * time.Hour }, Clock: o.clock,
		Logger: slog.New(slog.DiscardHandler)})
}

// enrol gives a device a certificate.
func (o *office) enrol(id string) *x509.Certificate {
	o.t.Helper()
	_, csr, err := ca.NewKeyAndCSR(ca.P256, id)
	if err != nil {
		o.t.Fatal(err)
	}
	iss, err := o.ca.Issue(o.t.Context(), ca.Request{Profile: ca.Device, ID: id, CSR: csr, TTL: 24 * time.Hour})
	if err != nil {
		o.t.Fatal(err)
	}
	sum, key := sha256.Sum256(iss.Leaf.Raw), sha256.Sum256(iss.Leaf.RawSubjectPublicKeyInfo)
	_, err = o.devices.Grant(o.t.Context(), device.Grant{ID: id, New: &device.Record{ID: id, Class: "infusion-pump"}, Certificate: device.Certificate{
		Serial: iss.Leaf.SerialNumber.String(), Fingerprint: hex.EncodeToString(sum[:]), Key: hex.EncodeToString(key[:]),
		NotBefore: iss.Leaf.NotBefore, NotAfter: iss.Leaf.NotAfter,
	}})
	if err != nil {
		o.t.Fatal(err)
	}
	return iss.Leaf
}

// revoke does what an operator's command does: the registry, then the CA.
func (o *office) revoke(id, reason string) {
	o.t.Helper()
	rec, err := o.devices.SetStatus(o.t.Context(), id, device.Revoked, reason)
	if err != nil {
		o.t.Fatal(err)
	}
	for _, c := range rec.Certificates {
		if err := o.ca.Revoke(o.t.Context(), c.Serial, reason); err != nil {
			o.t.Fatal(err)
		}
	}
}

// serve serves the book on a port of its own.
func (o *office) serve(change ...func(*config.Revocation)) *Server {
	o.t.Helper()
	set := config.Revocation{Address: "127.0.0.1:0", OCSP: config.Duration(time.Hour), Limits: config.RevocationLimits{
		Connections: 100, PerAddress: 50, Requests: 10000, Request: config.Duration(10 * time.Second), Idle: config.Duration(10 * time.Second),
	}}
	for _, f := range change {
		f(&set)
	}
	s, err := Serve(o.t.Context(), ServerConfig{Book: o.book, Settings: set, Clock: o.clock, Logger: slog.New(slog.DiscardHandler),
		Neighbourhood: func(a netip.Addr) netip.Addr { return a }})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Close(ctx)
	})
	return s
}

// file writes certificates in PEM form.
func (o *office) file(certs ...*x509.Certificate) string {
	o.t.Helper()
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	path := filepath.Join(o.t.TempDir(), "certs.pem")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		o.t.Fatal(err)
	}
	return path
}
