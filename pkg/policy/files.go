package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// maxDepth bounds how deep directories may nest: each level is a level of the
// data document, and nobody's has twenty.
const maxDepth = 20

// What a file of the directory is for.
type role uint8

const (
	roleRego role = iota
	roleRegoTest
	roleData
	roleDataTest
	roleSchema
)

// A file is one that was read, by its path below the directory, with slashes.
type file struct {
	name string
	role role
	body []byte
}

// isTest reports whether the file is used only by tests.
func (f *file) isTest() bool { return f.role == roleRegoTest || f.role == roleDataTest }

// roleOf tells from a file's name what it is for; ok is false if it is nothing
// of ours (a README, a Makefile).
func roleOf(name string) (r role, ok bool) {
	base, ext := path.Base(name), path.Ext(name)
	stem := strings.TrimSuffix(base, ext)
	switch ext {
	case ".rego":
		if strings.HasSuffix(stem, "_test") {
			return roleRegoTest, true
		}
		return roleRego, true
	case ".json", ".yaml", ".yml":
		if strings.HasPrefix(name, schemaDir+"/") {
			return roleSchema, true
		}
		if strings.HasSuffix(stem, "_test") || slices.Contains(strings.Split(path.Dir(name), "/"), "testdata") {
			return roleDataTest, true
		}
		return roleData, true
	}
	return 0, false
}

// schemaDir holds the JSON schemas of the input and of data files.
const schemaDir = "schemas"

// A tree is the contents of a directory, read once.
type tree struct {
	dir      string
	files    []file // sorted by name
	revision string
	roots    []string // of a bundle: the parts of data it may define; none means all
}

// readTree reads the set in dir, within the limits. Hidden files and
// directories are ignored, as are files that are neither Rego nor data. A
// symbolic link to a file is followed if it stays within dir, which is how
// Kubernetes lays out mounted configuration.
//
// Where dir is a file it is read as a bundle in OPA's format.
func readTree(dir string, opt Options) (*tree, error) {
	if isBundle(dir) {
		s, err := Read(dir, opt)
		if err != nil {
			return nil, err
		}
		return s.tree, nil
	}
	fail := func(ps problems, cause error) (*tree, error) {
		return nil, &LoadError{Dir: dir, Problems: ps.sorted(), cause: cause}
	}
	// The root pins the directory: replaced under us, we still read the old one
	// whole. It also refuses links that lead out of it.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(problems{{Message: reason(err)}}, err)
	}
	defer root.Close()

	var ps problems
	var cause error
	t := &tree{dir: dir}
	left := opt.MaxBytes
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			ps.add(name, 0, "%s", reason(err))
			cause = err
			return nil
		}
		if name == "." {
			return nil
		}
		if strings.HasPrefix(path.Base(name), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			if strings.Count(name, "/") >= maxDepth {
				ps.add(name, 0, "directories nest deeper than %d", maxDepth)
				return fs.SkipDir
			}
			return nil
		}
		r, ok := roleOf(name)
		if !ok {
			if d.Type()&fs.ModeSymlink != 0 {
				if fi, err := root.Stat(name); err == nil && fi.IsDir() {
					ps.add(name, 0, "is a symbolic link to a directory; only links to files are followed")
				}
			}
			return nil
		}
		if len(t.files) >= opt.MaxFiles {
			ps.add("", 0, "more than %d files", opt.MaxFiles)
			return fs.SkipAll
		}
		body, err := readFile(root, name, left)
		if err != nil {
			cause = err
			ps.add(name, 0, "%s", reason(err))
			if errors.Is(err, errTooLarge) {
				return fs.SkipAll
			}
			return nil
		}
		left -= int64(len(body))
		t.files = append(t.files, file{name, r, body})
		return nil
	})
	if err != nil {
		ps.add("", 0, "%s", reason(err))
		cause = err
	}
	if len(ps) > 0 {
		return fail(ps, cause)
	}
	slices.SortFunc(t.files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	t.revision = revisionOf(t.files)
	return t, nil
}

var errTooLarge = errors.New("the policy set is larger than allowed; raise policy.max_size if that is intended")

// readFile reads one regular file of at most limit bytes.
func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	// Asked before opening, because opening a named pipe would wait for whoever
	// writes to it.
	fi, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	if fi.Size() > limit {
		return nil, errTooLarge
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, errTooLarge
	}
	return body, nil
}

// reason drops what an operating system's error repeats of the path.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Op + ": " + pe.Err.Error()
	}
	return err.Error()
}

// revisionOf hashes what decides: names and contents of all files but those of
// tests, each preceded by its length so that no two sets look alike.
func revisionOf(files []file) string {
	h := sha256.New()
	var n [8]byte
	put := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for i := range files {
		if !files[i].isTest() {
			put([]byte(files[i].name))
			put(files[i].body)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:revisionLen]
}

// revisionLen is how many hex digits of the SHA-256 name a revision: 160 bits,
// so that finding two sets with one name takes about 2^80 attempts.
const revisionLen = 40
