package protocol

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func obligation(kind string, v Value) Obligation { return Obligation{kind, v} }

func TestNoObligationsAreNone(t *testing.T) {
	o, err := Oblige(nil)
	if o != nil || err != nil || o.Value().Kind() != KindNull {
		t.Errorf("%+v, %v", o, err)
	}
	o.Each(func(kind, _ string) { t.Errorf("none has a %s", kind) })
}

// TestObligationsAddUpToTheStrictest: of several rules each has its way, in
// whatever order they come.
func TestObligationsAddUpToTheStrictest(t *testing.T) {
	list := []Obligation{
		obligation("limit_rps", Int(100)), obligation("redact", String("/a/b")), obligation("max_session_s", Int(60)),
		obligation("limit_rps", Int(5)), obligation("redact", Strings("/a~1b/~0", "/a/b", "/name/0")), obligation("max_session_s", Int(7200)),
		obligation("mirror", String("copy")), obligation("mirror", Strings("copy", "another")), obligation("limit_rps", Int(5)),
		obligation("tag", Strings("b", "a")), obligation("limit_bytes", Int(1000)), obligation("tag", String("a")),
	}
	want := &Obligations{
		Redact: []Pointer{{"a", "b"}, {"a/b", "~"}, {"name", "0"}},
		RPS:    []int64{5, 100}, Bytes: []int64{1000}, MaxSession: time.Minute,
		Mirror: []string{"another", "copy"}, Tags: []string{"a", "b"},
	}
	for range 2 {
		o, err := Oblige(list)
		if err != nil {
			t.Fatal(err)
		}
		want.value = o.value
		if !reflect.DeepEqual(o, want) {
			t.Errorf("got %+v", o)
		}
		var said []string
		o.Each(func(kind, what string) { said = append(said, kind+" "+what) })
		if got := strings.Join(said, "; "); got != "redact /a/b /a~1b/~0 /name/0; limit_rps 5 100; limit_bytes 1000; max_session_s 60; mirror another copy; tag a b" {
			t.Errorf("said %q", got)
		}
		for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
			list[i], list[j] = list[j], list[i]
		}
	}
}

// TestWhatCanNotBeMetIsAnError: and the error holds nothing of the value.
func TestWhatCanNotBeMetIsAnError(t *testing.T) {
	long := strings.Repeat("x", 300)
	many := make([]Value, 65)
	for i := range many {
		many[i] = String(fmt.Sprintf("/secret%d", i))
	}
	for _, b := range []Obligation{
		{"brew", String("secret")}, {"secret1", Int(1)}, {"", Int(1)}, {"Secret", Int(1)}, {"limit_rpm", Int(1)},
		{"redact", Null()}, {"redact", Int(1)}, {"redact", List()}, {"redact", String("")}, {"redact", String("secret")}, {"redact", String("/")},
		{"redact", String("/secret//a")}, {"redact", String("/secret/~2")}, {"redact", String("/secret/~")}, {"redact", String("/secret~01~")},
		{"redact", String("/secret/-")}, {"redact", String("/resourceType")}, {"redact", String("/" + long)}, {"redact", List(Strings("/secret"))},
		{"redact", List(String("/a"), Int(1))}, {"redact", List(many...)}, {"redact", Object(Field{"secret", String("/a")})},
		{"limit_rps", Int(0)}, {"limit_rps", Int(-1)}, {"limit_rps", Int(1_000_001)}, {"limit_rps", String("5")}, {"limit_rps", Bool(true)},
		{"limit_bytes", Int(0)}, {"limit_bytes", Int(1_000_000_000_001)}, {"limit_bytes", Null()},
		{"max_session_s", Int(0)}, {"max_session_s", Int(365*24*3600 + 1)}, {"max_session_s", String("secret")},
		{"mirror", String("")}, {"mirror", String(long)}, {"mirror", Strings("secret1", "b", "c", "d", "e")}, {"mirror", Bool(true)},
		{"tag", String("")}, {"tag", String("secret thing")}, {"tag", String("secret\n")}, {"tag", String("secret\"")}, {"tag", String("sécret")},
		{"tag", String(long)}, {"tag", Object(Field{"secret", Int(1)})}, {"tag", Strings(strings.Split("abcdefghijklmnopq", "")...)},
	} {
		o, err := Oblige([]Obligation{{"limit_rps", Int(1)}, b})
		if err == nil || o != nil {
			t.Errorf("%s %+v: %+v, %v", b.Kind, b.Value, o, err)
		} else if strings.Contains(strings.ToLower(err.Error()), "secret") {
			t.Errorf("%s: the error tells the value: %v", b.Kind, err)
		}
	}
}
