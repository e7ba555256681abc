package relay

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/identity"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// TestOnlyThePinnedGatewayReachesTheDevice: neither somebody without a certificate
// nor somebody with another one gets a byte to the device, whatever they send.
func TestOnlyThePinnedGatewayReachesTheDevice(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var accepted atomic.Int32
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			_, _ = io.Copy(c, c)
			c.Close()
		}
	})
	own, gw, other := selfSigned(t), selfSigned(t), selfSigned(t)
	cfg := settings.Reverse{Name: "web", Listen: "127.0.0.1:0", Device: ln.Addr().String(), Connections: 4, Connect: config.Duration(patience)}
	conf := identity.ServerConfig(&own, [][sha256.Size]byte{sha256.Sum256(gw.Leaf.RawSubjectPublicKeyInfo)})
	r, err := OpenReverse(cfg, conf, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	defer func() { cancel(); <-done; ln.Close(); wg.Wait() }()
	pool := x509.NewCertPool()
	pool.AddCert(own.Leaf)
	connect := func(version uint16, certs ...tls.Certificate) (string, error) {
		c, err := tls.Dial("tcp", r.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "gateway", Certificates: certs, MinVersion: version, MaxVersion: version})
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, err := io.WriteString(c, "hello"); err != nil {
			return "", err
		}
		_ = c.CloseWrite()
		got, err := io.ReadAll(c)
		return string(got), err
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if got, err := connect(version); err == nil {
			t.Errorf("without a certificate: %q", got)
		}
		if got, err := connect(version, other); err == nil {
			t.Errorf("with another certificate: %q", got)
		}
		if n := accepted.Load(); n != int32(version-tls.VersionTLS12) {
			t.Errorf("the device has %d connections", n)
		}
		if got, err := connect(version, gw); got != "hello" || err != nil {
			t.Errorf("the gateway: %q %v", got, err)
		}
	}
	// Who is refused hears it before it is counted.
	for deadline := time.Now().Add(patience); r.Counts().Refused != 4; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("counted %+v", r.Counts())
		}
	}
}
