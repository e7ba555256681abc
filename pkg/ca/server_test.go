package ca

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// magic returns a certmagic configuration with a cache and storage of its own.
func magic(t *testing.T, a *Authority, key certmagic.KeyType, ttl, check time.Duration) *certmagic.Config {
	t.Helper()
	var cfg *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return cfg, nil },
		RenewCheckInterval: check,
		Logger:             zap.NewNop(),
	})
	t.Cleanup(cache.Stop)
	cfg = certmagic.New(cache, certmagic.Config{
		Issuers:           []certmagic.Issuer{a.ServerIssuer(ttl)},
		KeySource:         certmagic.StandardKeyGenerator{KeyType: key},
		DefaultServerName: "127.0.0.1",
		Storage:           &certmagic.FileStorage{Path: t.TempDir()},
		OCSP:              certmagic.OCSPConfig{DisableStapling: true},
		Logger:            zap.NewNop(),
	})
	return cfg
}

// serve answers TLS connections by sending back what they say, until the test
// ends.
func serve(t *testing.T, cfg *tls.Config) (addr string) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

// dial connects as a device does, which knows the root and nothing else.
func dial(t *testing.T, a *Authority, addr, name string) *tls.Conn {
	t.Helper()
	roots, _ := a.Pool()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, &tls.Config{RootCAs: roots, ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestServerIssuer(t *testing.T) {
	a := openCA(t, newCA(t))
	for _, test := range []struct {
		kind certmagic.KeyType
		is   func(any) bool
	}{
		{certmagic.P256, func(k any) bool { _, ok := k.(*ecdsa.PublicKey); return ok }},
		{certmagic.RSA2048, func(k any) bool { _, ok := k.(*rsa.PublicKey); return ok }},
	} {
		t.Run(string(test.kind), func(t *testing.T) {
			cfg := magic(t, a, test.kind, 720*time.Hour, time.Hour)
			if err := cfg.ManageSync(t.Context(), []string{"gateway.hospital.example", "127.0.0.1"}); err != nil {
				t.Fatal(err)
			}
			addr := serve(t, cfg.TLSConfig())
			for _, name := range []string{"gateway.hospital.example", "127.0.0.1"} {
				leaf := dial(t, a, addr, name).ConnectionState().PeerCertificates[0]
				if !test.is(leaf.PublicKey) || len(leaf.DNSNames)+len(leaf.IPAddresses) != 1 {
					t.Errorf("%T %v %v", leaf.PublicKey, leaf.DNSNames, leaf.IPAddresses)
				}
			}
		})
	}
}

func TestServerCertificateIsRenewed(t *testing.T) {
	// The CA's clock begins so far back that the first certificate is due for
	// renewal by certmagic's, which is the real one.
	var behind atomic.Int64
	behind.Store(int64(50 * time.Minute))
	a := openCA(t, newCA(t), func(c *Config) {
		c.Clock = func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) }
	})
	cfg := magic(t, a, certmagic.P256, time.Hour, 20*time.Millisecond)
	const name = "gateway.hospital.example"
	if err := cfg.ManageSync(t.Context(), []string{name}); err != nil {
		t.Fatal(err)
	}
	addr := serve(t, cfg.TLSConfig())
	old := dial(t, a, addr, name)
	first := old.ConnectionState().PeerCertificates[0]
	behind.Store(0)
	deadline := time.Now().Add(30 * time.Second)
	for {
		leaf := dial(t, a, addr, name).ConnectionState().PeerCertificates[0]
		if time.Until(leaf.NotAfter) > 50*time.Minute {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not renewed: %v to %v", leaf.NotBefore, leaf.NotAfter)
		}
		time.Sleep(20 * time.Millisecond)
	}
	// The connection that began with the first certificate lives on.
	if _, err := old.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(old, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if is, err := a.IsRevoked(first.SerialNumber.String()); err != nil || is {
		t.Error(is, err)
	}
}

// TestServerCertificateIsNotDueAtBirth: back-dated by more than its lifetime, a
// certificate would be renewed again and again.
func TestServerCertificateIsNotDueAtBirth(t *testing.T) {
	a := openCA(t, newCA(t), func(c *Config) { c.Backdate = 30 * 24 * time.Hour })
	for _, ttl := range []time.Duration{time.Minute, time.Hour, 720 * time.Hour, 5000 * time.Hour} {
		r := device1(t, P256)
		r.Profile, r.ID, r.Names, r.TTL = Server, "", []string{"gateway"}, ttl
		issued, err := a.Issue(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		life := issued.Leaf.NotAfter.Sub(issued.Leaf.NotBefore)
		if due := issued.Leaf.NotAfter.Add(-life / 3); time.Until(due) < ttl/4 {
			t.Errorf("lifetime %v: due %v after its issue", ttl, time.Until(due))
		}
	}
}

func TestServerIssuerKeyIsTheCAs(t *testing.T) {
	a := openCA(t, newCA(t))
	key := a.ServerIssuer(time.Hour).IssuerKey()
	if key != a.ServerIssuer(2*time.Hour).IssuerKey() {
		t.Error("one CA, two keys")
	}
	if len(key) != len("anteroom-")+40 {
		t.Error(key)
	}
	if _, err := a.ServerIssuer(time.Hour).Issue(t.Context(), nil); err == nil {
		t.Error("issued for no request")
	}
}

// TestDeviceMaySendOnlyItsLeaf: the pool for listeners makes chains out of it.
func TestDeviceMaySendOnlyItsLeaf(t *testing.T) {
	a := openCA(t, newCA(t))
	b := bundle(t, a, P256)
	server := magic(t, a, certmagic.P256, time.Hour, time.Hour)
	if err := server.ManageSync(t.Context(), []string{"gateway"}); err != nil {
		t.Fatal(err)
	}
	cfg := server.TLSConfig()
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, a.ClientCAs()
	addr := serve(t, cfg)
	roots, _ := a.Pool()
	for _, chain := range [][][]byte{{b.Chain[0].Raw}, {b.Chain[0].Raw, b.Chain[1].Raw}} {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, &tls.Config{
			RootCAs: roots, ServerName: "gateway",
			Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: b.Key}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Errorf("%d certificates sent: %v", len(chain), err)
		}
		_ = conn.Close()
	}
}
