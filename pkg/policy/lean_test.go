package policy

import (
	"context"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/policies"
)

// leanSet is a set for whose decision rule there is a shorter way.
func leanSet(t *testing.T, rego, data string) *Set {
	t.Helper()
	text, err := fs.ReadFile(policies.FS, shippedDecision)
	if err != nil {
		t.Fatal(err)
	}
	return load(t, setDir(t, map[string]string{
		"decision.rego": string(text),
		"rules.rego":    rules(rego),
		"tables.yaml":   data,
	}), Options{CacheEntries: -1})
}

func leanRules(s *Set) int {
	n := 0
	for _, m := range s.plan.whole.compiler.Modules {
		for _, r := range m.Rules {
			if r.Head.Name == "deny" || r.Head.Name == "allow" {
				n++
			}
		}
	}
	return n
}

// What the tables make impossible is not asked; what they do not is.
func TestDeadRulesAreNotAsked(t *testing.T) {
	const always = "allow contains \"always\"\n\ndeny contains \"never\" if input.device.class == \"never\"\n\n"
	for _, c := range []struct {
		name, rego, data string
		want             int // rules of allow and deny that are left, with those of always
		filled           int
	}{
		{"an empty list", always + `deny contains r if some r in data.shut`, "shut: []", 2, 0},
		{"a list that is missing", always + `deny contains r if some r in data.nowhere`, "shut: []", 2, 0},
		{"a list with something in it", always + `deny contains r if some r in data.shut`, "shut: [storm]", 3, 0},
		{"a list that no class has", always + `deny contains r if some r in data.kinds[input.device.class].shut`, "kinds: {patient-monitor: {}, pump: {shut: []}, ventilator: {shut: 3}}", 2, 0},
		{"a list that a class has", always + `deny contains r if some r in data.kinds[input.device.class].shut`, "kinds: {patient-monitor: {shut: [storm]}, pump: {}}", 3, 0},
		{"a list of a class, of no classes", always + `deny contains r if some r in data.kinds[input.device.class].shut`, "mode: day", 2, 0},
		{"a list of a class that a rule names", always + "kind := input.device.class\n\ndeny contains r if some r in data.kinds[kind].shut", "kinds: {}", 3, 0},
		{"a list of a class in a rule's value", always + "kinds := {\"patient-monitor\": {\"shut\": [\"storm\"]}}\n\ndeny contains r if some r in data.anteroom.authz.kinds[input.device.class].shut", "mode: day", 3, 0},
		{"a list below two parts that the question names", always + `deny contains r if some r in data.kinds[input.device.class][input.device.status]`, "kinds: {a: {b: []}}", 2, 0},
		{"a list below two parts, with something in it", always + `deny contains r if some r in data.kinds[input.device.class][input.device.status]`, "kinds: {a: {b: [c]}}", 3, 0},
		{"another value", always + `deny contains "night" if data.mode == "night"`, "mode: day", 2, 0},
		{"that value", always + `deny contains "night" if data.mode == "night"`, "mode: night", 3, 0},
		{"turned round", always + `deny contains "night" if "night" == data.mode`, "mode: day", 2, 0},
		{"a part that is named by the question", always + `deny contains "night" if data.modes[input.device.class] == "night"`, "modes: {a: day}", 2, 0},
		{"a part that is named by the question, and may be", always + `deny contains "night" if data.modes[input.device.class] == "night"`, "modes: {a: day, b: night}", 3, 0},
		{"an element that is in no list", always + `deny contains "night" if "night" in data.modes[input.device.class].when`, "modes: {a: {when: [day]}, b: {}}", 2, 0},
		{"an element that is in one", always + `deny contains "night" if "night" in data.modes[input.device.class].when`, "modes: {a: {when: [day]}, b: {when: [night]}}", 3, 0},
		{"an element of the question in no list", always + `deny contains "night" if input.device.owner in data.modes[input.device.class].when`, "modes: {a: {when: []}}", 2, 0},
		{"any of a list that is nowhere", always + "deny contains \"night\" if {\n\tsome w in data.modes[input.device.class].when\n\tw == input.device.owner\n}", "modes: {a: {when: []}}", 2, 0},
		{"any of a list that is somewhere", always + "deny contains \"night\" if {\n\tsome w in data.modes[input.device.class].when\n\tw == input.device.owner\n}", "modes: {a: {when: [x]}}", 3, 0},
		{"a part that is nowhere", always + "deny contains \"night\" if {\n\tdata.modes[input.device.location]\n\tnot input.device.owner == \"a\"\n}", "modes: {}", 2, 0},
		{"a part that is false", always + `deny contains "night" if data.modes[input.device.location].shut`, "modes: {a: {shut: false}}", 2, 0},
		{"a part that is null", always + `deny contains "night" if data.modes[input.device.location].shut`, "modes: {a: {shut: null}}", 3, 0},
		{"named first", always + "deny contains \"night\" if {\n\tw := data.modes[input.device.class]\n\tcount(w) > 2\n}", "modes: {}", 2, 0},
		{"compared with what is nowhere", always + `deny contains "night" if input.device.posture.max_cvss >= data.worst`, "modes: {}", 2, 0},
		{"compared with what is there", always + `deny contains "night" if input.device.posture.max_cvss >= data.worst`, "worst: 9", 3, 0},
		{"a part of a rule's value", always + "modes.a := \"night\"\n\ndeny contains \"night\" if data.anteroom.authz.modes[input.device.class] == \"day\"", "mode: day", 3, 0},
		{"any rule's value", always + "modes.a := \"night\"\n\ndeny contains \"night\" if data.anteroom[input.device.class].modes.a == \"day\"", "mode: day", 3, 0},
		{"a dead element behind what may fail", always + "deny contains \"night\" if {\n\tto_number(input.device.class) > 1\n\t\"night\" in data.modes[input.device.class]\n}", "modes: {}", 3, 0},
		{"behind a rule that may fail", always + "fails if to_number(input.device.class) > 1\n\ndeny contains \"night\" if {\n\tfails\n\t\"night\" in data.modes[input.device.class]\n}", "modes: {}", 3, 0},
		{"behind what may fail", always + "deny contains \"night\" if {\n\tto_number(input.device.class) > 1\n\tdata.mode == \"night\"\n}", "mode: day", 3, 0},
		{"negated", always + `deny contains "night" if not data.mode == "night"`, "mode: day", 3, 0},
		{"a rule's value and no table", always + "shut := [\"storm\"]\n\ndeny contains r if some r in data.anteroom.authz.shut", "mode: day", 3, 0},
		{"a list of the question", always + `deny contains r if some r in input.request.fhir.params`, "mode: day", 3, 1},
		{"a list of the question that is named by it", always + `deny contains r if some r in input.request.http.query[input.device.class]`, "mode: day", 3, 0},
		{"with another input", always + "probe if allow == set() with input as {}\n\ndeny contains r if {\n\tsome r in data.shut\n\tprobe\n}", "shut: []", 4, 0},
		{"all of the input", always + "deny contains r if some r in input.request.fhir.params\n\ndeny contains \"many\" if count(input) > 7", "mode: day", 4, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := leanSet(t, c.rego, c.data)
			// The shipped rule over data.closed is always dead here, but where nothing
			// is left out.
			if got := leanRules(s); got != c.want {
				t.Errorf("%d rules of allow and deny are left, want %d", got, c.want)
			}
			if got := len(s.plan.filled); got != c.filled {
				t.Errorf("%d lists are told apart, want %d", got, c.filled)
			}
			sameAsPlain(t, s)
		})
	}
}

// TestTheShippedSetObligesToNothingForNothing: as long as neither the standing
// data nor those of any class oblige, nobody asks.
func TestTheShippedSetObligesToNothingForNothing(t *testing.T) {
	if s := load(t, shipped, Options{}); s.plan.direct == nil || s.plan.direct.obligations != nil {
		t.Error("obligations are asked for, of which there are none")
	}
}

// sameAsPlain asks a set and plain OPA the same.
func sameAsPlain(t *testing.T, s *Set) {
	t.Helper()
	plain := plainOf(s)
	for name, q := range questions() {
		got, want := s.Decide(context.Background(), q), plain.Decide(context.Background(), q)
		got, want = bare(got), bare(want)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v\nwant %+v", name, got, want)
		}
	}
}

// More lists than there are ready-made terms for are asked as ever.
func TestMoreListsThanAreToldApart(t *testing.T) {
	var b strings.Builder
	b.WriteString("allow contains \"always\"\n")
	for i := range maxFilled + 3 {
		fmt.Fprintf(&b, "\ndeny contains r if some r in input.request.http.headers[\"x-%d\"]\n", i)
	}
	b.WriteString("\ndeny contains r if some r in input.request.fhir.params\n")
	s := leanSet(t, b.String(), "mode: day")
	if got := len(s.plan.filled); got != maxFilled {
		t.Errorf("%d lists are told apart, want %d", got, maxFilled)
	}
	q := ask("patient-monitor", fhirAsks("search-type", "Observation", field("params", protocol.Strings("a", "b"))))
	if d := s.Decide(context.Background(), q); !slices.Equal(d.Denials, []string{"a", "b"}) {
		t.Errorf("got denials %q", d.Denials)
	}
	sameAsPlain(t, s)
}

// Lists whose names could be read as one path are told apart.
func TestListsWithStrangeNames(t *testing.T) {
	s := leanSet(t, `allow contains "always"

deny contains "one" if some _ in input.request.http.query["a.b"]

deny contains "two" if some _ in input.request.http.query.a.b
`, "mode: day")
	names := map[string]bool{}
	for _, p := range s.plan.filled {
		names[p.String()] = true
	}
	if len(names) != 2 {
		t.Errorf("the names are %v, want two", names)
	}
	list := protocol.Strings("x")
	for want, query := range map[string]protocol.Field{
		"one": field("a.b", list),
		"two": field("a", protocol.Object(field("b", list))),
	} {
		q := ask("ct-scanner", httpAsks("GET", []protocol.Field{query}, "studies"))
		if d := s.Decide(context.Background(), q); !slices.Equal(d.Denials, []string{want}) {
			t.Errorf("got denials %q, want %q", d.Denials, want)
		}
	}
}

// A set that decides in another way than the shipped one is asked for its own
// decision.
func TestOnlyTheShippedDecisionIsTakenApart(t *testing.T) {
	file, err := fs.ReadFile(policies.FS, shippedDecision)
	if err != nil {
		t.Fatal(err)
	}
	text := string(file)
	const rego = "allow contains \"always\"\n"
	for _, c := range []struct {
		name, decision string
		want           bool
	}{
		{"as it is", text, true},
		{"with other comments", "# Ours.\n" + strings.ReplaceAll(text, "# title: ", "# title: Our "), true},
		{"with another word", strings.Replace(text, "nothing allows a device", "nobody lets a device", 1), false},
		{"with one more rule", text + "\npermitted if input.device.class == \"anything\"\n", false},
		{"without a condition", strings.Replace(text, "\tsome _ in allow\n", "", 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := load(t, setDir(t, map[string]string{"decision.rego": c.decision, "rules.rego": rules(rego)}), Options{CacheEntries: -1})
			if got := s.plan.direct != nil; got != c.want {
				t.Errorf("taken apart: %v, want %v", got, c.want)
			}
			sameAsPlain(t, s)
		})
	}
}

// What is kept of a device is not what was true of it before.
func TestPartsFollowTheirDevice(t *testing.T) {
	s := load(t, shipped, Options{CacheEntries: -1})
	q := questions()["create"]
	sameAsPlain(t, s)
	s.builder.parts = newParts()
	once, first := s.builder.input(q), s.builder.input(q)
	if member(t, once, "device") == member(t, first, "device") {
		t.Error("what is known of a device that asks one thing is kept")
	}
	if again := s.builder.input(q); member(t, first, "device") != member(t, again, "device") {
		t.Error("what is known of the device was built a third time")
	}
	// Each of what a part comes from.
	record := *q.Device
	record.Location = "another"
	session := sessionOf(q.Device)
	session.Fingerprint = "another"
	for name, other := range map[string]Question{
		"record":  {Device: &record, Session: q.Session, Transaction: q.Transaction, Route: q.Route, Now: q.Now},
		"session": {Device: q.Device, Session: session, Transaction: q.Transaction, Route: q.Route, Now: q.Now},
	} {
		if member(t, first, "device") == member(t, s.builder.input(&other), "device") {
			t.Errorf("another %s: what was known before was used", name)
		}
		fresh := *s.builder
		fresh.parts = nil
		if got, want := s.builder.input(&other), fresh.input(&other); !got.Equal(want) {
			t.Errorf("another %s: got %v\nwant %v", name, got, want)
		}
	}
}

func member(t *testing.T, in *ast.Term, name string) *ast.Term {
	t.Helper()
	m := in.Value.(ast.Object).Get(ast.StringTerm(name))
	if m == nil {
		t.Fatalf("the input has no %s", name)
	}
	return m
}
