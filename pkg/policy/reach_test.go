package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// reachCases are rules and what they read, each a way in which a part of the
// input gets from one place to another.
var reachCases = []struct {
	name string
	body string
	want string // the paths below input that are read
}{
	{"a reference", `allow contains "x" if input.device.class == "a"`, "device.class"},
	{"nothing", `allow contains "x" if true`, ""},
	{"a field whose existence matters", "allow contains \"x\" if {\n\tf := input.request.fhir\n\tnot f.conditional\n}", "request.fhir.conditional"},
	{"a local name", "allow contains \"x\" if {\n\tf := input.request.fhir\n\tf.type == \"a\"\n\tf.compartment.id == \"b\"\n}", "request.fhir.compartment.id request.fhir.type"},
	{"a local name of a local name", "allow contains \"x\" if {\n\tr := input.request\n\tf := r.fhir\n\tf.type == \"a\"\n}", "request.fhir.type"},
	{"a name of a name, compared", "allow contains \"x\" if {\n\tr := input.request.fhir\n\tf := r\n\tf.type == \"a\"\n}", "request.fhir"},
	{"an import", "allow contains \"x\" if fhir.type == \"a\"", "request.fhir.type"},
	{"a local name that is used whole", "allow contains \"x\" if {\n\tp := input.device.posture\n\tcount(p) == 4\n}", "device.posture"},
	{"two local names compared", "allow contains \"x\" if {\n\ta := input.device.tags\n\tb := input.device.posture\n\ta == b\n}", "device.posture device.tags"},
	{"a name with two meanings", "allow contains \"x\" if {\n\ta = input.device.tags\n\ta = input.device.posture\n\ta.x\n}", "device.posture device.tags"},
	{"a list", `allow contains "x" if "a" in input.request.fhir.params`, "request.fhir.params"},
	{"an element of a list", `allow contains "x" if input.request.http.path[0] == "a"`, "request.http.path"},
	{"each element", "allow contains \"x\" if {\n\tsome e in input.request.fhir.entries\n\te.type == \"a\"\n}", "request.fhir.entries"},
	{"every element", "allow contains \"x\" if {\n\tevery e in input.request.fhir.entries {\n\t\te.type == input.device.class\n\t}\n}", "device.class request.fhir.entries"},
	{"a dynamic field", `allow contains "x" if input.device.tags[input.device.location] == "a"`, "device.location device.tags"},
	{"any field", "allow contains \"x\" if {\n\tsome k\n\tinput.device[k] == \"a\"\n}", "device"},
	{"walk", "allow contains \"x\" if {\n\twalk(input, [_, v])\n\tv == \"a\"\n}", ""},
	{"walk a part", "allow contains \"x\" if {\n\twalk(input.request.fhir, [_, v])\n\tv == \"a\"\n}", "request.fhir"},
	{"the whole input", `allow contains "x" if count(input) > 3`, ""},
	{"the whole input by name", "allow contains \"x\" if {\n\ti := input\n\tcount(i) > 3\n}", ""},
	{"the whole input by name, a part", "allow contains \"x\" if {\n\ti := input\n\ti.device.class == \"a\"\n}", "device.class"},
	{"a rule", "allow contains \"x\" if helper\n\nhelper if input.device.class == \"a\"\n\nunused if input.device.owner == \"b\"", "device.class"},
	{"a default and an else", "allow contains \"x\" if helper == 1\n\ndefault helper := 0\n\nhelper := 1 if input.device.class == \"a\"\n\nelse := 2 if input.device.owner == \"b\"", "device.class device.owner"},
	{"the value of a rule", "allow contains \"x\" if f.type == \"a\"\n\nf := input.request.fhir", "request.fhir"},
	{"a function", "allow contains \"x\" if f(input.request.fhir)\n\nf(r) if r.type == \"a\"", "request.fhir.type"},
	{"a function of the whole input", "allow contains \"x\" if f(input)\n\nf(i) if i.request.fhir.type == \"a\"", "request.fhir.type"},
	{"a function of a function", "allow contains \"x\" if f(input.request)\n\nf(r) if g(r.fhir)\n\ng(r) if r.type == \"a\"", "request.fhir.type"},
	{"a function with an else", "allow contains \"x\" if f(input.request) == 2\n\nf(r) := 1 if r.fhir.type == \"a\"\n\nelse := 2 if r.http.method == \"b\"", "request.fhir.type request.http.method"},
	{"a function of many bodies", "allow contains \"x\" if f(input.request, input.device)\n\nf(r, _) if r.fhir.type == \"a\"\n\nf(_, d) if d.class == \"b\"", "device.class request.fhir.type"},
	{"a function that returns its argument", "allow contains \"x\" if {\n\tr := f(input.request.fhir)\n\tr.type == \"a\"\n}\n\nf(r) := r", "request.fhir"},
	{"a function with a pattern", "allow contains \"x\" if f(input.device.posture)\n\nf({\"assessed\": true, \"firmware\": _, \"max_cvss\": _, \"assessed_at\": _, \"age_days\": _})", "device.posture"},
	{"a function with a constant", "allow contains \"x\" if f(input.device.class)\n\nf(\"a\")", "device.class"},
	{"a function in a loop", "allow contains \"x\" if {\n\tsome e in [input.device, input.route]\n\tf(e)\n}\n\nf(e) if e.class == \"a\"", "device route"},
	{"a function of a local name", "allow contains \"x\" if {\n\td := input.device\n\tf(d)\n}\n\nf(e) if e.class == \"a\"", "device.class"},
	{"a replaced function", "allow contains \"x\" if f(input.device) with f as g\n\nf(e) if e.class == \"a\"\n\ng(e) if e.owner == \"a\"", ""},
	{"a replaced built-in", "allow contains \"x\" if lower(input.device.class) == \"a\" with lower as g\n\ng(e) := e", ""},
	{"with a replaced input", "allow contains \"x\" if helper with input as {\"device\": input.device.posture}\n\nhelper if input.device.class == \"a\"", "device.class device.posture"},
	{"with a replaced part", "allow contains \"x\" if helper with input.device.class as input.device.owner\n\nhelper if input.device.class == \"a\"", "device.class device.owner"},
	{"a name under a replaced input", "allow contains \"x\" if {\n\ty := input.device with input.device as input.route\n\ty.class == \"a\"\n}", "device route"},
	{"a comprehension", `allow contains "x" if {x | some x in input.request.fhir.params; x != input.device.class} != set()`, "device.class request.fhir.params"},
	{"an object comprehension", `allow contains "x" if {k: v | some k, v in input.device.tags} != {}`, "device.tags"},
	{"a value in the head", `allow contains input.device.class if true`, "device.class"},
	{"a composite", "allow contains \"x\" if {\n\t[a, b] := [input.device.class, input.route]\n\ta == \"a\"\n\tb.name == \"b\"\n}", "device.class route"},
	{"a dynamic rule", "allow contains \"x\" if data.anteroom.more[input.device.class]", "device.class device.location device.owner"},
	{"a dynamic package", "allow contains \"x\" if {\n\tsome p\n\tdata.anteroom[p].boss\n}", "device.location"},
	{"a text with holes", "allow contains \"x\" if sprintf(\"%s\", [input.device.class]) == \"a\"", "device.class"},
	{"a nested call", `allow contains "x" if upper(lower(trim(input.device.class, " "))) == "A"`, "device.class"},
	{"an argument that is no more than there", "allow contains \"x\" if f(input.request.fhir)\n\nf(_)", "request.fhir?"},
	{"a partial object", "allow contains \"x\" if o.a == 1\n\no[k] := v if {\n\tsome k, v in input.device.tags\n}", "device.tags"},
	{"a rule with a dotted name", "allow contains \"x\" if p.q.r == 1\n\np.q.r := 1 if input.device.class == \"a\"\n\np.q.s := 1 if input.device.owner == \"a\"", "device.class"},
	{"not", `allow contains "x" if not input.request.fhir.conditional`, "request.fhir.conditional"},
	{"a ternary of or", `allow contains "x" if {input.device.class, input.device.owner} & {"a"} != set()`, "device.class device.owner"},
}

// moreRego is a second package, for references that are not constant.
const moreRego = "package anteroom.more\n\nstaff if input.device.owner == \"a\"\n\nboss if input.device.location == \"b\"\n"

func reachSet(tb testing.TB, body string) *Set {
	tb.Helper()
	head := ""
	if strings.Contains(body, "if fhir.") {
		head = "import input.request.fhir\n\n"
	}
	return load(tb, setDir(tb, map[string]string{"a.rego": rules(head + body), "more.rego": moreRego}), Options{CacheEntries: -1})
}

func TestReach(t *testing.T) {
	whole := map[string]bool{"walk": true, "the whole input": true, "the whole input by name": true, "a replaced function": true, "a replaced built-in": true}
	for _, tt := range reachCases {
		t.Run(tt.name, func(t *testing.T) {
			s := reachSet(t, tt.body)
			var got []string
			for _, r := range s.Reads() {
				got = append(got, strings.TrimPrefix(r, "input."))
			}
			want := strings.Fields(tt.want)
			if whole[tt.name] {
				want = []string{"input"}
			}
			if len(want) == 0 && slices.Equal(got, []string{"input?"}) {
				return
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestReaches(t *testing.T) {
	s := reachSet(t, "allow contains \"x\" if {\n\tf := input.request.fhir\n\tf.type == \"a\"\n\tinput.request.http.path[0] == \"b\"\n\tcount(input.device) > 0\n}")
	for path, want := range map[string]bool{
		"":                     true,
		"request":              true,
		"request.fhir":         true,
		"request.fhir.type":    true,
		"request.fhir.type.x":  true,
		"request.fhir.patient": false,
		"request.fhir.body.id": false,
		"request.http.path":    true,
		"request.http.query":   false,
		"device":               true,
		"device.tags.bed":      true,
		"route":                false,
		"nothing":              false,
	} {
		var p []string
		if path != "" {
			p = strings.Split(path, ".")
		}
		if got := s.Reaches(p...); got != want {
			t.Errorf("Reaches(%s) = %v", path, got)
		}
	}
}

// TestPrunedInputDecidesTheSame: for every set above and the shipped one, and
// for questions made at random, the input cut down to what is reached gives the
// very decision that the whole input gives.
func TestPrunedInputDecidesTheSame(t *testing.T) {
	sets := map[string]*Set{"shipped": load(t, shipped, Options{CacheEntries: -1})}
	for _, c := range reachCases {
		sets[c.name] = reachSet(t, c.body)
	}
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	for name, s := range sets {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, uint64(len(name))))
			all := *s
			whole := *s.builder
			whole.want = everything
			all.builder = &whole
			allowed := 0
			n := rounds
			if name == "shipped" {
				n = 1000 // it allows little of what is made at random
			}
			for range n {
				q := randomQuestion(rnd)
				got, want := s.Decide(context.Background(), q), all.Decide(context.Background(), q)
				got, want = bare(got), bare(want)
				if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
					t.Fatalf("cut down: %s\nwhole:    %s\ninput %v", g, w, whole.input(q))
				}
				if got.Allow {
					allowed++
				}
			}
			if name == "shipped" && allowed == 0 {
				t.Error("no question was allowed, so little was compared")
			}
		})
	}
}

// randomQuestion draws from few values, so that rules often hold, and leaves
// out parts at random.
func randomQuestion(rnd *rand.Rand) *Question {
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	word := func() string { return pick("a", "b", "", "A") }
	maybe := func() bool { return rnd.IntN(3) > 0 }
	d := &device.Record{
		ID: pick("a", "dev-1"), Class: pick("a", "b", "patient-monitor", "infusion-pump", "ct-scanner"),
		Owner: word(), Location: pick("a", "b", "biomed-workshop", ""), LifeCritical: rnd.IntN(4) == 0,
		Status:  device.Status(pick("active", "active", "active", "quarantined", "pending")),
		Posture: device.Posture{MaxCVSS: float64(rnd.IntN(110)) / 10, Firmware: word()},
	}
	if maybe() {
		d.Tags = map[string]string{word(): word(), "fhir-device": "a"}
	}
	if maybe() {
		d.Posture.AssessedAt = noon.AddDate(0, 0, -rnd.IntN(1000))
	}
	for _, p := range []device.Patient{"Patient/a", "Patient/b", "HOSP|7"} {
		if rnd.IntN(3) == 0 {
			a := device.Association{Patient: p}
			if maybe() {
				a.Until = noon.Add(time.Duration(rnd.IntN(48)-12) * time.Hour)
			}
			d.Patients = append(d.Patients, a)
		}
	}
	if maybe() {
		d.Certificates = []device.Certificate{{Fingerprint: fingerprint, NotAfter: noon}}
	}
	list := func() protocol.Value {
		var out []string
		for range rnd.IntN(3) {
			out = append(out, pick("a", "b", "patient", "_count", "_has", "patient:not", "code:exact"))
		}
		return protocol.Strings(out...)
	}
	patients := func() protocol.Value {
		var out []string
		for range rnd.IntN(3) {
			out = append(out, pick("a", "b", "HOSP|7", ""))
		}
		return protocol.Strings(out...)
	}
	var tx *protocol.Transaction
	if maybe() {
		var with []protocol.Field
		for _, f := range []string{"params", "modifiers", "includes", "chains", "result_params"} {
			if rnd.IntN(4) == 0 {
				with = append(with, field(f, list()))
			}
		}
		if maybe() {
			with = append(with,
				field("conditional", protocol.Bool(maybe())),
				field("id", protocol.String(pick("", "a"))),
				field("operation", protocol.String(pick("", "$everything", "$lastn"))),
				field("patients", patients()),
				field("count", protocol.Int(int64(rnd.IntN(300)-1))),
				field("alternatives", protocol.Int(int64(rnd.IntN(30)))),
				field("compartment", protocol.Object(field("id", protocol.String(word())), field("type", protocol.String("Patient")))),
				field("entries", protocol.List(protocol.Object(field("type", protocol.String(word()))), protocol.Null())))
		}
		tx = fhirAsks(pick("create", "read", "search-type", "update", "operation", "delete"), pick("Observation", "MedicationRequest", "Device", "a", ""), with...)
		if rnd.IntN(5) == 0 {
			tx.Facts = tx.Facts[:rnd.IntN(2)]
		}
	} else {
		var query []protocol.Field
		if maybe() {
			query = append(query, field(pick("StudyInstanceUID", "limit"), protocol.Strings(pick("1.2.3", "*", ""))))
		}
		tx = httpAsks(pick("POST", "GET", "b"), query, pick("dicom-web", "a"), "studies")
	}
	q := &Question{Device: d, Session: sessionOf(d), Route: routeTo(pick("a", "ehr", "device")), Transaction: tx, Now: noon}
	q.Route.Environment = pick("production", "test", "maintenance")
	q.Route.Lane = maybe()
	q.BreakGlass = randomGrant(rnd)
	switch rnd.IntN(12) {
	case 0:
		q.Device = nil
	case 1:
		q.Session = nil
	case 2:
		q.Route = nil
	case 3:
		q.Transaction = nil
	}
	return q
}

// randomGrant returns none, one that is in force, or one that is over.
func randomGrant(rnd *rand.Rand) *breakglass.Grant {
	if rnd.IntN(3) == 0 {
		return nil
	}
	reason := []string{"a", "b"}[rnd.IntN(2)]
	return breakglass.Past("bg-1", reason, noon.Add(time.Duration(rnd.IntN(5)-2)*time.Hour), noon.Add(-8*time.Hour))
}

// TestAnalysisGivesUpSafely: names without end count as everything.
func TestAnalysisGivesUpSafely(t *testing.T) {
	var b strings.Builder
	b.WriteString("allow contains \"x\" if f0(input)\n")
	for i := range maxAliasPath + 2 {
		fmt.Fprintf(&b, "\nf%d(x) if f%d(x.tags)\n", i, i+1)
	}
	fmt.Fprintf(&b, "\nf%d(x) if x.y\n", maxAliasPath+2)
	// Without the shipped schema, which has no such depth.
	dir := setDir(t, map[string]string{"a.rego": rules(b.String()), "schemas/input.json": `{"type": "object"}`})
	if got := load(t, dir, Options{}).Reads(); !slices.Equal(got, []string{"input"}) {
		t.Errorf("got %v", got)
	}
}

func TestJoinedIsUnambiguous(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range [][]string{nil, {""}, {"", ""}, {"a b"}, {"a", "b"}, {`a" "b`}, {"a\x00b"}} {
		if k := joined(p); seen[k] {
			t.Errorf("%q is %s, which was there", p, k)
		} else {
			seen[k] = true
		}
	}
}
