package policy

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
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
	good := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.class == "pump"`)}), Options{CacheEntries: -1})
	bad := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "y" if input.device.class != "pump"`)}), Options{CacheEntries: -1})
	good.plan.planned.program = bad.plan.planned.program
	good.plan.planned.asked.Store(checkedEvery - 1)
	if d := good.Decide(context.Background(), ask("pump", fhirAsks("create", "Observation"))); !d.Allow {
		t.Errorf("got %+v", d)
	}
	if !good.plan.planned.wrong.Load() {
		t.Error("the difference was not found")
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
