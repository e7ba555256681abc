package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const allowAll = `allow contains "all" if input.request.protocol`

func TestLoadRefuses(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		opt   Options
		want  string // in the problems
	}{
		{
			name:  "a syntax error, with its line",
			files: map[string]string{"a.rego": rules(allowAll), "b/bad.rego": "package x\n\ny := {\n"},
			want:  "b/bad.rego:",
		},
		{
			name:  "a misspelt field, with its line and the nearest name",
			files: map[string]string{"a.rego": rules(`allow contains "x" if {` + "\n\t" + `input.devcie.class == "y"` + "\n}")},
			want:  `a.rego:4: rego_type_error: undefined ref: input.devcie.class: input has no field "devcie", did you mean "device"?`,
		},
		{
			name:  "a misspelt field deep down",
			files: map[string]string{"a.rego": rules(`allow contains "x" if input.request.fhir.typ == "Patient"`)},
			want:  `input.request.fhir has no field "typ", did you mean "type"?`,
		},
		{
			name:  "a misspelt field in a negation",
			files: map[string]string{"a.rego": rules(`allow contains "x" if not input.device.life_critcal`)},
			want:  `did you mean "life_critical"?`,
		},
		{
			name:  "a misspelt field through a local name",
			files: map[string]string{"a.rego": rules("allow contains \"x\" if {\n\tf := input.request.fhir\n\tf.interacton == \"read\"\n}")},
			want:  "a.rego:5: rego_type_error",
		},
		{
			name:  "a comparison that can never hold",
			files: map[string]string{"a.rego": rules(`allow contains "x" if input.time.hour == "9"`)},
			want:  "a.rego:3: rego_type_error: match error",
		},
		{
			name:  "a function that is taken away, with its line and the reason",
			files: map[string]string{"a.rego": rules("allow contains \"x\" if {\n\thttp.send({\"method\": \"get\", \"url\": \"http://x\"})\n}")},
			want:  "a.rego:4: http.send cannot be used here: a decision must not wait for",
		},
		{
			name:  "a function nobody knows",
			files: map[string]string{"a.rego": rules(`allow contains "x" if no.such.thing(1)`)},
			want:  "a.rego:3: rego_type_error: undefined function no.such.thing",
		},
		{
			name:  "an unsafe variable",
			files: map[string]string{"a.rego": rules(`allow contains x if x > 1`)},
			want:  "a.rego:3: rego_unsafe_var_error",
		},
		{
			name:  "an unused variable (strict)",
			files: map[string]string{"a.rego": rules("allow contains \"x\" if {\n\ty := 1\n\tinput.device\n}")},
			want:  "a.rego:4: rego_compile_error: assigned var y unused",
		},
		{
			name:  "Rego of before version 1",
			files: map[string]string{"a.rego": "package anteroom.authz\n\nallow[\"x\"] { true }\n"},
			want:  "a.rego:3: rego_parse_error",
		},
		{
			name:  "recursion",
			files: map[string]string{"a.rego": rules(allowAll + "\n\nx if y\n\ny if x")},
			want:  "rego_recursion_error",
		},
		{
			name:  "no decision",
			files: map[string]string{"decision.rego": "package anteroom.authz\n\nallow contains \"x\" if true\n"},
			want:  "no rule defines data.anteroom.authz.decision",
		},
		{
			name:  "no allow",
			files: map[string]string{"decision.rego": "package anteroom.authz\n\ndecision := {\"allow\": false}\n"},
			want:  "no rule defines data.anteroom.authz.allow",
		},
		{
			name:  "an empty directory",
			files: map[string]string{"decision.rego": "", "README.md": "nothing"},
			want:  "decision.rego:",
		},
		{
			name:  "a decision that is no object",
			files: map[string]string{"decision.rego": rules(allowAll + "\n\ndecision := count(allow) > 0")},
			want:  "data.anteroom.authz.decision must be an object",
		},
		{
			name:  "a decision with a misspelt field",
			files: map[string]string{"decision.rego": rules(allowAll + "\n\ndecision := {\"allow\": true, \"reasons\": allow, \"denials\": set(), \"obligation\": set()}")},
			want:  `has a field "obligation"`,
		},
		{
			name:  "an obligation nobody can meet",
			files: map[string]string{"a.rego": rules(allowAll + "\n\nobligations contains {\n\t\"tag\": \"x\",\n\t\"limit_rp\": 5,\n} if input.device")},
			want:  `a.rego:7: the rules oblige the gateway to "limit_rp", which it cannot do`,
		},
		{
			name:  "an obligation nobody can meet, to a value of the input",
			files: map[string]string{"a.rego": rules(allowAll + "\n\nobligations contains {\"tags\": input.device.class}")},
			want:  `a.rego:5: the rules oblige the gateway to "tags", which it cannot do`,
		},
		{
			name:  "an obligation to less than nothing",
			files: map[string]string{"a.rego": rules(allowAll + "\n\nobligations contains {\"limit_rps\": 0}")},
			want:  `a.rego:5: the rules oblige the gateway to limit_rps, whose value must be a whole number`,
		},
		{
			name:  "a pointer that is none",
			files: map[string]string{"a.rego": rules(allowAll + "\n\nobligations contains {\"redact\": [\"/a\", \"Patient.name\"]}")},
			want:  `a.rego:5: the rules oblige the gateway to redact, whose value must be a JSON pointer`,
		},
		{
			name:  "a decision that is a function",
			files: map[string]string{"decision.rego": rules(allowAll + "\n\ndecision(x) := x")},
			want:  "is a function",
		},
		{
			name:  "data with a syntax error, with its line",
			files: map[string]string{"a.rego": rules(allowAll), "d/x.yaml": "a: 1\nb: [\n"},
			want:  "d/x.yaml:",
		},
		{
			name:  "data with a repeated key",
			files: map[string]string{"a.rego": rules(allowAll), "d/x.yaml": "a: 1\nb: 2\na: 3\n"},
			want:  `d/x.yaml:3: the key "a" was already used in line 1`,
		},
		{
			name:  "JSON data with a repeated key",
			files: map[string]string{"a.rego": rules(allowAll), "d/x.json": "{\n \"a\": 1,\n \"a\": 2\n}"},
			want:  `d/x.json:3: the key "a" was already used in line 2`,
		},
		{
			name:  "JSON data with more behind it",
			files: map[string]string{"a.rego": rules(allowAll), "d/x.json": "{}\n{}"},
			want:  "d/x.json:2: has more after the first value",
		},
		{
			name:  "JSON data cut short",
			files: map[string]string{"a.rego": rules(allowAll), "d/x.json": "{\"a\": [1,"},
			want:  "d/x.json:1:",
		},
		{
			name:  "two files that disagree",
			files: map[string]string{"a.rego": rules(allowAll), "d/x.yaml": "a: {b: 1}\n", "d/y.yaml": "c: 1\na:\n  b: 2\n"},
			want:  "d/y.yaml:3: data.d.a.b is already set in d/x.yaml:1",
		},
		{
			name:  "data where a rule is",
			files: map[string]string{"a.rego": rules(allowAll), "anteroom/x.yaml": "authz: {allow: [yes-indeed]}\n"},
			want:  "rego_compile_error",
		},
		{
			name:  "a list at the top of a data file",
			files: map[string]string{"a.rego": rules(allowAll), "x.yaml": "- a\n"},
			want:  "x.yaml:1: a data file holds an object at its top",
		},
		{
			name:  "a word that YAML's versions read differently",
			files: map[string]string{"a.rego": rules(allowAll), "x.yaml": "country: no\n"},
			want:  `x.yaml:1: "no" means a truth value to some`,
		},
		{
			name:  "a number that is an octal one to some",
			files: map[string]string{"a.rego": rules(allowAll), "x.yaml": "tag: 00080050\n"},
			want:  `x.yaml:1: "00080050" is not a plain decimal number`,
		},
		{
			name:  "a number to spend memory on",
			files: map[string]string{"a.rego": rules(allowAll), "x.json": `{"n": 1e999999}`},
			want:  "out of range",
		},
		{
			name: "aliases that unfold",
			files: map[string]string{"a.rego": rules(allowAll), "x.yaml": func() string {
				var b strings.Builder
				b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
				for i := range 9 {
					fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
				}
				return b.String()
			}()},
			want: "hold more than",
		},
		{
			name:  "data that nests too deep",
			files: map[string]string{"a.rego": rules(allowAll), "x.json": `{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}"},
			want:  "nests deeper",
		},
		{
			name:  "two YAML documents",
			files: map[string]string{"a.rego": rules(allowAll), "x.yaml": "a: 1\n---\nb: 2\n"},
			want:  "more than one YAML document",
		},
		{
			name:  "a YAML file that would take much memory",
			files: map[string]string{"a.rego": rules(allowAll), "x.yaml": "a: [" + strings.Repeat("1,", maxYAML/2) + "]\n"},
			want:  "write it as JSON",
		},
		{
			name:  "a schema that is no JSON",
			files: map[string]string{"a.rego": rules(allowAll), "schemas/input.json": "{\n,}"},
			want:  "schemas/input.json:2:",
		},
		{
			name:  "too many bytes",
			files: map[string]string{"a.rego": rules(allowAll)},
			opt:   Options{MaxBytes: 300},
			want:  "larger than allowed",
		},
		{
			name:  "too many files",
			files: map[string]string{"a.rego": rules(allowAll), "b.yaml": "", "c.yaml": ""},
			opt:   Options{MaxFiles: 3},
			want:  "more than 3 files",
		},
		{
			name:  "directories that nest too deep",
			files: map[string]string{"a.rego": rules(allowAll), strings.Repeat("d/", 30) + "x.yaml": "a: 1\n"},
			want:  "nest deeper",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := setDir(t, tt.files)
			_, err := Load(context.Background(), dir, tt.opt)
			if got := problemsOf(t, err); !strings.Contains(got, tt.want) {
				t.Errorf("got problems\n%s\nwant one with\n%s", got, tt.want)
			}
			if strings.Contains(err.Error(), "\n\n") {
				t.Errorf("the message has an empty line: %q", err)
			}
		})
	}
}

func TestLoadRefusesWhatIsNoSet(t *testing.T) {
	ctx := context.Background()
	_, err := Load(ctx, filepath.Join(t.TempDir(), "gone"), Options{})
	if got := problemsOf(t, err); !strings.Contains(got, "no such file") {
		t.Errorf("a missing directory: %s", got)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v does not wrap its cause", err)
	}
}

func TestEveryRemovedFunctionIsRefusedByName(t *testing.T) {
	for name := range removed {
		t.Run(name, func(t *testing.T) {
			dir := setDir(t, map[string]string{"a.rego": rules(allowAll + "\n\nx := y if y := " + name + "(1)")})
			_, err := Load(context.Background(), dir, Options{})
			if got := problemsOf(t, err); !strings.HasPrefix(got, "a.rego:5: "+name+" cannot be used here: ") {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestLoadIgnores(t *testing.T) {
	files := map[string]string{
		"a.rego":            rules(allowAll),
		".hidden.rego":      "not rego",
		".git/config.yaml":  "not: [yaml",
		"README.md":         "text",
		"a.rego~":           "an editor's copy",
		"a.rego.swp":        "an editor's",
		"b_test.rego":       "package b\n\ntest_x if no.such.function(1)\n",
		"b_test.yaml":       "not: [yaml",
		"testdata/x.json":   "{",
		"deep/testdata/y.y": "",
	}
	dir := setDir(t, files)
	a := load(t, dir, Options{})
	for name := range files {
		if name != "a.rego" {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if b := load(t, dir, Options{}); a.Revision() != b.Revision() {
		t.Errorf("files that do not decide change the revision")
	}
}

func TestRevisionNamesTheContents(t *testing.T) {
	base := map[string]string{"a.rego": rules(allowAll), "d/x.yaml": "a: 1\n"}
	want := load(t, setDir(t, base), Options{}).Revision()
	if again := load(t, setDir(t, base), Options{}).Revision(); again != want {
		t.Errorf("the same contents elsewhere: %s and %s", want, again)
	}
	if len(want) != revisionLen {
		t.Errorf("revision %q", want)
	}
	for name, change := range map[string]map[string]string{
		"other data": {"d/x.yaml": "a: 2\n"},
		"other rule": {"a.rego": rules(allowAll) + "\n"},
		"more data":  {"d/y.yaml": ""},
	} {
		files := map[string]string{}
		for k, v := range base {
			files[k] = v
		}
		for k, v := range change {
			files[k] = v
		}
		if got := load(t, setDir(t, files), Options{}).Revision(); got == want {
			t.Errorf("%s: the revision is the same", name)
		}
	}
}

func TestLinks(t *testing.T) {
	ctx := context.Background()
	outside := filepath.Join(t.TempDir(), "outside.rego")
	if err := os.WriteFile(outside, []byte(rules(allowAll)), 0o644); err != nil {
		t.Fatal(err)
	}
	link := func(t *testing.T, to, dir, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("out of the directory", func(t *testing.T) {
		dir := setDir(t, map[string]string{"a.rego": rules(allowAll)})
		link(t, outside, dir, "b.rego")
		_, err := Load(ctx, dir, Options{})
		if got := problemsOf(t, err); !strings.HasPrefix(got, "b.rego: ") {
			t.Errorf("got %s", got)
		}
	})
	t.Run("out of the directory and back", func(t *testing.T) {
		dir := setDir(t, map[string]string{"a.rego": rules(allowAll)})
		link(t, filepath.Join("..", filepath.Base(dir), "a.rego"), dir, "b.rego")
		_, err := Load(ctx, dir, Options{})
		if got := problemsOf(t, err); !strings.HasPrefix(got, "b.rego: ") {
			t.Errorf("got %s", got)
		}
	})
	t.Run("to a directory", func(t *testing.T) {
		dir := setDir(t, map[string]string{"a.rego": rules(allowAll), "sub/x.yaml": "a: 1\n"})
		link(t, "sub", dir, "other")
		_, err := Load(ctx, dir, Options{})
		if got := problemsOf(t, err); !strings.Contains(got, "other: is a symbolic link to a directory") {
			t.Errorf("got %s", got)
		}
	})
	t.Run("to nothing", func(t *testing.T) {
		dir := setDir(t, map[string]string{"a.rego": rules(allowAll)})
		link(t, "nowhere.rego", dir, "b.rego")
		_, err := Load(ctx, dir, Options{})
		problemsOf(t, err)
	})
	t.Run("as Kubernetes lays out files", func(t *testing.T) {
		dir := setDir(t, map[string]string{"..2026/a.rego": rules(allowAll)})
		link(t, "..2026", dir, "..data")
		link(t, filepath.Join("..data", "a.rego"), dir, "a.rego")
		s := load(t, dir, Options{})
		if s.Modules() != 2 {
			t.Errorf("%d modules, want 2", s.Modules())
		}
	})
	t.Run("the directory itself", func(t *testing.T) {
		dir := setDir(t, map[string]string{"a.rego": rules(allowAll)})
		parent := t.TempDir()
		link(t, dir, parent, "policies")
		load(t, filepath.Join(parent, "policies"), Options{})
	})
}

func TestDataLiesWhereOPAPutsIt(t *testing.T) {
	dir := setDir(t, map[string]string{
		"a.rego": rules(`
allow contains r if {
	data.top.num == 1.50
	data.sub.dir.list == ["x", null, true, -2e2, {"k": "é"}]
	data.sub.dir.json == "\u00e9"
	data.sub.when == "2026-01-01"
	data.sub.quoted == "no"
	data.sub.copy == data.sub.dir.list
	r := "found"
}`),
		"x.yaml":         "top: {num: 1.50}\n",
		"sub/dir/x.yml":  "list: [x, null, true, -2e2, {k: é}]\n",
		"sub/dir/y.json": `{"json": "\u00e9"}`,
		"sub/z.yaml":     "when: 2026-01-01\nquoted: 'no'\nbase: &b [x, null, true, -2e2, {k: é}]\ncopy: *b\n",
		"empty.yaml":     "# nothing\n",
	})
	d := load(t, dir, Options{}).Decide(context.Background(), &Question{Now: noon})
	if !slices.Equal(d.Reasons, []string{"found"}) {
		t.Errorf("got %+v", d)
	}
}

// FuzzData: whatever is in a data file, reading it ends, and what is accepted
// can be merged with itself only where it holds nothing but objects.
func FuzzData(f *testing.F) {
	for _, s := range []string{"a: 1\n", "a: &x [1]\nb: *x\n", `{"a": {"b": [1, 2.5, "x", null, true]}}`, "? [a]\n: b\n", "<<: {a: 1}\n", "a: !!binary x\n", "a: 0x1F\n"} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, asJSON bool) {
		name := "x.yaml"
		if asJSON {
			name = "x.json"
		}
		var ps problems
		d := readData([]file{{name: name, role: roleData, body: body}}, func(*file) bool { return true }, &ps)
		if len(ps) == 0 {
			d.ast()
		}
		for _, p := range ps {
			if p.File != name || p.Message == "" {
				t.Errorf("problem %+v", p)
			}
		}
	})
}

// TestSchemasReadNothingElse: a schema cannot make the gateway open a file or a
// connection.
func TestSchemasReadNothingElse(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret.json")
	if err := os.WriteFile(secret, []byte(`{"type": "object", "properties": {"device": {"type": "object"}}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"http://127.0.0.1:1/x.json", "file://" + secret, secret} {
		for _, schema := range []string{
			fmt.Sprintf(`{"$ref": %q}`, ref),
			fmt.Sprintf(`{"type": "object", "properties": {"device": {"$ref": %q}}}`, ref),
		} {
			dir := setDir(t, map[string]string{"a.rego": rules(allowAll), "schemas/input.json": schema})
			if _, err := Load(context.Background(), dir, Options{}); err == nil {
				t.Errorf("%s was followed", schema)
			} else if problemsOf(t, err) == "" || strings.Contains(err.Error(), "the compiler failed") {
				t.Error(err)
			}
		}
	}
}

// FuzzRules: whatever a rule file holds, it is loaded or refused.
func FuzzRules(f *testing.F) {
	for _, c := range reachCases {
		f.Add(rules(c.body))
	}
	f.Add(moreRego)
	f.Add("package anteroom.authz\n\nallow contains x if some x in input[input[data[_]]]\n")
	f.Fuzz(func(t *testing.T, body string) {
		tr := &tree{dir: "fuzz", files: []file{
			{name: "a.rego", role: roleRego, body: []byte(body)},
			{name: "decision.rego", role: roleRego, body: []byte(decisionRego)},
		}}
		s, err := compile(context.Background(), tr, Options{Timeout: 20 * time.Millisecond}.withDefaults())
		if err != nil {
			if strings.Contains(err.Error(), "the compiler failed") {
				t.Error(err)
			}
			return
		}
		q := ask("patient-monitor", fhirAsks("create", "Observation"))
		whole := *s
		b := *s.builder
		b.want = everything
		whole.builder, whole.cache, s.cache = &b, nil, nil
		got, want := s.Decide(context.Background(), q), whole.Decide(context.Background(), q)
		if got.Fault != "" || want.Fault != "" {
			return // a time limit may fall on either
		}
		got, want = bare(got), bare(want)
		if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
			t.Errorf("cut down: %s\nwhole:    %s", g, w)
		}
	})
}
