package cli

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

var seeHelp = regexp.MustCompile(`^See anteroom( [a-z-]+)* --help\.$`)

// TestExitStatuses: 1 for what could not be done, 2 for what was not
// understood, one line on standard error for either.
func TestExitStatuses(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("ANTEROOM_CONFIG", "")
	for args, want := range map[string]int{
		"":                                0,
		"version":                         0,
		"help":                            0,
		"check -c absent.yaml":            exitFailed,
		"audit verify --dir absent":       exitFailed,
		"devcie":                          exitUsage,
		"device enrol":                    exitUsage,
		"device enroll":                   exitUsage,
		"device enroll pump-1":            exitUsage,
		"check --colour":                  exitUsage,
		"status now":                      exitUsage,
		"init":                            exitUsage,
		"audit search --since yesterday":  exitFailed, // no configuration is found first
		"device revoke pump-1":            exitUsage,  // nobody to ask
		"operator add jane --role boss":   exitUsage,
		"device list --expiring whenever": exitUsage,
		"device list --status lost":       exitUsage,
		"operator add jane":               exitUsage,
		"demo --for -1s":                  exitUsage,
		"demo --for 0s":                   exitUsage,
	} {
		var out, errs bytes.Buffer
		got := Main(strings.Fields(args), strings.NewReader(""), &out, &errs)
		if got != want {
			t.Errorf("%q: exit %d, want %d: %s", args, got, want, &errs)
		}
		lines := strings.Split(strings.TrimRight(errs.String(), "\n"), "\n")
		switch {
		case want == 0 && errs.Len() > 0:
			t.Errorf("%q: %s", args, &errs)
		case want == exitFailed && len(lines) != 1, want == exitUsage && (len(lines) != 2 || !seeHelp.MatchString(lines[1])):
			t.Errorf("%q: %q", args, lines)
		}
	}
}
