// Package build makes what the commands below integration/bench measure from the
// tree they are run in.
package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Root returns the directory of the go.mod that the command runs under.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("run it inside the module's tree")
	}
	return filepath.Dir(mod), nil
}

// Go runs the go command in root, without cgo.
func Go(ctx context.Context, root string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", args[0], err, out)
	}
	return nil
}

// Anteroom builds the program to a file, as it is released.
func Anteroom(ctx context.Context, root, to string) error {
	return Go(ctx, root, "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "./cmd/anteroom")
}
