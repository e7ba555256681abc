package policy

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
)

// pack writes a bundle of files to a file.
func pack(tb testing.TB, m bundle.Manifest, files map[string]string) string {
	tb.Helper()
	if _, own := files["decision.rego"]; !own {
		files["decision.rego"] = decisionRego
	}
	var fs []bundle.File
	for name, body := range files {
		fs = append(fs, bundle.File{Name: name, Body: []byte(body)})
	}
	b, err := bundle.New(fs, m)
	if err != nil {
		tb.Fatal(err)
	}
	return save(tb, b)
}

func save(tb testing.TB, b *bundle.Bundle) string {
	tb.Helper()
	var buf bytes.Buffer
	if err := b.Write(&buf); err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "set.tar.gz")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// A set is the same set in a directory and in a bundle.
func TestABundleLoadsAsItsDirectoryDoes(t *testing.T) {
	dir := setDir(t, map[string]string{
		"a.rego": rules("allow contains \"known\" if input.device.class in data.classes"), "classes.yaml": "classes: [pump] # two more to come\n",
		"a_test.rego": "package anteroom.authz\n\ntest_it if count(data.classes) == 1\n", "README.md": "not part of it",
	})
	src, err := Read(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := Load(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := src.Bundle(map[string]any{"author": "jane"})
	if err != nil {
		t.Fatal(err)
	}
	path := save(t, b)
	got, err := Load(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Revision() != want.Revision() || src.Revision() != want.Revision() || b.Manifest.Revision != want.Revision() {
		t.Errorf("revisions %s, %s, %s and %s", got.Revision(), want.Revision(), src.Revision(), b.Manifest.Revision)
	}
	if rep, err := Test(t.Context(), path, TestOptions{}); err != nil || rep.Passed != 1 {
		t.Errorf("its tests: %+v, %v", rep, err)
	}
}

func TestABuiltBundleHoldsTheSameData(t *testing.T) {
	dir := setDir(t, map[string]string{
		"a.rego": rules(`allow contains "x"`), "classes.yaml": "classes: {pump: {max: 1.50, ids: [1, \"a\\u0000b\"]}}\n", "more/b.json": `{"n": 123456789012345678901}`,
		"a_test.rego": "package anteroom.authz\n\ntest_it if true\n",
	})
	src, err := Read(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := src.Build()
	if err != nil {
		t.Fatal(err)
	}
	path := save(t, b)
	built, err := Load(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := Load(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if built.data.doc.Compare(set.data.doc) != 0 {
		t.Errorf("data %s, want %s", built.data.doc, set.data.doc)
	}
	if built.Revision() != b.Manifest.Revision {
		t.Errorf("revision %s, manifest says %s", built.Revision(), b.Manifest.Revision)
	}
	for _, f := range b.Files {
		if strings.Contains(f.Name, "_test") {
			t.Errorf("holds the test %s", f.Name)
		}
	}
}

func TestBundlesThatDoNotLoad(t *testing.T) {
	roots := func(r ...string) bundle.Manifest { return bundle.Manifest{Roots: r} }
	for name, c := range map[string]struct {
		path, want string
	}{
		"no bundle": {func() string {
			p := filepath.Join(t.TempDir(), "x.tar.gz")
			writeFile(t, filepath.Dir(p), "x.tar.gz", "hello")
			return p
		}(), "not a gzipped archive"},
		"bad Rego":         {pack(t, bundle.Manifest{}, map[string]string{"a.rego": "package a\n\nx if"}), "a.rego:3"},
		"removed built-in": {pack(t, bundle.Manifest{}, map[string]string{"a.rego": rules(`allow contains "x" if http.send({"method": "get", "url": "x"})`)}), "a.rego:3: http.send cannot be used here"},
		"not strict":       {pack(t, bundle.Manifest{}, map[string]string{"a.rego": rules("allow contains \"x\" if {\n\ty := 1\n}")}), "a.rego:4"},
		"nothing allows":   {pack(t, bundle.Manifest{}, map[string]string{"x.json": "{}"}), "decision.rego:3: rego_unsafe_var_error: var allow is unsafe"},
		"package outside":  {pack(t, roots("other"), map[string]string{"a.rego": rules(`allow contains "x"`)}), "package anteroom.authz is outside the roots"},
		"data outside":     {pack(t, roots("anteroom", "mine"), map[string]string{"a.rego": rules(`allow contains "x"`), "data.json": `{"mine": {"a": 1}, "theirs": {"b": 2}}`}), "data.json:1: data.theirs.b is outside the roots"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(t.Context(), c.path, Options{})
			if got := problemsOf(t, err); !strings.Contains(got, c.want) {
				t.Errorf("problems %q, want %q", got, c.want)
			}
		})
	}
	if _, err := Load(t.Context(), pack(t, roots("anteroom", "mine/a"), map[string]string{"a.rego": rules(`allow contains "x"`), "data.json": `{"mine": {"a": {"b": 1}}}`}), Options{}); err != nil {
		t.Error(err)
	}
	if _, err := Load(t.Context(), pack(t, roots(""), map[string]string{"a.rego": rules(`allow contains "x"`), "data.json": `{"x": "` + strings.Repeat("y", 2000) + `"}`}), Options{MaxBytes: 1000}); err == nil {
		t.Error("a set larger than allowed was loaded")
	}
}
