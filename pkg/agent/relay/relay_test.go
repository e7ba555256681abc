package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits for what must happen.
const patience = 30 * time.Second

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"gateway"}},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// far is a gateway's listener that serves each connection as the test says.
type far struct {
	ln   net.Listener
	conf *tls.Config
	wg   sync.WaitGroup
}

func newFar(t *testing.T, serve func(*tls.Conn)) *far {
	t.Helper()
	cert := selfSigned(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &far{ln: ln}
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	f.conf = &tls.Config{RootCAs: pool, ServerName: "gateway", MinVersion: tls.VersionTLS12}
	f.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() {
				conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
				defer conn.Close()
				if conn.HandshakeContext(t.Context()) == nil {
					serve(conn)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); f.wg.Wait() })
	return f
}

func (f *far) gateway() *Gateway {
	return NewGateway(f.ln.Addr().String(), func() (*tls.Config, error) { return f.conf, nil }, slog.New(slog.DiscardHandler))
}

// forward runs a forward of a protocol and returns where the device connects.
func forward(t *testing.T, protocol string, g *Gateway, change func(*settings.Forward)) (*Forward, string) {
	t.Helper()
	cfg := settings.Forward{Name: "test", Listen: "127.0.0.1:0", Device: "127.0.0.1", Protocol: protocol, Gateway: g.Addr, ServerName: "gateway.example",
		Connections: 4, Connect: config.Duration(patience)}
	if change != nil {
		change(&cfg)
	}
	f, err := OpenForward(cfg, g, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return f, f.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// refused connects and fails the test unless that leads to nothing. The reset may
// come before connecting has returned.
func refused(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || n > 0 {
		t.Errorf("%d bytes, %v: want a reset", n, err)
	}
}

// TestAnEndIsPassedOnAndTheAnswerStillComes: the device ends its direction, the
// gateway sees the end, and what it answers then arrives whole.
func TestAnEndIsPassedOnAndTheAnswerStillComes(t *testing.T) {
	f := newFar(t, func(c *tls.Conn) {
		got, err := io.ReadAll(c)
		fmt.Fprintf(c, "%d %v", len(got), err)
	})
	_, addr := forward(t, "tcp", f.gateway(), nil)
	c := dial(t, addr)
	if _, err := c.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "100000 <nil>" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

// TestWhatIsCutOffIsNoEnd: a gateway that dies in the middle of an answer must not
// look like one that has said everything.
func TestWhatIsCutOffIsNoEnd(t *testing.T) {
	f := newFar(t, func(c *tls.Conn) {
		_, _ = io.WriteString(c, "half a mess")
		_, _ = c.Read(make([]byte, 1))
		_ = c.NetConn().Close() // no close_notify
	})
	_, addr := forward(t, "tcp", f.gateway(), nil)
	c := dial(t, addr)
	if _, err := io.ReadFull(c, make([]byte, 11)); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("x"))
	if got, err := io.ReadAll(c); err == nil {
		t.Errorf("the device sees an end after %q", got)
	}
}

// TestWhoReadsSlowlyIsWaitedFor: what a device sends while nobody reads at the
// gateway stays with the device.
func TestWhoReadsSlowlyIsWaitedFor(t *testing.T) {
	read := make(chan struct{})
	f := newFar(t, func(c *tls.Conn) {
		<-read
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprint(c, n)
	})
	_, addr := forward(t, "tcp", f.gateway(), nil)
	c := dial(t, addr)
	sent := 0
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	for {
		n, err := c.Write(make([]byte, 64<<10))
		sent += n
		if err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatal("64 MiB were taken that nobody read")
		}
	}
	close(read)
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != fmt.Sprint(sent) || err != nil {
		t.Errorf("%q of %d arrived: %v", got, sent, err)
	}
}

func TestOnlyTheDeviceMayConnect(t *testing.T) {
	f := newFar(t, func(c *tls.Conn) { _, _ = io.Copy(c, c) })
	fwd, addr := forward(t, "tcp", f.gateway(), func(s *settings.Forward) { s.Device = "127.0.0.2" })
	refused(t, addr)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	own, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if _, err := io.WriteString(own, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(own, make([]byte, 5)); err != nil {
		t.Errorf("the device is not served: %v", err)
	}
	if n := fwd.Counts(); n.Refused != 1 || n.Accepted != 1 || n.Open != 1 {
		t.Errorf("counted %+v", n)
	}
}

func TestADeviceHasSoManyConnections(t *testing.T) {
	f := newFar(t, func(c *tls.Conn) { _, _ = io.Copy(c, c) })
	fwd, addr := forward(t, "tcp", f.gateway(), func(s *settings.Forward) { s.Connections = 2 })
	for range 2 {
		c := dial(t, addr)
		_, _ = io.WriteString(c, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, addr)
	if n := fwd.Counts(); n.Open != 2 || n.Refused != 1 {
		t.Errorf("counted %+v", n)
	}
}

// TestADeviceHearsThatTheGatewayIsAway in its own language, if that has a word.
func TestADeviceHearsThatTheGatewayIsAway(t *testing.T) {
	g := NewGateway("127.0.0.1:1", func() (*tls.Config, error) { return &tls.Config{MinVersion: tls.VersionTLS12}, nil }, slog.New(slog.DiscardHandler))
	soon := func(s *settings.Forward) { s.Connect = config.Duration(100 * time.Millisecond) }
	_, addr := forward(t, "http", g, soon)
	resp, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Post("http://"+addr, "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 503 || err != nil || !bytes.HasSuffix(body, []byte("\n")) || resp.Header.Get("Retry-After") == "" {
		t.Errorf("HTTP: %d %q %v", resp.StatusCode, body, err)
	}

	_, addr = forward(t, "dicom", g, soon)
	c := dial(t, addr)
	_, _ = c.Write(append([]byte{1, 0, 0, 0, 0, 68}, make([]byte, 68)...))
	if got, err := io.ReadAll(c); !bytes.Equal(got, []byte{3, 0, 0, 0, 0, 4, 0, 2, 3, 1}) || err != nil {
		t.Errorf("DICOM: %x %v", got, err)
	}

	for protocol, sent := range map[string]string{"tcp": "x", "dicom": "\x02\x00\x00\x00\x00\x04", "http": "GET / HTTP/1.1\n\n"} {
		_, addr = forward(t, protocol, g, soon)
		c = dial(t, addr)
		_, _ = io.WriteString(c, sent)
		if got, err := io.ReadAll(c); err == nil || len(got) > 0 {
			t.Errorf("%s: %q %v, want a reset", protocol, got, err)
		}
	}
}

// TestTheGatewayComesBack: a device that waits is served when it does, and one
// attempt is made at a time until then.
func TestTheGatewayComesBack(t *testing.T) {
	f := newFar(t, func(c *tls.Conn) { _, _ = io.Copy(c, c) })
	var mu sync.Mutex
	away, trying, most, tries := true, 0, 0, 0
	g := NewGateway(f.ln.Addr().String(), func() (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		tries++
		if !away {
			return f.conf, nil
		}
		trying++
		most = max(most, trying)
		mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		mu.Lock()
		trying--
		if tries >= 4 {
			away = false
		}
		return nil, errors.New("not yet")
	}, slog.New(slog.DiscardHandler))
	g.Refused(errors.New("it was away before"))
	_, addr := forward(t, "tcp", g, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := dial(t, addr)
			_, _ = io.WriteString(c, "x")
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Errorf("not served: %v", err)
			}
		})
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d attempts at once", most)
	}
	if err := g.Failed(); err != nil {
		t.Errorf("still away: %v", err)
	}
}

// TestARefusedCertificateIsToldAsAway: the refusal comes after the handshake.
func TestARefusedCertificateIsToldAsAway(t *testing.T) {
	cert := selfSigned(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				if c.(*tls.Conn).HandshakeContext(t.Context()) != nil {
					_, _ = io.Copy(io.Discard, c.(*tls.Conn).NetConn())
				}
				c.Close()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	g := NewGateway(ln.Addr().String(), func() (*tls.Config, error) {
		return &tls.Config{RootCAs: pool, ServerName: "gateway", MinVersion: tls.VersionTLS13}, nil
	}, slog.New(slog.DiscardHandler))
	_, addr := forward(t, "http", g, nil)
	c := dial(t, addr)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: agent\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 503 {
		t.Fatalf("%v %v", resp, err)
	}
	resp.Body.Close()
	if err := g.Failed(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("noted as %v", err)
	}
}

// TestASideThatIsSilentAfterTheOthersEndIsClosed: a device that was switched off
// leaves nothing behind at the agent.
func TestASideThatIsSilentAfterTheOthersEndIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device, deviceEnd := newPipe()
		far, farEnd := newPipe()
		done := make(chan error)
		go func() { done <- carry(deviceEnd, farEnd, plain, plain) }()
		start := time.Now()
		_ = device.Close() // an end to who reads
		if _, err := far.Read(make([]byte, 8)); err == nil {
			t.Error("the far side hears something")
		}
		if err := <-done; err == nil {
			t.Error("no error")
		}
		if d := time.Since(start); d < halfOpen || d > 2*halfOpen {
			t.Errorf("closed after %v", d)
		}
	})
}

// pipe is a connection in memory whose end to write can be closed by itself.
type pipe struct{ net.Conn }

func newPipe() (a, b pipe) {
	x, y := net.Pipe()
	return pipe{x}, pipe{y}
}

// CloseWrite has no form in memory.
func (p pipe) CloseWrite() error { return nil }
