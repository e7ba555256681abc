package integration

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// A session is one connection that a device keeps.
type session struct {
	t    *testing.T
	conn *tls.Conn
	in   *bufio.Reader
}

// connect connects with a certificate and asks once; nil if that does not go.
func connect(t *testing.T, h *rig.Hospital, d *rig.Device) *session {
	t.Helper()
	conn, err := tls.Dial("tcp", h.Addr, h.TLS(d))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &session{t, conn, bufio.NewReader(conn)}
	if !s.asks() {
		return nil
	}
	return s
}

// asks asks for something and reports whether there was an answer.
func (s *session) asks() bool {
	s.t.Helper()
	if err := s.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.WriteString(s.conn, "GET /fhir/Observation/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return false
	}
	resp, err := http.ReadResponse(s.in, nil)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil
}

// ended reports whether the gateway ended the connection.
func (s *session) ended() bool {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	_, err := s.in.ReadByte()
	return err != nil && !strings.Contains(err.Error(), "timeout")
}

// TestOneCertificateIsRevokedByItself: the sessions that were begun with it end at
// once, no other begins, and everybody else hears of it; the device goes on with its
// other certificate. It is so after a crash.
func TestOneCertificateIsRevokedByItself(t *testing.T) {
	peers.Need(t, "openssl")
	t.Parallel()
	h, addr := rig.New(t), rig.FreeAddr(t)
	h.Write("anteroom.yaml", strings.Replace(h.Head(), "ca: {", fmt.Sprintf("ca: {urls: {crl: %q, ocsp: %q}, ", "http://"+addr+"/ca.crl", "http://"+addr+"/ocsp"), 1)+
		simple(t)+fmt.Sprintf("revocation: {address: %q}\n", addr))
	h.Start()
	old := h.Enroll("pump-1", "infusion-pump")
	dir := h.Path("renewed")
	h.Must("device", "renew", "pump-1", "--out", dir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "pump-1.crt"), filepath.Join(dir, "pump-1.key"))
	if err != nil {
		t.Fatal(err)
	}
	next := &rig.Device{ID: "pump-1", Cert: filepath.Join(dir, "pump-1.crt"), Pair: pair}
	leaf, err := x509.ParseCertificate(old.Pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	first, second := connect(t, h, old), connect(t, h, next)
	if first == nil || second == nil {
		t.Fatal("no session before")
	}
	h.Write("chain.pem", h.Must("ca", "export", "--chain"))
	status := func(cert string) string {
		t.Helper()
		out, err := run(t, dir, "openssl", "ocsp", "-url", "http://"+addr+"/ocsp", "-CAfile", h.RootFile(), "-issuer", h.Path("chain.pem"), "-cert", cert)
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		return out
	}
	verify := func(cert string) (string, error) {
		t.Helper()
		h.Must("ca", "crl", "--out", h.Path("ca.crl"))
		return run(t, dir, "openssl", "verify", "-crl_check", "-CAfile", h.RootFile(), "-untrusted", h.Path("chain.pem"), "-CRLfile", h.Path("ca.crl"), cert)
	}
	if out := h.Must("cert", "revoke", "0x"+leaf.SerialNumber.Text(16), "--reason", "key compromise", "--yes"); !strings.Contains(out, "of pump-1 is revoked; the device is active and has 1 other") {
		t.Errorf("%s", out)
	}
	if !first.ended() {
		t.Error("the session that was begun with it goes on")
	}
	checked := func(when string) {
		t.Helper()
		if c, err := tls.Dial("tcp", h.Addr, h.TLS(old)); err == nil {
			// In TLS 1.3 the refusal comes after the client's part of the handshake.
			if s := (&session{t, c, bufio.NewReader(c)}); s.asks() {
				t.Errorf("%s: another session began", when)
			}
			c.Close()
		}
		if connect(t, h, next) == nil {
			t.Errorf("%s: the other certificate is refused", when)
		}
		if out := status(old.Cert); !strings.Contains(out, ": revoked") || !strings.Contains(out, "keyCompromise") {
			t.Errorf("%s: OCSP says %s", when, out)
		}
		if out := status(next.Cert); !strings.Contains(out, ": good") {
			t.Errorf("%s: of the other OCSP says %s", when, out)
		}
		rig.Eventually(t, "the list has the certificate", func() bool {
			out, err := verify(old.Cert)
			return err != nil && strings.Contains(out, "certificate revoked")
		})
		if out, err := verify(next.Cert); err != nil {
			t.Errorf("%s: by the list the other is bad: %s", when, out)
		}
	}
	checked("after it")
	if !second.asks() {
		t.Error("the other certificate's session was ended too")
	}
	h.Kill()
	h.Start()
	checked("after a crash")
	if out := h.Must("audit", "search", "--event", "certificate.revoked"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "serial="+leaf.SerialNumber.String()) {
		t.Errorf("records: %s", out)
	}
}
