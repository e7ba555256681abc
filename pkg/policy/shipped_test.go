package policy

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"path"

	"context"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"

	"github.com/anteroom-iomt/anteroom/policies"
)

// minCoverage is the share of the shipped rules' lines that their tests reach.
const minCoverage = 95

func TestShippedSetPassesItsTests(t *testing.T) {
	r, err := Test(context.Background(), "../../policies", TestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, res := range r.Results {
		if !res.Pass {
			t.Errorf("%s:%d: %s %s %s %s", res.File, res.Line, res.Name, res.At, res.Error, res.Output)
		}
	}
	if r.Passed < 40 {
		t.Errorf("%d tests passed, want the whole of them", r.Passed)
	}
	if r.Coverage < minCoverage {
		t.Errorf("coverage %.1f %%, want %d", r.Coverage, minCoverage)
	}
	for _, f := range r.Files {
		if f.NotCovered > 0 {
			t.Logf("%s: %.1f %%, lines %v", f.File, f.Percent, f.Missing)
		}
	}
}

// TestShippedSetIsFormatted does what "opa fmt --list" does.
func TestShippedSetIsFormatted(t *testing.T) {
	err := fs.WalkDir(policies.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".rego" {
			return err
		}
		body, err := fs.ReadFile(policies.FS, name)
		if err != nil {
			return err
		}
		want, err := format.SourceWithOpts(name, body, format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			return err
		}
		if !bytes.Equal(body, want) {
			t.Errorf("policies/%s is not formatted; run opa fmt --write", name)
			if *update {
				if err := os.WriteFile("../../policies/"+name, want, 0o644); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var update = flag.Bool("update", false, "write what the tests find to be different")
