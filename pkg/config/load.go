package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file.
const maxFile = 1 << 20

// A Problem is one thing that is wrong with a configuration.
type Problem struct {
	File      string
	Line, Col int    // from 1; 0 if the problem has no place
	Path      string // of the key, such as listeners[0].address
	Message   string
	Hint      string // what to do, or ""
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Col)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString(" (" + p.Hint + ")")
	}
	return b.String()
}

// An Error is everything that is wrong with a configuration.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads, checks and completes the configuration in a file. The error is an
// [*Error], or that of reading the file.
func Load(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse is [Load] for text that is at hand; path is what messages call it, and
// what relative paths in it are relative to.
func Parse(path string, data []byte) (*File, error) {
	cfg := &File{Path: path}
	doc, err := Decode(path, data, cfg)
	if err != nil {
		return nil, err
	}
	cfg.resolve()
	doc.d.check(cfg)
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// A Document is configuration that was decoded. It knows the places of what it
// holds, for whoever goes on to check it.
type Document struct{ d *decoder }

// Wrong notes a problem with the value at a path such as forward[0].listen. The
// hint says what to do, or is "".
func (doc *Document) Wrong(path, message, hint string) {
	doc.d.add(doc.d.at[path], path, message, hint)
}

// Err returns every problem that was noted as an [*Error], or nil.
func (doc *Document) Err() error { return doc.d.err() }

// Decode reads one YAML document into a struct as strictly as [Load] reads a
// [File]: by the yaml, default, required and enum tags of its fields, which have
// the types of File's. path is what messages call the file. The error is an
// [*Error].
func Decode(path string, data []byte, into any) (*Document, error) {
	d := &decoder{file: path, at: map[string]*yaml.Node{}}
	if len(data) > maxFile {
		d.add(nil, "", fmt.Sprintf("the file is larger than %d bytes", maxFile), "")
		return nil, d.err()
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil {
		d.syntax(err)
		return nil, d.err()
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		d.add(&more, "", "the file holds more than one YAML document", "")
		return nil, d.err()
	}
	d.decodeFile(&doc, into)
	if err := d.err(); err != nil {
		return nil, err
	}
	return &Document{d}, nil
}

// err returns everything that was found, in order of place.
func (d *decoder) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	return &Error{d.problems}
}

// syntax turns an error of the YAML parser into a problem.
func (d *decoder) syntax(err error) {
	if errors.Is(err, io.EOF) {
		d.add(nil, "", "the file is empty", "anteroom init writes one that works")
		return
	}
	p := Problem{File: d.file, Message: strings.TrimPrefix(err.Error(), "yaml: ")}
	if rest, ok := strings.CutPrefix(p.Message, "line "); ok {
		if num, msg, ok := strings.Cut(rest, ": "); ok {
			if _, err := fmt.Sscan(num, &p.Line); err == nil {
				p.Col, p.Message = 1, msg
			}
		}
	}
	p.Hint = YAMLHint(p.Message)
	d.problems = append(d.problems, p)
}

// YAMLHint says what usually makes the YAML parser say something, or nothing.
func YAMLHint(message string) string {
	switch {
	case strings.Contains(message, "tab character"):
		return "YAML is indented with spaces"
	case strings.Contains(message, "cannot start any token"):
		return "a tab? YAML is indented with spaces; text that begins with @, ` or % wants quotes"
	case strings.Contains(message, "mapping values are not allowed"):
		return "a quote that is not closed above, a wrong indent, or text with a colon that wants quotes"
	case strings.Contains(message, "did not find expected"):
		return "a bracket, brace or quote that is not closed, or a wrong indent, here or above"
	}
	return ""
}

// resolve makes relative paths relative to the file's directory.
func (f *File) resolve() {
	base := filepath.Dir(f.Path)
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	abs(&f.StateDir)
	abs(&f.CA.Passphrase.File)
	abs(&f.CA.PIN.File)
	abs(&f.Policy.Enforce)
	abs(&f.Policy.Bundle.Key)
	abs(&f.Policy.Bundle.CAFile)
	abs(&f.Policy.Bundle.Token.File)
	abs(&f.Policy.Shadow)
	abs(&f.Audit.Dir)
	if f.Audit.Dir == "" {
		f.Audit.Dir = filepath.Join(f.StateDir, "audit")
	}
	for i := range f.Listeners {
		c := &f.Listeners[i].Certificate
		abs(&c.CAFile)
		abs(&c.Account.HMACKey.File)
		abs(&c.Certificate)
		abs(&c.Key)
	}
	abs(&f.Enrolment.Certificate.CAFile)
	abs(&f.Enrolment.Certificate.Account.HMACKey.File)
	abs(&f.Enrolment.Certificate.Certificate)
	abs(&f.Enrolment.Certificate.Key)
	for i := range f.Enrolment.Manufacturers {
		abs(&f.Enrolment.Manufacturers[i].Anchors)
		abs(&f.Enrolment.Manufacturers[i].CRL)
	}
	for i := range f.Enrolment.ACME.Attestation {
		abs(&f.Enrolment.ACME.Attestation[i].Roots)
	}
	for i := range f.Backends {
		b := &f.Backends[i]
		abs(&b.CAFile)
		abs(&b.Certificate)
		abs(&b.Key)
	}
}
