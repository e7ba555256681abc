package policy

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func said(e *Explanation) string {
	var b strings.Builder
	for _, r := range e.Rules {
		fmt.Fprintf(&b, "%s %v %d/%d %s:%d %q", r.Name, r.Fired, r.Held, r.Conditions, r.File, r.Line, r.Says)
		if r.Failed != "" {
			fmt.Fprintf(&b, " line %d: %s", r.FailedLine, r.Failed)
		}
		for _, f := range r.Saw {
			fmt.Fprintf(&b, " [%s is %s]", f.Path, f.Value)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestExplainSaysWhatFiredAndWhatNearlyDid(t *testing.T) {
	s := load(t, setDir(t, map[string]string{
		"a.rego": rules(`# METADATA
# title: Vital signs
allow contains "monitors may report" if {
	input.device.class == "patient-monitor"
	input.request.action == "create"
	input.request.resource in data.vital.types
}

allow contains "pumps may report" if {
	input.device.class == "infusion-pump"
	input.request.action == "create"
}

deny contains sprintf("not at %d", [input.time.hour]) if {
	input.time.hour < 6
}

deny contains "never" if {
	not input.device.status == "active"
}`),
		"vital/types.yaml": "types: [Observation]\n",
	}), Options{})
	e := s.Explain(t.Context(), ask("patient-monitor", fhirAsks("create", "Patient")))
	want := `allow false 2/3 a.rego:5 "monitors may report" line 8: input.request.resource in data.vital.types [input.request.resource is "Patient"]
deny false 0/1 a.rego:16 "deny" line 17: input.time.hour < 6 [input.time.hour is 12]
`
	if got := said(e); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%swant it to begin\n%s", got, want)
	}
	if got := said(e); !strings.Contains(got, `allow false 0/2 a.rego:11 "pumps may report" line 12: input.device.class == "infusion-pump" [input.device.class is "patient-monitor"]`) ||
		!strings.Contains(got, `"never" line 21: not input.device.status == "active" [input.device.status is "active"]`) {
		t.Errorf("got\n%s", got)
	}
	if e.Decision.Allow || e.Rules[0].Title != "Vital signs" {
		t.Errorf("%+v", e)
	}

	e = s.Explain(t.Context(), ask("patient-monitor", fhirAsks("create", "Observation")))
	if got := said(e); !e.Decision.Allow || !strings.HasPrefix(got, `allow true 3/3 a.rego:5 "monitors may report"`+"\n") {
		t.Errorf("got\n%s", got)
	}
	var b bytes.Buffer
	e.Trace(&b)
	if !strings.Contains(b.String(), "a.rego:8") || !strings.Contains(b.String(), "Enter data.anteroom.authz") {
		t.Errorf("trace:\n%s", b.String())
	}
}

// TestExplainAgreesWithDecide on the shipped set: what is said to have fired is
// what the decision gives as its reasons.
func TestExplainAgreesWithDecide(t *testing.T) {
	s := load(t, shipped, Options{})
	for _, class := range []string{"patient-monitor", "infusion-pump", "ct-scanner", "toaster"} {
		for _, interaction := range []string{"create", "read", "search-type", "delete", "history-type"} {
			for _, typ := range []string{"Observation", "Patient", "MedicationRequest", "Device"} {
				q := ask(class, fhirAsks(interaction, typ))
				e := s.Explain(t.Context(), q)
				var allow, deny []string
				for _, r := range e.Rules {
					if r.Fired && r.Name == "allow" {
						allow = append(allow, r.Says)
					}
					if r.Fired && r.Name == "deny" {
						deny = append(deny, r.Says)
					}
				}
				if (len(allow) > 0) != (len(e.Decision.Reasons) > 0) || len(deny) > 0 && e.Decision.Allow || e.Decision.Allow && len(allow) == 0 {
					t.Errorf("%s %s %s: %+v, fired %v and %v", class, interaction, typ, e.Decision, allow, deny)
				}
			}
		}
	}
}
