package policy

import (
	"bytes"
	"context"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// The shipped set, and one that decides in its own way, are planned.
func TestSetsArePlanned(t *testing.T) {
	own := setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.class == "pump"`)})
	for name, dir := range map[string]string{"shipped": shipped, "another": own} {
		s := load(t, dir, Options{CacheEntries: -1})
		if s.plan.planned == nil {
			t.Fatalf("%s is not planned: %s", name, s.plan.unplanned)
		}
		s.Decide(context.Background(), ask("pump", fhirAsks("create", "Observation")))
		if n := s.plan.planned.asked.Load(); n != 1 {
			t.Errorf("%s: the plan was asked %d times", name, n)
		}
	}
	s := load(t, setDir(t, map[string]string{"a.rego": rules("allow contains \"x\" if {\n\twalk(input, [_, v])\n\tv == \"pump\"\n}")}), Options{})
	if s.plan.planned != nil || !strings.Contains(s.plan.unplanned, "walk") {
		t.Errorf("a set that walks: planned, or why not: %q", s.plan.unplanned)
	}
	if d := s.Decide(context.Background(), ask("pump", fhirAsks("create", "Observation"))); !d.Allow {
		t.Errorf("got %+v", d)
	}
}

// A plan that says another thing than OPA's evaluator does not decide, is found out
// by the first decisions, and is not asked again.
func TestAPlanThatIsWrongDoesNotDecide(t *testing.T) {
	var log bytes.Buffer
	good := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.class == "pump"`)}),
		Options{CacheEntries: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	bad := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "y" if input.device.class != "pump"`)}), Options{CacheEntries: -1})
	good.plan.planned.program = bad.plan.planned.program
	for class, allow := range map[string]bool{"pump": true, "ventilator": false} {
		for range 3 {
			d := good.Decide(context.Background(), ask(class, fhirAsks("create", "Observation")))
			if d.Allow != allow || d.Fault != "" || allow && d.Reasons[0] != "x" {
				t.Errorf("%s: got %+v", class, d)
			}
		}
	}
	if n := good.plan.planned.asked.Load(); n != 1 {
		t.Errorf("the plan was asked %d times", n)
	}
	if n := strings.Count(log.String(), "another decision than OPA's evaluator"); n != 1 {
		t.Errorf("it was said %d times:\n%s", n, log.String())
	}
	if strings.Contains(log.String(), "ventilator") || strings.Contains(log.String(), "pump") {
		t.Errorf("the log quotes the input:\n%s", log.String())
	}
}

// Later decisions are compared now and then.
func TestALaterDifferenceIsFound(t *testing.T) {
	var told []string
	good := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.class == "pump"`)}), Options{
		CacheEntries: -1, OnDistrust: func(revision string) { told = append(told, revision) },
	})
	bad := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "y" if input.device.class != "pump"`)}), Options{CacheEntries: -1})
	good.plan.planned.program = bad.plan.planned.program
	good.plan.planned.asked.Store(checkedEvery - 1)
	if d := good.Decide(context.Background(), ask("pump", fhirAsks("create", "Observation"))); !d.Allow {
		t.Errorf("got %+v", d)
	}
	if !good.plan.planned.wrong.Load() {
		t.Error("the difference was not found")
	}
	good.Decide(context.Background(), ask("pump", fhirAsks("create", "Observation")))
	if len(told) != 1 || told[0] != good.Revision() {
		t.Errorf("told of %q, want %q once", told, good.Revision())
	}
}

// What fails in the plan is asked of OPA's evaluator, whose words count.
func TestAFaultIsOPAs(t *testing.T) {
	s := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if to_number(input.device.class) == 1`)}), Options{CacheEntries: -1})
	if s.plan.planned == nil {
		t.Fatal(s.plan.unplanned)
	}
	d := s.Decide(context.Background(), ask("pump", fhirAsks("create", "Observation")))
	if d.Allow || !strings.Contains(d.Fault, "a.rego:3: eval_builtin_error: to_number") {
		t.Errorf("got %+v", d)
	}
}

// What a plan alone decided is not remembered once it is known to be wrong.
func TestWhatAWrongPlanDecidedIsForgotten(t *testing.T) {
	good := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.class == "pump"`)}), Options{})
	bad := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "y" if input.device.class != "pump"`)}), Options{})
	good.plan.planned.program = bad.plan.planned.program
	good.plan.planned.asked.Store(checkedFirst)
	q := ask("ventilator", fhirAsks("create", "Observation"))
	d := good.Decide(context.Background(), q)
	if !d.Allow {
		t.Fatalf("the plan is not wrong: %+v", d)
	}
	kept := good.Keep(q, &d)
	if _, ok := good.Recall(kept, q); !ok {
		t.Fatal("an answer was not kept")
	}
	good.plan.planned.asked.Store(checkedEvery - 1)
	if d := good.Decide(context.Background(), ask("pump", fhirAsks("create", "Observation"))); !d.Allow || !good.plan.planned.wrong.Load() {
		t.Fatalf("got %+v", d)
	}
	if d, ok := good.Recall(kept, q); ok {
		t.Errorf("recalled %+v", d)
	}
	for range 2 {
		if d := good.Decide(context.Background(), q); d.Allow {
			t.Errorf("got %+v", d)
		}
	}
}

// A plan that panics is OPA's evaluator's to make good.
func TestAPlanThatPanicsIsNotAskedAgain(t *testing.T) {
	s := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.class == "pump"`)}), Options{CacheEntries: -1})
	s.plan.planned.program = nil
	for range 2 {
		if d := s.Decide(context.Background(), ask("pump", fhirAsks("create", "Observation"))); !d.Allow || d.Fault != "" {
			t.Errorf("got %+v", d)
		}
	}
	if n := s.plan.planned.asked.Load(); n != 1 {
		t.Errorf("the plan was asked %d times", n)
	}
}

// One request never changes what the rules say to the next.
func TestConstantsStayWhatTheyAre(t *testing.T) {
	s := load(t, setDir(t, map[string]string{"a.rego": rules(`may.pump := {"create"} if input.device.class == "pump"

may[c] contains input.request.action if {
	some c in ["pump"]
	input.device.owner == "admin"
}

allow contains "x" if input.request.action in may[input.device.class]`)}), Options{CacheEntries: -1})
	asks := func(owner, action string) Decision {
		q := ask("pump", fhirAsks(action, "Observation"))
		q.Device.Owner = owner
		return s.Decide(context.Background(), q)
	}
	for range checkedFirst {
		if d := asks("ward", "create"); !d.Allow {
			t.Fatalf("got %+v", d)
		}
	}
	asks("admin", "delete")
	if d := asks("ward", "delete"); d.Allow {
		t.Errorf("got %+v", d)
	}
}

// What OPA is still trying out is refused, with where it stands: what a rule reads
// in there is not found.
func TestExperimentalKeywordsAreRefused(t *testing.T) {
	for _, k := range []string{"not", "and", "or"} {
		body := "package anteroom.authz\n\nimport future.keywords." + k + "\n\nallow contains \"x\" if input.device.class == \"pump\"\n"
		_, err := Load(t.Context(), setDir(t, map[string]string{"a.rego": body}), Options{})
		if err == nil || !strings.Contains(err.Error(), "a.rego:3") {
			t.Errorf("%s: %v", k, err)
		}
	}
}

// onEnrolment is a set that allows all transactions, and certificates by these rules.
func onEnrolment(t *testing.T, body string, opt Options) *Set {
	t.Helper()
	return load(t, setDir(t, map[string]string{"a.rego": rules(allowAll), "e.rego": "# METADATA\n# scope: package\n# schemas:\n#   - input: schema.enrolment.input\npackage anteroom.enrolment\n\n" + body + "\n"}), opt)
}

const tokensEnrol = `decision := {"allow": true, "reasons": {"x"}, "denials": set()} if input.enrolment.proof == "token"`

// The plan, which is given what the rules can read, and OPA's evaluator, which is given
// everything, agree on every kind of enrolment there is.
func TestThePlanOfTheRulesOnEnrolmentSaysWhatOPASays(t *testing.T) {
	s := load(t, shipped, Options{})
	if s.enrolmentPlan == nil {
		t.Fatal("the shipped rules on enrolment are not planned")
	}
	bare := *s
	bare.enrolmentPlan, bare.enrolmentWant = nil, everything
	allowed, denied := 0, 0
	for _, way := range []string{"cli", "token", "est", "scep", "step", "acme", "fax"} {
		for _, proof := range []string{"operator", "token", "certificate", "manufacturer", "account", "attestation", "expired-certificate", "none"} {
			for i := range 64 {
				q := byToken(way)
				if q.Device.Class = "infusion-pump"; i&1 != 0 {
					q.Device.Class = "ct-scanner"
				}
				key := []protocol.Field{{Name: "type", Value: protocol.String("rsa")}, {Name: "bits", Value: protocol.Int(int64(2048 + i&2<<9))}}
				q.Facts = []protocol.Field{
					{Name: "way", Value: protocol.String(way)}, {Name: "proof", Value: protocol.String(proof)},
					{Name: "renewal", Value: protocol.Bool(i&4 != 0)}, {Name: "approved", Value: protocol.Bool(i&8 != 0)},
				}
				if i&16 != 0 {
					q.Facts = append(q.Facts, protocol.Field{Name: "names", Value: protocol.Strings("a.example")})
				}
				if i&32 != 0 {
					q.Facts = append(q.Facts, protocol.Field{Name: "csr", Value: protocol.Object(protocol.Field{Name: "key", Value: protocol.Object(key...)})})
				}
				s.enrolmentPlan.asked.Store(checkedFirst) // asked alone
				a, b := s.Enrol(t.Context(), q), bare.Enrol(t.Context(), q)
				if a.Elapsed, b.Elapsed = 0, 0; !reflect.DeepEqual(a, b) {
					t.Errorf("%s, %s, %d: the plan says %+v, OPA %+v", way, proof, i, a, b)
				}
				if a.Allow {
					allowed++
				} else {
					denied++
				}
			}
		}
	}
	if allowed == 0 || denied == 0 || s.enrolmentPlan.wrong.Load() {
		t.Errorf("%d were allowed and %d denied; the plan is distrusted: %v", allowed, denied, s.enrolmentPlan.wrong.Load())
	}
}

// As with transactions, what a wrong plan says of an enrolment does not count.
func TestAWrongPlanEnrolsNobody(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *Set){
		"another's": func(t *testing.T, s *Set) {
			s.enrolmentPlan.program = onEnrolment(t, `decision := {"allow": true, "reasons": {"y"}, "denials": set()}`, Options{}).enrolmentPlan.program
		},
		"none": func(_ *testing.T, s *Set) { s.enrolmentPlan.program = nil },
	} {
		var told []string
		s := onEnrolment(t, tokensEnrol, Options{OnDistrust: func(revision string) { told = append(told, revision) }})
		spoil(t, s)
		q := byToken("est")
		q.Facts = q.Facts[:1] // no proof
		for range 3 {
			if d := s.Enrol(t.Context(), q); d.Allow || d.Fault != "" {
				t.Errorf("%s: %+v", name, d)
			}
			if d := s.Enrol(t.Context(), byToken("est")); !d.Allow || d.Reasons[0] != "x" {
				t.Errorf("%s: %+v", name, d)
			}
		}
		if n := s.enrolmentPlan.asked.Load(); n != 1 || len(told) != 1 || told[0] != s.Revision() {
			t.Errorf("%s: the plan was asked %d times, and %q was told", name, n, told)
		}
	}
}

// Rules on enrolment that can not be planned are asked of OPA's evaluator, and do not
// keep those on transactions from being planned.
func TestRulesOnEnrolmentThatAreNotPlanned(t *testing.T) {
	s := onEnrolment(t, "decision := {\"allow\": true, \"reasons\": {\"x\"}, \"denials\": set()} if {\n\twalk(input.enrolment, [_, v])\n\tv == \"token\"\n}", Options{})
	if s.enrolmentPlan != nil || s.plan.planned == nil {
		t.Errorf("planned: enrolment %v, transactions %v", s.enrolmentPlan != nil, s.plan.planned != nil)
	}
	if d := s.Enrol(t.Context(), byToken("est")); !d.Allow {
		t.Errorf("%+v", d)
	}
}

// The clock of a rule on enrolment is that of the question, whoever answers it.
func TestThePlanTakesTheTimeFromTheQuestion(t *testing.T) {
	s := onEnrolment(t, `decision := {"allow": true, "reasons": {"x"}, "denials": set()} if time.weekday(time.now_ns()) == "Monday"`, Options{})
	s.enrolmentPlan.asked.Store(checkedFirst)
	q := byToken("est")
	if d := s.Enrol(t.Context(), q); !d.Allow {
		t.Errorf("on a Monday: %+v", d)
	}
	q.Now = q.Now.AddDate(0, 0, 1)
	if d := s.Enrol(t.Context(), q); d.Allow || d.Fault != "" {
		t.Errorf("on a Tuesday: %+v", d)
	}
}
