package config

import (
	"os"
	"path/filepath"
	"testing"
)

// TestTheStateDirectoryIsFoundInAFileThatIsNoGood: where a file loads, it is what
// loading finds; where it does not, what the file says of it.
func TestTheStateDirectoryIsFoundInAFileThatIsNoGood(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "anteroom.yaml")
	for _, tt := range []struct {
		name, line, want string
	}{
		{"none", "", filepath.Join(dir, "state")},
		{"relative", "state_dir: var/state   # ours", filepath.Join(dir, "var", "state")},
		{"quoted", `state_dir: "my state"`, filepath.Join(dir, "my state")},
		{"single", "state_dir: 'my state'", filepath.Join(dir, "my state")},
		{"absolute", "state_dir: /var/lib/anteroom", "/var/lib/anteroom"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, broken := range []string{"", "listenres: [\n", "\tx: y\n", "state: {state_dir: nowhere}\n"} {
				text := good + tt.line + "\n" + broken
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				got, err := StateDir(path)
				if err != nil || got != tt.want {
					t.Errorf("with %q: %q, %v; want %q", broken, got, err, tt.want)
				}
				if f, err := Load(path); (err == nil) != (broken == "") || err == nil && f.StateDir != got {
					t.Errorf("with %q: loading finds %+v, %v", broken, f, err)
				}
			}
		})
	}
	if _, err := StateDir(filepath.Join(dir, "absent.yaml")); err == nil {
		t.Error("found in a file that is not there")
	}
}
