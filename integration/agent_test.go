package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/agent"
)

const (
	// maxAgentSize is how large the agent's program may be, in bytes, and
	// maxAgentMemory how much it may have resident while nothing happens.
	maxAgentSize   = 12 << 20
	maxAgentMemory = 12 << 20
)

// TestTheAgentIsSmall: it knows nothing of policies, of the CA and of stores, and
// fits the flash of a router.
func TestTheAgentIsSmall(t *testing.T) {
	ours := []string{"cmd/anteroom-agent", "pkg/agent", "pkg/config", "pkg/durable", "pkg/http1"}
	found := false
	for _, p := range list(t) {
		if short(p.ImportPath) != "cmd/anteroom-agent" {
			continue
		}
		found = true
		for _, dep := range p.Deps {
			first, _, _ := strings.Cut(dep, "/")
			switch {
			case short(dep) != "":
				if !within(short(dep), ours...) {
					t.Errorf("the agent links %s", dep)
				}
			// x/sys is go-tpm's.
			case strings.Contains(first, ".") && !slices.ContainsFunc([]string{"go.yaml.in/yaml/", "github.com/google/go-tpm/", "golang.org/x/sys/unix"}, func(p string) bool { return strings.HasPrefix(dep, p) }):
				t.Errorf("the agent links %s", dep)
			}
		}
	}
	if !found {
		t.Fatal("the agent was not found")
	}
	st, err := os.Stat(rig.AgentBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > maxAgentSize {
		t.Errorf("the program has %d bytes, and may have %d", st.Size(), maxAgentSize)
	}
}

// companion is an agent in front of a device.
type companion struct {
	t   *testing.T
	dir string
	*peers.Process
}

func newCompanion(t *testing.T, config string) *companion {
	t.Helper()
	// Not t.TempDir: the name of a socket is short.
	dir, err := os.MkdirTemp("", "agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &companion{t: t, dir: dir}
	c.write("agent.yaml", config)
	return c
}

func (c *companion) write(name, text string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// command runs one of the agent's commands.
func (c *companion) command(stdin string, args ...string) (string, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, rig.AgentBinary(c.t), append(args, "--config", filepath.Join(c.dir, "agent.yaml"))...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (c *companion) must(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.command(stdin, args...)
	if err != nil {
		c.t.Fatalf("anteroom-agent %v: %v\n%s", args, err, out)
	}
	return out
}

func (c *companion) start() {
	c.t.Helper()
	c.Process = peers.Start(c.t, c.dir, nil, rig.AgentBinary(c.t), "run", "--debug", "--config", filepath.Join(c.dir, "agent.yaml"))
	c.Ready(func() bool { _, err := c.command("", "status"); return err == nil })
}

func (c *companion) status() (st agent.Status) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.must("", "status", "--json")), &st); err != nil {
		c.t.Fatal(err)
	}
	return st
}

// resident returns how much of a process is in memory.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no VmRSS in %s", text)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// tokenFor has the operator make a token, and returns it with the fingerprint
// that the installer types in.
func (h *enrolling) tokenFor(id, class string) (token, root string) {
	h.t.Helper()
	var tok struct {
		Token string
		Root  string `json:"root_fingerprint"`
	}
	out := h.Must("device", "token", id, "--class", class, "--json")
	if err := json.Unmarshal([]byte(out), &tok); err != nil || tok.Token == "" || tok.Root == "" {
		h.t.Fatalf("device token: %v in %s", err, out)
	}
	return tok.Token, tok.Root
}

// TestADeviceWithoutTLSReachesTheEHRThroughItsAgent: the whole of it as an
// installer sets it up, with a device that is curl without TLS, and then with
// everything that happens to an agent in its life.
func TestADeviceWithoutTLSReachesTheEHRThroughItsAgent(t *testing.T) {
	peers.Need(t, "curl")
	t.Parallel()
	h := newEnrolling(t, "")
	token, root := h.tokenFor("monitor-1", "patient-monitor")
	port, tcp := rig.FreeAddr(t), rig.FreeAddr(t)
	c := newCompanion(t, fmt.Sprintf(`state_dir: state
enrolment: {url: %q}
forward:
  - {name: fhir, listen: %q, device: 127.0.0.1, protocol: http, gateway: %q, server_name: localhost, connect: 2s}
  - {name: raw, listen: %q, device: 127.0.0.1, protocol: tcp, gateway: %q}
`, h.url(""), port, h.Addr, tcp, h.Addr))

	if out, err := c.command("", "run"); err == nil || !strings.Contains(out, "anteroom-agent enrol gets one") {
		t.Errorf("without a certificate it runs: %v %s", err, out)
	}
	if out, err := c.command(token, "enrol", "--root", strings.Repeat("0", 64)); err == nil || !strings.Contains(out, "somebody stands between") {
		t.Errorf("it enrols at whoever answers: %v %s", err, out)
	}
	if out := c.must(token, "enrol", "--root", root); !strings.Contains(out, "Enrolled monitor-1") {
		t.Errorf("enrol: %s", out)
	}
	if out, err := c.command(token, "enrol", "--root", root, "--force"); err == nil || !strings.Contains(out, "is good once") {
		t.Errorf("the token enrols twice: %v %s", err, out)
	}
	if st, err := os.Stat(filepath.Join(c.dir, "state", "identity.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v", st, err)
	}
	if out := c.must("", "check"); !strings.Contains(out, "fhir: "+h.Addr+" takes the certificate") {
		t.Errorf("check: %s", out)
	}

	curl := func(extra ...string) (status string, err error) {
		t.Helper()
		args := append([]string{"-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "50", "-H", "Content-Type: application/fhir+json", "-d", observation}, extra...)
		out, err := run(t, c.dir, "curl", append(args, "http://"+port+"/fhir/Observation")...)
		return out, err
	}
	works := func(when string) {
		t.Helper()
		if status, err := curl(); err != nil || status != "201" {
			t.Errorf("%s: %s %v\n%s", when, status, err, c.Output())
		}
	}
	c.start()
	works("at first")
	if out, err := c.command("", "run"); err == nil || !strings.Contains(out, "another anteroom-agent") {
		t.Errorf("two agents run with one state: %v %s", err, out)
	}
	// What the gateway knows the device by is the certificate that the agent has.
	rig.Eventually(t, "a record of the device's request", func() bool {
		return strings.Contains(h.Must("audit", "search", "--device", "monitor-1"), "Observation")
	})

	// Somebody else on the device's network.
	if status, err := curl("--interface", "127.0.0.2"); err == nil {
		t.Errorf("another address than the device's hears %s", status)
	}
	if e := c.status().Entries[0]; e.Refused != 1 || e.Accepted != 1 || e.Name != "fhir" {
		t.Errorf("status: %+v", e)
	}
	if !strings.Contains(c.Output(), "only the device may connect here") {
		t.Errorf("not logged: %s", c.Output())
	}

	c.Kill()
	c.start()
	works("after kill -9")

	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	if status, err := curl(); err != nil || status != "503" {
		t.Errorf("while the gateway is away: %s %v", status, err)
	}
	if e := c.status().Entries[0]; e.Away == "" {
		t.Errorf("status says nothing: %+v", e)
	}
	h.Start()
	rig.Eventually(t, "the gateway to be back", func() bool { status, err := curl(); return err == nil && status == "201" })

	var memory []int64
	rig.Eventually(t, "the agent to be small at rest", func() bool {
		memory = append(memory, resident(t, c.PID()))
		return memory[len(memory)-1] <= maxAgentMemory || len(memory) > 500
	})
	t.Logf("resident at rest: %d kB", memory[len(memory)-1]>>10)
	if slices.Min(memory) > maxAgentMemory {
		t.Errorf("resident at rest: %d bytes, at most %d", slices.Min(memory), maxAgentMemory)
	}

	// Who is quarantined is out, whatever stands in between.
	h.Must("device", "quarantine", "monitor-1", "--reason", "test")
	if status, err := curl(); err != nil || status != "503" {
		t.Errorf("in quarantine: %s %v", status, err)
	}
	c.Stop()
}

// TestTheGatewayReachesAServerOfTheDevice through the agent in front of it: as a
// backend that only the gateway's key opens.
func TestTheGatewayReachesAServerOfTheDevice(t *testing.T) {
	peers.Need(t, "openssl")
	t.Parallel()
	device := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "settings for %s", r.Header.Get("X-Anteroom-Device"))
	}))
	t.Cleanup(device.Close)
	h := &enrolling{rig.New(t), t, rig.FreeAddr(t)}
	openssl := func(args ...string) string {
		t.Helper()
		out, err := run(t, h.Dir, "openssl", args...)
		if err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
		return out
	}
	// As docs/agent.md has an operator do it.
	openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=gateway", "-days", "7300",
		"-keyout", "secrets/agents.key", "-out", "agents.crt")
	pin := strings.TrimSpace(openssl("x509", "-in", "agents.crt", "-noout", "-pubkey"))
	h.Write("agents.pub", pin)
	openssl("pkey", "-pubin", "-in", "agents.pub", "-outform", "DER", "-out", "agents.der")
	der, err := os.ReadFile(h.Path("agents.der"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	listen := rig.FreeAddr(t)
	c := newCompanion(t, fmt.Sprintf(`state_dir: state
enrolment: {url: %q}
reverse:
  - {name: web, listen: %q, device: %q, pins: [%q]}
`, h.url(""), listen, device.Listener.Addr().String(), "sha256/"+base64.StdEncoding.EncodeToString(sum[:])))

	enrolment := fmt.Sprintf("enrolment: {address: %q, hosts: [localhost, 127.0.0.1]}\n", h.addr)
	h.Configure(enrolment)
	h.Write("policies/authz/web.rego", `package anteroom.authz

allow contains "monitors are set by their servers" if input.route.name == "web"
`)
	h.Start()
	token, root := h.tokenFor("pump-1", "infusion-pump")
	if out := c.must(token, "enrol", "--root", root); !strings.Contains(out, "reverse.crt") {
		t.Errorf("enrol does not say what the gateway needs: %s", out)
	}
	crt, err := os.ReadFile(filepath.Join(c.dir, "state", "reverse.crt"))
	if err != nil {
		t.Fatal(err)
	}
	h.Write("pump.crt", string(crt))
	h.Configure(enrolment + fmt.Sprintf(`routes:
  - {name: web, path: /, backend: pump}
backends:
  - {name: pump, addresses: [%q], server_name: anteroom-agent, ca_file: pump.crt, certificate: agents.crt, key: secrets/agents.key}
`, listen))
	h.Must("reload")
	c.start()
	server := h.Enroll("server-1", "infusion-pump")
	var last string
	rig.Eventually(t, "an answer of the device's server", func() bool {
		resp, err := h.Client(server).Get(h.URL("/settings"))
		if err != nil {
			return false // its connection ended with the former configuration
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if s := fmt.Sprint(resp.StatusCode, string(body)); s != last {
			last = s
			t.Log(s)
		}
		return err == nil && resp.StatusCode == 200 && strings.HasPrefix(string(body), "settings for ")
	})
	if e := c.status().Entries[0]; e.Kind != "reverse" || e.Accepted == 0 || e.Away != "" {
		t.Errorf("status: %+v", e)
	}
}

// TestAnAgentRenewsByItselfAndAfterItsTimeOnAShelf: with certificates that are good
// for some seconds.
func TestAnAgentRenewsByItselfAndAfterItsTimeOnAShelf(t *testing.T) {
	t.Parallel()
	h := &enrolling{rig.New(t), t, rig.FreeAddr(t)}
	h.Write("anteroom.yaml", strings.Replace(h.Head(), "ca: {", "ca: {class_ttl: {patient-monitor: 20s}, ", 1)+simple(t)+
		fmt.Sprintf("enrolment: {address: %q, hosts: [localhost, 127.0.0.1], class_grace: {patient-monitor: 1h}, quota: {certificates: 1000}}\n", h.addr))
	h.Start()
	token, root := h.tokenFor("monitor-1", "patient-monitor")
	port := rig.FreeAddr(t)
	c := newCompanion(t, fmt.Sprintf(`state_dir: state
enrolment: {url: %q}
forward:
  - {name: fhir, listen: %q, device: 127.0.0.1, protocol: http, gateway: %q, server_name: localhost}
`, h.url(""), port, h.Addr))
	c.must(token, "enrol", "--root", root)
	c.start()
	first := c.status().NotAfter
	post := func() bool {
		resp, err := http.Post("http://"+port+"/fhir/Observation", "application/fhir+json", strings.NewReader(observation))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusCreated
	}
	rig.Eventually(t, "the certificate to be renewed", func() bool { return c.status().NotAfter.After(first) })
	rig.Eventually(t, "the device to be served with the new one", post)

	c.Kill()
	rig.Eventually(t, "the certificate to end", func() bool {
		out, err := c.command("", "check", "--offline")
		return err != nil && strings.Contains(out, "has expired")
	})
	c.start()
	rig.Eventually(t, "the certificate to be renewed after its end", func() bool { return c.status().NotAfter.After(time.Now()) })
	rig.Eventually(t, "the device to be served again", post)
}
