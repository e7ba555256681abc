package integration

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestPoliciesComeFromABundleServer: over HTTPS, signed, by ETag; and the last
// good one decides when the server is away, or offers what is bad.
func TestPoliciesComeFromABundleServer(t *testing.T) {
	keys, _ := authorKeys(t)
	foreign, _ := authorKeys(t)
	pki := peers.NewPKI(t)
	var bundle atomic.Pointer[[]byte]
	var asked, unchanged atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body := bundle.Load()
		if body == nil || r.Header.Get("Authorization") != "Bearer letmein" || r.URL.Path != "/ward/bundle.tar.gz" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		sum := sha256.Sum256(*body)
		etag := `"` + hex.EncodeToString(sum[:8]) + `"`
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			unchanged.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(*body)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)

	h := rig.New(t)
	// Before, because the set is asked about enrolments too.
	d := h.Enroll("monitor-1", "patient-monitor")
	config := simple(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "https://"), ":")
	h.Write("anteroom.yaml", strings.Replace(h.Head()+config, "{enforce: policies}", fmt.Sprintf(
		"{source: bundle, bundle: {url: %q, key: %q, key_id: ward, interval: 1s, ca_file: %q, token: {file: secrets/token}}}",
		"https://localhost:"+port+"/ward/bundle.tar.gz", filepath.Join(keys, "author.pub"), pki.CAFile), 1))
	h.Write("secrets/token", "letmein\n")
	if err := os.Chmod(h.Path("secrets/token"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := h.URL("/fhir/Observation")
	client := h.Client(d)
	status := func() int { return post(client, url) }
	offer := func(key string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "b.tar.gz")
		h.Must("policy", "build", "policies", "-o", file, "--key", filepath.Join(key, "author.key"), "--key-id", "ward")
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		bundle.Store(&body)
	}

	// Without a bundle nothing is allowed, whatever the directory says.
	h.StartOnly()
	rig.Eventually(t, "a deny for want of a bundle", func() bool { return status() == http.StatusForbidden })
	if out := h.Must("policy", "status"); !strings.Contains(out, "none yet from https://localhost") || !strings.Contains(out, "answered 404 Not Found") {
		t.Errorf("policy status says %s", out)
	}
	if _, errs, code := h.Run("policy", "replay", "policies"); code != 1 || !strings.Contains(errs, "the set in force: no bundle has come from https://localhost") {
		t.Errorf("replay without a bundle: %d: %s", code, errs)
	}
	offer(keys)
	rig.Eventually(t, "the first bundle in force", func() bool { return status() == http.StatusCreated })
	rig.Eventually(t, "the server to be asked by ETag", func() bool { return unchanged.Load() > 0 })

	// Another's signature changes nothing.
	h.Write("policies/authz/none.rego", noMonitors)
	offer(foreign)
	rig.Eventually(t, "the refusal", func() bool {
		return strings.Contains(h.Must("status"), "the policy bundle in force stays: the server's bundle is refused: bundle signature")
	})
	if got := status(); got != http.StatusCreated {
		t.Errorf("status %d under a bundle that was refused", got)
	}
	rig.Eventually(t, "its record", func() bool { return strings.Contains(h.Must("audit", "search", "--kind", "policy"), "policy.refused") })
	offer(keys)
	rig.Eventually(t, "the second bundle in force", func() bool { return status() == http.StatusForbidden })
	before := h.Must("policy", "status")
	// The workbench compares with what was fetched.
	if out := h.Must("policy", "replay", "policies"); !strings.Contains(out, `in force bundle "`) || strings.Contains(out, "could not be made again") {
		t.Errorf("replay says %s", out)
	}

	// The server is away when the gateway starts.
	h.Kill()
	server.Close()
	h.Start()
	client = h.Client(d)
	if got := status(); got != http.StatusForbidden {
		t.Errorf("status %d after a restart without the server", got)
	}
	rig.Eventually(t, "the absence in the status", func() bool { return strings.Contains(h.Must("policy", "status"), "failures in a row") })
	if out := h.Must("policy", "status"); strings.Split(out, "\n")[2] != strings.Split(before, "\n")[2] {
		t.Errorf("policy status says %s and said %s", out, before)
	}
}
