// Package policies holds the policy set that Anteroom ships: rules, the data
// they work on, their tests, and the schema of what a policy sees. The gateway
// does not decide by these embedded files; "anteroom init" writes them out, and
// what decides is the directory an operator keeps.
package policies

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FS holds the shipped set, laid out as it is on disk.
//
//go:embed standing.yaml authz break_glass classes enrolment fhir hours lib locations maintenance posture schemas
var FS embed.FS

// Modes of what Write makes: policies are no secret, and only their owner
// changes them.
const (
	dirMode  = 0o755
	fileMode = 0o644
)

// Write writes the shipped set into dir, which it makes if need be. It never
// overwrites: a file that is there already is an error that wraps
// [fs.ErrExist], and what was written before it stays.
func Write(dir string) error {
	return fs.WalkDir(FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(name))
		if d.IsDir() {
			if err := os.MkdirAll(to, dirMode); err != nil {
				return fmt.Errorf("write the shipped policy set: %w", err)
			}
			return nil
		}
		body, err := fs.ReadFile(FS, name)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
		if err != nil {
			return fmt.Errorf("write the shipped policy set: %w", err)
		}
		_, err = f.Write(body)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("write %s: %w", to, err)
		}
		return nil
	})
}
