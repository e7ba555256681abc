package policy

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// TestShippedDecisions asks the shipped set what devices really ask, through
// the input the gateway builds.
func TestShippedDecisions(t *testing.T) {
	s := load(t, shipped, Options{})
	ctx := context.Background()
	params := func(names ...string) protocol.Field { return field("params", protocol.Strings(names...)) }
	one := func(name, value string) []protocol.Field {
		return []protocol.Field{field(name, protocol.Strings(value))}
	}
	tests := []struct {
		name   string
		q      *Question
		change func(*Question)
		want   string // "" for allow, else in a denial
	}{
		{name: "a monitor reports vital signs", q: ask("patient-monitor", fhirAsks("create", "Observation"))},
		{name: "a monitor raises an alarm", q: ask("patient-monitor", fhirAsks("create", "DetectedIssue"))},
		{name: "a monitor asks what the server can", q: ask("patient-monitor", fhirAsks("capabilities", ""))},
		{name: "a pump reads an order", q: ask("infusion-pump", fhirAsks("read", "MedicationRequest"))},
		{name: "a pump looks for its orders", q: ask("infusion-pump", fhirAsks("search-type", "MedicationRequest", params("patient", "status")))},
		{name: "a pump says what it gave", q: ask("infusion-pump", fhirAsks("create", "MedicationAdministration"))},
		{name: "a ventilator reports", q: ask("ventilator", fhirAsks("create", "Observation"))},
		{name: "a scanner stores", q: ask("ct-scanner", httpAsks("POST", nil, "dicom-web", "studies"))},
		{name: "a scanner finds one study", q: ask("ct-scanner", httpAsks("GET", one("StudyInstanceUID", "1.2.3"), "dicom-web", "studies"))},
		{name: "a glucose meter reports once", q: ask("glucose-meter", fhirAsks("conditional-create", "Observation"))},
		{name: "a gateway of wearables sends a batch", q: ask("wearable-gateway", fhirAsks("batch", ""))},
		{name: "and each entry", q: ask("wearable-gateway", fhirAsks("create", "Observation", field("entry", protocol.Bool(true))))},
		{name: "a device changes its own record", q: ask("ventilator", fhirAsks("update", "Device", field("id", protocol.String("ventilator-0001"))))},
		{name: "a life-critical device is not cut off by its weakness", q: ask("ventilator", fhirAsks("create", "Observation")),
			change: func(q *Question) { q.Device.Posture.MaxCVSS, q.Device.LifeCritical = 9.8, true }},

		{name: "a monitor reads a patient", q: ask("patient-monitor", fhirAsks("read", "Patient")),
			want: `nothing allows a device of class "patient-monitor" to do this: read Patient`},
		{name: "a monitor searches patients", q: ask("patient-monitor", fhirAsks("search-type", "Patient", params("name"))), want: "must say for which patient"},
		{name: "a batch entry that reads a patient", q: ask("wearable-gateway", fhirAsks("read", "Patient", field("entry", protocol.Bool(true)))), want: "nothing allows"},
		{name: "a pump writes an order", q: ask("infusion-pump", fhirAsks("create", "MedicationRequest")), want: "nothing allows"},
		{name: "a pump lists all orders", q: ask("infusion-pump", fhirAsks("search-type", "MedicationRequest", params("status"))), want: "must say for which patient"},
		{name: "a pump takes the patient along", q: ask("infusion-pump", fhirAsks("search-type", "MedicationRequest", params("patient"),
			field("includes", protocol.Strings("MedicationRequest:subject")))), want: "brings along records"},
		{name: "a pump lists all but one patient's orders", q: ask("infusion-pump", fhirAsks("search-type", "MedicationRequest", params("patient"),
			field("modifiers", protocol.Strings("patient:not")))), want: "turns a parameter round"},
		{name: "everything of a patient", q: ask("patient-monitor", fhirAsks("operation", "Patient", field("operation", protocol.String("$everything")))), want: "whole records"},
		{name: "export", q: ask("wearable-gateway", fhirAsks("operation", "", field("operation", protocol.String("$export")))), want: "whole records"},
		{name: "the history of the server", q: ask("patient-monitor", fhirAsks("history-system", "")), want: "history"},
		{name: "a search of the server", q: ask("patient-monitor", fhirAsks("search-system", "")), want: "whole server"},
		{name: "a conditional delete", q: ask("patient-monitor", fhirAsks("conditional-delete", "Observation")), want: "deleting what a search finds"},
		{name: "another device's record", q: ask("ventilator", fhirAsks("update", "Device", field("id", protocol.String("ventilator-0002")))), want: "its own device record"},
		{name: "a scanner lists every study", q: ask("ct-scanner", httpAsks("GET", nil, "dicom-web", "studies")), want: "nothing allows"},
		{name: "a scanner deletes", q: ask("ct-scanner", httpAsks("DELETE", nil, "dicom-web", "studies", "1.2")), want: "nothing allows"},
		{name: "a monitor stores a study", q: ask("patient-monitor", httpAsks("POST", nil, "dicom-web", "studies")), want: "nothing allows"},
		{name: "a class nobody knows", q: ask("toaster", fhirAsks("create", "Observation")), want: "nothing allows"},
		{name: "a protocol nobody knows", q: ask("patient-monitor", &protocol.Transaction{Protocol: "gopher", Action: "get"}), want: "nothing allows"},
		{name: "quarantined", q: ask("patient-monitor", fhirAsks("create", "Observation")),
			change: func(q *Question) { q.Device.Status = device.Quarantined }, want: "the device is quarantined"},
		{name: "revoked", q: ask("patient-monitor", fhirAsks("create", "Observation")),
			change: func(q *Question) { q.Device.Status = device.Revoked }, want: "out of service for good"},
		{name: "pending", q: ask("patient-monitor", fhirAsks("create", "Observation")),
			change: func(q *Question) { q.Device.Status = device.Pending }, want: "not yet in service"},
		{name: "weak", q: ask("patient-monitor", fhirAsks("create", "Observation")),
			change: func(q *Question) { q.Device.Posture.MaxCVSS = 9.8 }, want: "critical vulnerability"},
		{name: "not looked at for years", q: ask("patient-monitor", fhirAsks("create", "Observation")),
			change: func(q *Question) { q.Device.Posture.AssessedAt = noon.AddDate(-3, 0, 0) }, want: "too long ago"},
		{name: "in the workshop", q: ask("patient-monitor", fhirAsks("create", "Observation")),
			change: func(q *Question) { q.Device.Location = "biomed-workshop" }, want: "from where the device stands"},
		{name: "nobody", q: &Question{Now: noon}, want: "no rule allows this"},
		{name: "nobody asks", q: &Question{Transaction: fhirAsks("create", "Observation"), Now: noon}, want: "no rule allows this"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.q)
			}
			d := s.Decide(ctx, tt.q)
			if d.Fault != "" {
				t.Fatalf("fault: %s", d.Fault)
			}
			if d.Revision != s.Revision() {
				t.Errorf("revision %q", d.Revision)
			}
			if tt.want == "" {
				if !d.Allow || len(d.Reasons) == 0 || len(d.Denials) > 0 {
					t.Errorf("got %+v, want allow", d)
				}
				return
			}
			if d.Allow || !strings.Contains(strings.Join(d.Denials, "\n"), tt.want) {
				t.Errorf("got %+v, want a denial with %q", d, tt.want)
			}
		})
	}
}

// TestNothingFailsOpen: whatever a set does wrong while it is evaluated, the
// answer is a deny with a reason and a fault.
func TestNothingFailsOpen(t *testing.T) {
	decides := func(object string) map[string]string {
		return map[string]string{"decision.rego": rules(allowAll + "\n\ndecision := " + object)}
	}
	// any hides a value's type from the compiler.
	hidden := func(v string) map[string]string {
		return map[string]string{
			"decision.rego": rules(allowAll + "\n\ndecision := data.answer"),
			"x.yaml":        "answer: " + v + "\n",
		}
	}
	ok := `{"allow": true, "reasons": {"x"}, "denials": set(), "obligations": `
	tests := []struct {
		name  string
		files map[string]string
		want  string // in the fault; "" for a plain deny
	}{
		{"reasons that are no texts", map[string]string{"a.rego": rules(`allow contains 1 if input.request`)}, "wrong shape at \"reasons\""},
		{"an empty reason", map[string]string{"a.rego": rules(`allow contains "" if input.request`)}, "wrong shape at \"reasons\""},
		{"a reason without end", map[string]string{"a.rego": rules(`allow contains concat("", [x | some i in numbers.range(1, 600); x := "x"]) if input.request`)}, "wrong shape at \"reasons\""},
		{"reasons without end", map[string]string{"a.rego": rules(`allow contains sprintf("%d", [i]) if some i in numbers.range(1, 100)`)}, "wrong shape at \"reasons\""},
		{"denials that are no texts", map[string]string{"a.rego": rules(allowAll + "\n\n" + `deny contains {"a": 1} if input.request`)}, "wrong shape at \"denials\""},
		{"allow that is no truth", hidden(`{"allow": "true", "reasons": ["x"], "denials": []}`), "wrong shape at \"allow\""},
		{"allow missing", hidden(`{"reasons": ["x"], "denials": []}`), "does not say whether to allow"},
		{"allow without a reason", hidden(`{"allow": true, "reasons": [], "denials": []}`), "allows without a reason"},
		{"allow without reasons", hidden(`{"allow": true}`), "allows without a reason"},
		{"allow against a denial", hidden(`{"allow": true, "reasons": ["x"], "denials": ["y"]}`), "in spite of a reason to deny"},
		{"an answer with an unknown field", hidden(`{"allow": true, "reasons": ["x"], "denials": [], "obligation": []}`), "wrong shape at \"obligation\""},
		{"an answer that is a list", hidden(`[true]`), "is not an object"},
		{"an answer that is a text", hidden(`allow`), "is not an object"},
		{"obligations that are no list", decides(ok + `{"redact": []}}`), "wrong shape at \"obligations\""},
		{"an obligation that is a text", decides(ok + `{"redact"}}`), "wrong shape at \"obligations\""},
		{"an empty obligation", decides(ok + `{{}}}`), "wrong shape at \"obligations\""},
		{"an obligation with a fraction", decides(ok + `{{"limit_rps": 0.5}}}`), "wrong shape at \"obligations\""},
		{"obligations without end", decides(ok + `[{"tag": i} | some i in numbers.range(1, 100)]}`), "wrong shape at \"obligations\""},
		{"an obligation nobody can meet", decides(ok + `{{"brew": "coffee"}}}`), `oblige the gateway to "brew"`},
		{"an obligation that is a value of the input", decides(ok + `{{input.device.owner: 1}}}`), "to something it cannot do"},
		{"an obligation to nothing", decides(ok + `{{"limit_rps": 0}}}`), "limit_rps, whose value must be a whole number from 1"},
		{"an obligation of the wrong type", decides(ok + `{{"redact": [input.device.owner]}}}`), "redact, whose value must be a JSON pointer"},
		{"one good obligation and one that is not", decides(ok + `{{"limit_rps": 5}, {"tag": input.device.owner}}}`), "tag, whose value must be a word"},
		{"a rule with two values", map[string]string{"a.rego": rules(allowAll + "\n\nwho := x if some x in [1, 2]\n\ndeny contains \"x\" if who == 3")}, "a.rego:5: eval_conflict_error"},
		{"a built-in that cannot", map[string]string{"a.rego": rules(allowAll + "\n\ndeny contains \"x\" if to_number(input.device.owner) > 3")}, "a.rego:5: eval_builtin_error: to_number refused its arguments"},
		{"a division by nothing", map[string]string{"a.rego": rules(allowAll + "\n\ndeny contains \"x\" if 1 / (input.time.hour - 12) > 3")}, "a.rego:5: eval_builtin_error"},
		{"a loop that takes an age", map[string]string{"a.rego": rules(allowAll + `

deny contains "x" if {
	n := numbers.range(1, 100000)
	count([1 | some i in n; some j in n; i * j == 7]) > 100
}`)}, "took longer than it may"},
		{"a loop within a built-in", map[string]string{"a.rego": rules(allowAll + "\n\ndeny contains \"x\" if count(numbers.range(1, 1000000000)) == 7")}, "took longer than it may"},
		{"no decision", map[string]string{"decision.rego": rules(allowAll + "\n\ndecision := {\"allow\": true} if input.device.class == \"other\"")}, ""},
		{"a deny that gives no reason", hidden(`{"allow": false, "reasons": ["x"], "denials": []}`), ""},
		{"no rule that holds", map[string]string{"a.rego": rules(`allow contains "x" if input.device.class == "other"`)}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := load(t, setDir(t, tt.files), Options{Timeout: 20 * time.Millisecond})
			q := ask("patient-monitor", fhirAsks("create", "Observation"))
			q.Device.Owner = "Jane Roe"
			d := s.Decide(context.Background(), q)
			if d.Allow || d.Obligations != nil {
				t.Fatalf("got %+v, want deny", d)
			}
			if len(d.Denials) == 0 {
				t.Errorf("a deny without a word: %+v", d)
			}
			if tt.want == "" && d.Fault != "" || !strings.Contains(d.Fault, tt.want) {
				t.Errorf("fault %q, want %q", d.Fault, tt.want)
			}
			if strings.Contains(d.Fault, "Jane") {
				t.Errorf("the fault quotes the input: %q", d.Fault)
			}
			if d.Elapsed > 5*time.Second {
				t.Errorf("took %v", d.Elapsed)
			}
		})
	}
}

// TestObligationsOfAllRulesAddUp: each rule's hold, and an equal answer is equal
// as a value, whichever rule came first.
func TestObligationsOfAllRulesAddUp(t *testing.T) {
	s := load(t, setDir(t, map[string]string{"a.rego": rules(allowAll + `

obligations contains {"redact": ["/subject/display", "/note"], "limit_rps": 5}

obligations contains {"redact": "/note"}

obligations contains {"limit_rps": 50}

obligations contains {"tag": "drill", "max_session_s": 60} if input.device.class == "infusion-pump"

obligations contains {"max_session_s": 3600}
`)}), Options{})
	d := s.Decide(context.Background(), ask("infusion-pump", fhirAsks("create", "Observation")))
	want, err := protocol.Oblige([]protocol.Obligation{
		{Kind: "limit_rps", Value: protocol.Int(50)}, {Kind: "limit_rps", Value: protocol.Int(5)}, {Kind: "tag", Value: protocol.String("drill")},
		{Kind: "redact", Value: protocol.Strings("/note", "/subject/display")}, {Kind: "max_session_s", Value: protocol.Int(60)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !d.Allow || !reflect.DeepEqual(d.Obligations, want) {
		t.Errorf("got %+v of %+v, want %+v", d.Obligations, d, want)
	}
	d = s.Decide(context.Background(), ask("patient-monitor", fhirAsks("create", "Observation")))
	if !d.Allow || d.Obligations == nil || d.Obligations.MaxSession != time.Hour || d.Obligations.Tags != nil {
		t.Errorf("got %+v", d.Obligations)
	}
}

func TestCancelledContextDenies(t *testing.T) {
	s := load(t, shipped, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d := s.Decide(ctx, ask("patient-monitor", fhirAsks("create", "Observation")))
	if d.Allow || !strings.Contains(d.Fault, "ended before it was decided") {
		t.Errorf("got %+v", d)
	}
}

func TestContextEndsALongEvaluation(t *testing.T) {
	s := load(t, setDir(t, map[string]string{"a.rego": rules(allowAll + "\n\ndeny contains \"x\" if {\n\tn := numbers.range(1, 100000)\n\tcount([1 | some i in n; some j in n; i * j == 7]) > 100\n}")}), Options{Timeout: time.Hour})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	d := s.Decide(ctx, ask("patient-monitor", fhirAsks("create", "Observation")))
	if d.Allow || !strings.Contains(d.Fault, "ended before it was decided") {
		t.Errorf("got %+v", d)
	}
}

// TestAStalledMachineIsNotTheRulesFault: time alone does not deny what hardly
// began, up to a bound.
func TestAStalledMachineIsNotTheRulesFault(t *testing.T) {
	const some = deadlineWork / 4 // expressions, about
	body := rules(fmt.Sprintf("allow contains \"x\" if count([1 | some i in numbers.range(1, %d); i * 2 == 1]) == 0", some))
	dir := setDir(t, map[string]string{"a.rego": body})
	for _, tt := range []struct {
		late  time.Duration
		allow bool
	}{{DefaultTimeout * 3, true}, {DefaultTimeout * (stalled + 1), false}} {
		// The first look at the clock is the start; every other one finds it late.
		looks := 0
		s := load(t, dir, Options{})
		s.opt.Clock = func() time.Time {
			if looks++; looks == 1 {
				return noon
			}
			return noon.Add(tt.late)
		}
		if d := s.Decide(context.Background(), ask("x", fhirAsks("read", "X"))); d.Allow != tt.allow {
			t.Errorf("late by %v: got %+v", tt.late, d)
		}
		if tt.allow && looks < 5 {
			t.Errorf("the clock was looked at %d times only", looks)
		}
	}
}

func TestWhatWasLeftOutIsNotDecidedWithout(t *testing.T) {
	s := load(t, shipped, Options{})
	for _, tt := range []struct {
		path  []string
		allow bool
	}{
		{[]string{"request", "fhir", "patient"}, true},
		{[]string{"request", "fhir", "body", "type"}, true},
		{[]string{"request", "fhir", "type"}, false},
		{[]string{"request", "fhir"}, false},
	} {
		q := ask("patient-monitor", fhirAsks("create", "Observation"))
		q.Transaction.Omitted = [][]string{tt.path}
		d := s.Decide(context.Background(), q)
		if d.Allow != tt.allow || d.Allow == (d.Fault != "") {
			t.Errorf("%v left out: got %+v", tt.path, d)
		}
	}
}

func TestClockBuiltinReadsTheQuestion(t *testing.T) {
	s := load(t, setDir(t, map[string]string{"a.rego": rules(`allow contains "noon" if time.now_ns() == ` + "1771245296000000000")}), Options{})
	if d := s.Decide(context.Background(), ask("x", fhirAsks("read", "X"))); !d.Allow {
		t.Errorf("got %+v (now is %d)", d, noon.UnixNano())
	}
	if u := s.Uncacheable(); len(u) != 1 || u[0].File != "a.rego" || u[0].Line != 3 || !strings.Contains(u[0].Message, "time.now_ns") {
		t.Errorf("got %+v", u)
	}
	if u := load(t, shipped, Options{}).Uncacheable(); len(u) > 0 {
		t.Errorf("the shipped set: %v", u)
	}
}
