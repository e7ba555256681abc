package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"

	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
)

// A Source is the files of a policy set, read and not yet compiled. It never
// changes and is safe for concurrent use.
type Source struct {
	tree   *tree
	bundle *bundle.Bundle // what it was read from; nil for a directory
}

// Read reads the set at path, which is a directory or a bundle in OPA's format.
// The error is a [*LoadError].
func Read(path string, opt Options) (*Source, error) {
	opt = opt.withDefaults()
	if isBundle(path) {
		b, err := openBundle(path, opt)
		if err != nil {
			why := reason(err)
			if _, ok := roleOf(path); ok {
				why = "this is one file of a set; name the directory it is in"
			}
			return nil, &LoadError{Dir: path, Problems: problems{{Message: why}}, cause: err}
		}
		return FromBundle(b, path, opt)
	}
	t, err := readTree(path, opt)
	if err != nil {
		return nil, err
	}
	return &Source{tree: t}, nil
}

// FromBundle returns the set in a bundle; name is what messages call it.
func FromBundle(b *bundle.Bundle, name string, opt Options) (*Source, error) {
	t, err := treeOf(b, name, opt.withDefaults())
	if err != nil {
		return nil, err
	}
	return &Source{tree: t, bundle: b}, nil
}

// Name returns what messages call the set: its directory or file.
func (s *Source) Name() string { return s.tree.dir }

// Revision is the content hash the loaded set will have.
func (s *Source) Revision() string { return s.tree.revision }

// Compile makes a set of the source, as [Load] does.
func (s *Source) Compile(ctx context.Context, opt Options) (*Set, error) {
	return compile(ctx, s.tree, opt.withDefaults())
}

// Bundle returns the set as a bundle with every file as it was written, tests
// included, and its content hash as its revision. Metadata may be nil.
func (s *Source) Bundle(metadata map[string]any) (*bundle.Bundle, error) {
	files := make([]bundle.File, len(s.tree.files))
	for i, f := range s.tree.files {
		files[i] = bundle.File{Name: f.name, Body: f.body}
	}
	return bundle.New(files, bundle.Manifest{Revision: s.tree.revision, Metadata: metadata})
}

// Build returns the set as a bundle that stock OPA reads too. OPA takes as data
// only files called data.json or data.yaml; so all data becomes one data.json.
// Tests are left out.
func (s *Source) Build() (*bundle.Bundle, error) {
	var ps problems
	data := readData(s.tree.files, func(f *file) bool { return f.role == roleData }, &ps)
	if len(ps) > 0 {
		return nil, &LoadError{Dir: s.tree.dir, Problems: ps.sorted(), Revision: s.tree.revision}
	}
	// Numbers stay as they were written.
	value, err := ast.JSON(data.ast())
	if err != nil {
		return nil, fmt.Errorf("build a bundle of %s: %w", s.tree.dir, err)
	}
	body, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("build a bundle of %s: %w", s.tree.dir, err)
	}
	files := []bundle.File{{Name: "data.json", Body: append(body, '\n')}}
	for _, f := range s.tree.files {
		if f.role == roleRego || f.role == roleSchema {
			files = append(files, bundle.File{Name: f.name, Body: f.body})
		}
	}
	// The revision is that of the bundle's own files, which is what whoever loads
	// it will see.
	var own []file
	for _, f := range files {
		r, _ := roleOf(f.Name)
		own = append(own, file{f.Name, r, f.Body})
	}
	slices.SortFunc(own, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	return bundle.New(files, bundle.Manifest{Revision: revisionOf(own)})
}

// openBundle reads a bundle file, within limits.
func openBundle(path string, opt Options) (*bundle.Bundle, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return bundle.Read(f, opt.limits())
}

func (o Options) limits() bundle.Limits {
	return bundle.Limits{Bytes: o.MaxBytes, Files: o.MaxFiles}
}

// treeOf takes from a bundle what [readTree] takes from a directory.
func treeOf(b *bundle.Bundle, name string, opt Options) (*tree, error) {
	var ps problems
	t := &tree{dir: name}
	left := opt.MaxBytes
	for _, f := range b.Files {
		r, ok := roleOf(f.Name)
		if !ok {
			continue
		}
		if strings.Count(f.Name, "/") > maxDepth {
			ps.add(f.Name, 0, "directories nest deeper than %d", maxDepth)
		}
		if left -= int64(len(f.Body)); left < 0 || len(t.files) >= opt.MaxFiles {
			return nil, &LoadError{Dir: name, Problems: problems{{Message: errTooLarge.Error()}}, cause: errTooLarge}
		}
		t.files = append(t.files, file{f.Name, r, f.Body})
	}
	if len(ps) > 0 {
		return nil, &LoadError{Dir: name, Problems: ps.sorted()}
	}
	slices.SortFunc(t.files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	for _, r := range b.Manifest.Roots {
		t.roots = append(t.roots, strings.Trim(r, "/"))
	}
	t.revision = revisionOf(t.files)
	return t, nil
}

// checkRoots holds a bundle to what its manifest says it may define.
func (t *tree) checkRoots(b *built, ps *problems) {
	if len(t.roots) == 0 {
		return
	}
	for name, m := range b.modules {
		at := make([]string, 0, len(m.Package.Path))
		for _, p := range m.Package.Path[1:] {
			if s, ok := p.Value.(ast.String); ok {
				at = append(at, string(s))
			}
		}
		if path := strings.Join(at, "/"); !opa.RootPathsContain(t.roots, path) {
			ps.add(name, m.Package.Loc().Row, "package %s is outside the roots of the bundle's manifest: %s", strings.Join(at, "."), strings.Join(t.roots, ", "))
		}
	}
	var walk func(d *datum, path []string)
	walk = func(d *datum, path []string) {
		if opa.RootPathsContain(t.roots, strings.Join(path, "/")) {
			return
		}
		if d.obj == nil || len(d.obj) == 0 && len(path) > 0 {
			ps.add(d.file, d.line, "data.%s is outside the roots of the bundle's manifest: %s", strings.Join(path, "."), strings.Join(t.roots, ", "))
			return
		}
		for k, v := range d.obj {
			walk(v, append(path[:len(path):len(path)], k))
		}
	}
	walk(b.data, nil)
}

// isBundle reports whether what is at path is a file, which can only be a
// bundle.
func isBundle(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&fs.ModeType == 0
}
