package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestARevocationIsToldToOthersAtOnce: when the operator's command has returned,
// OpenSSL hears of it from the URL in the certificate, and finds it on the list
// within a second.
func TestARevocationIsToldToOthersAtOnce(t *testing.T) {
	peers.Need(t, "openssl", "curl")
	t.Parallel()
	h, addr := rig.New(t), rig.FreeAddr(t)
	h.Write("anteroom.yaml", strings.Replace(h.Head(), "ca: {", fmt.Sprintf("ca: {urls: {crl: %q, ocsp: %q}, ", "http://"+addr+"/ca.crl", "http://"+addr+"/ocsp"), 1)+
		simple(t)+fmt.Sprintf("revocation: {address: %q}\n", addr))
	h.Start()
	pump, other := h.Enroll("pump-1", "infusion-pump"), h.Enroll("pump-2", "infusion-pump")
	dir := t.TempDir()
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := run(t, dir, name, args...)
		if err != nil {
			t.Fatalf("%s %v: %v %s", name, args, err, out)
		}
		return strings.TrimSpace(out)
	}
	url := must("openssl", "x509", "-in", pump.Cert, "-noout", "-ocsp_uri")
	if url != "http://"+addr+"/ocsp" {
		t.Fatalf("the certificate names %q", url)
	}
	if out := must("openssl", "x509", "-in", pump.Cert, "-noout", "-ext", "crlDistributionPoints"); !strings.Contains(out, "URI:http://"+addr+"/ca.crl") {
		t.Errorf("the certificate names %s", out)
	}
	h.Write("chain.pem", h.Must("ca", "export", "--chain"))
	inter := must("openssl", "x509", "-in", h.Path("chain.pem")) // the issuing one is first
	h.Write("inter.pem", inter+"\n")
	asked := func() string {
		return must("openssl", "ocsp", "-url", url, "-CAfile", h.RootFile(), "-issuer", h.Path("inter.pem"), "-cert", pump.Cert, "-cert", other.Cert)
	}
	if out := asked(); strings.Count(out, ": good") != 2 {
		t.Fatalf("before: %s", out)
	}
	verify := func(cert string) (string, error) {
		must("curl", "-sSf", "-o", "ca.crl", "http://"+addr+"/ca.crl")
		return run(t, dir, "openssl", "verify", "-crl_check", "-CAfile", h.RootFile(), "-untrusted", h.Path("inter.pem"), "-CRLfile", "ca.crl", cert)
	}
	if out, err := verify(pump.Cert); err != nil {
		t.Fatalf("before: %v %s", err, out)
	}
	h.Must("device", "revoke", "pump-1", "--reason", "key compromise", "--yes")
	if out := asked(); !strings.Contains(out, pump.Cert+": revoked") || !strings.Contains(out, other.Cert+": good") {
		t.Errorf("after: %s", out)
	}
	rig.Eventually(t, "the list has the certificate", func() bool {
		out, err := verify(pump.Cert)
		return err != nil && strings.Contains(out, "certificate revoked")
	})
	if out, err := verify(other.Cert); err != nil {
		t.Errorf("the other device's certificate: %v %s", err, out)
	}
	// What is served is what the command prints, and goes on over a restart.
	h.Must("ca", "crl", "--out", h.Path("printed.crl"))
	if out := must("openssl", "crl", "-in", h.Path("printed.crl"), "-noout", "-CAfile", h.Path("inter.pem"), "-verify"); !strings.Contains(out, "verify OK") {
		t.Error(out)
	}
	if out := h.Must("status"); !strings.Contains(out, "revocation, no TLS") {
		t.Errorf("the listener is not in the status: %s", out)
	}
}
