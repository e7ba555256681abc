package fleet

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestFullHandshakesAreFullAndResumedOnesResumed(t *testing.T) {
	for _, resume := range []bool{false, true} {
		var full, resumed atomic.Int64
		p := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.TLS.DidResume {
				resumed.Add(1)
			} else {
				full.Add(1)
			}
			created(w, r)
		}))
		p.Mode, p.Connections, p.Duration, p.Resume = Churn, 3, 50*time.Millisecond, resume
		c := start(t, p)
		c.await("ready")
		first := full.Load()
		c.say(Go)
		rep := c.await("done").Report
		if len(rep.Failed) > 0 || rep.Requests == 0 {
			t.Fatalf("resume %v: %+v", resume, rep)
		}
		if want := map[bool]int64{true: rep.Requests}[resume]; rep.Resumed != want || resumed.Load() != want {
			t.Errorf("resume %v: %d resumed, the server saw %d, of %d", resume, rep.Resumed, resumed.Load(), rep.Requests)
		}
		if resume && full.Load() != first {
			t.Errorf("%d full handshakes were measured as resumed ones", full.Load()-first)
		}
		if want := "TLS 1.3, X25519, TLS_AES_128_GCM_SHA256"; rep.TLS != want {
			t.Errorf("negotiated %q, want %q", rep.TLS, want)
		}
	}
}

func TestRefusalsAreCountedAsFailures(t *testing.T) {
	p := serve(t, http.HandlerFunc(created))
	p.Mode, p.Connections, p.Duration = Churn, 2, 20*time.Millisecond
	var refuse atomic.Bool
	p2 := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse.Load() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		created(w, r)
	}))
	p.Addr, p.Roots, p.Cert, p.Key = p2.Addr, p2.Roots, p2.Cert, p2.Key
	c := start(t, p)
	c.await("ready")
	refuse.Store(true)
	c.say(Go)
	rep := c.await("done").Report
	if rep.Requests != 0 || rep.Failed["answered with status 403"] == 0 {
		t.Errorf("%+v", rep)
	}
}

func TestTheGatewaysCertificateIsChecked(t *testing.T) {
	p, other := serve(t, http.HandlerFunc(created)), serve(t, http.HandlerFunc(created))
	p.Mode, p.Connections, p.Roots = Churn, 1, other.Roots
	if e := start(t, p).await("error"); !strings.Contains(e.Error, "certificate") {
		t.Errorf("refused with %q", e.Error)
	}
}

func TestIdleConnectionsStayOpenUntilTheFleetIsLetGo(t *testing.T) {
	var open atomic.Int64
	p := serve(t, http.HandlerFunc(created))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go relayAll(ln, p.Addr, &open)
	p.Addr, p.Mode, p.Connections = ln.Addr().String(), Idle, 40
	c := start(t, p)
	c.await("ready")
	c.say(Go)
	if rep := c.await("done").Report; rep.Requests != 40 || len(rep.Failed) > 0 {
		t.Fatalf("%+v", rep)
	}
	if n := open.Load(); n < 40 {
		t.Errorf("%d connections are open, want 40", n)
	}
	c.in.Close()
	if code := <-c.code; code != 0 {
		t.Errorf("the fleet ends with %d", code)
	}
	for deadline := time.Now().Add(patienceInTests); open.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are still open", open.Load())
		}
	}
}

// relayAll passes connections on to addr and counts those that are open.
func relayAll(ln net.Listener, addr string, open *atomic.Int64) {
	for {
		from, err := ln.Accept()
		if err != nil {
			return
		}
		open.Add(1)
		go func() {
			defer open.Add(-1)
			defer from.Close()
			to, err := net.Dial("tcp", addr)
			if err != nil {
				return
			}
			defer to.Close()
			pipe(from, to)
		}()
	}
}

// pipe copies both ways until one side ends, and ends the other.
func pipe(from, to net.Conn) {
	go func() {
		_, _ = io.Copy(from, to)
		from.Close()
	}()
	_, _ = io.Copy(to, from)
	to.Close()
}

func TestReadHead(t *testing.T) {
	for _, c := range []struct {
		in     string
		status int
		length int64
		bad    bool
	}{
		{in: "HTTP/1.1 201 Created\r\ncontent-length: 12\r\n\r\n", status: 201, length: 12},
		{in: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200},
		{in: "HTTP/1.1 204 No Content\r\n\r\n", status: 204},
		{in: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", status: 101},
		{in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nContent-Le", bad: true},
		{in: "HTTP/1.0 200 OK\r\n\r\n", bad: true},
		{in: "HTTP/1.1 x\r\n\r\n", bad: true},
		{in: "", bad: true},
	} {
		status, length, err := readHead(bufio.NewReader(strings.NewReader(c.in)))
		if (err != nil) != c.bad || !c.bad && (status != c.status || length != c.length) {
			t.Errorf("%q: %d, %d, %v", c.in, status, length, err)
		}
	}
}

func TestDevicesHaveAddressesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for i := range hosts * hosts {
		ip := source(i).IP
		if !ip.IsLoopback() || ip.Equal(net.IPv4(127, 0, 0, 1)) || seen[ip.String()] {
			t.Fatalf("device %d has %s", i, ip)
		}
		seen[ip.String()] = true
	}
}

func TestReasonsDoNotDifferByAddress(t *testing.T) {
	addr := func(s string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(s), Port: 1} }
	for want, err := range map[string]error{
		"dial: refused":   &net.OpError{Op: "dial", Addr: addr("127.0.0.7"), Err: errors.New("refused")},
		"read: timed out": &net.OpError{Op: "read", Addr: addr("127.0.0.8"), Err: os.ErrDeadlineExceeded},
		"plain":           errors.New("plain"),
	} {
		if got := reason(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

func TestAPlanThatIsNoneIsRefused(t *testing.T) {
	p := serve(t, http.HandlerFunc(created))
	p.Mode = "no such"
	if e := start(t, p).await("error"); !strings.Contains(e.Error, "no mode") {
		t.Errorf("refused with %q", e.Error)
	}
	if _, err := groupOf("X448"); err == nil {
		t.Error("a group that is not spoken is accepted")
	}
	if g, err := groupOf("X25519MLKEM768"); err != nil || g != tls.X25519MLKEM768 {
		t.Errorf("got %v, %v", g, err)
	}
}
