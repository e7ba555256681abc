package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
)

// TestTheListenersCertificateComesFromAnACMECA has the gateway obtain its own
// certificate from Let's Encrypt's test server, which checks the name either on
// the very listener the devices use (tls-alpn-01, RFC 8737) or on an address of
// its own (http-01, RFC 8555 section 8.3). Devices still need theirs.
func TestTheListenersCertificateComesFromAnACMECA(t *testing.T) {
	peers.Need(t, "pebble")
	for _, challenge := range []string{"tls-alpn-01", "http-01"} {
		t.Run(challenge, func(t *testing.T) {
			h := rig.New(t)
			_, listener, err := net.SplitHostPort(h.Addr)
			if err != nil {
				t.Fatal(err)
			}
			web := peers.FreePort(t)
			// Pebble looks for the challenge it is not meant to use where nobody is.
			tlsPort, httpPort, extra := listener, strconv.Itoa(peers.FreePort(t)), ""
			if challenge == "http-01" {
				tlsPort, httpPort, extra = httpPort, strconv.Itoa(web), fmt.Sprintf(`, http_address: "127.0.0.1:%d"`, web)
			}
			// One of the two CAs binds accounts to external ones.
			bound := challenge == "http-01"
			if bound {
				h.Write("secrets/acme", pebbleKey+"\n")
				extra += ", account: {key_id: kid-1, hmac_key: {file: secrets/acme}}"
			}
			ca := startPebble(t, httpPort, tlsPort, bound)
			h.Write("anteroom.yaml", strings.Replace(h.Head(), "hosts: [localhost, 127.0.0.1]}", fmt.Sprintf(
				"hosts: [localhost], certificate: {source: acme, directory: %q, email: it@hospital.example, ca_file: %q%s}}", ca.directory, ca.file, extra), 1))
			h.Start()
			d := h.Enroll("monitor-1", "patient-monitor")
			c := &tls.Config{RootCAs: ca.issued, ServerName: "localhost", Certificates: []tls.Certificate{d.Pair}}
			serial := ""
			served := func() bool {
				conn, err := tls.Dial("tcp", h.Addr, c)
				if err != nil {
					return false
				}
				defer conn.Close()
				leaf := conn.ConnectionState().PeerCertificates[0]
				serial = leaf.SerialNumber.String()
				return strings.Contains(leaf.Issuer.CommonName, "Pebble")
			}
			rig.Eventually(t, "a certificate of the ACME CA", served)
			// The challenge's door leads nowhere: without a certificate nobody is
			// served, whatever protocol is offered.
			for _, protos := range [][]string{nil, {"acme-tls/1"}, {"acme-tls/1", "http/1.1"}} {
				conn, err := tls.Dial("tcp", h.Addr, &tls.Config{RootCAs: ca.issued, ServerName: "localhost", NextProtos: protos})
				if err != nil {
					continue
				}
				fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
				if b, err := io.ReadAll(conn); err == nil || len(b) > 0 {
					t.Errorf("%v without a certificate: %q, %v", protos, b, err)
				}
				conn.Close()
			}
			// A restart does not ask the CA again, which need not even be there.
			first := serial
			if err := h.Stop(); err != nil {
				t.Error(err)
			}
			ca.Stop()
			h.Start()
			rig.Eventually(t, "the stored certificate", served)
			if serial != first {
				t.Errorf("serial %s after the restart, %s before", serial, first)
			}
		})
	}
}

// A pebble is an ACME CA for tests.
type pebble struct {
	*peers.Process
	directory string         // its URL
	file      string         // PEM of what its own certificate is checked against
	issued    *x509.CertPool // what the certificates it issues are checked against
}

// pebbleKey is the key of the external account kid-1 of a pebble that binds
// accounts.
const pebbleKey = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"

// startPebble starts an ACME CA that looks for challenges on the given ports of
// whatever a name resolves to.
func startPebble(t *testing.T, httpPort, tlsPort string, bound bool) *pebble {
	t.Helper()
	dir, pki := t.TempDir(), peers.NewPKI(t)
	listen, manage := peers.FreePort(t), peers.FreePort(t)
	conf := fmt.Sprintf(`{"pebble":{"listenAddress":"127.0.0.1:%d","managementListenAddress":"127.0.0.1:%d","certificate":%q,"privateKey":%q,
		"httpPort":%s,"tlsPort":%s,"ocspResponderURL":"","externalAccountBindingRequired":%t,"externalAccountMACKeys":{"kid-1":%q}}}`,
		listen, manage, pki.CertFile, pki.KeyFile, httpPort, tlsPort, bound, pebbleKey)
	if err := os.WriteFile(filepath.Join(dir, "pebble.json"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &pebble{directory: fmt.Sprintf("https://localhost:%d/dir", listen), file: pki.CAFile, issued: x509.NewCertPool()}
	p.Process = peers.Start(t, dir, []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0"}, "pebble", "-config", "pebble.json")
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pki.Roots}}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	var root []byte
	p.Ready(func() bool {
		resp, err := client.Get(fmt.Sprintf("https://localhost:%d/roots/0", manage))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		root, err = io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK
	})
	if !p.issued.AppendCertsFromPEM(root) {
		t.Fatalf("no root: %s", root)
	}
	return p
}

// TestALoadBalancersWordForTheAddressIsTaken puts HAProxy in front, which hands
// TLS through and sends PROXY protocol version 2.
func TestALoadBalancersWordForTheAddressIsTaken(t *testing.T) {
	peers.Need(t, "haproxy", "fhir-server")
	server := peers.StartFHIR(t, "")
	h := rig.New(t)
	h.Write("anteroom.yaml", strings.Replace(h.Head(), "hosts: [localhost, 127.0.0.1]}",
		"hosts: [localhost, 127.0.0.1], proxy_protocol: {from: [127.0.0.1]}}", 1)+ehr(server))
	h.Start()
	d := h.Enroll("monitor-1", "patient-monitor")
	front := peers.FreePort(t)
	dir := t.TempDir()
	conf := fmt.Sprintf(`global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend devices
    bind 127.0.0.1:%d
    default_backend gateway
backend gateway
    source 127.0.0.1
    server g %s send-proxy-v2
`, front, h.Addr)
	if err := os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	p := peers.Start(t, dir, nil, "haproxy", "-f", "haproxy.cfg", "-db")
	p.Ready(func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", front))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	// The device comes from another loopback address than the load balancer, to
	// the name that it knows the gateway by.
	c := h.Client(d)
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 42)}}
		return from.DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", front))
	}
	if status, body := rig.Do(t, c, "GET", h.URL("/fhir/metadata"), "", ""); status != http.StatusOK {
		t.Fatalf("through the load balancer: %d %s", status, body)
	}
	if a := server.Arrivals(); len(a) != 1 || a[0].Headers["x-forwarded-for"] != "127.0.0.42" {
		t.Errorf("the server was told otherwise: %+v", a)
	}
	if _, err := h.Client(d).Get(h.URL("/fhir/metadata")); err == nil {
		t.Error("a connection without a PROXY header was served from the load balancer's address")
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	var remotes []string
	for e, err := range audit.Read(t.Context(), h.Path("state", "audit"), audit.ReadOptions{Filter: audit.Filter{Kind: audit.KindTransaction}}) {
		if err != nil {
			t.Fatal(err)
		}
		remotes = append(remotes, e.Remote)
	}
	if len(remotes) != 1 || !strings.HasPrefix(remotes[0], "127.0.0.42:") {
		t.Errorf("recorded remotes %v", remotes)
	}
}

// TestAnOldDeviceIsServedOnlyWhereItWasAskedFor speaks TLS_RSA_WITH_AES_128_CBC_SHA
// with openssl, the suite that old DICOM and IHE profiles name.
func TestAnOldDeviceIsServedOnlyWhereItWasAskedFor(t *testing.T) {
	peers.Need(t, "openssl", "fhir-server")
	server := peers.StartFHIR(t, "")
	for profile, want := range map[string]bool{"modern": false, "legacy": true} {
		h := rig.New(t)
		h.Write("anteroom.yaml", strings.Replace(h.Head(), "hosts: [localhost, 127.0.0.1]}",
			"hosts: [localhost, 127.0.0.1], tls: {profile: "+profile+"}}", 1)+ehr(server))
		h.Start()
		d := h.Enroll("ct-1", "ct-scanner", "--key", "rsa2048")
		out, _ := client(t, "GET /fhir/metadata HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "openssl", "s_client", "-connect", h.Addr,
			"-CAfile", h.RootFile(), "-cert", d.Cert, "-key", d.Key, "-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0", "-ign_eof")
		if served := strings.Contains(out, "HTTP/1.1 200 OK"); served != want {
			t.Errorf("%s profile: %s", profile, out)
		}
		var st struct{ Warnings []string }
		if err := json.Unmarshal([]byte(h.Must("status", "--json")), &st); err != nil {
			t.Fatal(err)
		}
		if warned := strings.Contains(strings.Join(st.Warnings, " "), "legacy"); warned != want || strings.Contains(h.Logs(), "legacy TLS profile") != want {
			t.Errorf("%s profile: warnings %v", profile, st.Warnings)
		}
	}
}
