package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestTheIntermediateIsRotatedUnderLoad: while devices send, connect anew and
// enrol, a new intermediate takes over, twice, and once more by a new root. No
// request fails and no session ends; OpenSSL verifies certificates of each, hears of
// the revocation of each, and a gateway that is killed afterwards knows all of it.
func TestTheIntermediateIsRotatedUnderLoad(t *testing.T) {
	peers.Need(t, "openssl", "curl")
	t.Parallel()
	h, addr := rig.New(t), rig.FreeAddr(t)
	h.Write("anteroom.yaml", strings.Replace(h.Head(), "ca: {", fmt.Sprintf("ca: {urls: {crl: %q, ocsp: %q}, ", "http://"+addr+"/ca.crl", "http://"+addr+"/ocsp"), 1)+
		simple(t)+fmt.Sprintf("revocation: {address: %q}\n", addr))
	h.Start()
	first := h.Enroll("monitor-0", "patient-monitor")

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var answered, wrong atomic.Int64
	ask := func(c *http.Client) {
		if status := post(c, h.URL("/fhir/Observation")); status != http.StatusCreated && ctx.Err() == nil {
			wrong.Add(1)
			t.Errorf("answered %d", status)
		}
		answered.Add(1)
	}
	steady := h.Client(first) // one session all the time
	wg.Go(func() {
		for ctx.Err() == nil {
			ask(steady)
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			c := h.Client(first)
			ask(c)
			c.CloseIdleConnections()
		}
	})
	ask(steady)
	session := h.Must("session", "list")
	begun := strings.Fields(strings.Split(session, "\n")[1])[0]

	devices := []*rig.Device{first}
	enrol := func() *rig.Device {
		d := h.Enroll(fmt.Sprintf("monitor-%d", len(devices)), "patient-monitor")
		devices = append(devices, d)
		// Many devices send no more than their own certificate.
		d.Pair.Certificate = d.Pair.Certificate[:1]
		ask(h.Client(d))
		return d
	}
	for range 2 {
		if out := h.Must("ca", "rotate", "--root-key", h.Path("root-ca.key")); !strings.Contains(out, "signs from now on") {
			t.Error(out)
		}
		enrol()
	}

	// The ceremony of a new root, with its key elsewhere.
	h.Write("new-pass", "another passphrase for it\n")
	h.Must("ca", "root", "new", "--out", h.Path("safe"), "--trust-domain", rig.TrustDomain, "--organisation", "Test Hospital", "--passphrase-file", h.Path("new-pass"))
	h.Must("ca", "root", "add", h.Path("safe", "root-ca.crt"))
	h.Must("ca", "rotate", "--csr-out", h.Path("next.csr"))
	h.Must("ca", "sign", h.Path("next.csr"), "--root", h.Path("safe", "root-ca.crt"), "--root-key", h.Path("safe", "root-ca.key"),
		"--root-passphrase-file", h.Path("new-pass"), "--out", h.Path("next.crt"))
	h.Must("ca", "rotate", "--certificate", h.Path("next.crt"))
	enrol()
	if _, errs, code := h.Run("ca", "root", "remove", fingerprintOf(t, h, h.RootFile()), "--yes"); code == 0 || !strings.Contains(errs, "chains to no other root") {
		t.Errorf("the old root is still needed: %d %s", code, errs)
	}

	if now := h.Must("session", "list"); !strings.Contains(now, begun) {
		t.Errorf("the session %s ended:\n%s", begun, now)
	}
	stop()
	wg.Wait()
	if wrong.Load() > 0 || answered.Load() < 20 {
		t.Errorf("%d of %d requests failed", wrong.Load(), answered.Load())
	}

	h.Kill()
	h.Start()
	h.Write("roots.pem", h.Must("ca", "export"))
	h.Write("chain.pem", h.Must("ca", "export", "--chain"))
	inter := splitPEM(t, h.Path("chain.pem"))
	dir := t.TempDir()
	var lists []string
	for i, d := range devices {
		if status := post(h.ClientOf(d, h.Path("roots.pem")), h.URL("/fhir/Observation")); status != http.StatusCreated {
			t.Errorf("%s after the restart: %d", d.ID, status)
		}
		if out, err := run(t, dir, "openssl", "verify", "-CAfile", h.Path("roots.pem"), "-untrusted", h.Path("chain.pem"), d.Cert); err != nil {
			t.Errorf("%s: %v %s", d.ID, err, out)
		}
		// The newest intermediate is first, and signed the last device's.
		h.Write("issuer.pem", inter[len(devices)-1-i])
		h.Must("device", "revoke", d.ID, "--yes")
		out, err := run(t, dir, "openssl", "ocsp", "-url", "http://"+addr+"/ocsp", "-CAfile", h.Path("roots.pem"), "-issuer", h.Path("issuer.pem"), "-cert", d.Cert)
		if err != nil || !strings.Contains(out, ": revoked") || !strings.Contains(out, "Response verify OK") {
			t.Errorf("%s by OCSP: %v %s", d.ID, err, out)
		}
		list, err := run(t, dir, "openssl", "x509", "-in", d.Cert, "-noout", "-ext", "crlDistributionPoints")
		if err != nil {
			t.Fatal(list, err)
		}
		_, list, _ = strings.Cut(list, "URI:")
		list = strings.TrimSpace(list)
		if slices.Contains(lists, list) {
			t.Errorf("%s names the list of another issuer: %s", d.ID, list)
		}
		lists = append(lists, list)
		if out, err := run(t, dir, "curl", "-sSf", "-o", "ca.crl", list); err != nil {
			t.Errorf("%s: %v %s", list, err, out)
		}
		out, err = run(t, dir, "openssl", "verify", "-crl_check", "-CAfile", h.Path("roots.pem"), "-untrusted", h.Path("issuer.pem"), "-CRLfile", "ca.crl", d.Cert)
		if err == nil || !strings.Contains(out, "certificate revoked") {
			t.Errorf("%s by the list %s: %v %s", d.ID, list, err, out)
		}
		if status := post(h.ClientOf(d, h.Path("roots.pem")), h.URL("/fhir/Observation")); status != 0 {
			t.Errorf("%s is revoked and answered with %d", d.ID, status)
		}
	}
}

// fingerprintOf returns the SHA-256 of a certificate in a file, as ca show has it.
func fingerprintOf(t *testing.T, h *rig.Hospital, file string) string {
	t.Helper()
	out, err := run(t, t.TempDir(), "openssl", "x509", "-in", file, "-noout", "-fingerprint", "-sha256")
	if err != nil {
		t.Fatal(out, err)
	}
	_, fp, _ := strings.Cut(strings.TrimSpace(out), "=")
	return fp
}

// splitPEM returns the certificates in a file.
func splitPEM(t *testing.T, file string) (out []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const end = "-----END CERTIFICATE-----\n"
	for part := range strings.SplitAfterSeq(string(b), end) {
		if strings.HasSuffix(part, end) {
			out = append(out, part)
		}
	}
	return out
}
