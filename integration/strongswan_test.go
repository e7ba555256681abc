package integration

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// A strongSwan is a device whose client is strongSwan's pki, which has its own
// ASN.1, its own PKCS#7 and its own TLS.
type strongSwan struct {
	t   *testing.T
	dir string
}

func newStrongSwan(t *testing.T) *strongSwan {
	t.Helper()
	peers.Need(t, "strongswan", "openssl")
	return &strongSwan{t: t, dir: t.TempDir()}
}

func (s *strongSwan) pki(args ...string) (string, error) {
	s.t.Helper()
	return run(s.t, s.dir, "pki", args...)
}

// key makes a key; openssl's genpkey says of what kind.
func (s *strongSwan) key(name string, kind ...string) {
	s.t.Helper()
	if out, err := run(s.t, s.dir, "openssl", append([]string{"genpkey", "-out", name}, kind...)...); err != nil {
		s.t.Fatalf("%s: %v %s", name, err, out)
	}
}

func (s *strongSwan) rsa(name, bits string) {
	s.t.Helper()
	s.key(name, "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:"+bits)
}

// keep writes the certificate that pki printed, among other things, to a file.
func (s *strongSwan) keep(name, out string) {
	s.t.Helper()
	at := strings.Index(out, "-----BEGIN CERTIFICATE-----")
	if at < 0 {
		s.t.Fatalf("no certificate: %s", out)
	}
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(out[at:]), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// works reports whether a certificate and its key open the devices' listener.
func (s *strongSwan) works(h *enrolling, cert, key string) {
	s.t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, cert), filepath.Join(s.dir, key))
	if err != nil {
		s.t.Fatal(err)
	}
	if status := post(h.Client(&rig.Device{Pair: pair}), h.URL("/fhir/Observation")); status == 0 || status == http.StatusForbidden {
		s.t.Errorf("with %s the device is answered %d", cert, status)
	}
}

// refused reports whether pki failed with what it was told in the protocol's words.
func (s *strongSwan) refused(what, want, out string, err error) {
	s.t.Helper()
	if err == nil || !regexp.MustCompile(want).MatchString(out) {
		s.t.Errorf("%s: %v %s", what, err, out)
	}
}

// TestStrongSwansClientEnrolsAndRenewsBySCEP with AES and SHA-256: no class has to be
// named for it, and what else it can is refused.
func TestStrongSwansClientEnrolsAndRenewsBySCEP(t *testing.T) {
	s := newStrongSwan(t)
	t.Parallel()
	plain := rig.FreeAddr(t)
	h := newEnrolling(t, fmt.Sprintf(`, limits: {failures: 100}, scep: {enabled: true, address: %q}`, plain))
	token := h.token("monitor-1", "--class", "patient-monitor")
	h.token("monitor-2", "--class", "patient-monitor")
	url := "http://" + plain + "/scep"
	if out, err := s.pki("--scepca", "--url", url, "--caout", "ca.pem", "--raout", "ra.pem", "--outform", "pem"); err != nil || !strings.Contains(out, "RA cert is trusted") {
		t.Fatalf("GetCACert: %v %s", err, out)
	}
	scep := func(key string, args ...string) (string, error) {
		t.Helper()
		// It numbers the CA certificates that it was given, the root first.
		return s.pki(append([]string{"--scep", "--url", url, "--in", key, "--cacert-enc", "ra.pem", "--cacert-sig", "ca.pem", "--cacert", "ca-1.pem", "--outform", "pem"}, args...)...)
	}
	s.rsa("dev.key", "2048")
	s.rsa("next.key", "3072")
	s.rsa("weak.key", "1024")
	named := func(args ...string) []string { return append([]string{"--dn", "CN=monitor-1"}, args...) }
	for _, c := range []struct {
		what, key, want string
		args            []string
	}{
		{"a wrong challenge password", "dev.key", "badMessageCheck", named("--password", strings.Repeat("0", 35))},
		{"none at all", "dev.key", "badMessageCheck", named()},
		{"a weak key", "weak.key", "badAlg", named("--password", token)},
		{"a signature by RSASSA-PSS", "dev.key", "badAlg", named("--password", token, "--rsa-padding", "pss")},
		// That it is not among the capabilities, it may notice by itself or not.
		{"triple DES", "dev.key", "badAlg|not supported by CA", named("--password", token, "--cipher", "des3")},
		{"SHA-1", "dev.key", "badAlg|not supported by CA", named("--password", token, "--digest", "sha1")},
		{"another device's name", "dev.key", "badRequest", []string{"--dn", "CN=monitor-2", "--password", token}},
	} {
		out, err := scep(c.key, c.args...)
		s.refused(c.what, c.want, out, err)
	}
	out, err := scep("dev.key", named("--password", token)...)
	if err != nil || !strings.Contains(out, "Issued certificate is trusted") {
		t.Fatalf("enrolment: %v %s", err, out)
	}
	s.keep("dev.crt", out)
	s.works(h, "dev.crt", "dev.key")
	out, err = scep("next.key", named("--password", token)...)
	s.refused("the challenge password again", "badMessageCheck", out, err)

	// RenewalReq is signed with the certificate there is, and brings another key.
	renew := named("--cert", "dev.crt", "--key", "dev.key")
	out, err = scep("next.key", renew...)
	if err != nil || !strings.Contains(out, "Issued certificate is trusted") {
		t.Fatalf("renewal: %v %s", err, out)
	}
	s.keep("next.crt", out)
	s.works(h, "next.crt", "next.key")
	out, err = scep("next.key", "--dn", "CN=monitor-2", "--cert", "dev.crt", "--key", "dev.key")
	s.refused("renewal as another device", "badRequest", out, err)
	h.Must("device", "revoke", "monitor-1", "--yes")
	out, err = scep("next.key", renew...)
	s.refused("renewal after the revocation", "badMessageCheck", out, err)

	records := h.Must("audit", "search", "--event", "enrolment.refused")
	for _, code := range []string{"code=proof", "code=algorithm", "code=names"} {
		if !strings.Contains(records, code) {
			t.Errorf("no record has %s: %s", code, records)
		}
	}
	if n := strings.Count(records, "way=scep"); n < 8 || n > 10 {
		t.Errorf("%d refusals are recorded: %s", n, records)
	}
	h.recorded("device.enrolled", 1)
	h.recorded("device.renewed", 1)
}

// TestStrongSwansClientEnrolsAndRenewsByEST over its own TLS. Debian's 5.9.8 reads no
// line breaks.
func TestStrongSwansClientEnrolsAndRenewsByEST(t *testing.T) {
	s := newStrongSwan(t)
	t.Parallel()
	h := newEnrolling(t, ", limits: {failures: 100}, est: {one_line: true}")
	token := h.token("monitor-1", "--class", "patient-monitor")
	_, port, _ := strings.Cut(h.addr, ":")
	url := "https://localhost:" + port
	if out, err := s.pki("--estca", "--url", url, "--cacert", h.Path("root-ca.crt"), "--caout", "ca.pem", "--outform", "pem"); err != nil || !strings.Contains(out, "CA cert is trusted") {
		t.Fatalf("cacerts: %v %s", err, out)
	}
	request := func(key, name string) {
		t.Helper()
		out, err := s.pki("--req", "--in", key, "--type", "priv", "--dn", "CN="+name, "--outform", "pem")
		at := strings.Index(out, "-----BEGIN")
		if err != nil || at < 0 {
			t.Fatalf("a signing request: %v %s", err, out)
		}
		if err := os.WriteFile(filepath.Join(s.dir, key+".p10"), []byte(out[at:]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	est := func(key string, args ...string) (string, error) {
		t.Helper()
		return s.pki(append([]string{"--est", "--url", url, "--in", key + ".p10", "--cacert", "ca.pem", "--cacert", "ca-1.pem", "--outform", "pem"}, args...)...)
	}
	s.key("dev.key", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	s.key("next.key", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384")
	s.rsa("weak.key", "1024")
	request("dev.key", "monitor-1")
	request("next.key", "monitor-1")
	request("weak.key", "monitor-1")
	for _, c := range []struct{ what, key, secret, want string }{
		{"a wrong secret", "dev.key", "monitor-1:" + strings.Repeat("0", 35), "HTTP 401"},
		{"another device's", "dev.key", "monitor-2:" + token, "HTTP 401"},
		{"a weak key", "weak.key", "monitor-1:" + token, "HTTP 400"},
	} {
		out, err := est(c.key, "--userpass", c.secret)
		s.refused(c.what, c.want, out, err)
	}
	out, err := est("dev.key", "--userpass", "monitor-1:"+token)
	if err != nil || !strings.Contains(out, "Issued certificate is trusted") {
		t.Fatalf("enrolment: %v %s", err, out)
	}
	s.keep("dev.crt", out)
	s.works(h, "dev.crt", "dev.key")
	out, err = est("next.key", "--userpass", "monitor-1:"+token)
	s.refused("the secret again", "HTTP 401", out, err)

	out, err = est("next.key", "--cert", "dev.crt", "--key", "dev.key")
	if err != nil || !strings.Contains(out, "Issued certificate is trusted") {
		t.Fatalf("renewal: %v %s", err, out)
	}
	s.keep("next.crt", out)
	s.works(h, "next.crt", "next.key")
	h.recorded("enrolment.refused", 4)
	h.recorded("device.renewed", 1)
	h.Must("device", "revoke", "monitor-1", "--yes")
	out, err = est("dev.key", "--cert", "next.crt", "--key", "next.key")
	s.refused("renewal after the revocation", "HTTP 403|TLS", out, err)
}
