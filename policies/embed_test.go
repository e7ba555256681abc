package policies

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "policies")
	if err := Write(dir); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := fs.WalkDir(FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		want, err := fs.ReadFile(FS, name)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s was not written as it is", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 20 {
		t.Errorf("only %d files are embedded", n)
	}
	if err := Write(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("writing over what is there: %v", err)
	}
}

// TestEverythingIsEmbedded: a new directory must be named in the embed line.
func TestEverythingIsEmbedded(t *testing.T) {
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name = filepath.ToSlash(name)
		switch path.Ext(name) {
		case ".rego", ".yaml", ".json":
			if _, err := fs.Stat(FS, name); err != nil {
				t.Errorf("%s is not embedded", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestEveryRuleFileHasATest: one topic a file, its test beside it.
func TestEveryRuleFileHasATest(t *testing.T) {
	err := fs.WalkDir(FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".rego" {
			return err
		}
		body, err := fs.ReadFile(FS, name)
		if err != nil {
			return err
		}
		stem := strings.TrimSuffix(name, ".rego")
		if strings.HasSuffix(stem, "_test") {
			return nil
		}
		if _, err := fs.Stat(FS, stem+"_test.rego"); err != nil {
			t.Errorf("%s has no test", name)
		}
		if !bytes.Contains(body, []byte("# METADATA\n# title: ")) {
			t.Errorf("%s has no METADATA", name)
		}
		if strings.HasPrefix(name, "authz/") && !bytes.Contains(body, []byte("controls:")) {
			t.Errorf("%s names no control it serves", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReferenceNamesEveryField: the reference page and the schema are one.
func TestReferenceNamesEveryField(t *testing.T) {
	page, err := os.ReadFile("../docs/policy-input.md")
	if err != nil {
		t.Fatal(err)
	}
	body, err := fs.ReadFile(FS, "schemas/input.json")
	if err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Properties map[string]*schema
		Items      *schema
	}
	var root schema
	if err := json.Unmarshal(body, &root); err != nil {
		t.Fatal(err)
	}
	var each func(name string, s *schema)
	each = func(name string, s *schema) {
		for k, p := range s.Properties {
			if !bytes.Contains(page, []byte(k+"`")) && !bytes.Contains(page, []byte("`"+k)) && !bytes.Contains(page, []byte("."+k)) {
				t.Errorf("the page does not mention %s.%s", name, k)
			}
			each(name+"."+k, p)
		}
		if s.Items != nil {
			each(name+"[]", s.Items)
		}
	}
	each("input", &root)
}
