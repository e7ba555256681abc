package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"

	opa "github.com/open-policy-agent/opa/v1/bundle"
)

// Names of the files that are about the others.
const (
	manifestName   = opa.ManifestExt
	signaturesName = ".signatures.json"
)

const (
	// maxName bounds a file's path; the longest of the shipped set has 40 bytes.
	maxName = 512
	// perFile is what the archive may take for each file beside its contents:
	// the tar header, with an extended one, and padding.
	perFile = 4 << 10
	// maxSpecial bounds manifest and signatures; a signature takes about 200
	// bytes for each file.
	maxSpecial = 2 << 20
)

// ErrTooLarge says that a bundle is larger than allowed.
var ErrTooLarge = errors.New("the bundle is larger than allowed; raise policy.max_size if that is intended")

// Limits bound what [Read] takes.
type Limits struct {
	Bytes int64 // of all files together, unpacked
	Files int
}

// Archive returns how large an archive within the limits can be, in bytes.
// Gzip adds less than perFile to what it cannot compress.
func (l Limits) Archive() int64 { return l.Bytes + 2*maxSpecial + int64(l.Files+2)*perFile }

// A File is one file of a bundle, by its path below the top, with slashes.
type File struct {
	Name string
	Body []byte
}

// A Manifest says what a bundle is.
type Manifest struct {
	// Revision names the contents. For a set made here it is its content hash.
	Revision string `json:"revision"`
	// Roots are the parts of data the bundle may define, such as "anteroom/authz";
	// none means all.
	Roots []string `json:"roots,omitempty"`
	// RegoVersion is 1 for every bundle made here.
	RegoVersion *int           `json:"rego_version,omitempty"`
	Metadata    map[string]any `json:"metadata,omitempty"`

	FileRegoVersions map[string]int  `json:"file_rego_versions,omitempty"`
	Wasm             json.RawMessage `json:"wasm,omitempty"`
}

// A Bundle is an unpacked bundle.
type Bundle struct {
	// Files are all files but manifest and signatures, sorted by name.
	Files    []File
	Manifest Manifest

	manifest   []byte // as it was read; nil if there was none
	signatures []byte // likewise
}

// Signed reports whether the bundle carries a signature, good or bad.
func (b *Bundle) Signed() bool { return b.signatures != nil }

// Read unpacks an archive within the limits.
func Read(r io.Reader, lim Limits) (*Bundle, error) {
	in := &countedReader{r: r, left: lim.Archive()}
	// gzip reads no byte too many from what can read single bytes, so that what
	// follows is seen.
	buffered := bufio.NewReader(in)
	zr, err := gzip.NewReader(buffered)
	if err != nil {
		return nil, fmt.Errorf("not a gzipped archive: %w", in.cause(err))
	}
	// One archive is one gzip member: what follows is nobody's.
	zr.Multistream(false)
	out := &countedReader{r: zr, left: lim.Archive()}
	b, err := readTar(tar.NewReader(out), lim)
	if err == nil {
		err = onlyZeros(out)
	}
	if err != nil {
		return nil, in.cause(out.cause(err))
	}
	if _, err := buffered.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, in.cause(errors.New("there is more after the end of the archive"))
	}
	return b, b.check()
}

func readTar(tr *tar.Reader, lim Limits) (*Bundle, error) {
	b := &Bundle{}
	seen := map[string]bool{}
	left := lim.Bytes
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the archive: %w", err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			return nil, fmt.Errorf("%s: is not a regular file", name)
		}
		if seen[name] {
			return nil, fmt.Errorf("%s: is there twice", name)
		}
		seen[name] = true
		special := name == manifestName || name == signaturesName
		most := left
		if special {
			most = maxSpecial
		} else if len(b.Files) >= lim.Files {
			return nil, fmt.Errorf("more than %d files", lim.Files)
		}
		if h.Size > most {
			return nil, fmt.Errorf("%s: %w", name, ErrTooLarge)
		}
		body := make([]byte, h.Size)
		if _, err := io.ReadFull(tr, body); err != nil {
			return nil, fmt.Errorf("%s: read the archive: %w", name, err)
		}
		switch name {
		case manifestName:
			b.manifest = body
		case signaturesName:
			b.signatures = body
		default:
			left -= h.Size
			b.Files = append(b.Files, File{name, body})
		}
	}
	if len(b.Files) == 0 {
		return nil, errors.New("the archive holds no files")
	}
	slices.SortFunc(b.Files, func(x, y File) int { return cmp.Compare(x.Name, y.Name) })
	return b, nil
}

// cleanName returns the path below the top that a name in the archive means. OPA
// writes it with a slash in front, tar often with a dot and a slash.
func cleanName(raw string) (string, error) {
	name, ok := strings.CutPrefix(raw, "./")
	if !ok {
		name = strings.TrimPrefix(raw, "/")
	}
	if len(name) > maxName {
		return "", fmt.Errorf("a path is longer than %d bytes", maxName)
	}
	if !fs.ValidPath(name) || name == "." || strings.ContainsRune(name, '\\') || strings.IndexFunc(name, unicode.IsControl) >= 0 {
		return "", fmt.Errorf("%q is not a plain path below the bundle", raw)
	}
	if name == manifestName || name == signaturesName {
		return name, nil
	}
	// OPA takes such names for the manifest or the signatures wherever they are.
	if strings.HasSuffix(name, opa.ManifestExt) || strings.HasSuffix(name, opa.ManifestProtoExt) {
		return "", fmt.Errorf("%s: the one manifest of a bundle is %s at its top, in JSON", name, manifestName)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part[0] == '.' {
			return "", fmt.Errorf("%s: hidden files have no place in a bundle", name)
		}
	}
	switch path.Base(name) {
	case opa.WasmFile, opa.PlanFile, opa.PlanProtoFile:
		return "", fmt.Errorf("%s: the bundle holds compiled policy, which is not understood here; build it with -t rego", name)
	case "patch.json":
		return "", fmt.Errorf("%s: a delta bundle is not understood here; serve snapshots", name)
	}
	return name, nil
}

// onlyZeros reads to the end, where tar may have padded with zeros.
func onlyZeros(r io.Reader) error {
	var buf [512]byte
	for {
		n, err := r.Read(buf[:])
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return errors.New("there is more after the end of the archive")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
	}
}

// check reads the manifest and refuses what this gateway cannot honour.
func (b *Bundle) check() error {
	if b.manifest == nil {
		return nil
	}
	if err := unique(b.manifest); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	dec := json.NewDecoder(bytes.NewReader(b.manifest))
	dec.UseNumber()
	if err := dec.Decode(&b.Manifest); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	m := &b.Manifest
	if w := strings.TrimSpace(string(m.Wasm)); w != "" && w != "null" && w != "[]" {
		return fmt.Errorf("%s: the bundle holds compiled policy, which is not understood here; build it with -t rego", manifestName)
	}
	if m.RegoVersion != nil && *m.RegoVersion != 1 {
		return fmt.Errorf("%s: rego_version is %d, and only 1 is understood here", manifestName, *m.RegoVersion)
	}
	for name, v := range m.FileRegoVersions {
		if v != 1 {
			return fmt.Errorf("%s: rego_version of %s is %d, and only 1 is understood here", manifestName, name, v)
		}
	}
	return nil
}

// unique refuses JSON in which a name is there twice in one object: readers
// differ in which of the two they take.
func unique(body []byte) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := uniqueValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the first value")
	}
	return nil
}

// maxNesting bounds the recursion of unique.
const maxNesting = 64

func uniqueValue(dec *json.Decoder, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("nests deeper than %d", maxNesting)
	}
	t, err := dec.Token()
	if err != nil {
		return err
	}
	d, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if d == '{' {
			k, err := dec.Token()
			if err != nil {
				return err
			}
			name, _ := k.(string)
			if seen[name] {
				return fmt.Errorf("the name %q is there twice", name)
			}
			seen[name] = true
		}
		if err := uniqueValue(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

// A countedReader reads at most left bytes, and then fails.
type countedReader struct {
	r    io.Reader
	left int64
	over bool
}

func (c *countedReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		// Only more than the limit is too much.
		var one [1]byte
		n, err := c.r.Read(one[:])
		if n == 0 {
			return 0, err
		}
		c.over = true
		return 0, ErrTooLarge
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	return n, err
}

// cause prefers that the limit was met to what came of it.
func (c *countedReader) cause(err error) error {
	if c.over {
		return ErrTooLarge
	}
	return err
}

// Write packs the bundle. Equal bundles give equal bytes.
func (b *Bundle) Write(w io.Writer) error {
	zw := gzip.NewWriter(w)
	tw := tar.NewWriter(zw)
	files := slices.Clone(b.Files)
	if b.manifest != nil {
		files = append(files, File{manifestName, b.manifest})
	}
	if b.signatures != nil {
		files = append(files, File{signaturesName, b.signatures})
	}
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Size: int64(len(f.Body)), Mode: 0o644, Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write bundle: %s: %w", f.Name, err)
		}
		if _, err := tw.Write(f.Body); err != nil {
			return fmt.Errorf("write bundle: %s: %w", f.Name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	if err := zw.Close(); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// New returns a bundle of files with a manifest, not signed. The caller gives
// the files away.
func New(files []File, m Manifest) (*Bundle, error) {
	one := 1
	m.RegoVersion = &one
	if m.Roots == nil {
		m.Roots = []string{""}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("bundle manifest: %w", err)
	}
	for _, f := range files {
		if name, err := cleanName(f.Name); err != nil || name != f.Name {
			return nil, fmt.Errorf("%s: can not be in a bundle: %w", f.Name, cmp.Or(err, errors.New("it is not a plain path")))
		}
	}
	slices.SortFunc(files, func(x, y File) int { return cmp.Compare(x.Name, y.Name) })
	return &Bundle{Files: files, Manifest: m, manifest: raw}, nil
}
