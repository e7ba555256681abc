// Package docker holds what it takes to run Anteroom in containers and under
// systemd; its tests hold those files to the promises made of them.
package docker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

type compose struct {
	Services map[string]service
	Networks map[string]struct{ Internal bool }
	Volumes  map[string]any
}

type service struct {
	Image    string
	User     string
	ReadOnly bool     `yaml:"read_only"`
	CapDrop  []string `yaml:"cap_drop"`
	Security []string `yaml:"security_opt"`
	Command  []string
	Volumes  []string
	Networks []string
	Ports    []string
	Build    *struct{ Context, Dockerfile string }
	Network  string         `yaml:"network_mode"`
	Depends  map[string]any `yaml:"depends_on"`
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readCompose(t *testing.T) compose {
	t.Helper()
	var c compose
	if err := yaml.Unmarshal(read(t, "compose.yaml"), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestComposeIsWhole follows every reference inside the compose file and out of it.
func TestComposeIsWhole(t *testing.T) {
	c := readCompose(t)
	for name, s := range c.Services {
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(source, "./") {
				read(t, source)
			} else if _, ok := c.Volumes[source]; !ok {
				t.Errorf("%s mounts the volume %s, which is not declared", name, source)
			}
		}
		for _, n := range s.Networks {
			if _, ok := c.Networks[n]; !ok {
				t.Errorf("%s is in the network %s, which is not declared", name, n)
			}
		}
		for d := range s.Depends {
			if _, ok := c.Services[d]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, d)
			}
		}
		if s.Build == nil && !regexp.MustCompile(`:v?\d+\.\d+(\.\d+)?$`).MatchString(s.Image) {
			t.Errorf("%s runs the image %s: name a version", name, s.Image)
		}
	}
}

// TestGatewayIsConfined: the container that faces devices has nothing it does
// not need, and no other one can be reached from outside the machine.
func TestGatewayIsConfined(t *testing.T) {
	c := readCompose(t)
	g := c.Services["gateway"]
	if !g.ReadOnly || !slices.Contains(g.CapDrop, "ALL") || !slices.Contains(g.Security, "no-new-privileges:true") {
		t.Error("the gateway's container is not confined")
	}
	if g.User == "" || strings.HasPrefix(g.User, "0") || g.User == "root" {
		t.Errorf("the gateway runs as user %q", g.User)
	}
	for name, s := range c.Services {
		for _, p := range s.Ports {
			if name != "gateway" && !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s is published on %s", name, p)
			}
		}
	}
	if !c.Networks["clinical"].Internal {
		t.Error("the clinical network is not internal")
	}
	if s := c.Services["orthanc"]; !slices.Equal(s.Networks, []string{"clinical"}) {
		t.Errorf("Orthanc is in the networks %v", s.Networks)
	}
}

// TestImageIsStaticAndUnprivileged reads the instructions of the last stage.
func TestImageIsStaticAndUnprivileged(t *testing.T) {
	last := make(map[string]string)
	for sc := bufio.NewScanner(bytes.NewReader(read(t, "Dockerfile"))); sc.Scan(); {
		word, rest, _ := strings.Cut(strings.TrimSpace(sc.Text()), " ")
		if word == "FROM" {
			clear(last)
		}
		last[word] = rest
	}
	if last["FROM"] != "scratch" {
		t.Errorf("the image is made from %q", last["FROM"])
	}
	if u := last["USER"]; u == "" || strings.HasPrefix(u, "0") || strings.HasPrefix(u, "root") {
		t.Errorf("the image runs as user %q", u)
	}
	if !bytes.Contains(read(t, "Dockerfile"), []byte("CGO_ENABLED=0 go build")) {
		t.Error("the binary is not built without cgo")
	}
}

// TestConfigurationIsGood loads the gateway's configuration as the gateway does.
func TestConfigurationIsGood(t *testing.T) {
	f, err := config.Load("anteroom.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range f.Backends {
		if b.Insecure {
			t.Errorf("backend %s is spoken to in the clear", b.Name)
		}
	}
}

func TestOrthancConfigurationIsGood(t *testing.T) {
	var o struct {
		SslEnabled         bool
		DicomServerEnabled bool
		DicomWeb           struct{ Enable bool }
	}
	if err := json.Unmarshal(read(t, "orthanc.json"), &o); err != nil {
		t.Fatal(err)
	}
	if !o.SslEnabled || o.DicomServerEnabled || !o.DicomWeb.Enable {
		t.Errorf("Orthanc is configured as %+v", o)
	}
}

// TestAlertsNameMetricsThatExist compares the alerts' expressions with the names
// that the gateway's source gives its metrics: an alert on a metric that was
// renamed would be silent for ever.
func TestAlertsNameMetricsThatExist(t *testing.T) {
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(read(t, "alerts.yml"), &rules); err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, dir := range []string{"../pkg/telemetry", "../pkg/gateway"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			source = append(source, read(t, f)...)
		}
	}
	metric := regexp.MustCompile(`\banteroom_\w+`)
	named := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			for _, name := range metric.FindAllString(r.Expr, -1) {
				named++
				if !bytes.Contains(source, []byte(`"`+name+`"`)) {
					t.Errorf("the alert %s looks at %s, which is no metric", r.Alert, name)
				}
			}
		}
	}
	if named == 0 {
		t.Error("no alert looks at a metric")
	}
}

// TestPrometheusIsMounted: what its configuration names is where compose puts it.
func TestPrometheusIsMounted(t *testing.T) {
	var prom struct {
		RuleFiles []string `yaml:"rule_files"`
		Scrape    []struct {
			Job    string                       `yaml:"job_name"`
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(read(t, "prometheus.yml"), &prom); err != nil {
		t.Fatal(err)
	}
	c := readCompose(t)
	for _, f := range prom.RuleFiles {
		if !slices.ContainsFunc(c.Services["prometheus"].Volumes, func(v string) bool { return strings.Contains(v, ":"+f) }) {
			t.Errorf("the rule file %s is not mounted", f)
		}
	}
	if len(prom.Scrape) != 1 || len(prom.Scrape[0].Static) != 1 {
		t.Fatalf("Prometheus collects %+v", prom.Scrape)
	}
	for _, target := range prom.Scrape[0].Static[0].Targets {
		host, _, _ := strings.Cut(target, ":")
		if !slices.Contains(c.Services[host].Networks, "metrics") {
			t.Errorf("%s is not a service in the network of metrics", host)
		}
	}
}

// TestUnitsAreGood has systemd itself check the units, where it is installed.
func TestUnitsAreGood(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("ANTEROOM_REQUIRE_PEERS") == "1" {
			t.Fatal("systemd-analyze is not installed (Debian package systemd)")
		}
		t.Skip("systemd-analyze is not installed")
	}
	for _, program := range []string{"anteroom", "anteroom-agent"} {
		// verify wants the programs to exist; the unit is checked with one that does.
		unit := filepath.Join(t.TempDir(), program+".service")
		text := strings.ReplaceAll(string(read(t, program+".service")), "/usr/bin/"+program, "/bin/true")
		if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", unit).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--threshold=20", unit).CombinedOutput()
		if err != nil {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			t.Errorf("exposure of %s is above 2.0: %s", program, lines[len(lines)-1])
		}
	}
}
