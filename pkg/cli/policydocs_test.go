package cli

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

var update = flag.Bool("update", false, "write docs/policy-library.md anew")

// TestTheLibrarysPageIsWhatTheCommandPrints keeps docs/policy-library.md true.
func TestTheLibrarysPageIsWhatTheCommandPrints(t *testing.T) {
	const page = "../../docs/policy-library.md"
	d, err := policy.Describe(t.Context(), "../../policies", policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.Dir = "policies"
	var b bytes.Buffer
	printDescription(&b, d)
	// The revision counts every comment; it is not what a reader looks for.
	text := strings.Replace(b.String(), "Revision `"+d.Revision+"`. A", "Written by `anteroom policy docs`; do not edit. A", 1)
	if *update {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != text {
		t.Error("docs/policy-library.md is out of date: go test ./pkg/cli -run Library -update")
	}
	for _, r := range d.Rules {
		if r.Title == "" {
			t.Errorf("%v: a shipped rule without METADATA", r.At)
		}
	}
}
