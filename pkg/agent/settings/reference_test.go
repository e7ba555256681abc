package settings

import (
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

var update = flag.Bool("update", false, "write the tables in docs/agent.md anew")

// marker begins the part of docs/agent.md that is made from the tags.
const marker = "<!-- Made from the tags in pkg/agent/settings/types.go: go test ./pkg/agent/settings -run Docs -update -->\n"

func TestTheAgentsReferenceIsWhatTheDocsSay(t *testing.T) {
	const path = "../../../docs/agent.md"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(got), marker)
	if !ok {
		t.Fatalf("%s has no place for the tables", path)
	}
	tables := strings.Replace(config.Tables(reflect.TypeFor[File]()), "## The file", "### The file", 1)
	want := head + marker + "\n" + strings.TrimRight(strings.ReplaceAll(tables, "\n## `", "\n### `"), "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(got) != want {
		t.Error("docs/agent.md is out of date: go test ./pkg/agent/settings -run Docs -update")
	}
}
