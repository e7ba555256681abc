package docker

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

func TestTheAgentsConfigurationIsGood(t *testing.T) {
	if _, err := settings.Load("agent.yaml"); err != nil {
		t.Fatal(err)
	}
}

func TestTheInitScriptIsShellAsItShouldBe(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		if os.Getenv("ANTEROOM_REQUIRE_PEERS") == "1" {
			t.Fatal("shellcheck is not installed (Debian package shellcheck)")
		}
		t.Skip("shellcheck is not installed")
	}
	// The first line names rc.common, which OpenWrt's shell reads the script by.
	if out, err := exec.CommandContext(t.Context(), "shellcheck", "-s", "sh", "anteroom-agent.init").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestTheInitScriptStartsTheAgent runs it as rc.common does, with words of procd's
// that say what they were told.
func TestTheInitScriptStartsTheAgent(t *testing.T) {
	dir := t.TempDir()
	prog := dir + "/anteroom-agent"
	script := strings.NewReplacer("/usr/bin/anteroom-agent", prog).Replace(string(read(t, "anteroom-agent.init")))
	stubs := `procd_open_instance() { echo open; }
procd_set_param() { echo "$*"; }
procd_close_instance() { echo close; }
procd_add_reload_trigger() { echo "trigger $*"; }
`
	run := func(exit string) (string, error) {
		t.Helper()
		if err := os.WriteFile(prog, []byte("#!/bin/sh\necho \"ran $*\"\nexit "+exit+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", stubs+script+"\nservice_triggers\nstart_service\n")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("0")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"ran check --offline --config /etc/anteroom-agent/anteroom-agent.yaml", "open", "command " + prog + " run --config", "respawn 3600 5 0", "close"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in %s", want, out)
		}
	}
	if out, err := run("1"); err == nil || strings.Contains(out, "open") {
		t.Errorf("it starts what does not pass its check: %v %s", err, out)
	}
}
