package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// decisionRego is the least a set needs beside a rule that allows.
const decisionRego = `package anteroom.authz

decision := {"allow": permitted, "reasons": allow, "denials": deny, "obligations": obligations}

default permitted := false

permitted if {
	count(allow) > 0
	count(deny) == 0
}

deny contains r if some r in data.none

obligations contains o if some o in data.none
`

// setDir writes files, by their paths, into a new directory, together with the
// decision rule unless they bring their own.
func setDir(tb testing.TB, files map[string]string) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "set")
	if _, own := files["decision.rego"]; !own {
		writeFile(tb, dir, "decision.rego", decisionRego)
	}
	for name, body := range files {
		writeFile(tb, dir, name, body)
	}
	return dir
}

func writeFile(tb testing.TB, dir, name, body string) {
	tb.Helper()
	to := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(to, []byte(body), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// rules returns a rule file of the package that decides.
func rules(body string) string { return "package anteroom.authz\n\n" + body + "\n" }

// problemsOf returns the problems of a failed load, one a line.
func problemsOf(tb testing.TB, err error) string {
	tb.Helper()
	var le *LoadError
	if !errors.As(err, &le) {
		tb.Fatalf("got error %v, want a *LoadError", err)
	}
	if len(le.Problems) == 0 {
		tb.Fatalf("the error lists no problem: %v", err)
	}
	var out []string
	for _, p := range le.Problems {
		out = append(out, p.String())
	}
	return strings.Join(out, "\n")
}

// bare returns a decision without how it was come by.
func bare(d Decision) Decision {
	d.Elapsed, d.unchecked = 0, false
	return d
}
