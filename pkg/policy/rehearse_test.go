package policy

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
)

func alarms() []*protocol.Route {
	return []*protocol.Route{{Name: "alarms", Environment: "production", Class: protocol.LifeSafety, PassOnFailure: true}}
}

const known = "package anteroom.authz\n\nallow contains \"known\" if input.device.class == \"bed\"\n"

const slip = "deny contains \"its firmware is old\" if to_number(input.device.posture.firmware) < 4"

// TestARehearsalFindsWhatFailsForAlarms: and nothing else.
func TestARehearsalFindsWhatFailsForAlarms(t *testing.T) {
	for name, tt := range map[string]struct{ rego, want string }{
		"nothing fails":              {says("x"), ""},
		"a rule denies":              {rules("deny contains \"no\" if input.device.id"), ""},
		"a rule fails":               {rules(slip), "a.rego:3: eval_builtin_error: to_number refused its arguments: it can not be decided whether a life-critical device of class device may create Observation on route alarms"},
		"on this route":              {rules("deny contains \"x\" if {\n\tinput.route.name == \"alarms\"\n\tto_number(input.device.class) > 3\n}"), "a.rego:5"},
		"on another route":           {rules("deny contains \"x\" if {\n\tinput.route.name == \"ehr\"\n\tto_number(input.device.class) > 3\n}"), ""},
		"with what is usual":         {rules("deny contains \"x\" if to_number(input.request.http.headers.accept[0]) > 3"), "a.rego:3"},
		"with nothing in it":         {rules("deny contains \"x\" if to_number(object.get(input.request.fhir, \"patient\", \"\")) > 3"), "a.rego:3"},
		"with what is not usual":     {rules("deny contains \"x\" if to_number(input.request.http.headers.prefer[0]) > 3"), ""},
		"for one type":               {rules("deny contains \"x\" if {\n\tinput.request.resource == \"Flag\"\n\tto_number(input.device.class) > 3\n}"), "may create Flag"},
		"for a read":                 {rules("deny contains \"x\" if {\n\tinput.request.action == \"read\"\n\tto_number(input.device.class) > 3\n}"), ""},
		"for a device of no life":    {rules("deny contains \"x\" if {\n\tnot input.device.life_critical\n\tto_number(input.device.class) > 3\n}"), ""},
		"an obligation":              {rules("allow contains \"x\" if input.device.id\n\nobligations contains {\"limit_rps\": to_number(input.device.class)} if input.device.id"), "a.rego:5"},
		"a rule at odds with itself": {rules("f := 1 if input.device.class\n\nf := 2 if input.device.id\n\nallow contains \"x\" if f == 1"), "rules give different values"},
		"it takes too long":          {rules("deny contains \"x\" if {\n\tsome x in numbers.range(1, 3000)\n\tsome y in numbers.range(1, 3000)\n\tx + y == 1\n}"), "the evaluation took longer than it may: it can not be decided"},
	} {
		t.Run(name, func(t *testing.T) {
			s := load(t, setDir(t, map[string]string{"a.rego": tt.rego, "z.rego": known, "decision.rego": contents(t, "../../policies/authz/decision.rego")}), Options{Timeout: 20 * time.Millisecond})
			ps := Rehearse(t.Context(), s, nil, alarms())
			if tt.want == "" {
				if len(ps) > 0 {
					t.Error(ps)
				}
				return
			}
			if len(ps) != 1 || !strings.Contains(ps[0].String(), tt.want) {
				t.Errorf("got %v, want %s", ps, tt.want)
			}
			if again := Rehearse(t.Context(), s, s, alarms()); len(again) > 0 {
				t.Errorf("news of what fails already: %v", again)
			}
		})
	}
}

// TestASetThatCanNotDecideOnAlarmsIsRefused: whichever way it comes, while the one in
// force can; and only where a route asks for that.
func TestASetThatCanNotDecideOnAlarmsIsRefused(t *testing.T) {
	decision := contents(t, "../../policies/authz/decision.rego")
	good := setDir(t, map[string]string{"a.rego": says("x"), "z.rego": known, "decision.rego": decision})
	bad := setDir(t, map[string]string{"a.rego": rules(slip), "z.rego": known, "decision.rego": decision})
	worse := setDir(t, map[string]string{"a.rego": rules(slip + "\n\nallow contains \"y\" if input.device.id"), "z.rego": known, "decision.rego": decision})
	src, err := Read(bad, Options{})
	if err != nil {
		t.Fatal(err)
	}
	routes := alarms()
	e, err := NewEngine(t.Context(), config.Policy{Enforce: good}, Options{Rehearsed: func() []*protocol.Route { return routes }})
	if err != nil {
		t.Fatal(err)
	}
	before := e.Current()
	for way, err := range map[string]error{
		"by a directory": e.Configure(t.Context(), config.Policy{Enforce: bad}),
		"pushed":         e.Put(t.Context(), src),
		"looked at":      e.Check(t.Context(), src),
		"on trial":       e.Try(t.Context(), src, Trial{Classes: []string{"x"}, Window: time.Hour}),
	} {
		if err == nil || !strings.Contains(problemsOf(t, err), "a.rego:3: ") || !strings.Contains(err.Error(), "on route alarms") || e.Current() != before {
			t.Errorf("%s: %v", way, err)
		}
	}
	routes = nil
	if err := e.Configure(t.Context(), config.Policy{Enforce: bad}); err != nil {
		t.Errorf("where no route asks for it: %v", err)
	}
	routes = alarms()
	if err := e.Configure(t.Context(), config.Policy{Enforce: worse}); err != nil {
		t.Errorf("where nothing better is in force: %v", err)
	}
	if _, err := NewEngine(t.Context(), config.Policy{Enforce: bad}, Options{Rehearsed: alarms}); err != nil {
		t.Errorf("to begin with: %v", err)
	}
	e, err = NewEngine(t.Context(), config.Policy{Enforce: good}, Options{Rehearsed: alarms, Given: Nothing("no bundle yet")})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Put(t.Context(), src); err != nil {
		t.Errorf("as the first bundle: %v", err)
	}
}

// TestWhatIsRehearsedIsWhatAdaptersSay: the reports of a rehearsal have the facts that
// real ones have.
func TestWhatIsRehearsedIsWhatAdaptersSay(t *testing.T) {
	for i, tx := range rehearsed() {
		about := map[string]string{"DetectedIssue": "patient"}[tx.Resource]
		if about == "" {
			about = "subject"
		}
		body := `{"resourceType":"` + tx.Resource + `"}`
		if i%2 == 1 {
			body = `{"resourceType":"` + tx.Resource + `","` + about + `":{"reference":"Patient/p1"}}`
		}
		it, err := fhir.Parse(&fhir.Request{Method: "POST", Path: []string{tx.Resource}}, fhir.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := it.ReadBody("application/fhir+json", []byte(body)); err != nil {
			t.Fatal(err)
		}
		var real protocol.Transaction
		it.Transaction(&real)
		if !it.Report() || real.Protocol != tx.Protocol || real.Action != tx.Action || real.Resource != tx.Resource || !reflect.DeepEqual(plainly(real.Facts[0].Value), plainly(tx.Facts[1].Value)) {
			t.Errorf("%s:\nreal      %v\nrehearsed %v", body, plainly(real.Facts[0].Value), plainly(tx.Facts[1].Value))
		}
	}
}

// plainly makes Go values of a fact's.
func plainly(v protocol.Value) any {
	switch v.Kind() {
	case protocol.KindBool:
		return v.True()
	case protocol.KindString:
		return v.Text()
	case protocol.KindList:
		l := []any{}
		for _, e := range v.Elems() {
			l = append(l, plainly(e))
		}
		return l
	}
	m := map[string]any{}
	for _, f := range v.Fields() {
		m[f.Name] = plainly(f.Value)
	}
	return m
}
