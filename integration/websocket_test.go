package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// sockets lets one class open WebSockets.
const sockets = `package anteroom.authz

allow contains "its class may hold a channel open" if {
	input.device.class == "patient-monitor"
	input.request.http.path == ["live"]
	not input.device.location in data.closed_wards
}
`

// TestAWebSocketLivesAsLongAsItsSessionAndItsDecision opens real WebSockets
// through the gateway to a real server and ends them in each way there is.
func TestAWebSocketLivesAsLongAsItsSessionAndItsDecision(t *testing.T) {
	pki := peers.NewPKI(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			typ, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), typ, b) != nil {
				return
			}
		}
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	h := rig.New(t)
	h.Write("policies/authz/sockets.rego", sockets)
	h.Write("policies/closed.yaml", "closed_wards: [ward-x]\n")
	h.Configure(fmt.Sprintf(`routes:
  - {name: live, path: /live, websocket: true, backend: b}
  - {name: plain, path: /plain, backend: b}
backends:
  - {name: b, addresses: [%q], server_name: localhost, ca_file: %q}
`, server.Listener.Addr().String(), pki.CAFile))
	h.Start()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dial := func(d *rig.Device, path string) (*websocket.Conn, int) {
		c, resp, err := websocket.Dial(ctx, strings.Replace(h.URL(path), "https", "wss", 1), &websocket.DialOptions{HTTPClient: h.Client(d)})
		if resp == nil {
			t.Fatalf("%s: %v", d.ID, err)
		}
		return c, resp.StatusCode
	}
	echoed := func(c *websocket.Conn) error {
		if err := c.Write(ctx, websocket.MessageText, []byte("hr 72")); err != nil {
			return err
		}
		_, b, err := c.Read(ctx)
		if err == nil && string(b) != "hr 72" {
			err = fmt.Errorf("echoed %q", b)
		}
		return err
	}
	first, second := h.Enroll("monitor-1", "patient-monitor", "--location", "icu"), h.Enroll("monitor-2", "patient-monitor", "--location", "ward-5")
	pump := h.Enroll("pump-1", "infusion-pump")
	one, status := dial(first, "/live")
	if status != http.StatusSwitchingProtocols || echoed(one) != nil {
		t.Fatalf("status %d", status)
	}
	two, _ := dial(second, "/live")
	if err := echoed(two); err != nil {
		t.Fatal(err)
	}
	if _, status := dial(pump, "/live"); status != http.StatusForbidden {
		t.Errorf("a pump's upgrade was answered %d", status)
	}
	if _, status := dial(first, "/plain"); status != http.StatusBadRequest {
		t.Errorf("an upgrade on a route that has none was answered %d", status)
	}
	h.Must("device", "quarantine", "monitor-1")
	if err := echoed(one); err == nil {
		t.Error("the quarantined device's channel is open")
	}
	if err := echoed(two); err != nil {
		t.Errorf("another device's channel was closed too: %v", err)
	}
	h.Write("policies/closed.yaml", "closed_wards: [ward-5]\n")
	_, _, err := two.Read(ctx)
	if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the channel that a new policy set denies ended with %v", err)
	}
}
