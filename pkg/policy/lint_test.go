package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
)

// found renders findings, one a line, without those of other kinds.
func found(r *LintReport, kinds string) string {
	var b strings.Builder
	for _, f := range r.Findings {
		if strings.Contains(kinds, f.Kind) {
			fmt.Fprintf(&b, "%s:%d %s: %s\n", f.File, f.Line, f.Kind, f.Message)
		}
	}
	return b.String()
}

func TestLintFindsWhatHasNoEffect(t *testing.T) {
	for _, c := range []struct {
		name, kinds, body, want string
	}{
		{"a rule nobody asks", FindingUnused, `allow contains "x" if input.device.id == "a"

helper if input.device.id == "b"

used if input.device.id == "c"

deny contains "y" if used`,
			"a.rego:5 unused: rule helper has no effect: the decision does not reach it\n"},
		{"a rule that asks for more than another that says the same", FindingShadowed, `allow contains "x" if input.device.id == "a"

allow contains "x" if {
	input.request.protocol == "fhir"
	input.device.id == "a"
}

allow contains "y" if {
	input.request.protocol == "fhir"
	input.device.id == "a"
}`,
			"a.rego:5 shadowed: rule allow adds nothing: the one at a.rego:3 says the same whenever this one would\n"},
		{"a rule said twice, in other words", FindingShadowed, `allow contains "x" if {
	some tag in input.device.tags
	tag == "a"
}

allow contains "x" if {
	some other in input.device.tags
	other == "a"
}`,
			"a.rego:8 shadowed: rule allow adds nothing: the one at a.rego:3 says the same whenever this one would\n"},
		{"alike conditions on different variables", FindingShadowed, `allow contains "x" if {
	some tag in input.device.tags
	tag == "a"
}

allow contains "x" if {
	some tag in input.device.tags
	some other in input.device.tags
	other == "a"
	tag == "b"
}`, ""},
		{"an else after what always holds", FindingShadowed, `allow contains "x" if level == 1

level := 1 if true

else := 2 if input.device.id == "a"`, "a.rego:7 shadowed: this else branch of rule level is never reached: the branch before it always holds\n"},
		{"an else that may be reached", FindingShadowed, `allow contains "x" if level == 1

level := 1 if input.device.id == "b"

else := 2 if input.device.id == "a"

else := 3`, ""},
		{"a contradiction", FindingImpossible, `allow contains "x" if {
	input.device.class == "a"
	input.device.location == "b"
	input.device.class == "c"
}`, `a.rego:3 impossible: rule allow never holds: it asks for both input.device.class == "a" and input.device.class == "c"` + "\n"},
		{"no contradiction", FindingImpossible, `allow contains "x" if {
	input.device.class == "a"
	not input.device.class == "c"
	input.device.location == "a"
}`, ""},
		{"the clock", FindingUncacheable, `allow contains "x" if late

late if time.now_ns() > 5`, "a.rego:5 uncacheable: rule late: time.now_ns makes its decisions depend on more than the input\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Lint(t.Context(), setDir(t, map[string]string{"a.rego": rules(c.body)}), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if errs, _ := r.Errors(); errs > 0 {
				t.Fatalf("%+v", r.Findings)
			}
			if got := found(r, c.kinds); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

func TestLintLooksAtDataAndTests(t *testing.T) {
	r, err := Lint(t.Context(), setDir(t, map[string]string{
		"a.rego": rules(`allow contains "x" if input.device.class in data.wards

allow contains "y" if input.device.class == "b"

allow contains "z" if {
	input.device.class == "c"
	input.device.id == "d"
}`),
		"a_test.rego": `package anteroom.authz_test

import data.anteroom.authz

test_x if "x" in authz.allow with input as {"device": {"class": "a"}} with data.wards as ["a"]

test_broken if 1 == 2
`,
		"wards/wards.yaml": "a: 1\n",
		"spare.yaml":       "# a comment\nward: 1\n",
	}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := `a.rego:5 untested: no test evaluates this rule allow
a.rego:7 untested: no test evaluates this rule allow
a_test.rego:7 failing: test test_broken fails; see anteroom policy test
spare.yaml:2 unread: data.ward is read by no rule, did you mean data.wards?
`
	got := regexp.MustCompile(`(?m)^decision.rego.*\n`).ReplaceAllString(found(r, "untested failing unread"), "")
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if errs, warnings := r.Errors(); errs != 1 || warnings < 2 {
		t.Errorf("%d errors, %d warnings", errs, warnings)
	}
}

func TestLintOfWhatDoesNotLoad(t *testing.T) {
	r, err := Lint(t.Context(), setDir(t, map[string]string{"a.rego": rules("allow contains \"x\" if input.devcie.id == \"a\"")}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if errs, _ := r.Errors(); errs != 1 || r.Findings[0].Line != 3 || !strings.Contains(r.Findings[0].Message, `did you mean "device"?`) {
		t.Errorf("%+v", r.Findings)
	}
	if _, err := Lint(t.Context(), t.TempDir()+"/none", Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// TestTheShippedSetIsClean: an author who starts from it starts without noise.
func TestTheShippedSetIsClean(t *testing.T) {
	r, err := Lint(t.Context(), shipped, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) > 0 {
		t.Errorf("%+v", r.Findings)
	}
}

// TestDataIsCheckedAgainstItsSchema: a key that is misspelt is an error with its
// place, and not a permission that silently is not there.
func TestDataIsCheckedAgainstItsSchema(t *testing.T) {
	for _, c := range []struct{ name, file, body, want string }{
		{"a misspelt key", "classes/a.yaml", "a:\n  title: A\n  fihr:\n    system: []\n",
			`classes/a.yaml:3: data.classes.a: "fihr" is nothing that is known there, did you mean "fhir"?`},
		{"no such interaction", "classes/a.yaml", "a:\n  fhir:\n    types:\n      Patient: [raed]\n", "classes/a.yaml:4: data.classes.a.fhir.types.Patient.0: "},
		{"a wrong type", "posture/p.yaml", "critical_cvss: high\n", "posture/p.yaml:1: data.posture.critical_cvss: got string, want number"},
		{"out of range", "posture/p.yaml", "critical_cvss: 11\n", "posture/p.yaml:1: data.posture.critical_cvss: maximum"},
		{"in JSON", "classes/a.json", "{\"a\":\n {\"htpp\":\n []}}", `classes/a.json:3: data.classes.a: "htpp" is nothing that is known there, did you mean "http"?`},
		{"a type of resource that there is not", "classes/a.yaml", "a:\n  fhir:\n    types:\n      Patient: [read]\n      Observaton: [create]\n",
			`classes/a.yaml:5: data.classes.a.fhir.types: the name "Observaton": it is nothing that is known there, did you mean "Observation"?`},
		{"the same twice", "classes/a.yaml", "a:\n  fhir:\n    types:\n      patient: [read]\nb:\n  fhir:\n    types:\n      patient: [read]\n",
			`classes/a.yaml:8: data.classes.b.fhir.types: the name "patient": it is nothing that is known there, did you mean "Patient"?`},
		{"a name of the wrong form", "classes/a.yaml", "a:\n  fhir:\n    operations:\n      everything: [Patient]\n",
			`classes/a.yaml:4: data.classes.a.fhir.operations: the name "everything": 'everything' does not match pattern`},
		{"YAML that does not parse", "classes/a.yaml", "a:\n  fhir: [\n", "(a bracket, brace or quote that is not closed"},
		{"data of one's own", "mine.yaml", "anything: [1]\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			schema := contents(t, shipped+"/schemas/data/schema.json")
			err := Check(t.Context(), setDir(t, map[string]string{
				"a.rego": rules(`allow contains "x" if input.device.class in data.classes`), "schemas/data/schema.json": schema, c.file: c.body,
			}), Options{})
			switch {
			case c.want == "":
				if err != nil {
					t.Error(err)
				}
			case err == nil:
				t.Error("loads")
			default:
				if got := problemsOf(t, err); !strings.Contains(got, c.want) {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			}
		})
	}
	for name, schema := range map[string]string{"not JSON": "{", "no schema": `{"type": 7}`, "one that fetches": `{"$ref": "https://example.org/x.json"}`} {
		err := Check(t.Context(), setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.id == "a"`), "schemas/data/schema.json": schema}), Options{})
		if err == nil || !strings.Contains(problemsOf(t, err), "schemas/data/schema.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func contents(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
