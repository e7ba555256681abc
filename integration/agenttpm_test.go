package integration

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestAnAgentsKeysNeverLeaveTheTPM: it enrols, carries traffic in both directions,
// renews, is killed and started again, and no key is ever in a file.
func TestAnAgentsKeysNeverLeaveTheTPM(t *testing.T) {
	peers.Need(t, "swtpm")
	t.Parallel()
	chip := peers.StartTPM(t)
	h := &enrolling{rig.New(t), t, rig.FreeAddr(t)}
	h.Write("anteroom.yaml", strings.Replace(h.Head(), "ca: {", "ca: {class_ttl: {patient-monitor: 20s}, ", 1)+simple(t)+
		fmt.Sprintf("enrolment: {address: %q, hosts: [localhost, 127.0.0.1], class_grace: {patient-monitor: 1h}, quota: {certificates: 1000}}\n", h.addr))
	h.Start()
	token, root := h.tokenFor("monitor-1", "patient-monitor")
	gateway := peers.NewPKI(t)
	leaf, err := x509.ParseCertificate(gateway.Pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pin := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	port, back := rig.FreeAddr(t), rig.FreeAddr(t)
	config := fmt.Sprintf(`state_dir: state
key: tpm:%%s
enrolment: {url: %q}
forward:
  - {name: fhir, listen: %q, device: 127.0.0.1, protocol: http, gateway: %q, server_name: localhost}
reverse:
  - {name: web, listen: %q, device: %q, pins: [sha256/%s]}
`, h.url(""), port, h.Addr, back, rig.FreeAddr(t), base64.StdEncoding.EncodeToString(pin[:]))
	c := newCompanion(t, fmt.Sprintf(config, "/nowhere/tpmrm0"))
	if out, err := c.command(token, "enrol", "--root", root); err == nil || !strings.Contains(out, "tpm /nowhere/tpmrm0") || !strings.Contains(out, "this machine has no TPM 2.0") {
		t.Errorf("without a TPM: %v %s", err, out)
	}
	c.write("agent.yaml", fmt.Sprintf(config, chip.Socket))
	if out := c.must(token, "enrol", "--root", root); !strings.Contains(out, "The key was made in the TPM "+chip.Socket) {
		t.Errorf("enrol: %s", out)
	}
	noKeys := func(when string) {
		t.Helper()
		wrapped := 0
		err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
				if block.Type == "TSS2 PRIVATE KEY" {
					wrapped++
				} else if strings.Contains(block.Type, "PRIVATE KEY") {
					t.Errorf("%s: a key lies in %s", when, path)
				}
			}
			return err
		})
		if err != nil || wrapped == 0 {
			t.Errorf("%s: %d keys of the TPM: %v", when, wrapped, err)
		}
	}
	noKeys("after enrol")
	if out := c.must("", "check", "--offline"); !strings.Contains(out, "its key is in the TPM") {
		t.Errorf("check: %s", out)
	}
	post := func() bool {
		resp, err := http.Post("http://"+port+"/fhir/Observation", "application/fhir+json", strings.NewReader(observation))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusCreated
	}
	c.start()
	first := c.status().NotAfter
	rig.Eventually(t, "the device to be served", post)
	rig.Eventually(t, "the certificate to be renewed", func() bool { return c.status().NotAfter.After(first) })
	rig.Eventually(t, "the device to be served with the new one", post)
	noKeys("after a renewal")
	crt, err := os.ReadFile(filepath.Join(c.dir, "state", "reverse.crt"))
	if err != nil {
		t.Fatal(err)
	}
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(crt)
	conn, err := tls.Dial("tcp", back, &tls.Config{Certificates: []tls.Certificate{gateway.Pair}, RootCAs: trust, ServerName: "anteroom-agent", MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Errorf("the gateway connects: %v", err)
	} else {
		conn.Close()
	}
	if m := resident(t, c.PID()); m > maxAgentMemory {
		t.Errorf("resident: %d bytes, at most %d", m, maxAgentMemory)
	}

	c.Kill()
	// The box was without power: what was loaded in the TPM is gone.
	chip.Stop()
	chip.Start()
	c.start()
	rig.Eventually(t, "the device to be served after a power cut", post)
	noKeys("after a power cut")
	c.Stop()

	// Somebody takes the box's disk along.
	thief := peers.StartTPM(t)
	c.write("agent.yaml", fmt.Sprintf(config, thief.Socket))
	if out, err := c.command("", "run"); err == nil || !strings.Contains(out, "of another TPM") {
		t.Errorf("with another TPM it runs: %v %s", err, out)
	}
	c.write("agent.yaml", strings.Replace(fmt.Sprintf(config, ""), "key: tpm:\n", "", 1))
	if out, err := c.command("", "run"); err == nil || !strings.Contains(out, "write key: tpm:/dev/tpmrm0") {
		t.Errorf("without its TPM it runs: %v %s", err, out)
	}
}
