package policy

import (
	"fmt"
	"strings"
	"testing"
)

func readSet(t *testing.T, files map[string]string) *Source {
	t.Helper()
	src, err := Read(setDir(t, files), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestDiffTellsFilesRulesAndValues(t *testing.T) {
	older := readSet(t, map[string]string{
		"a.rego": rules("# a comment\nallow contains \"one\" if input.device.id == \"1\"\n\nallow contains \"two\" if input.device.id == \"2\"\n\nallow contains \"same\"\n\ndefault x := 1"),
		"d.yaml": "classes: {pump: {max: 1}, bed: {}}\nlist: [1, 2]\n", "gone_test.rego": "package a\n",
	})
	newer := readSet(t, map[string]string{
		"a.rego": rules("allow contains \"same\"\n\nallow contains \"one\" if   input.device.id == \"1\"\n\nallow contains \"two\" if input.device.id == \"22\"\n\nallow contains \"three\" if true"),
		"d.yaml": "# moved\nclasses: {pump: {max: 2}, ward: {x: 1}}\nlist: [1, 2]\n",
	})
	d, err := Diff(older, newer)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, part := range [][]Change{d.Files, d.Rules, d.Data} {
		for _, c := range part {
			fmt.Fprintf(&got, "%s %s (%s) [%s] [%s]\n", c.What, c.Where, c.At, c.Old, c.New)
		}
	}
	const want = `changed a.rego () [] []
changed d.yaml () [] []
removed gone_test.rego () [] []
changed data.anteroom.authz.allow (a.rego:7) [allow contains "two"] [allow contains "two"]
added data.anteroom.authz.allow (a.rego:9) [] [allow contains "three"]
removed data.anteroom.authz.x (a.rego:10) [default x := 1] []
removed data.classes.bed (d.yaml:1) [{}] []
changed data.classes.pump.max (d.yaml:2) [1] [2]
added data.classes.ward (d.yaml:2) [] [{"x": 1}]
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
	if d, err := Diff(older, older); err != nil || !d.Empty() {
		t.Errorf("a set differs from itself: %+v, %v", d, err)
	}
	if _, err := Diff(older, readSet(t, map[string]string{"a.rego": "package"})); err == nil {
		t.Error("compared to what can not be parsed")
	}
}
