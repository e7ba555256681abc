package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheRootIsWhereTheModuleIs(t *testing.T) {
	root, err := Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "integration", "bench", "build")); err != nil {
		t.Error(err)
	}
	t.Chdir(t.TempDir())
	if root, err := Root(t.Context()); err == nil {
		t.Errorf("outside of a module: %s", root)
	}
}

func TestWhatGoSaysIsInTheError(t *testing.T) {
	if err := Go(t.Context(), t.TempDir(), "vet", "."); err == nil || !strings.HasPrefix(err.Error(), "go vet: ") || !strings.Contains(err.Error(), "go.mod") {
		t.Errorf("got %v", err)
	}
	if err := Go(t.Context(), t.TempDir(), "env", "GOOS"); err != nil {
		t.Error(err)
	}
}
