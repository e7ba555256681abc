package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/policies"
)

func byToken(way string) *Enrolment {
	text := func(name, v string) protocol.Field { return protocol.Field{Name: name, Value: protocol.String(v)} }
	return &Enrolment{
		Device: &device.Record{ID: "pump-1", Class: "infusion-pump", Status: device.Pending},
		Facts: []protocol.Field{
			text("way", way), text("proof", "token"), {Name: "renewal", Value: protocol.Bool(false)}, text("remote_ip", "10.0.0.1"),
			{Name: "csr", Value: protocol.Object(protocol.Field{Name: "key", Value: protocol.Object(
				text("type", "rsa"), protocol.Field{Name: "bits", Value: protocol.Int(2048)})})},
		},
		Now: time.Date(2026, 2, 16, 9, 30, 0, 0, time.UTC),
	}
}

func TestTheShippedRulesOnEnrolment(t *testing.T) {
	dir := t.TempDir()
	if err := policies.Write(dir + "/set"); err != nil {
		t.Fatal(err)
	}
	s := load(t, dir+"/set", Options{})
	if !s.RulesOnEnrolment() {
		t.Error("the shipped set says nothing of enrolment")
	}
	if d := s.Enrol(t.Context(), byToken("est")); !d.Allow || d.Revision != s.Revision() || len(d.Reasons) != 1 {
		t.Errorf("a token: %+v", d)
	}
	if d := s.Enrol(t.Context(), byToken("fax")); d.Allow || d.Fault != "" || len(d.Denials) != 1 || !strings.Contains(d.Denials[0], "closed here") {
		t.Errorf("a way that is closed: %+v", d)
	}
}

func TestASetWithoutRulesOnEnrolmentNarrowsNothing(t *testing.T) {
	s := load(t, setDir(t, map[string]string{"a.rego": rules(allowAll)}), Options{})
	if d := s.Enrol(t.Context(), byToken("est")); s.RulesOnEnrolment() || !d.Allow {
		t.Errorf("%+v", d)
	}
}

// TestNothingIsEnrolledWhileThereIsNoSet: the set that stands where none has come
// yet is no set without rules.
func TestNothingIsEnrolledWhileThereIsNoSet(t *testing.T) {
	s, err := Nothing("not yet").Compile(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := s.Enrol(t.Context(), byToken("est")); d.Allow || len(d.Denials) != 1 || d.Denials[0] != "not yet" {
		t.Errorf("%+v", d)
	}
}

func TestNoEnrolmentFailsOpen(t *testing.T) {
	for name, c := range map[string]struct{ rules, fault string }{
		"an error":               {`decision := {"allow": true, "reasons": {"x"}, "denials": {v | some w in [0]; v := sprintf("%d", [1/w])}}`, "failed"},
		"a conflict":             {`decision := {"allow": x, "reasons": {"x"}, "denials": set()} if some x in [true, false]`, "different values"},
		"no object":              {`decision := true`, "is not an object"},
		"no word on allowing":    {`decision := {"reasons": {"x"}, "denials": set()}`, "does not say"},
		"no reason":              {`decision := {"allow": true, "reasons": set(), "denials": set()}`, "without a reason"},
		"a reason to deny too":   {`decision := {"allow": true, "reasons": {"x"}, "denials": {"y"}}`, "in spite of"},
		"a text in place of yes": {`decision := {"allow": "true", "reasons": {"x"}, "denials": set()}`, "wrong shape"},
		"a member of another":    {`decision := {"allow": true, "reasons": {"x"}, "denials": set(), "obligations": set()}`, "wrong shape"},
		"a misspelt member":      {`decision := {"allow": true, "reasons": {"x"}, "deny": {"y"}}`, "wrong shape"},
	} {
		s := load(t, setDir(t, map[string]string{"a.rego": rules(allowAll), "e.rego": "package anteroom.enrolment\n\n" + c.rules + "\n"}), Options{})
		d := s.Enrol(t.Context(), byToken("est"))
		if d.Allow || len(d.Denials) == 0 || !strings.Contains(d.Fault, c.fault) && !strings.Contains(d.Fault, "eval_") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	s := load(t, setDir(t, map[string]string{"a.rego": rules(allowAll), "e.rego": "package anteroom.enrolment\n\ndecision := {\"allow\": true, \"reasons\": {\"x\"}} if false\n"}), Options{})
	if d := s.Enrol(t.Context(), byToken("est")); d.Allow {
		t.Errorf("an undefined decision: %+v", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s = load(t, setDir(t, map[string]string{"a.rego": rules(allowAll),
		"e.rego": "package anteroom.enrolment\n\ndecision := {\"allow\": n > 0, \"reasons\": {\"x\"}, \"denials\": set()} if n := count([1 | some i in numbers.range(1, 100000); i > 0])\n"}), Options{})
	if d := s.Enrol(ctx, byToken("est")); d.Allow || d.Fault != endedEarly {
		t.Errorf("nobody waits any more: %+v", d)
	}
}

func TestRulesOnEnrolmentThatNobodyWouldAskAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"no decision":        {"package anteroom.enrolment\n\ndeny contains \"x\"\n", "none defines data.anteroom.enrolment.decision"},
		"a function":         {"package anteroom.enrolment\n\ndecision(x) := x\n", "is a function"},
		"American":           {"package anteroom.enrollment\n\ndecision := 1\n", "did you mean anteroom.enrolment?"},
		"a misspelt fact":    {"# METADATA\n# scope: package\n# schemas:\n#   - input: schema.enrolment.input\npackage anteroom.enrolment\n\ndecision := input.enrolment.wai\n", `has no field "wai"`},
		"a transaction's":    {"# METADATA\n# scope: package\n# schemas:\n#   - input: schema.enrolment.input\npackage anteroom.enrolment\n\ndecision := input.request.action\n", `has no field "request"`},
		"without its schema": {"package anteroom.enrolment\n\ndecision := input.enrolment.way\n", `has no field "enrolment"`},
	} {
		_, err := Load(t.Context(), setDir(t, map[string]string{"a.rego": rules(allowAll), "e.rego": c.file}), Options{})
		if err == nil || !strings.Contains(problemsOf(t, err), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTheAnnotationHoldsForEveryFile: one file of the package names the schema.
func TestTheAnnotationHoldsForEveryFile(t *testing.T) {
	dir := t.TempDir() + "/set"
	if err := policies.Write(dir); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "enrolment/own.rego", "package anteroom.enrolment\n\ndeny contains \"no pumps\" if input.device.class == \"infusion-pump\"\n")
	s := load(t, dir, Options{})
	if d := s.Enrol(t.Context(), byToken("est")); d.Allow || d.Denials[0] != "no pumps" {
		t.Errorf("%+v", d)
	}
	writeFile(t, dir, "enrolment/own.rego", "package anteroom.enrolment\n\ndeny contains \"no pumps\" if input.enrolment.csr.key.kind == \"rsa\"\n")
	if _, err := Load(t.Context(), dir, Options{}); err == nil || !strings.Contains(problemsOf(t, err), `has no field "kind"`) {
		t.Errorf("a misspelt fact in another file: %v", err)
	}
}

// TestTheEnrolmentPageIsTrue: its rule works with the shipped set, and it names
// every field of the schema that is not a transaction's too.
func TestTheEnrolmentPageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/enrolment.md")
	if err != nil {
		t.Fatal(err)
	}
	rule := regexp.MustCompile("(?s)```rego\n(.*?)```").FindSubmatch(page)
	if rule == nil {
		t.Fatal("the page has no rule")
	}
	dir := t.TempDir() + "/set"
	if err := policies.Write(dir); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "enrolment/own.rego", string(rule[1]))
	s := load(t, dir, Options{})
	q := byToken("est")
	if d := s.Enrol(t.Context(), q); !d.Allow {
		t.Errorf("on a Monday: %+v", d)
	}
	q.Now = q.Now.AddDate(0, 0, 5)
	if d := s.Enrol(t.Context(), q); d.Allow || d.Denials[0] != "pumps are enrolled on weekdays" {
		t.Errorf("on a Saturday: %+v", d)
	}
	body, err := fs.ReadFile(policies.FS, enrolmentSchema)
	if err != nil {
		t.Fatal(err)
	}
	type schema struct{ Properties map[string]*schema }
	var root schema
	if err := json.Unmarshal(body, &root); err != nil {
		t.Fatal(err)
	}
	var each func(s *schema)
	each = func(s *schema) {
		for name, p := range s.Properties {
			if !bytes.Contains(page, []byte("`"+name+"`")) && !bytes.Contains(page, []byte("."+name+"`")) && !bytes.Contains(page, []byte("."+name+".")) {
				t.Errorf("the page does not name %s", name)
			}
			each(p)
		}
	}
	each(root.Properties["enrolment"])
}
