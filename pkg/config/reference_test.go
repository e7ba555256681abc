package config

import (
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

func TestTheReferenceIsWhatTheDocsSay(t *testing.T) {
	const path = "../../docs/configuration.md"
	want := Reference()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/configuration.md is out of date: go test ./pkg/config -update")
	}
}

func TestEverySettingIsDescribed(t *testing.T) {
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Tag.Get("yaml") == "-" {
				continue
			}
			if doc := f.Tag.Get("doc"); doc == "" || !strings.HasSuffix(doc, ".") && !strings.HasSuffix(doc, "…") {
				t.Errorf("%s.%s: doc %q", typ, f.Name, doc)
			}
			if _, elem := typeName(f); elem != nil {
				walk(elem)
			}
		}
	}
	walk(reflect.TypeFor[File]())
}
