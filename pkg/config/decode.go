package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A decoder fills a File, or another struct, from YAML nodes, by its types and
// tags. The nodes keep the places that messages name, which yaml.v3's own
// decoder loses.
type decoder struct {
	file     string
	problems []Problem
	at       map[string]*yaml.Node // the node each path came from
}

func (d *decoder) add(n *yaml.Node, path, msg, hint string) {
	p := Problem{File: d.file, Path: path, Message: msg, Hint: hint}
	if n != nil {
		p.Line, p.Col = n.Line, n.Column
	}
	d.problems = append(d.problems, p)
}

func (d *decoder) decodeFile(doc *yaml.Node, into any) {
	n := doc
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	d.value(n, reflect.ValueOf(into).Elem(), "")
}

var (
	durationType = reflect.TypeFor[Duration]()
	sizeType     = reflect.TypeFor[Size]()
)

// value fills v from n.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	d.at[path] = n
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.add(n, path, "anchors and aliases are not supported", "write the value out")
		return
	}
	switch {
	case v.Type() == durationType:
		if s, ok := d.scalar(n, path, "a time span such as 90s or 12h"); ok {
			t, err := time.ParseDuration(s)
			if err != nil || t < 0 {
				d.add(n, path, fmt.Sprintf("%q is not a time span", s), "write 90s, 10m or 720h")
			}
			v.SetInt(int64(t))
		}
	case v.Type() == sizeType:
		if s, ok := d.scalar(n, path, "a size such as 64KiB"); ok {
			size, err := parseSize(s)
			if err != nil {
				d.add(n, path, err.Error(), "write 64KiB, 4MiB or 1GiB")
			}
			v.SetInt(int64(size))
		}
	default:
		d.kind(n, v, path)
	}
}

func (d *decoder) kind(n *yaml.Node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Struct:
		d.object(n, v, path)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.add(n, path, "a list is expected here, not "+kindName(n), "")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, c := range n.Content {
			d.value(c, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			d.add(n, path, "keys with values are expected here, not "+kindName(n), "")
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if v.MapIndex(reflect.ValueOf(key)).IsValid() {
				d.add(n.Content[i], join(path, key), "the key is there twice", "")
				continue
			}
			e := reflect.New(v.Type().Elem()).Elem()
			d.value(n.Content[i+1], e, join(path, key))
			v.SetMapIndex(reflect.ValueOf(key), e)
		}
	case reflect.String:
		if s, ok := d.scalar(n, path, "text"); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		if s, ok := d.scalar(n, path, "true or false"); ok {
			if s != "true" && s != "false" {
				d.add(n, path, fmt.Sprintf("%q is neither true nor false", s), "")
			}
			v.SetBool(s == "true")
		}
	case reflect.Int:
		if s, ok := d.scalar(n, path, "a number"); ok {
			i, err := strconv.Atoi(s)
			if err != nil || i < 0 {
				d.add(n, path, fmt.Sprintf("%q is not a whole number from 0", s), "")
			}
			v.SetInt(int64(i))
		}
	default:
		d.add(n, path, "can not be configured", "")
	}
}

// scalar returns a plain value's text.
func (d *decoder) scalar(n *yaml.Node, path, want string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.add(n, path, want+" is expected here, not "+kindName(n), "")
		return "", false
	}
	return n.Value, true
}

func kindName(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys with values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	}
	return "a single value"
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// object fills a struct: known keys only, each once, the required ones there,
// defaults for the others.
func (d *decoder) object(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.add(n, path, "keys with values are expected here, not "+kindName(n), "")
		return
	}
	fields := map[string]int{}
	var names []string
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "-" {
			fields[name] = i
			names = append(names, name)
		}
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		idx, ok := fields[key.Value]
		switch {
		case !ok:
			hint := "known are " + strings.Join(names, ", ")
			if near := Nearest(key.Value, names); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			d.add(key, path, fmt.Sprintf("unknown key %q", key.Value), hint)
		case seen[key.Value]:
			d.add(key, path, fmt.Sprintf("the key %q is there twice", key.Value), "")
		default:
			seen[key.Value] = true
			sub := join(path, key.Value)
			d.value(n.Content[i+1], v.Field(idx), sub)
			d.enum(n.Content[i+1], v.Field(idx), v.Type().Field(idx), sub)
		}
	}
	for _, name := range names {
		if seen[name] {
			continue
		}
		f := v.Type().Field(fields[name])
		if f.Tag.Get("required") == "true" {
			d.add(n, path, fmt.Sprintf("the key %q is missing", name), firstSentence(f.Tag.Get("doc")))
			continue
		}
		d.at[join(path, name)] = n
		d.fill(n, v.Field(fields[name]), f.Tag.Get("default"), join(path, name))
	}
}

// fill sets a value that was not written to its default. Its place is that of
// what it is missing from.
func (d *decoder) fill(n *yaml.Node, v reflect.Value, def, path string) {
	if v.Kind() == reflect.Struct {
		d.object(&yaml.Node{Kind: yaml.MappingNode, Line: n.Line, Column: n.Column}, v, path)
		return
	}
	if def != "" {
		d.value(&yaml.Node{Kind: yaml.ScalarNode, Value: def, Tag: "!!str", Line: n.Line, Column: n.Column}, v, path)
	}
}

// enum checks a value against the ones its tag allows.
func (d *decoder) enum(n *yaml.Node, v reflect.Value, f reflect.StructField, path string) {
	tag := f.Tag.Get("enum")
	if tag == "" || v.Kind() != reflect.String || n.Kind != yaml.ScalarNode {
		return
	}
	allowed := strings.Split(tag, ",")
	for _, a := range allowed {
		if v.String() == a {
			return
		}
	}
	hint := "one of " + strings.Join(allowed, ", ")
	if near := Nearest(v.String(), allowed); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	d.add(n, path, fmt.Sprintf("%q is not known here", v.String()), hint)
}

func firstSentence(s string) string {
	if i := strings.Index(s, ". "); i >= 0 {
		return s[:i]
	}
	return strings.TrimSuffix(s, ".")
}

// units are the units of sizes.
var units = []struct {
	name string
	n    int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1}, {"", 1}}

// parseSize reads a number of bytes: 4096, 64KiB, 4MiB, 1GiB.
func parseSize(s string) (Size, error) {
	for _, u := range units {
		num, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(num, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.n {
			break
		}
		return Size(n * u.n), nil
	}
	return 0, fmt.Errorf("%q is not a size", s)
}

func (s Size) String() string {
	for _, u := range []int{3, 2, 1, 0} {
		if n := units[u].n; int64(s) >= n && int64(s)%n == 0 {
			return strconv.FormatInt(int64(s)/n, 10) + units[u].name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Nearest returns the one of the known words that s was probably meant to be, or
// "" if none is near: at most a third of its letters wrong.
func Nearest(s string, known []string) string {
	best, at := "", len(s)/3+1
	for _, k := range known {
		if n := distance(strings.ToLower(s), k); n <= at && (best == "" || n < at) {
			best, at = k, n
		}
	}
	return best
}

// distance is the number of letters to add, drop, change or swap with a
// neighbour to make one word of the other.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
