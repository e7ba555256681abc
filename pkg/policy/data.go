package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"go.yaml.in/yaml/v3"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// Limits of data files, beside those of the set.
const (
	// maxDataDepth bounds nesting within a file; it keeps recursion shallow.
	maxDataDepth = 64
	// maxDataNodes bounds the values of all files together, YAML aliases counted
	// each time they are used, so that a small file cannot unfold to a huge one.
	maxDataNodes = 1 << 20
	// maxYAML bounds one YAML file, because its parser takes up to a hundred times
	// the file's size in memory before any of it can be counted. A larger table
	// is better kept as JSON, which is counted as it is read.
	maxYAML = 1 << 20
)

// A datum is one value of the data document and where it was written.
type datum struct {
	file  string
	line  int
	value ast.Value         // a scalar or an array; nil for an object
	obj   map[string]*datum // an object
}

// readData merges the data files of a set into one document. As in OPA, the
// directories of a file's path lead to its place in the document, its own name
// does not; files that meet in one place add up unless they disagree.
func readData(files []file, want func(*file) bool, ps *problems) *datum {
	root := &datum{obj: map[string]*datum{}}
	r := dataReader{left: maxDataNodes}
	for i := range files {
		f := &files[i]
		if !want(f) {
			continue
		}
		r.file = f.name
		var d *datum
		var err error
		if path.Ext(f.name) == ".json" {
			d, err = r.json(f.body)
		} else {
			d, err = r.yaml(f.body)
		}
		if err != nil {
			var at *dataError
			if errors.As(err, &at) {
				ps.add(f.name, at.line, "%s", at.what)
			} else {
				ps.add(f.name, 0, "%s", err)
			}
			continue
		}
		if d == nil { // an empty file says nothing
			continue
		}
		if d.obj == nil {
			ps.add(f.name, d.line, "a data file holds an object at its top, not a list or a single value")
			continue
		}
		if dir := path.Dir(f.name); dir != "." {
			for _, p := range slices.Backward(strings.Split(dir, "/")) {
				d = &datum{file: f.name, line: 1, obj: map[string]*datum{p: d}}
			}
		}
		root.merge(d, "data", ps)
	}
	return root
}

// merge adds what o holds to d, which are both objects.
func (d *datum) merge(o *datum, at string, ps *problems) {
	for _, k := range slices.Sorted(maps.Keys(o.obj)) {
		there, is := d.obj[k], o.obj[k]
		switch {
		case there == nil:
			d.obj[k] = is
		case there.obj != nil && is.obj != nil:
			there.merge(is, at+"."+k, ps)
		default:
			ps.add(is.file, is.line, "%s.%s is already set in %s:%d", at, k, there.file, there.line)
		}
	}
}

// has reports whether the document holds anything at path.
func (d *datum) has(path []string) bool {
	for _, p := range path {
		if d = d.obj[p]; d == nil {
			return false
		}
	}
	return true
}

// ast returns d as OPA sees it.
func (d *datum) ast() ast.Value {
	if d.obj == nil {
		return d.value
	}
	pairs := make([][2]*ast.Term, 0, len(d.obj))
	for _, k := range slices.Sorted(maps.Keys(d.obj)) {
		pairs = append(pairs, [2]*ast.Term{ast.StringTerm(k), ast.NewTerm(d.obj[k].ast())})
	}
	return ast.NewObject(pairs...)
}

// A dataError is a mistake in a data file.
type dataError struct {
	line int
	what string
}

func (e *dataError) Error() string { return e.what }

func dataErrorf(line int, format string, args ...any) error {
	return &dataError{line, fmt.Sprintf(format, args...)}
}

// A dataReader turns files into data, within limits over all of them.
type dataReader struct {
	file string
	left int
}

func (r *dataReader) spend(line, depth int) error {
	if depth > maxDataDepth {
		return dataErrorf(line, "nests deeper than %d", maxDataDepth)
	}
	if r.left--; r.left < 0 {
		return dataErrorf(line, "the data files hold more than %d values", maxDataNodes)
	}
	return nil
}

// jsonNumber is the number grammar of RFC 8259 §6, which is all that YAML
// numbers may use here too.
var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// number refuses exponents so large that OPA's exact arithmetic would spend
// its memory on them.
func number(line int, s string) (ast.Value, error) {
	if !jsonNumber.MatchString(s) || len(s) > 40 {
		return nil, dataErrorf(line, "%q is not a plain decimal number; put quotes around it if it is a text", s)
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 && len(s)-i > 4 {
		return nil, dataErrorf(line, "the number %s is out of range", s)
	}
	return ast.Number(s), nil
}

func (r *dataReader) yaml(body []byte) (*datum, error) {
	if len(body) > maxYAML {
		return nil, fmt.Errorf("is larger than %d bytes, which a YAML file may not be; write it as JSON", maxYAML)
	}
	dec := yaml.NewDecoder(bytes.NewReader(body))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, yamlError(err)
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, yamlError(err)
		}
		return nil, dataErrorf(second.Line, "holds more than one YAML document")
	}
	if len(doc.Content) != 1 {
		return nil, nil
	}
	if n := doc.Content[0]; n.ShortTag() == "!!null" {
		return nil, nil
	}
	return r.yamlNode(doc.Content[0], 0)
}

var yamlLine = regexp.MustCompile(`^yaml: (?:unmarshal errors:\s*)?line (\d+): (.*)$`)

// yamlError takes the line out of the parser's message.
func yamlError(err error) error {
	msg := strings.Join(strings.Fields(err.Error()), " ")
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		var line int
		if _, err := fmt.Sscan(m[1], &line); err == nil {
			if hint := config.YAMLHint(m[2]); hint != "" {
				return dataErrorf(line, "%s (%s)", m[2], hint)
			}
			return dataErrorf(line, "%s", m[2])
		}
	}
	return errors.New(strings.TrimPrefix(msg, "yaml: "))
}

// ambiguous are the plain words that YAML 1.1, and so the stock OPA, reads as
// truth values and YAML 1.2 as texts.
var ambiguous = regexp.MustCompile(`^(?i:y|yes|n|no|on|off)$`)

func (r *dataReader) yamlNode(n *yaml.Node, depth int) (*datum, error) {
	if err := r.spend(n.Line, depth); err != nil {
		return nil, err
	}
	d := &datum{file: r.file, line: n.Line}
	switch n.Kind {
	case yaml.AliasNode:
		return r.yamlNode(n.Alias, depth+1)
	case yaml.MappingNode:
		d.obj = make(map[string]*datum, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" || plain(k) && ambiguous.MatchString(k.Value) {
				return nil, dataErrorf(k.Line, "the key %q is not a text; put quotes around it", k.Value)
			}
			if first := d.obj[k.Value]; first != nil {
				return nil, dataErrorf(k.Line, "the key %q was already used in line %d", k.Value, first.line)
			}
			v, err := r.yamlNode(n.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			v.line = k.Line // where a reader looks for it
			d.obj[k.Value] = v
		}
		return d, nil
	case yaml.SequenceNode:
		elems := make([]*ast.Term, len(n.Content))
		for i, c := range n.Content {
			v, err := r.yamlNode(c, depth+1)
			if err != nil {
				return nil, err
			}
			elems[i] = ast.NewTerm(v.ast())
		}
		d.value = ast.NewArray(elems...)
		return d, nil
	case yaml.ScalarNode:
		v, err := yamlScalar(n)
		d.value = v
		return d, err
	}
	return nil, dataErrorf(n.Line, "is not understood")
}

func plain(n *yaml.Node) bool {
	return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

func yamlScalar(n *yaml.Node) (ast.Value, error) {
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		if plain(n) && ambiguous.MatchString(n.Value) {
			return nil, dataErrorf(n.Line, "%q means a truth value to some readers of YAML and a text to others: write true or false, or put quotes around it", n.Value)
		}
		return ast.String(n.Value), nil
	case "!!bool":
		return ast.Boolean(strings.EqualFold(n.Value, "true")), nil
	case "!!null":
		return ast.NullValue, nil
	case "!!int", "!!float":
		return number(n.Line, n.Value)
	}
	return nil, dataErrorf(n.Line, "the tag %s is not understood", n.Tag)
}

func (r *dataReader) json(body []byte) (*datum, error) {
	j := jsonReader{dataReader: r, body: body, dec: json.NewDecoder(bytes.NewReader(body))}
	j.dec.UseNumber()
	d, err := j.next(0)
	if err == nil {
		if _, err = j.dec.Token(); errors.Is(err, io.EOF) {
			return d, nil
		}
		return nil, dataErrorf(j.line(), "has more after the first value")
	}
	var at *dataError
	if errors.As(err, &at) {
		return nil, err
	}
	if errors.Is(err, io.EOF) {
		return nil, dataErrorf(j.line(), "ends too early")
	}
	return nil, dataErrorf(j.line(), "%s", err)
}

type jsonReader struct {
	*dataReader
	body []byte
	dec  *json.Decoder
}

// line is where the decoder stands.
func (j *jsonReader) line() int {
	return 1 + bytes.Count(j.body[:min(j.dec.InputOffset(), int64(len(j.body)))], []byte{'\n'})
}

func (j *jsonReader) next(depth int) (*datum, error) {
	t, err := j.dec.Token()
	if err != nil {
		return nil, err
	}
	return j.value(t, depth)
}

func (j *jsonReader) value(t json.Token, depth int) (*datum, error) {
	d := &datum{file: j.file, line: j.line()}
	if err := j.spend(d.line, depth); err != nil {
		return nil, err
	}
	var err error
	switch t := t.(type) {
	case nil:
		d.value = ast.NullValue
	case bool:
		d.value = ast.Boolean(t)
	case string:
		d.value = ast.String(t)
	case json.Number:
		d.value, err = number(d.line, t.String())
	case json.Delim:
		if t == '[' {
			var elems []*ast.Term
			for j.dec.More() {
				v, err := j.next(depth + 1)
				if err != nil {
					return nil, err
				}
				elems = append(elems, ast.NewTerm(v.ast()))
			}
			d.value = ast.NewArray(elems...)
		} else {
			d.obj = map[string]*datum{}
			for j.dec.More() {
				k, err := j.dec.Token()
				if err != nil {
					return nil, err
				}
				name, _ := k.(string)
				if first := d.obj[name]; first != nil {
					return nil, dataErrorf(j.line(), "the key %q was already used in line %d", name, first.line)
				}
				if d.obj[name], err = j.next(depth + 1); err != nil {
					return nil, err
				}
			}
		}
		_, err = j.dec.Token() // the closing bracket
	}
	return d, err
}
