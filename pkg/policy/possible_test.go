package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// bound is a set that looks at patients, of some classes only.
const bound = `allow contains "always"

deny contains "of another patient" if {
	input.request.protocol == "fhir"
	some kind in data.modes[input.device.class].held
	kind == input.request.action
	some id in input.request.fhir.patients
	not id in input.device.patients
}

deny contains "of one owner" if {
	input.device.class == "ct-scanner"
	input.request.fhir.patient == input.device.owner
}

deny contains "late" if {
	data.hours[input.device.class]
	input.time.hour > 20
}
`

func boundSet(t testing.TB, data string) *Set {
	return load(t, setDir(t, map[string]string{"a.rego": rules(bound), "modes.yaml": data}), Options{CacheEntries: -1})
}

// What only a rule reads that the data switch off is not read, and what it reads
// of some classes is read of those.
func TestReachFollowsTheData(t *testing.T) {
	const patients, patient, hour, own = "request.fhir.patients", "request.fhir.patient", "time.hour", "device.patients"
	for _, c := range []struct {
		data  string
		reads map[string]string // by class: what is reached; "" is whatever class
	}{
		{"modes: {}", map[string]string{"": patient, "a": "", "ct-scanner": patient}},
		{"modes: {a: {held: []}, b: {}}", map[string]string{"": patient, "a": "", "b": ""}},
		{"modes: {a: {held: [create]}, b: {held: []}}", map[string]string{"": patients + " " + patient + " " + own, "a": patients + " " + own, "b": "", "c": "", "ct-scanner": patient}},
		{"modes: {ct-scanner: {held: [create]}}", map[string]string{"ct-scanner": patients + " " + patient + " " + own, "a": ""}},
		{"hours: {a: [x]}", map[string]string{"": patient + " " + hour, "a": hour, "b": ""}},
		{"hours: {a: false}", map[string]string{"": patient, "a": "", "b": ""}},
	} {
		s := boundSet(t, c.data)
		for class, want := range c.reads {
			for _, path := range []string{patients, patient, hour, own} {
				names := strings.Split(path, ".")
				got := s.Reaches(names...)
				if class != "" {
					got = s.ReachesFor(&device.Record{Class: class}, names...)
				}
				if want := strings.Contains(" "+want+" ", " "+path+" "); got != want {
					t.Errorf("%s: class %q reaches %s: %v", c.data, class, path, got)
				}
			}
		}
		if !s.ReachesFor(nil, "request", "fhir", "patient") {
			t.Errorf("%s: a device nobody knows could be of any class", c.data)
		}
	}
	const late = "allow contains \"x\"\n\ndeny contains \"y\" if {\n\t\"a\" in data.modes[input.device.class]\n\tinput.time.hour > 20\n}\n\nallow contains \"z\" if deny == {\"y\"} with "
	for _, what := range []string{`data.modes as {"b": ["a"]}`, `input.device.class as "a"`} {
		dir := setDir(t, map[string]string{"a.rego": rules(late + what), "modes.yaml": "modes: {a: [a]}"})
		if s := load(t, dir, Options{}); !s.ReachesFor(&device.Record{Class: "b"}, "time", "hour") {
			t.Errorf("a rule replaces %s, and the data are taken as they are", what)
		}
	}
}

// TestLeavingOutWhatIsNotReachedChangesNothing: a transaction without the facts
// that are not reached of its device is decided as it is with them, by every
// set.
func TestLeavingOutWhatIsNotReachedChangesNothing(t *testing.T) {
	sets := map[string]*Set{
		"bound":   boundSet(t, "modes: {a: {held: [create, update]}, infusion-pump: {held: []}}\nhours: {b: [x]}"),
		"shipped": load(t, shipped, Options{CacheEntries: -1}),
	}
	for _, c := range reachCases {
		sets[c.name] = reachSet(t, c.body)
	}
	for name, s := range sets {
		n := 100
		if name == "bound" || name == "shipped" {
			n = 2000
		}
		rnd, plain, left := rand.New(rand.NewPCG(9, uint64(len(name)))), plainOf(s), 0
		for range n {
			q := randomQuestion(rnd)
			less := *q
			if tx := q.Transaction; tx != nil {
				less.Transaction = tx.Clone()
				for i := range less.Transaction.Facts {
					f := &less.Transaction.Facts[i]
					if f.Value.Kind() != protocol.KindObject {
						continue
					}
					var kept []protocol.Field
					for _, m := range f.Value.Fields() {
						if path := []string{"request", f.Name, m.Name}; s.ReachesFor(q.Device, path...) {
							kept = append(kept, m)
						} else {
							less.Transaction.Omitted = append(less.Transaction.Omitted, path)
							left++
						}
					}
					f.Value = protocol.Object(kept...)
				}
			}
			got, want := s.Decide(context.Background(), &less), plain.Decide(context.Background(), q)
			got, want = bare(got), bare(want)
			if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
				t.Fatalf("%s: without what is not reached: %s\nwith it: %s\ninput %v", name, g, w, plain.builder.input(q))
			}
		}
		if left == 0 && (name == "bound" || name == "shipped") {
			t.Errorf("%s: nothing was left out", name)
		}
	}
}

// A fact that was left out for a class, and is read of the device's, is a deny.
func TestAFactLeftOutForAnotherClass(t *testing.T) {
	s := boundSet(t, "modes: {a: {held: [create]}}")
	for class, allow := range map[string]bool{"a": false, "b": true} {
		q := ask(class, fhirAsks("create", "Observation"))
		q.Transaction.Omitted = [][]string{{"request", "fhir", "patients"}}
		if d := s.Decide(context.Background(), q); d.Allow != allow || (d.Fault == "") != allow {
			t.Errorf("class %s: %+v", class, d)
		}
	}
}
