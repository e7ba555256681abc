package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// inDocs finds commands as documents show them: after a prompt or at a line's
// beginning in code, or between backquotes.
var (
	inDocs   = regexp.MustCompile("(?m)(?:^(?: *\\$ |  )?(?:\\./|\\.\\./|docker compose exec gateway )?|`|\\$\\()anteroom ([a-z][^`\n]*)")
	flagName = regexp.MustCompile(`(?:^|\s)(--[a-z][a-z0-9-]*|-[a-z])\b`)
)

// TestDocsShowCommandsThatExist: every command, and every flag of one, that a
// document shows is one that this program has.
func TestDocsShowCommandsThatExist(t *testing.T) {
	var names []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docker/*.md", "docker/*.service", "docker/compose.yaml"} {
		found, err := filepath.Glob(filepath.Join("..", "..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	commands := 0
	for _, name := range names {
		doc, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		doc = bytes.ReplaceAll(doc, []byte("\\\n"), nil)
		for _, m := range inDocs.FindAllSubmatch(doc, -1) {
			line := string(m[1])
			line, _, _ = strings.Cut(line, " # ")
			if end := strings.IndexAny(line, "|&;><…"); end >= 0 {
				line = line[:end]
			}
			if strings.HasPrefix(line, "help") || strings.HasPrefix(line, "completion") {
				continue
			}
			commands++
			root := (&app{}).root()
			cmd := root
			for _, word := range strings.Fields(line) {
				var next *cobra.Command
				for _, c := range cmd.Commands() {
					if c.Name() == strings.Trim(word, ".,:()") {
						next = c
					}
				}
				if next == nil {
					break
				}
				cmd = next
			}
			if cmd == root {
				t.Errorf("%s shows %q, and there is no such command", name, "anteroom "+line)
				continue
			}
			// What another program is asked for in a substitution, or a text in quotes, is
			// none of ours.
			line = regexp.MustCompile(`"[^"]*"|'[^']*'|\$\([^)]*\)`).ReplaceAllString(line, "x")
			for _, f := range flagName.FindAllStringSubmatch(line, -1) {
				flag := strings.TrimLeft(f[1], "-")
				long := cmd.Flags().Lookup(flag) != nil || cmd.InheritedFlags().Lookup(flag) != nil || flag == "help"
				short := len(flag) == 1 && (cmd.Flags().ShorthandLookup(flag) != nil || cmd.InheritedFlags().ShorthandLookup(flag) != nil)
				if !long && !short {
					t.Errorf("%s shows %q, and %q has no %s", name, "anteroom "+line, cmd.CommandPath(), f[1])
				}
			}
		}
	}
	if commands < 100 {
		t.Errorf("only %d commands were found in %d documents", commands, len(names))
	}
}
