package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// plain leaves aside what CI's flags for the race detector say of single packages
// (.ci/run), so that these programs are not compiled anew for nothing.
const plain = "-gcflags=all="

// shipped is the program as operators have it.
var shipped = sync.OnceValues(func() (string, error) { return program("anteroom", "CGO_ENABLED=0", plain) })

// watched is the program with the race detector, if the tests have it.
var watched = sync.OnceValues(func() (string, error) {
	if !raceEnabled {
		return shipped()
	}
	return program("anteroom", "CGO_ENABLED=1", "-race")
})

var shippedAgent = sync.OnceValues(func() (string, error) {
	return program("anteroom-agent", "CGO_ENABLED=0", plain, "-trimpath", "-ldflags", "-s -w")
})

// prefix begins the name of a directory of programs; the id of its process follows.
const prefix = "anteroom-rig-"

// made is programs' directory, once there is one.
var made atomic.Pointer[string]

// programs makes the directory of this process's programs. What runs that were
// interrupted left behind goes away with it: they had no time to.
var programs = sync.OnceValues(func() (string, error) {
	sweep(os.TempDir())
	dir, err := os.MkdirTemp("", fmt.Sprint(prefix, os.Getpid(), "-"))
	if err == nil {
		made.Store(&dir)
	}
	return dir, err
})

// sweep removes the directories of programs whose processes are gone.
func sweep(in string) {
	dirs, _ := filepath.Glob(filepath.Join(in, prefix+"*"))
	for _, dir := range dirs {
		text, _, ok := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		pid, err := strconv.Atoi(text)
		if ok && err == nil && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir)
		}
	}
}

// Main runs a package's tests and removes what was built for them. It returns what
// the process is to exit with.
func Main(m *testing.M) int {
	defer func() {
		if dir := made.Load(); dir != nil {
			_ = os.RemoveAll(*dir)
		}
	}()
	return m.Run()
}

// program builds one of the commands.
func program(name, env string, flags ...string) (string, error) {
	dir, err := programs()
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp(dir, name+"-"); err != nil {
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

// Binary returns the path of the anteroom program as it is shipped, built once per
// test process. Commands are run with it in tests with the race detector too: the
// detector watches the gateway, and makes a command take five to ten times as long.
func Binary(t testing.TB) string { return built(t, shipped) }

// gateway returns the path of the program that runs as the gateway: the same, but
// with the race detector if the tests have it.
func gateway(t testing.TB) string { return built(t, watched) }

// AgentBinary returns the path of the anteroom-agent program as it is shipped:
// static and stripped, so without the race detector.
func AgentBinary(t testing.TB) string { return built(t, shippedAgent) }

func built(t testing.TB, program func() (string, error)) string {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}
