package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestAGreedyDeviceDelaysNoOther: a device has a thousand requests under way to a
// backend that is slow with them, and another device is answered as if it were alone.
func TestAGreedyDeviceDelaysNoOther(t *testing.T) {
	t.Parallel()
	leave, slow := make(chan struct{}), new(atomic.Int64)
	pki := peers.NewPKI(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.HasSuffix(r.URL.Path, "/slow") {
			slow.Add(1)
			<-leave
		}
		w.WriteHeader(http.StatusCreated)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	h := rig.New(t)
	h.Configure(fmt.Sprintf(`routes:
  - {name: ehr, path: /fhir, kind: fhir, backend: ehr}
backends:
  - {name: ehr, addresses: [%q], server_name: localhost, ca_file: %q, max_connections: 16, timeout: 5m}
`, server.Listener.Addr().String(), pki.CAFile))
	h.Start()
	greedy, pump := h.Enroll("pump-greedy", "infusion-pump"), h.Enroll("pump-1", "infusion-pump")

	// A connection has a hundred streams. Its client opens none beside it, or it would be
	// refused for the 64 connections that a device may have.
	const connections, streams, at = 10, 100, 4 // of the backend's 16 connections
	ask := func(c *http.Client, path string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL(path), nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	clients := make([]*http.Client, connections)
	for i := range clients {
		clients[i] = h.Client2(greedy)
		clients[i].Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{StrictMaxConcurrentRequests: true}
		if status := ask(clients[i], "/fhir/MedicationRequest/1"); status != http.StatusCreated {
			t.Fatalf("the greedy device is answered with %d before it is greedy", status)
		}
	}
	var asked sync.WaitGroup
	for i := range connections * streams {
		asked.Go(func() {
			if status := ask(clients[i%connections], "/fhir/MedicationRequest/slow"); status != http.StatusCreated {
				t.Errorf("the greedy device is answered with %d", status)
			}
		})
	}
	rig.Eventually(t, "the greedy device has what it can have", func() bool { return slow.Load() == at })
	for range 20 {
		if status := ask(h.Client(pump), "/fhir/MedicationRequest/1"); status != http.StatusCreated {
			t.Fatalf("the other device is answered with %d", status)
		}
	}
	if n := slow.Load(); n != at {
		t.Errorf("the greedy device had %d requests at the backend at once, %d were its share", n, at)
	}
	close(leave)
	asked.Wait()
	if m := h.Metrics(); !strings.Contains(m, `anteroom_backend_device_waits_total{backend="ehr",result="served"}`) {
		t.Error("nobody counted that the greedy device waited")
	}
}
