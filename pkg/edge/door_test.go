package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// openDoor opens a door and greets everybody who comes in with a letter.
func (f *fixture) openDoor(edit func(*config.Enrolment)) (*Door, chan *tls.Conn) {
	f.t.Helper()
	cfg := config.Enrolment{
		Address: "127.0.0.1:0", Hosts: []string{"localhost"}, Certificate: config.ServerCertificate{Source: "embedded", TTL: config.Duration(24 * time.Hour)},
		Limits: config.EnrolmentLimits{Connections: 100, PerAddress: 3, Handshake: config.Duration(20 * time.Second)},
	}
	if edit != nil {
		edit(&cfg)
	}
	d, err := f.srv.OpenDoor(context.Background(), cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	in := make(chan *tls.Conn, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := d.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "!")
			in <- c.(*tls.Conn)
		}
	}()
	f.t.Cleanup(func() {
		if err := d.Close(); err != nil {
			f.t.Error(err)
		}
		<-done
		for len(in) > 0 {
			(<-in).Close()
		}
	})
	return d, in
}

// knock connects, and reports whether it is let in.
func (f *fixture) knock(d *Door, first []byte, pairs ...tls.Certificate) (net.Conn, bool) {
	f.t.Helper()
	raw, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { raw.Close() })
	if _, err := raw.Write(first); err != nil {
		return raw, false
	}
	cfg := f.client(pairs...)
	cfg.NextProtos = []string{"http/1.1"}
	conn := tls.Client(raw, cfg)
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	var b [1]byte
	_, err = io.ReadFull(conn, b[:])
	return conn, err == nil
}

// TestADoorLetsInWhoHasNoIdentity, whatever certificate they show, and makes no
// session of anybody; but the key of what is shown has to be theirs.
func TestADoorLetsInWhoHasNoIdentity(t *testing.T) {
	f := newFixture(t, nil)
	d, in := f.openDoor(nil)
	device, strange := f.enrol("monitor-1", time.Hour), foreign(t, "monitor-1")
	for what, c := range map[string]struct {
		pairs []tls.Certificate
		shown int
	}{"nobody": {nil, 0}, "a device": {[]tls.Certificate{device}, 1}, "a stranger": {[]tls.Certificate{strange}, 1}} {
		conn, ok := f.knock(d, nil, c.pairs...)
		if !ok {
			t.Errorf("%s is not let in", what)
			continue
		}
		st := (<-in).ConnectionState()
		if (len(st.PeerCertificates) > 0) != (c.shown > 0) || len(st.VerifiedChains) != 0 || st.NegotiatedProtocol != "http/1.1" || st.DidResume {
			t.Errorf("%s: %d certificates, %d chains, %q", what, len(st.PeerCertificates), len(st.VerifiedChains), st.NegotiatedProtocol)
		}
		conn.Close()
	}
	thief := tls.Certificate{Certificate: device.Certificate, PrivateKey: f.issue(ca.Device, "monitor-2", time.Hour).PrivateKey}
	if _, ok := f.knock(d, nil, thief); ok {
		t.Error("a certificate without its key is let in")
	}
	if n := f.srv.Sessions.Len(); n != 0 {
		t.Errorf("%d sessions", n)
	}
	if len(d.Certificates()) == 0 {
		t.Error("the door says of no certificate")
	}
}

func TestADoorLetsAnAddressHaveSoManyConnections(t *testing.T) {
	f := newFixture(t, nil)
	d, in := f.openDoor(func(e *config.Enrolment) { e.ProxyProtocol.From = []string{"127.0.0.1"} })
	from := func(addr string) []byte {
		var b bytes.Buffer
		h := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)), net.TCPAddrFromAddrPort(netip.MustParseAddrPort("[2001:db8::1]:443")))
		if a := netip.MustParseAddrPort(addr); a.Addr().Is4() {
			h = proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(a), &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443})
		}
		if _, err := h.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var open []*tls.Conn
	for _, addr := range []string{"10.0.0.7:1", "10.0.0.7:2", "10.0.0.7:3", "[2001:db8:1::1]:1", "[2001:db8:1::2]:2", "[2001:db8:1:0:ffff::3]:3"} {
		if _, ok := f.knock(d, from(addr)); !ok {
			t.Fatalf("%s is not let in", addr)
		}
		c := <-in
		if c.RemoteAddr().String() != addr {
			t.Errorf("%s comes from %s", addr, c.RemoteAddr())
		}
		open = append(open, c)
	}
	for _, addr := range []string{"10.0.0.7:4", "[2001:db8:1:0:8000::4]:4"} {
		if _, ok := f.knock(d, from(addr)); ok {
			t.Errorf("a fourth is let in: %s", addr)
		}
	}
	if _, ok := f.knock(d, from("10.0.0.8:1")); !ok {
		t.Error("another address has to wait")
	}
	if _, ok := f.knock(d, nil); ok {
		t.Error("a load balancer without a header is let in")
	}
	open[0].Close()
	if _, ok := f.knock(d, from("10.0.0.7:5")); !ok {
		t.Error("there is no room after one has gone")
	}
	eventually(t, "records of the refusals", func() bool { return len(f.log.events("tls.refused")) == 3 })
	for _, c := range open[1:] {
		c.Close()
	}
}

func TestADoorClosesOnWhoIsOnTheWayIn(t *testing.T) {
	f := newFixture(t, nil)
	d, _ := f.openDoor(nil)
	raw, err := net.Dial("tcp", d.Addr().String()) // says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	eventually(t, "the connection is counted", func() bool { return d.Connections() == 1 })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if n := d.Connections(); n != 0 {
		t.Errorf("%d connections are open", n)
	}
}
