package policy

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestRegoTests(t *testing.T) {
	dir := setDir(t, map[string]string{
		"a.rego": rules(`allow contains "x" if input.device.class == "a"` + "\n\nallow contains \"y\" if {\n\tinput.device.class == \"b\"\n\tinput.device.owner == data.boss\n}"),
		"a_test.rego": `package a_test

import data.anteroom.authz

test_good if authz.permitted with input as {"device": {"class": "a"}}

test_bad if {
	print("class is", "z")
	authz.permitted with input as {"device": {"class": "z"}}
}

test_error if to_number(authz.word) == 1

todo_test_later if false
`,
		"word.rego":            rules("word := \"no number\""),
		"testdata/x.yaml":      "about: tests\n",
		"b_test.yaml":          "boss: nobody\n",
		"sub/testdata/x.json":  "{}",
		"c_test.rego":          "package c_test\n\ntest_sees_test_data if {\n\tdata.testdata.about == \"tests\"\n\tdata.boss == \"nobody\"\n}\n",
		"schemas/other/x.json": `{"type": "object"}`,
	})
	r, err := Test(context.Background(), dir, TestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Passed != 2 || r.Failed != 2 || r.Skipped != 1 || r.OK() {
		t.Fatalf("got %+v", r)
	}
	by := map[string]TestResult{}
	for _, res := range r.Results {
		by[res.Name] = res
	}
	if res := by["test_bad"]; res.Pass || res.File != "a_test.rego" || res.Line != 7 || !strings.Contains(res.Output, "class is z") || !strings.HasPrefix(res.At, "a_test.rego:9: ") {
		t.Errorf("got %+v", res)
	}
	if res := by["test_error"]; !strings.Contains(res.Error, "to_number") {
		t.Errorf("got %+v", res)
	}
	var a FileCoverage
	for _, f := range r.Files {
		if strings.HasSuffix(f.File, "_test.rego") {
			t.Errorf("%s counts as a rule file", f.File)
		}
		if f.File == "a.rego" {
			a = f
		}
	}
	if a.NotCovered == 0 || len(a.Missing) == 0 || r.Coverage <= 0 || r.Coverage >= 100 {
		t.Errorf("coverage %v, %+v", r.Coverage, a)
	}

	// What tests alone need is not there for decisions.
	if s := load(t, dir, Options{}); s.Decide(context.Background(), &Question{Now: noon}).Fault != "" {
		t.Error("fault")
	}

	r, err = Test(context.Background(), dir, TestOptions{Run: "test_good$"})
	if err != nil || r.Passed != 1 || r.Failed != 0 || !r.OK() {
		t.Errorf("one test: %+v, %v", r, err)
	}
	r, err = Test(context.Background(), dir, TestOptions{Run: "no such test"})
	if err != nil || r.OK() || r.Coverage != 0 {
		t.Errorf("no test: %+v, %v", r, err)
	}
	if _, err = Test(context.Background(), dir, TestOptions{Run: "("}); err == nil {
		t.Error("a broken expression is taken")
	}
}

func TestRegoTestsThatDoNotCompile(t *testing.T) {
	for name, body := range map[string]string{
		"a syntax error":    "package a_test\n\ntest_x if {\n",
		"a misspelt field":  "package a_test\n\ntest_x if input.devcie\n",
		"a removed builtin": "package a_test\n\ntest_x if http.send({})\n",
	} {
		dir := setDir(t, map[string]string{"a.rego": rules(allowAll), "a_test.rego": body})
		_, err := Test(context.Background(), dir, TestOptions{})
		if got := problemsOf(t, err); !strings.HasPrefix(got, "a_test.rego:") {
			t.Errorf("%s: %s", name, got)
		}
		load(t, dir, Options{}) // the set itself is good
	}
}

func TestRegoTestThatDoesNotEnd(t *testing.T) {
	dir := setDir(t, map[string]string{"a.rego": rules(allowAll), "a_test.rego": "package a_test\n\ntest_x if {\n\tn := numbers.range(1, 100000)\n\tcount([1 | some i in n; some j in n; i * j == 7]) > 100\n}\n"})
	r, err := Test(context.Background(), dir, TestOptions{TestTimeout: 20 * time.Millisecond})
	if err != nil || r.Failed != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
}
