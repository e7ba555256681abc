package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// stateDirLine is the one setting that can be told from a file that is otherwise
// no good.
var stateDirLine = regexp.MustCompile(`(?m)^state_dir:[ \t]+("[^"\n]*"|'[^'\n]*'|[^\s#]+)`)

// StateDir returns the state directory that a file names, whether or not anything
// else in it is good. It is for finding a gateway that runs, and for nothing else.
func StateDir(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	dir := defaultStateDir
	if m := stateDirLine.FindSubmatch(data); m != nil {
		dir = strings.Trim(string(m[1]), `"'`)
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(filepath.Dir(path), dir)
	}
	return dir, nil
}

// defaultStateDir is the default of state_dir.
const defaultStateDir = "state"
