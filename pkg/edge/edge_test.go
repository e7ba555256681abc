package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

func TestAnEnrolledDeviceIsKnownByItsCertificate(t *testing.T) {
	f := newFixture(t, nil)
	c := f.client(f.enrol("monitor-1", time.Hour))
	conn, line, err := f.hello(c)
	if err != nil || line != "monitor-1 hello" {
		t.Fatalf("got %q, %v", line, err)
	}
	st := conn.ConnectionState()
	if st.Version != tls.VersionTLS13 || st.CurveID != tls.X25519MLKEM768 {
		t.Errorf("negotiated %x with %v, want TLS 1.3 with X25519MLKEM768", st.Version, st.CurveID)
	}
	if s := <-f.echo.sessions; s.TLS.SNI != "localhost" || s.TLS.ALPN != "echo" || s.TLS.Version != "1.3" || s.Remote.Port() == 0 {
		t.Errorf("session facts %+v", s.TLS)
	}
}

// An adapter finds the connection below TLS, and waits there: a buffer and half a
// stack less for each device that has nothing to say.
func TestAnAdapterFindsTheConnectionBelow(t *testing.T) {
	f := newFixture(t, nil)
	conn, _, err := f.hello(f.client(f.enrol("monitor-1", time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	if line, err := say(conn, "below"); err != nil || line != "monitor-1 *wire.Conn" {
		t.Errorf("got %q, %v", line, err)
	}
}

// crypto/tls holds what a device showed for as long as the connection lasts, and it
// is emptied of it: that it hands out its own lists is nowhere promised.
func TestAConnectionKeepsNoCertificates(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			f := newFixture(t, nil)
			c := f.returning("monitor-1", version)
			for _, way := range []string{"at first", "resumed"} {
				conn, _, err := f.hello(c)
				if err != nil || conn.ConnectionState().DidResume != (way == "resumed") {
					t.Fatal(way, err)
				}
				if line, err := say(conn, "shown"); err != nil || line != "monitor-1 2 shown, 0 bytes kept" {
					t.Errorf("%s: %q, %v", way, line, err)
				}
				if s := <-f.echo.sessions; !bytes.Equal(s.Certificate, c.Certificates[0].Certificate[0]) {
					t.Errorf("%s, the session has another certificate", way)
				}
			}
		})
	}
}

func TestALeafWithoutItsIntermediateIsEnough(t *testing.T) {
	f := newFixture(t, nil)
	pair := f.enrol("monitor-1", time.Hour)
	pair.Certificate = pair.Certificate[:1]
	if _, line, err := f.hello(f.client(pair)); err != nil || line != "monitor-1 hello" {
		t.Fatalf("got %q, %v", line, err)
	}
}

// TestRefusals has a row for everything that is not an enrolled, active device,
// for both versions of TLS, with the alert the device hears and the code that
// is recorded.
func TestRefusals(t *testing.T) {
	f := newFixture(t, nil)
	status := func(to device.Status) tls.Certificate {
		id := "device-" + string(to)
		pair := f.enrol(id, time.Hour)
		f.reg.update(id, func(r *device.Record) { r.Status = to })
		return pair
	}
	unknown := f.issue(ca.Device, "ghost", time.Hour)
	stale := f.enrol("renewed", time.Hour)
	f.reg.update("renewed", func(r *device.Record) { r.Certificates = nil })
	withdrawn := f.enrol("withdrawn", time.Hour)
	f.reg.update("withdrawn", func(r *device.Record) {
		certs := append([]device.Certificate(nil), r.Certificates...)
		certs[0].RevokedAt = time.Now()
		r.Certificates = certs
	})
	f.enrol("monitor-1", time.Hour)
	tests := []struct {
		name  string
		pair  []tls.Certificate
		code  string
		alert string
	}{
		{"no certificate", nil, "no-certificate", "certificate required"},
		{"a certificate of another CA with a device's name", []tls.Certificate{foreign(t, "monitor-1")}, "foreign-certificate", "unknown certificate authority"},
		{"pending", []tls.Certificate{status(device.Pending)}, "device-pending", "bad certificate"},
		{"quarantined", []tls.Certificate{status(device.Quarantined)}, "device-quarantined", "bad certificate"},
		{"revoked", []tls.Certificate{status(device.Revoked)}, "device-revoked", "bad certificate"},
		{"retired", []tls.Certificate{status(device.Retired)}, "device-retired", "bad certificate"},
		{"a certificate of ours that the registry never saw", []tls.Certificate{unknown}, "unknown-device", "bad certificate"},
		{"a certificate that is no longer the device's", []tls.Certificate{stale}, "certificate-not-in-registry", "bad certificate"},
		{"one certificate revoked, the device active", []tls.Certificate{withdrawn}, "certificate-revoked", "bad certificate"},
		{"an operator's certificate", []tls.Certificate{f.issue(ca.Operator, "eve", time.Hour)}, "no-device-identity", "bad certificate"},
		{"a server's certificate", []tls.Certificate{f.issue(ca.Server, "localhost", time.Hour)}, "bad-certificate", "bad certificate"},
	}
	for _, tt := range tests {
		for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
			t.Run(fmt.Sprintf("%s %s", tt.name, tls.VersionName(version)), func(t *testing.T) {
				before := len(f.log.events("tls.refused"))
				c := f.client(tt.pair...)
				c.MinVersion, c.MaxVersion = version, version
				if len(tt.pair) > 0 {
					// Show it whatever CAs the gateway asks for.
					c.Certificates = nil
					c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tt.pair[0], nil }
				}
				_, line, err := f.hello(c)
				if err == nil {
					t.Fatalf("was served: %q", line)
				}
				alert := tt.alert
				if version == tls.VersionTLS12 && alert == "certificate required" {
					alert = "handshake failure" // TLS 1.2 has no better word
				}
				if !strings.Contains(err.Error(), alert) {
					t.Errorf("device heard %q, want %q", err, alert)
				}
				eventually(t, "a record", func() bool { return len(f.log.events("tls.refused")) > before })
				rec := f.log.events("tls.refused")[before]
				if code := rec.Detail[0].Value.Text(); code != tt.code {
					t.Errorf("recorded %s (%s), want %s", code, rec.Error, tt.code)
				}
				if !rec.Remote.Addr().IsLoopback() {
					t.Errorf("recorded remote %v", rec.Remote)
				}
			})
		}
	}
}

func TestAnExpiredCertificateIsRefused(t *testing.T) {
	f := newFixture(t, nil)
	pair := f.enrol("monitor-1", time.Hour)
	later := time.Now().Add(2 * time.Hour)
	f.at(func() time.Time { return later })
	c := f.client(pair)
	_, _, err := f.hello(c)
	if err == nil || !strings.Contains(err.Error(), "expired certificate") {
		t.Fatalf("device heard %v", err)
	}
	eventually(t, "a record", func() bool { return len(f.log.events("tls.refused")) == 1 })
	if code := f.log.events("tls.refused")[0].Detail[0].Value.Text(); code != refusedExpired {
		t.Errorf("recorded %s", code)
	}
}

// TestAResumedSessionIsCheckedLikeAFullOne is the failure of gateways that look
// at a certificate in VerifyPeerCertificate: nginx CVE-2025-23419, Go
// CVE-2025-68121 and Traefik GHSA-gv8r-9rw9-9697 are of this family.
func TestAResumedSessionIsCheckedLikeAFullOne(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			f := newFixture(t, nil)
			c := f.returning("monitor-1", version)
			if _, _, err := f.hello(c); err != nil {
				t.Fatal(err)
			}
			// More than once, because a session that is resumed gives its certificates away
			// (see forget).
			for range 3 {
				conn, line, err := f.hello(c)
				if err != nil || !conn.ConnectionState().DidResume {
					t.Fatalf("did not resume: %v", err)
				}
				if line != "monitor-1 hello" {
					t.Fatalf("the resumed session is %q", line)
				}
			}
			// Traefik issue 7644: backends were not told of the certificate.
			<-f.echo.sessions
			if s := <-f.echo.sessions; !s.TLS.Resumed || !bytes.Equal(s.Certificate, c.Certificates[0].Certificate[0]) || len(s.Fingerprint) != 64 {
				t.Errorf("the resumed session has no certificate: %+v", s.TLS)
			}
			f.reg.update("monitor-1", func(r *device.Record) { r.Status = device.Revoked })
			if _, line, err := f.hello(c); err == nil {
				t.Fatalf("a revoked device resumed: %q", line)
			}
		})
	}
}

func TestATicketIsWorthNothingOnAnotherListener(t *testing.T) {
	f := newFixture(t, nil)
	other := listenerConfig("other")
	other.Address = "localhost:0"
	first := f.srv.Listeners()[0].Config
	if err := f.srv.Apply(context.Background(), []config.Listener{first, other}); err != nil {
		t.Fatal(err)
	}
	c := f.client(f.enrol("monitor-1", time.Hour))
	c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 2 {
		if _, _, err := f.hello(c); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range f.srv.Listeners() {
		if l.Config.Name == "other" {
			f.addr = l.Address.String()
		}
	}
	conn, _, err := f.hello(c)
	if err != nil {
		t.Fatal(err)
	}
	if conn.ConnectionState().DidResume {
		t.Error("resumed a session of another listener")
	}
}

func TestRevokingEndsTheDevicesSessionsAndNoOther(t *testing.T) {
	f := newFixture(t, nil)
	var conns []*tls.Conn
	for i := range 10 {
		conn, _, err := f.hello(f.client(f.enrol(fmt.Sprintf("monitor-%d", i), time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	f.reg.update("monitor-3", func(r *device.Record) { r.Status = device.Quarantined })
	// Without any traffic of the device's: its connection just ends.
	conns[3].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conns[3].Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the quarantined device's connection is alive: %v", err)
	}
	for i, conn := range conns {
		if i == 3 {
			continue
		}
		if _, err := say(conn, "still here"); err != nil {
			t.Errorf("monitor-%d was cut off too: %v", i, err)
		}
	}
	eventually(t, "a record", func() bool { return len(f.log.events("session.ended")) == 1 })
	if r := f.log.events("session.ended")[0]; r.Device != "monitor-3" || r.DeviceStatus != string(device.Quarantined) {
		t.Errorf("recorded %+v", r)
	}
}

func TestASessionEndsWithItsCertificate(t *testing.T) {
	f := newFixture(t, nil)
	pair := f.enrol("monitor-1", time.Hour)
	// The gateway's clock is a moment before the certificate's end.
	start, edge := time.Now(), pair.Leaf.NotAfter.Add(-3*time.Second)
	f.at(func() time.Time { return edge.Add(time.Since(start)) })
	conn, _, err := f.hello(f.client(pair))
	if err != nil {
		t.Fatalf("no session three seconds before the certificate's end: %v", err)
	}
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("the connection outlived the certificate")
	}
	eventually(t, "a record", func() bool { return len(f.log.events("session.ended")) == 1 })
}

func TestADeviceHasNoMoreConnectionsThanItMay(t *testing.T) {
	f := newFixture(t, func(l *config.Listener) { l.Limits.PerDevice = 3 })
	pair := f.enrol("monitor-1", time.Hour)
	var last *tls.Conn
	for range 3 {
		conn, _, err := f.hello(f.client(pair))
		if err != nil {
			t.Fatal(err)
		}
		last = conn
	}
	if _, _, err := f.hello(f.client(pair)); err == nil {
		t.Fatal("a fourth connection was served")
	}
	last.Close()
	eventually(t, "the place to be free again", func() bool { return f.srv.Sessions.Len() == 2 })
	if _, _, err := f.hello(f.client(pair)); err != nil {
		t.Fatal(err)
	}
}

func TestAProxyHeaderIsBelievedOnlyFromNamedAddresses(t *testing.T) {
	header := func(version byte) []byte {
		h := proxyproto.HeaderProxyFromAddrs(version, &net.TCPAddr{IP: net.IPv4(10, 9, 8, 7), Port: 4321}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443})
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := []struct {
		name   string
		from   []string
		prefix []byte
		remote string // "" if refused
	}{
		{"named, version 2", []string{"127.0.0.0/8"}, header(2), "10.9.8.7:4321"},
		{"named, version 1", []string{"127.0.0.0/8"}, header(1), ""},
		{"named, none", []string{"127.0.0.1"}, nil, ""},
		{"not named, version 2", []string{"192.0.2.1"}, header(2), ""},
		{"nobody named, none", nil, nil, "127.0.0.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, func(l *config.Listener) { l.ProxyProtocol.From = tt.from })
			raw, err := net.Dial("tcp", f.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			if _, err := raw.Write(tt.prefix); err != nil {
				t.Fatal(err)
			}
			conn := tls.Client(raw, f.client(f.enrol("monitor-1", time.Hour)))
			_, err = say(conn, "hello")
			if (err == nil) != (tt.remote != "") {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				if s := <-f.echo.sessions; !strings.HasPrefix(s.Remote.String(), tt.remote) {
					t.Errorf("remote is %v, want %s", s.Remote, tt.remote)
				}
			}
		})
	}
}

func TestOldSuitesNeedTheLegacyProfile(t *testing.T) {
	for profile, want := range map[string]bool{"modern": false, "legacy": true} {
		for _, suite := range []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA} {
			t.Run(profile+" "+tls.CipherSuiteName(suite), func(t *testing.T) {
				f := newFixture(t, func(l *config.Listener) { l.TLS.Profile = profile })
				c := f.client(f.enrol("ct-1", time.Hour))
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{suite}
				if _, _, err := f.hello(c); (err == nil) != want {
					t.Errorf("got %v", err)
				}
			})
		}
	}
	t.Run("no profile knows TLS 1.1", func(t *testing.T) {
		f := newFixture(t, func(l *config.Listener) { l.TLS.Profile = "legacy" })
		c := f.client(f.enrol("ct-1", time.Hour))
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		if _, _, err := f.hello(c); err == nil {
			t.Error("TLS 1.1 was accepted")
		}
	})
}

func TestApplyChangesEverythingOrNothing(t *testing.T) {
	f := newFixture(t, nil)
	conn, _, err := f.hello(f.client(f.enrol("monitor-1", time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	changed := f.srv.Listeners()[0].Config
	changed.Limits.PerDevice = 1
	bad := listenerConfig("second")
	bad.Address = taken.Addr().String()
	if err := f.srv.Apply(context.Background(), []config.Listener{changed, bad}); err == nil {
		t.Fatal("a listener on a taken port was accepted")
	}
	if got := f.srv.Listeners(); len(got) != 1 || got[0].Config.Limits.PerDevice != 8 {
		t.Errorf("listeners after a refused change: %+v", got)
	}
	if _, err := say(conn, "still here"); err != nil {
		t.Error(err)
	}
	files := listenerConfig("devices")
	files.Address = changed.Address
	files.Certificate = config.ServerCertificate{Source: "files", Certificate: "missing.crt", Key: "missing.key"}
	if err := f.srv.Apply(context.Background(), []config.Listener{files}); err == nil {
		t.Fatal("a missing certificate was accepted")
	}
	if _, _, err := f.hello(f.client(f.enrol("monitor-2", time.Hour))); err != nil {
		t.Errorf("a new session after a refused change: %v", err)
	}
}

func TestAFloodOfRefusalsDoesNotFloodTheLog(t *testing.T) {
	f := newFixture(t, nil)
	const n = refusalsEach + 30
	for range n {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n")
		io.Copy(io.Discard, conn)
		conn.Close()
	}
	var counted int
	eventually(t, "all refusals", func() bool {
		f.srv.refusals.mu.Lock()
		defer f.srv.refusals.mu.Unlock()
		counted = 0
		for _, c := range f.srv.refusals.seen {
			counted += c.n
		}
		return counted == n
	})
	eventually(t, "single records", func() bool { return len(f.log.events("tls.refused")) == refusalsEach })
	f.srv.refusals.fold(context.Background())
	recs := f.log.events("tls.refused")
	if len(recs) != refusalsEach+1 {
		t.Fatalf("%d records", len(recs))
	}
	if c, ok := recs[refusalsEach].Detail[1].Value, true; !ok || c.Number() != n-refusalsEach {
		t.Errorf("the last record counts %d, want %d", c.Number(), n-refusalsEach)
	}
}

func TestShutdownAsksSessionsToFinishAndThenEndsThem(t *testing.T) {
	f := newFixture(t, nil)
	conn, _, err := f.hello(f.client(f.enrol("monitor-1", time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	s := <-f.echo.sessions
	draining := make(chan struct{})
	s.OnDrain(func() { close(draining) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { f.srv.Shutdown(ctx); close(done) }()
	<-draining
	if _, err := say(conn, "finishing"); err != nil {
		t.Errorf("a session was cut off while it could finish: %v", err)
	}
	if _, err := net.Dial("tcp", f.addr); err == nil {
		t.Error("the listener still accepts")
	}
	cancel()
	<-done
	if _, err := say(conn, "too late"); err == nil {
		t.Error("the session outlived the server")
	}
	f.srv.listeners = map[string]*listener{}
}

func TestHeldTransactionsAreAskedAgain(t *testing.T) {
	f := newFixture(t, nil)
	if _, _, err := f.hello(f.client(f.enrol("monitor-1", time.Hour))); err != nil {
		t.Fatal(err)
	}
	s := <-f.echo.sessions
	var allowed atomic.Bool
	var asked, stopped atomic.Int32
	allowed.Store(true)
	release := s.Hold(func() bool { asked.Add(1); return allowed.Load() }, func() { stopped.Add(1) })
	f.srv.Sessions.Recheck()
	f.reg.update("monitor-1", func(r *device.Record) { r.Location = "icu" })
	eventually(t, "two questions", func() bool { return asked.Load() == 2 })
	if stopped.Load() != 0 {
		t.Error("stopped though allowed")
	}
	allowed.Store(false)
	f.reg.update("monitor-1", func(r *device.Record) { r.Location = "ward" })
	eventually(t, "the denied transaction to be stopped", func() bool { return stopped.Load() == 1 })
	release()
	f.srv.Sessions.Recheck()
	if stopped.Load() != 1 {
		t.Error("stopped after it was released")
	}
	if s.Device().Location != "ward" {
		t.Error("the session has an old record")
	}
}

// TestTheAlertArrivesThoughTheDeviceHasSpokenAlready: closing with unread bytes
// resets the connection, and a reset overtakes the alert.
func TestTheAlertArrivesThoughTheDeviceHasSpokenAlready(t *testing.T) {
	f := newFixture(t, nil)
	for i := range 20 {
		raw, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, f.client())
		conn.SetDeadline(time.Now().Add(time.Minute))
		if err := conn.Handshake(); err != nil {
			t.Fatal(err) // in TLS 1.3 the device is done before the gateway has said no
		}
		conn.Write(make([]byte, 4<<10))
		if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Fatalf("try %d: the device heard %v", i, err)
		}
		conn.Close()
	}
}

// TestNoNameOpensTheDoor is the flaw of proxies that choose whether to ask for a
// certificate by server name (Traefik GHSA-5r4w-85f3-pw66, GHSA-9cr8-q42q-g8m7).
func TestNoNameOpensTheDoor(t *testing.T) {
	f := newFixture(t, nil)
	for _, name := range []string{"localhost", "LOCALHOST", "localhost.", "other.example", "*.example", "", "127.0.0.1", "a.localhost"} {
		for _, protos := range [][]string{nil, {"echo"}, {"h2"}, {"http/1.1"}, {"acme-tls/1"}, {"h3"}} {
			c := f.client()
			c.ServerName, c.InsecureSkipVerify, c.NextProtos = name, true, protos
			if _, line, err := f.hello(c); err == nil {
				t.Errorf("%q with %v was served without a certificate: %q", name, protos, line)
			}
		}
	}
}
