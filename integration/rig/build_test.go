package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestWhatAnInterruptedRunLeftIsRemoved, and nothing that is somebody's.
func TestWhatAnInterruptedRunLeftIsRemoved(t *testing.T) {
	gone := exec.Command(os.Args[0], "-test.run", "^$")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	in := t.TempDir()
	for name, stays := range map[string]bool{
		fmt.Sprint(prefix, gone.Process.Pid, "-1"): false, fmt.Sprint(prefix, os.Getpid(), "-1"): true, fmt.Sprint(prefix, os.Getppid(), "-1"): true,
		prefix + "1234567": true, prefix + "-5-1": true, prefix + "0-1": true, "other-1-1": true,
	} {
		dir := filepath.Join(in, name)
		if err := os.MkdirAll(filepath.Join(dir, "anteroom"), 0o700); err != nil {
			t.Fatal(err)
		}
		sweep(in)
		if _, err := os.Stat(dir); (err == nil) != stays {
			t.Errorf("%s: %v, want it to stay: %v", name, err, stays)
		}
	}
}
