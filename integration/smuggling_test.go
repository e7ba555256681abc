package integration

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
)

// allowAllBut is a policy set that allows everything but one route, so that what
// stops a request is the gateway's reading of it.
const allowAllBut = `package anteroom.authz

allow contains "not closed" if input.route.name != "denied"

# Reads bodies, so that the gateway has to.
allow contains "has a body" if input.request.fhir.body.type != ""

decision := {"allow": true, "reasons": allow, "denials": set(), "obligations": set()} if {
	some _ in allow
} else := {"allow": false, "reasons": set(), "denials": {"the route is closed"}, "obligations": set()}
`

// TestNothingIsSmuggledPastTheGateway sends the corpus of raw requests to the
// real program over TLS and checks for each what is answered, what arrives at
// the backend, byte for byte what was judged, and whether the connection goes
// on. Every request is in the audit log.
func TestNothingIsSmuggledPastTheGateway(t *testing.T) {
	const host = "gateway.example"
	backend := &corpus.Backend{}
	pki := peers.NewPKI(t)
	server := httptest.NewUnstartedServer(backend)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()

	h := rig.New(t)
	if err := os.RemoveAll(h.Path("policies")); err != nil {
		t.Fatal(err)
	}
	h.Write("policies/authz.rego", allowAllBut)
	text := strings.ReplaceAll(h.Head(), "[localhost, 127.0.0.1]", "["+host+"]") + "routes:\n"
	for _, r := range corpus.Routes() {
		kind := "http"
		if r.FHIR {
			kind = "fhir"
		}
		text += fmt.Sprintf("  - {name: %q, path: %q, strip_prefix: %v, kind: %s, websocket: %v, backend: b}\n", r.Name, r.Path, r.StripPrefix, kind, r.WebSocket)
	}
	text += fmt.Sprintf("backends:\n  - {name: b, addresses: [%q], server_name: localhost, ca_file: %q, health: {interval: 0s}}\n",
		server.Listener.Addr().String(), pki.CAFile)
	h.Write("anteroom.yaml", text)
	h.Start()
	d := h.Enroll("pump-1", "infusion-pump", "--serial", "S/1", "--location", "Ward 3")

	_, port, err := net.SplitHostPort(h.Addr)
	if err != nil {
		t.Fatal(err)
	}
	cases, err := corpus.Load(host, port)
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 150 {
		t.Fatalf("the corpus has only %d cases", len(cases))
	}
	own := map[string]string{
		"Client-Cert": ":" + base64.StdEncoding.EncodeToString(d.Pair.Certificate[0]) + ":",
		"Forwarded":   "", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "", "X-Forwarded-Proto": "https", "Via": "",
		"X-Anteroom-Device-Id": "pump-1", "X-Anteroom-Device-Class": "infusion-pump", "X-Anteroom-Device-Serial": "",
		"X-Anteroom-Device-Location": "", "X-Anteroom-Decision-Id": "",
	}
	requests := 0
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			cfg := h.TLS(d)
			cfg.ServerName, cfg.NextProtos = host, []string{"http/1.1"}
			conn, err := tls.Dial("tcp", h.Addr, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Run(conn, host, time.Minute); err != nil {
				t.Errorf("%s:%d: %v", c.File, c.Line, err)
			}
			reqs, bodies := backend.Take()
			if err := c.Check(reqs, bodies, own); err != nil {
				t.Errorf("%s:%d: %v", c.File, c.Line, err)
			}
			for _, s := range c.Statuses {
				if s >= 200 {
					requests++
				}
			}
		})
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	recorded := 0
	for e, err := range audit.Read(t.Context(), h.Path("state", "audit"), audit.ReadOptions{Filter: audit.Filter{Kind: audit.KindTransaction}}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Event != "transaction.undelivered" {
			recorded++
		}
	}
	t.Logf("%d cases, %d requests, %d records", len(cases), requests, recorded)
	if recorded < requests {
		t.Errorf("%d requests, but only %d records", requests, recorded)
	}
}
