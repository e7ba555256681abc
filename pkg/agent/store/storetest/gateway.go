// Package storetest is what tests of ports that store need: a [Gateway] that comes
// and goes, and [Run], which has a port run for as long as the test does.
package storetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/relay"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// Patience is how long tests wait for what has to come.
const Patience = 30 * time.Second

// A Gateway is a listener with TLS. It stays at one address.
type Gateway struct {
	Addr string

	t      testing.TB
	serve  func(net.Conn)
	server *tls.Config
	client *tls.Config

	mu   sync.Mutex
	ln   net.Listener
	open map[net.Conn]bool
	wg   sync.WaitGroup
}

// NewGateway starts a gateway, whose connections serve has until it returns.
func NewGateway(t testing.TB, serve func(net.Conn)) *Gateway {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"gateway"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	g := &Gateway{
		Addr: "127.0.0.1:0", t: t, serve: serve, open: map[net.Conn]bool{},
		server: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12},
		client: &tls.Config{RootCAs: pool, ServerName: "gateway", MinVersion: tls.VersionTLS12},
	}
	g.Start()
	t.Cleanup(g.Stop)
	return g
}

// Start lets the gateway be there again.
func (g *Gateway) Start() {
	g.t.Helper()
	ln, err := tls.Listen("tcp", g.Addr, g.server)
	if err != nil {
		g.t.Fatal(err)
	}
	g.ln, g.Addr = ln, ln.Addr().String()
	g.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.open[c] = true
			g.mu.Unlock()
			g.wg.Go(func() {
				g.serve(c)
				_ = c.Close()
				g.mu.Lock()
				delete(g.open, c)
				g.mu.Unlock()
			})
		}
	})
}

// Stop lets the gateway be away, with all connections to it.
func (g *Gateway) Stop() {
	_ = g.ln.Close()
	g.mu.Lock()
	for c := range g.open {
		_ = c.Close()
	}
	g.mu.Unlock()
	g.wg.Wait()
}

// Relay returns the gateway as an agent knows it.
func (g *Gateway) Relay() *relay.Gateway {
	return relay.NewGateway(g.Addr, func() (*tls.Config, error) { return g.client, nil }, slog.New(slog.DiscardHandler))
}

// Settings returns those of a forward to the gateway that stores.
func (g *Gateway) Settings(protocol string) settings.Forward {
	return settings.Forward{
		Name: protocol, Listen: "127.0.0.1:0", Device: "127.0.0.1", Protocol: protocol, Gateway: g.Addr, Connections: 4, Connect: config.Duration(Patience),
		Store: settings.Store{Bytes: 1 << 20, Age: config.Duration(time.Hour), Original: "wait", Wait: config.Duration(Patience), Message: 64 << 10, Tries: 2},
	}
}

// A Port is one that stores.
type Port interface {
	Run(context.Context)
	Close() error
}

// Run has a port run until the test is over or the function that it returns is
// called.
func Run(t testing.TB, p Port) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { p.Run(ctx); close(done) }()
	end = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return end
}

// Eventually waits until something is so.
func Eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}
