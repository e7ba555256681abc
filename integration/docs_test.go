package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
)

// root is the module's root, seen from this folder.
const root = ".."

// documents returns the Markdown files that git knows, by path from the root.
func documents(t *testing.T) map[string][]byte {
	t.Helper()
	return tracked(t, "*.md")
}

// tracked returns the files that git knows or would add, matching a pattern.
func tracked(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pattern)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		if peers.Required() {
			t.Fatalf("what the project holds can not be listed: %v", err)
		}
		t.Skipf("this tree is not a git clone: %v", err)
	}
	all := make(map[string][]byte)
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		b, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // removed, and git not told yet
		}
		if err != nil {
			t.Fatal(err)
		}
		all[name] = b
	}
	if len(all) == 0 {
		t.Fatalf("no file matches %s", pattern)
	}
	return all
}

// testName finds the names of tests, as documents quote them.
var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9_]*)(?:/[^`]*)?`")

// TestDocsNameTestsThatExist keeps the threat model honest: a test it names is
// a function somewhere in the tree.
func TestDocsNameTestsThatExist(t *testing.T) {
	defined := make(map[string]bool)
	def := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	for _, src := range tracked(t, "*_test.go") {
		for _, m := range def.FindAllSubmatch(src, -1) {
			defined[string(m[1])] = true
		}
	}
	named := 0
	for name, doc := range documents(t) {
		for _, m := range testName.FindAllSubmatch(doc, -1) {
			named++
			if !defined[string(m[1])] {
				t.Errorf("%s names the test %s, which is nowhere in the tree", name, m[1])
			}
		}
	}
	if named == 0 {
		t.Error("no document names a test; the threat model should")
	}
}

// TestDocsLinkToFilesThatExist follows relative links.
func TestDocsLinkToFilesThatExist(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for name, doc := range documents(t) {
		for _, m := range link.FindAllSubmatch(stripCode(doc), -1) {
			target, _, _ := strings.Cut(string(m[1]), "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), filepath.FromSlash(target))); err != nil {
				t.Errorf("%s links to %s, which is not there", name, target)
			}
		}
	}
}

// heading finds headings, and mark what their anchors leave out.
var (
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	mark    = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// TestDocsLinkToHeadingsThatExist follows links into documents, as they are shown on
// the web: a heading's anchor is its text in lower case, with hyphens for spaces.
func TestDocsLinkToHeadingsThatExist(t *testing.T) {
	anchors := map[string]map[string]bool{}
	for name, doc := range documents(t) {
		anchors[name] = map[string]bool{}
		for _, m := range heading.FindAllSubmatch(stripCode(doc), -1) {
			text := mark.ReplaceAllString(strings.ToLower(string(m[1])), "")
			anchors[name][strings.ReplaceAll(text, " ", "-")] = true
		}
	}
	link := regexp.MustCompile(`\]\(([^)\s#]*)#([^)\s]+)\)`)
	followed := 0
	for name, doc := range documents(t) {
		for _, m := range link.FindAllSubmatch(stripCode(doc), -1) {
			if strings.Contains(string(m[1]), "://") {
				continue
			}
			target := name
			if len(m[1]) > 0 {
				target = filepath.Join(filepath.Dir(name), filepath.FromSlash(string(m[1])))
			}
			followed++
			if !anchors[target][string(m[2])] {
				t.Errorf("%s links to the heading %q of %s, which is not there", name, m[2], target)
			}
		}
	}
	if followed == 0 {
		t.Error("no document links to a heading")
	}
}

// stripCode removes fenced code, in which brackets are not links.
func stripCode(doc []byte) []byte {
	var out bytes.Buffer
	inside := false
	for line := range bytes.Lines(doc) {
		if bytes.HasPrefix(bytes.TrimSpace(line), []byte("```")) {
			inside = !inside
			continue
		}
		if !inside {
			out.Write(line)
		}
	}
	return out.Bytes()
}
