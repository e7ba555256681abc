package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
)

// socketPatience bounds everything one test does over its WebSockets.
const socketPatience = time.Minute

// socketRule is added to the shipped set: monitors may open the live channel,
// but for those in the list.
const socketRule = `package anteroom.authz

allow contains "monitors have a live channel" if {
	input.request.protocol == "http"
	input.device.status == "active"
	input.device.class == "patient-monitor"
	input.route.name in {"live", "plain"}
	not input.device.id in {%s}
}
`

// An echo is a WebSocket server over TLS that answers each message with itself
// twice.
type echo struct {
	addr, ca string
	ended    chan error // how each of its connections ended
	mu       sync.Mutex
	asked    []*http.Request
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	pki := peers.NewPKI(t)
	e := &echo{ca: pki.CAFile, ended: make(chan error, 32)}
	s := httptest.NewUnstartedServer(e)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Pair}, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	e.addr = s.Listener.Addr().String()
	return e
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.asked = append(e.asked, r)
	e.mu.Unlock()
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"waveform.v1"}})
	if err != nil {
		return // Accept has answered
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		kind, msg, err := c.Read(r.Context())
		if err == nil {
			err = c.Write(r.Context(), kind, slices.Concat(msg, msg))
		}
		if err != nil {
			e.ended <- err
			return
		}
	}
}

// take returns the requests that arrived since it was last called.
func (e *echo) take() []*http.Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	asked := e.asked
	e.asked = nil
	return asked
}

// socketHospital starts a gateway with a route for WebSockets to e, one for
// plain HTTP only, and one for FHIR.
func socketHospital(t *testing.T, e *echo) *rig.Hospital {
	t.Helper()
	h := rig.New(t)
	h.Configure(fmt.Sprintf(`routes:
  - {name: live, path: /live, websocket: true, backend: b}
  - {name: plain, path: /plain, backend: b}
  - {name: ehr, path: /fhir, kind: fhir, backend: b}
backends:
  - {name: b, addresses: [%q], ca_file: %q}
`, e.addr, e.ca))
	h.Write("policies/authz/live.rego", fmt.Sprintf(socketRule, `"nobody"`))
	h.Start()
	return h
}

// dial opens a WebSocket through the gateway.
func dial(t *testing.T, h *rig.Hospital, d *rig.Device, path string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), socketPatience)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, "wss"+strings.TrimPrefix(h.URL(path), "https"), &websocket.DialOptions{
		HTTPClient: h.Client(d), Subprotocols: []string{"waveform.v1"},
		HTTPHeader: http.Header{"X-Anteroom-Device-Id": {"forged"}, "Client-Cert": {":Zm9yZ2Vk:"}},
	})
	if err == nil {
		c.SetReadLimit(-1)
		t.Cleanup(func() { c.CloseNow() })
	}
	return c, resp, err
}

// open is dial for an upgrade that has to succeed.
func open(t *testing.T, h *rig.Hospital, d *rig.Device) *websocket.Conn {
	t.Helper()
	c, _, err := dial(t, h, d, "/live/waveform")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// say sends a message and checks that its echo comes back.
func say(t *testing.T, c *websocket.Conn, msg string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), socketPatience)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
		t.Fatalf("send: %v", err)
	}
	kind, got, err := c.Read(ctx)
	if err != nil || kind != websocket.MessageText || string(got) != msg+msg {
		t.Fatalf("received %d bytes and %v for %d", len(got), err, len(msg))
	}
}

// end waits until the WebSocket ends and returns the error that says how.
func end(t *testing.T, c *websocket.Conn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), socketPatience)
	defer cancel()
	_, _, err := c.Read(ctx)
	if err == nil {
		t.Fatal("a message came that nobody sent")
	}
	if ctx.Err() != nil {
		t.Fatalf("the WebSocket did not end in %v", socketPatience)
	}
	return err
}

// gone waits until one of the server's connections has ended.
func (e *echo) gone(t *testing.T) error {
	t.Helper()
	select {
	case err := <-e.ended:
		return err
	case <-time.After(socketPatience):
		t.Fatalf("the server's side did not end in %v", socketPatience)
		return nil
	}
}

// TestAWebSocketPassesAsOneDecision carries messages of every length of a
// frame's head, and closes as both sides agreed to.
func TestAWebSocketPassesAsOneDecision(t *testing.T) {
	e := startEcho(t)
	h := socketHospital(t, e)
	d := h.Enroll("monitor-1", "patient-monitor")
	c := open(t, h, d)
	if got := c.Subprotocol(); got != "waveform.v1" {
		t.Errorf("subprotocol %q", got)
	}
	for _, size := range []int{1, 125, 126, 65_535, 65_536, 1 << 20} {
		say(t, c, strings.Repeat("x", size))
	}
	if err := c.Close(websocket.StatusGoingAway, "shift ends"); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := e.gone(t); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the server's side ended with %v", err)
	}
	asked := e.take()
	if len(asked) != 1 || asked[0].Header.Get("X-Anteroom-Device-Id") != d.ID || len(asked[0].Header.Values("X-Anteroom-Device-Id")) != 1 ||
		len(asked[0].Header.Values("Client-Cert")) != 1 || strings.Contains(asked[0].Header.Get("Client-Cert"), "Zm9yZ2Vk:") {
		t.Errorf("the server was asked %d times, by %v", len(asked), asked[0].Header)
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	n := 0
	for r, err := range audit.Read(t.Context(), h.Path("state", "audit"), audit.ReadOptions{Filter: audit.Filter{Kind: audit.KindTransaction}}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if r.Device != d.ID || r.Route != "live" || r.Decision == nil || !r.Decision.Allow {
			t.Errorf("recorded %s", r.Raw)
		}
	}
	if n != 1 {
		t.Errorf("%d records of one WebSocket", n)
	}
}

// TestAWebSocketIsRefusedWhereItIsNotAllowed tries the routes and devices that
// have no WebSocket. Nothing of it reaches the server.
func TestAWebSocketIsRefusedWhereItIsNotAllowed(t *testing.T) {
	e := startEcho(t)
	h := socketHospital(t, e)
	monitor, pump := h.Enroll("monitor-1", "patient-monitor"), h.Enroll("pump-1", "infusion-pump")
	for _, tt := range []struct {
		name   string
		d      *rig.Device
		path   string
		status int
	}{
		{"a class that may not", pump, "/live/waveform", http.StatusForbidden},
		{"a route without WebSocket", monitor, "/plain/waveform", http.StatusBadRequest},
		{"a FHIR route", monitor, "/fhir/Observation", http.StatusBadRequest},
		{"no route", monitor, "/elsewhere", http.StatusNotFound},
	} {
		_, resp, err := dial(t, h, tt.d, tt.path)
		if err == nil || resp == nil || resp.StatusCode != tt.status {
			t.Errorf("%s: %v, %v; want %d", tt.name, resp, err, tt.status)
		}
	}
	if asked := e.take(); len(asked) != 0 {
		t.Errorf("%d of them reached the server", len(asked))
	}
	// The gate is not simply shut.
	say(t, open(t, h, monitor), "still here")
}

// TestAWebSocketEndsWithItsDevice takes devices out of service, one way each,
// while they and another device have open WebSockets. Theirs end, on both
// sides, the other one goes on, and they get no new one.
func TestAWebSocketEndsWithItsDevice(t *testing.T) {
	e := startEcho(t)
	h := socketHospital(t, e)
	other := open(t, h, h.Enroll("monitor-other", "patient-monitor"))
	for verb, sure := range map[string][]string{"quarantine": nil, "revoke": {"--yes"}, "retire": {"--yes"}} {
		d := h.Enroll("monitor-"+verb, "patient-monitor")
		first, second := open(t, h, d), open(t, h, d)
		say(t, first, "one")
		say(t, second, "two")
		h.Must(append([]string{"device", verb, d.ID, "--reason", "compromised"}, sure...)...)
		for _, c := range []*websocket.Conn{first, second} {
			t.Logf("%s: %v", verb, end(t, c))
			e.gone(t)
		}
		if _, _, err := dial(t, h, d, "/live/waveform"); err == nil {
			t.Errorf("%s: a new WebSocket was opened", verb)
		}
		say(t, other, "still here")
		if verb == "quarantine" {
			h.Must("device", "release", d.ID, "--reason", "examined")
			say(t, open(t, h, d), "back again")
		}
	}
}

// TestAWebSocketEndsWithThePolicyThatAllowedIt saves policy sets while two
// devices have open WebSockets: the one that the new set denies hears 1008
// (RFC 6455 section 7.4.1), the other one goes on. A set that does not load
// ends nothing.
func TestAWebSocketEndsWithThePolicyThatAllowedIt(t *testing.T) {
	e := startEcho(t)
	h := socketHospital(t, e)
	d := h.Enroll("monitor-1", "patient-monitor")
	c, other := open(t, h, d), open(t, h, h.Enroll("monitor-2", "patient-monitor"))
	say(t, c, "before")

	from := len(h.Logs())
	h.Write("policies/authz/live.rego", "package anteroom.authz\n\nallow contains if {\n")
	h.WaitLog(from, "live.rego:3")
	say(t, c, "a broken set changes nothing")

	h.Write("policies/authz/live.rego", fmt.Sprintf(socketRule, `"monitor-1"`))
	if err := end(t, c); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the WebSocket ended with %v, not with 1008", err)
	}
	e.gone(t)
	say(t, other, "still here")
	if _, resp, err := dial(t, h, d, "/live/waveform"); err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("under the new set: %v, %v", resp, err)
	}

	h.Write("policies/authz/live.rego", fmt.Sprintf(socketRule, `"nobody"`))
	rig.Eventually(t, "a WebSocket under the next set", func() bool {
		c, _, err := dial(t, h, d, "/live/waveform")
		if err == nil {
			say(t, c, "after")
		}
		return err == nil
	})
}
