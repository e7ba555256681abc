package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var build = sync.OnceValues(func() (string, error) {
	if raceEnabled {
		return program("anteroom", "CGO_ENABLED=1", "-race")
	}
	return program("anteroom", "CGO_ENABLED=0")
})

var buildAgent = sync.OnceValues(func() (string, error) {
	return program("anteroom-agent", "CGO_ENABLED=0", "-trimpath", "-ldflags", "-s -w")
})

// program builds one of the commands.
func program(name, env string, flags ...string) (string, error) {
	dir, err := os.MkdirTemp("", "anteroom-rig-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, name)
	args := append([]string{"build", "-pgo=off", "-o", bin}, flags...) // compiled like what is tested beside it
	cmd := exec.Command("go", append(args, "github.com/anteroom-iomt/anteroom/cmd/"+name)...)
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
}

// Binary returns the path of the anteroom program, built once per test process,
// with the race detector if the test has it.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// AgentBinary returns the path of the anteroom-agent program as it is shipped:
// static and stripped, so without the race detector.
func AgentBinary(t testing.TB) string {
	t.Helper()
	bin, err := buildAgent()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}
