package httpgw

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// shake is a handshake's head, less its end.
const shake = "GET /socket HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// accepted is what goes with shake's key (RFC 6455 section 1.3).
const accepted = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

// echoSocket is a WebSocket server that says everything twice, and reports how
// each connection ended.
func echoSocket(t testing.TB) (*upstream.Backend, chan error) {
	ended := make(chan error, 8)
	b := serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			ended <- err
			return
		}
		defer c.CloseNow()
		for {
			kind, msg, err := c.Read(r.Context())
			if err != nil {
				ended <- err
				return
			}
			if err := c.Write(r.Context(), kind, slices.Concat(msg, msg)); err != nil {
				ended <- err
				return
			}
		}
	}))
	return b, ended
}

// dialSocket opens a WebSocket through the gateway.
func (r *rig) dialSocket(path string) (*websocket.Conn, *http.Response, *protocol.Session, error) {
	r.t.Helper()
	conn, s := r.connect()
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, "ws://"+testHost+path, &websocket.DialOptions{HTTPClient: client})
	if c != nil {
		r.t.Cleanup(func() { c.CloseNow() })
	}
	return c, resp, s, err
}

func TestWebSocketPassesAsOneTransaction(t *testing.T) {
	b, ended := echoSocket(t)
	r := newRig(t, b)
	c, _, _, err := r.dialSocket("/socket/a?b=c")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, size := range []int{0, 1, 125, 126, 16_000} {
		msg := strings.Repeat("x", size)
		if err := c.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != msg+msg {
			t.Fatalf("%d bytes come back as %d, %v", size, len(got), err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, "done"); err != nil {
		t.Errorf("closing: %v", err)
	}
	if err := <-ended; websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("the backend hears %v", err)
	}
	r.served.Wait()
	judged, _, undelivered := r.judge.take()
	if len(judged) != 1 || judged[0].route != "socket" || len(undelivered) != 0 {
		t.Errorf("recorded: %+v %q", judged, undelivered)
	}
}

func TestWebSocketDenied(t *testing.T) {
	b, _ := echoSocket(t)
	r := newRig(t, b)
	r.judge.deny = func(*protocol.Route, *protocol.Transaction) protocol.Cause { return protocol.CausePolicy }
	if _, resp, _, err := r.dialSocket("/socket"); err == nil || resp == nil || resp.StatusCode != 403 {
		t.Errorf("answered %v, %v", resp, err)
	}
}

func TestWebSocketEndsWithTheSession(t *testing.T) {
	b, ended := echoSocket(t)
	r := newRig(t, b)
	c, _, s, err := r.dialSocket("/socket")
	if err != nil {
		t.Fatal(err)
	}
	s.End(errors.New("revoked"))
	if _, _, err := c.Read(t.Context()); err == nil {
		t.Error("the device reads on")
	}
	if err := <-ended; err == nil {
		t.Error("the backend reads on")
	}
	r.served.Wait()
}

// TestWebSocketIsClosedWhenALaterDecisionDeniesIt: with status 1008.
func TestWebSocketIsClosedWhenALaterDecisionDeniesIt(t *testing.T) {
	b, ended := echoSocket(t)
	r := newRig(t, b)
	var denied atomic.Bool
	r.judge.deny = func(*protocol.Route, *protocol.Transaction) protocol.Cause {
		if denied.Load() {
			return protocol.CausePolicy
		}
		return protocol.CauseNone
	}
	c, _, s, err := r.dialSocket("/socket")
	if err != nil {
		t.Fatal(err)
	}
	s.Recheck()
	if err := c.Write(t.Context(), websocket.MessageText, []byte("a")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(t.Context()); err != nil || string(got) != "aa" {
		t.Fatalf("after a recheck that allows: %q, %v", got, err)
	}
	denied.Store(true)
	s.Recheck()
	if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the device hears %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the backend reads on")
	}
	r.served.Wait()
	if judged, _, _ := r.judge.take(); len(judged) != 3 || judged[2].allow {
		t.Errorf("recorded: %+v", judged)
	}
	s.Recheck() // nothing is held any more
	if judged, _, _ := r.judge.take(); len(judged) != 0 {
		t.Errorf("judged again after its end: %+v", judged)
	}
}

// scripted is a backend whose side of a WebSocket a test writes by hand.
func scripted(t testing.TB) (*upstream.Backend, chan net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				c.Close()
				continue
			}
			t.Cleanup(func() { c.Close() })
			conns <- c
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return newBackend(t, ln.Addr().String()), conns
}

const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accepted + "\r\n\r\n"

// TestNoCloseFrameInTheMiddleOfAnother: a device that is denied between the
// halves of a frame sees its connection end, not bytes that mean something else.
func TestNoCloseFrameInTheMiddleOfAnother(t *testing.T) {
	for _, tt := range []struct{ sent, heard string }{
		{"\x81\x02hi", "\x81\x02hi\x88\x02\x03\xf0"},
		{"\x81\x02h", "\x81\x02h"},
		{"\x81", "\x81"},
		{"\x82\x7e\x00", "\x82\x7e\x00"},
		{"\x89\x00", "\x89\x00\x88\x02\x03\xf0"},
	} {
		b, conns := scripted(t)
		r := newRig(t, b)
		var denied atomic.Bool
		r.judge.deny = func(*protocol.Route, *protocol.Transaction) protocol.Cause {
			if denied.Load() {
				return protocol.CausePolicy
			}
			return protocol.CauseNone
		}
		conn, s := r.connect()
		fmt.Fprint(conn, shake+"\r\n")
		up := <-conns
		fmt.Fprint(up, switched+tt.sent)
		br := bufio.NewReader(conn)
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != accepted {
			t.Fatalf("answered %v, %v", resp, err)
		}
		got := make([]byte, len(tt.sent))
		if _, err := io.ReadFull(br, got); err != nil {
			t.Fatal(err)
		}
		denied.Store(true)
		s.Recheck()
		rest, err := io.ReadAll(br)
		if err != nil {
			t.Fatal(err)
		}
		if heard := string(got) + string(rest); heard != tt.heard {
			t.Errorf("after %q the device heard %q, want %q", tt.sent, heard, tt.heard)
		}
		r.served.Wait()
	}
}

// TestBytesBehindTheHandshakePass: a device may send before it has heard 101.
func TestBytesBehindTheHandshakePass(t *testing.T) {
	b, conns := scripted(t)
	r := newRig(t, b)
	conn, _ := r.connect()
	fmt.Fprint(conn, shake+"\r\nearly")
	up := <-conns
	fmt.Fprint(up, switched)
	got := make([]byte, 5)
	if _, err := io.ReadFull(up, got); err != nil || string(got) != "early" {
		t.Errorf("the backend reads %q, %v", got, err)
	}
	conn.Close()
	if _, err := io.Copy(io.Discard, up); err != nil {
		t.Errorf("the backend's side ends with %v", err)
	}
	r.served.Wait()
}

// TestADenialWhileTheBackendIsAskedCounts: between the decision and the 101 the
// policy may change.
func TestADenialWhileTheBackendIsAskedCounts(t *testing.T) {
	b, conns := scripted(t)
	r := newRig(t, b)
	var denied atomic.Bool
	r.judge.deny = func(*protocol.Route, *protocol.Transaction) protocol.Cause {
		if denied.Load() {
			return protocol.CausePolicy
		}
		return protocol.CauseNone
	}
	conn, s := r.connect()
	fmt.Fprint(conn, shake+"\r\n")
	up := <-conns
	denied.Store(true)
	s.Recheck()
	fmt.Fprint(up, switched)
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Errorf("the device's side goes on: %v", err)
		}
	}
	if _, err := io.Copy(io.Discard, up); errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the backend's side goes on: %v", err)
	}
	conn.Close()
	r.served.Wait()
}

func TestHandshakesABackendAnswersWrongly(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		status int
	}{
		"another key":      {strings.Replace(switched, accepted, "AAAAAAAAAAAAAAAAAAAAAAAAAAA=", 1), 502},
		"no key":           {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 502},
		"another protocol": {strings.Replace(switched, "websocket", "h2c", 1), 502},
		"no HTTP":          {"hello\r\n\r\n", 502},
		"nothing":          {"", 502},
		"a refusal":        {"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403},
		"an upgrade":       {"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", 426},
	} {
		t.Run(name, func(t *testing.T) {
			b, conns := scripted(t)
			r := newRig(t, b)
			conn, _ := r.connect()
			fmt.Fprint(conn, shake+"\r\n")
			up := <-conns
			fmt.Fprint(up, tt.answer)
			up.Close()
			br := bufio.NewReader(conn)
			if resp, _ := r.read(br, "GET"); resp.StatusCode != tt.status {
				t.Errorf("answered %s", resp.Status)
			}
			// What follows is HTTP again.
			fmt.Fprint(conn, get("/denied"))
			if resp, _ := r.read(br, "GET"); resp.StatusCode != 403 {
				t.Errorf("then answered %s", resp.Status)
			}
		})
	}
}

// TestALateDecisionOnAHandshakeIsNotTheNextRequests: a handshake that a backend
// refused leaves the connection to the next request, though it may be judged again
// at that very moment. What it obliges to must not be taken for what the next one
// does.
func TestALateDecisionOnAHandshakeIsNotTheNextRequests(t *testing.T) {
	asked, rechecking, goOn, rechecked, next := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			close(asked)
			<-rechecking
			http.NotFound(w, r)
			return
		}
		close(next)
		<-rechecked
		answers(200, patientBody, "Content-Type", "application/fhir+json")(w)
	})))
	r.judge.deny = func(_ *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		if tx.Again {
			close(rechecking)
			<-goOn
		}
		return protocol.CauseNone
	}
	r.judge.oblige = func(_ *protocol.Route, tx *protocol.Transaction) []protocol.Obligation {
		if tx.Protocol != "fhir" {
			return nil
		}
		return []protocol.Obligation{duty("redact", protocol.String("/name"))}
	}
	conn, s := r.connect()
	br := bufio.NewReader(conn)
	if _, err := io.WriteString(conn, shake+"\r\n"); err != nil {
		t.Fatal(err)
	}
	<-asked
	go func() {
		s.Recheck()
		close(rechecked)
	}()
	if resp, _ := r.read(br, "GET"); resp.StatusCode != 404 {
		t.Fatalf("the handshake is answered %s", resp.Status)
	}
	if _, err := io.WriteString(conn, get("/fhir/Patient/p1")); err != nil {
		t.Fatal(err)
	}
	// If the next request were served meanwhile it would soon be at its backend.
	select {
	case <-next:
	case <-time.After(200 * time.Millisecond):
	}
	close(goOn)
	if resp, body := r.read(br, "GET"); resp.StatusCode != 200 || strings.Contains(body, secret) {
		t.Errorf("answered %s %s", resp.Status, body)
	}
}

func TestHandshakeIsSerialisedAnew(t *testing.T) {
	got := make(chan *http.Request, 1)
	b := serveBackend(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { got <- req }))
	r := newRig(t, b)
	r.ask(shake + "X-Anteroom-Device-Id: forged\r\nX-Own: a\r\n\r\n")
	req := <-got
	if req.Header.Get("Upgrade") != "websocket" || req.Header.Get("Connection") != "Upgrade" || req.Header.Get("X-Anteroom-Device-Id") != "pump-1" || req.Header.Get("X-Own") != "a" {
		t.Errorf("arrived: %v", req.Header)
	}
}

// bursts is a reader of so many bytes at a time, as far as they fit, that remembers
// how much room it had.
type bursts struct {
	sizes []int
	rooms []int
}

func (b *bursts) Read(p []byte) (int, error) {
	if len(b.sizes) == 0 {
		return 0, io.EOF
	}
	b.rooms = append(b.rooms, len(p))
	n := min(b.sizes[0], len(p))
	if b.sizes[0] -= n; b.sizes[0] == 0 {
		b.sizes = b.sizes[1:]
	}
	return n, nil
}

// TestAQuietWebSocketHoldsLittle: much room only as long as it is used.
func TestAQuietWebSocketHoldsLittle(t *testing.T) {
	sizes := []int{5, 100_000}
	for range 40 {
		sizes = append(sizes, 100)
	}
	b := &bursts{sizes: append(sizes, 3000)}
	var to bytes.Buffer
	pass(&to, b)
	if want := 5 + 100_000 + 40*100 + 3000; to.Len() != want {
		t.Errorf("%d bytes passed of %d", to.Len(), want)
	}
	if b.rooms[0] != waitSize || !slices.Contains(b.rooms, copySize) || b.rooms[len(b.rooms)-3] != waitSize {
		t.Errorf("room was %v", b.rooms)
	}
	if len(b.rooms) > 55 {
		t.Errorf("%d reads", len(b.rooms))
	}
}

// TestWhatADeniedDeviceSendsGoesNowhere, not even while it is being told.
func TestWhatADeniedDeviceSendsGoesNowhere(t *testing.T) {
	var got bytes.Buffer
	var denied atomic.Bool
	to := unless{&got, &denied}
	if _, err := to.Write([]byte("before")); err != nil {
		t.Fatal(err)
	}
	denied.Store(true)
	if _, err := to.Write([]byte("after")); !errors.Is(err, io.ErrClosedPipe) || got.String() != "before" {
		t.Errorf("%v; the backend has %q", err, got.String())
	}
}
