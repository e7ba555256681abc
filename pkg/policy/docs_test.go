package policy

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/policies"
)

func reference(t *testing.T) []byte {
	t.Helper()
	page, err := os.ReadFile("../../docs/policy-input.md")
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestReferenceListsWhatIsRemoved(t *testing.T) {
	page := reference(t)
	for name := range removed {
		if !bytes.Contains(page, []byte("`"+name+"`")) {
			t.Errorf("the page does not say that %s cannot be used", name)
		}
	}
}

// TestReferenceExamplesWork loads the shipped set with the page's own class, rule
// and test, and shows the page's error.
func TestReferenceExamplesWork(t *testing.T) {
	page := string(reference(t))
	dir := t.TempDir() + "/set"
	if err := policies.Write(dir); err != nil {
		t.Fatal(err)
	}
	blocks := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)```rego\n# policies/(\\S+)\n(.*?)```").FindAllStringSubmatch(page, -1) {
		blocks[m[1]] = m[2]
	}
	if m := regexp.MustCompile("(?s)```yaml\n(ecg-cart:.*?)```").FindStringSubmatch(page); m != nil {
		blocks["classes/ecg-cart.yaml"] = m[1]
	}
	if len(blocks) != 3 {
		t.Fatalf("the page has %d examples, want 3", len(blocks))
	}
	for name, body := range blocks {
		writeFile(t, dir, name, body)
	}
	s := load(t, dir, Options{})
	if d := s.Decide(context.Background(), ask("ecg-cart", fhirAsks("create", "DiagnosticReport"))); !d.Allow {
		t.Errorf("the example class: %+v", d)
	}
	r, err := Test(context.Background(), dir, TestOptions{Run: "night"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Passed != 1 || r.Failed != 0 || !r.OK() {
		t.Errorf("the example test: %+v", r.Results)
	}
	writeFile(t, dir, "authz/mine.rego", rules("allow contains \"x\" if {\n\tinput.devcie.class == \"x\"\n}"))
	_, err = Load(context.Background(), dir, Options{})
	if got := problemsOf(t, err); !strings.Contains(page, got) {
		t.Errorf("the page does not show %s", got)
	}
}
