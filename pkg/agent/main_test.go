package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// say runs a command and returns what it wrote and its exit code.
func say(stdin string, args ...string) (string, int) {
	var out bytes.Buffer
	code := Main(args, strings.NewReader(stdin), &out, &out)
	return out.String(), code
}

func TestWhatIsTypedWrongIsSaid(t *testing.T) {
	config := filepath.Join(t.TempDir(), "agent.yaml")
	text := `state_dir: state
enrolment: {url: "https://127.0.0.1:1"}
forward:
  - {name: fhir, listen: "0.0.0.0:1", device: 192.168.50.2, protocol: http, gateway: "g:1"}
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stdin string
		args  string
		code  int
		want  string
	}{
		{"", "", 0, "anteroom-agent enrol"},
		{"", "help", 0, "anteroom-agent enrol"},
		{"", "enroll", 2, `there is no command "enroll"`},
		{"", "run twice", 2, `"twice" is one word too many`},
		{"", "run --confg x", 2, "flag provided but not defined: -confg"},
		{"", "check --help", 0, "configuration file"},
		{"", "version", 0, "anteroom-agent "},
		{"", "check --config /nowhere/agent.yaml", 1, "no such file"},
		{"", "check --offline --config " + config, 1, "warning: fhir listens on every address"},
		{"", "check --offline --config " + config, 1, "anteroom-agent enrol gets one"},
		{"", "status --config " + config, 1, "no agent runs with"},
		{"", "enrol --config " + config, 1, "token: there is none"},
		{"T", "enrol --config " + config, 1, "set enrolment.root to the fingerprint"},
		{"T", "enrol --root 12 --config " + config, 1, "--root: a fingerprint is SHA-256"},
		{"", "enrol --token-file /nowhere --config " + config, 1, "token: open /nowhere"},
	} {
		out, code := say(c.stdin, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("anteroom-agent %s: exit %d, want %d with %q\n%s", c.args, code, c.code, c.want, out)
		}
	}
}

func TestAClockThatCanOnlyBeWrongIsNamed(t *testing.T) {
	if clockIsWrong(time.Unix(0, 0)) == "" || clockIsWrong(time.Date(firstYear, 1, 1, 0, 0, 0, 0, time.UTC)) != "" {
		t.Error("the clock is not looked at")
	}
}

func TestOneAgentHasTheState(t *testing.T) {
	path := filepath.Join(t.TempDir(), lockFile)
	first, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(path); err == nil || !strings.Contains(err.Error(), "another anteroom-agent") {
		t.Errorf("a second one: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
