package policy

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// aMillion is how many transactions the proof of the cache takes. The race
// detector has no more to find in them than in a part.
func aMillion() int {
	switch {
	case testing.Short():
		return 20_000
	case underRace:
		return 50_000
	}
	return 1_000_000
}

// exactCases are sets made to find out a cache that looks at too little: what
// they depend on is hard to see in their rules. They oblige as well, and make
// reasons of what they read.
var exactCases = map[string]string{
	"obligations of the input": `allow contains "x" if input.device.class
obligations contains {"limit_rps": 1 + count(input.request.fhir.params)} if input.request.action == "create"
obligations contains {"tag": input.device.owner}`,
	"reasons of the input": `allow contains sprintf("%s in %s", [input.device.class, input.device.location])
deny contains sprintf("%v", [input.request.fhir.modifiers]) if input.device.owner == "b"`,
	"object.get by a path":              `allow contains "x" if object.get(input, ["request", "fhir", "compartment", "id"], "none") in {"a", "none"}`,
	"object.get by a path of the input": `allow contains "x" if object.get(input, [input.route.name, "owner"], "") == "a"`,
	"json.filter":                       `allow contains "x" if json.filter(input.device, ["posture/firmware", "owner"]) == {"owner": "a", "posture": {"firmware": "a"}}`,
	"json.remove":                       `allow contains "x" if count(json.remove(input.request.fhir, ["type", "id"])) > 12`,
	"walk for a path": `allow contains concat(".", [p | some p in path]) if {
	walk(input.request.fhir.compartment, [path, v])
	v == "a"
}`,
	"every with a nested some": `allow contains "x" if {
	every p in input.request.fhir.params {
		some m in input.request.fhir.modifiers
		startswith(m, p)
	}
}`,
	"negation of a comprehension": `allow contains "x" if not {p | some p in input.request.fhir.params; p == input.device.owner} == set()`,
	"an else chain over many facts": `allow contains level
level := "one" if input.device.owner == "a"
else := "two" if input.device.location == "b"
else := "three" if input.request.fhir.type == "Device"
else := "four"`,
	"a partial object of rules": `allow contains k if {
	some k, v in table
	v == "a"
}
table[k] := v if some k, v in input.device.tags
table["owner"] := input.device.owner if not input.device.tags.owner`,
	"a function of many aliases": `allow contains "x" if {
	d := input.device
	t := d.tags
	same(t, d)
}
same(a, b) if {
	x := a
	y := b.owner
	some k
	x[k] == y
}`,
	"with over data and input": `allow contains "x" if helper with data.words as [input.device.owner] with input.device.location as input.device.class
helper if input.device.location in {"a", "b"}
helper if "b" in data.words`,
	"time of day": `allow contains "day" if input.time.hour in numbers.range(7, 18)
deny contains sprintf("on %s", [input.time.weekday]) if input.time.minute % 2 == 1`,
	"a name that is dynamic twice": `allow contains "x" if input[input.route.name].tags[input.device.owner] == "a"`,
	"an import under another name": `import input.device as d
import input.request.fhir as f

allow contains sprintf("%s %s", [f.type, d.owner]) if f.interaction != "delete"
obligations contains {"limit_rps": count(f.params)} if not f.conditional`,
	"an alias of an alias": `allow contains "x" if t == "Device"
t := f.type
f := input.request.fhir`,
	"a set of objects": `allow contains "x" if {"type": input.request.fhir.type, "owner": input.device.owner} in {{"type": "a", "owner": "a"}, {"type": "Device", "owner": "b"}}`,
	"existence of nothing else": `allow contains "x" if input.request.fhir.conditional
deny contains "y" if not input.session
deny contains "z" if not input.route.name`,
	"an emergency": `allow contains sprintf("until %s", [input.break_glass.until]) if input.break_glass.active
deny contains input.break_glass.reason if input.device.owner == "b"
deny contains "over" if not input.break_glass.reason`,
	"walk of the whole input, for an obligation": `allow contains "x" if input.request
obligations contains {"limit_bytes": n} if {
	n := count([v | walk(input, [_, v]); v == "a"])
	n > 2
}`,
	"every and else, for an obligation": `allow contains "x" if input.request.action
obligations contains {"limit_rps": limit}
limit := 1 if {
	every p in input.request.fhir.params { p != "a" }
	input.device.owner == "a"
} else := 2 if input.device.tags[input.device.location] == "b"
else := 3`,
	"numbers": `allow contains sprintf("%d", [floor(input.device.posture.max_cvss)]) if input.device.posture.age_days > 300
obligations contains {"limit_bytes": input.request.bytes} if input.request.bytes > 0`,
}

// plainOf returns a set as plain OPA: without a cache, on the whole input, by the
// decision rule itself, on the rules as they were written.
func plainOf(s *Set) *Set {
	plain := *s
	whole := *s.builder
	whole.want, whole.parts = everything, nil
	plain.cache = nil
	plain.builder, plain.plan = &whole, &plan{whole: s.decision, documents: newDocumentsPool()}
	return &plain
}

// exactSets are all sets of the proof, each as it is and as plain OPA.
func exactSets(tb testing.TB) map[string][2]*Set {
	out := map[string][2]*Set{}
	add := func(name string, s *Set) { out[name] = [2]*Set{s, plainOf(s)} }
	known := Options{CacheEntries: -1}
	add("shipped", load(tb, shipped, known))
	for name, body := range exactCases {
		add(name, load(tb, setDir(tb, map[string]string{"a.rego": rules(body), "words.yaml": "words: [a]\n"}), known))
	}
	for _, c := range reachCases {
		add(c.name, reachSet(tb, c.body))
	}
	return out
}

// near returns a question that differs from q in one or two places, as the
// next transaction of a device does.
func near(rnd *rand.Rand, q *Question) *Question {
	other := randomQuestion(rnd)
	n := *q
	for range 1 + rnd.IntN(2) {
		switch rnd.IntN(9) {
		case 8:
			n.BreakGlass = other.BreakGlass
		case 0:
			n.Now = noon.AddDate(0, 0, rnd.IntN(3)).Add(time.Duration(rnd.IntN(24*60)) * time.Minute)
		case 1:
			n.Route = other.Route
		case 2:
			n.Session = other.Session
		case 3:
			n.Device = other.Device
		case 4, 5:
			if q.Device != nil && other.Device != nil {
				d := *q.Device
				switch rnd.IntN(9) {
				case 8:
					d.Patients = other.Device.Patients
				case 0:
					d.Owner = other.Device.Owner
				case 1:
					d.Location = other.Device.Location
				case 2:
					d.Tags = other.Device.Tags
				case 3:
					d.Posture = other.Device.Posture
				case 4:
					d.Status = other.Device.Status
				case 5:
					d.ID = other.Device.ID
				case 6:
					d.LifeCritical = other.Device.LifeCritical
				case 7:
					d.Class = other.Device.Class
				}
				n.Device = &d
			}
		default:
			if q.Transaction != nil && other.Transaction != nil {
				n.Transaction = mix(rnd, q.Transaction, other.Transaction)
			}
		}
	}
	return &n
}

// mix returns a with one fact, or one field of a fact, of b.
func mix(rnd *rand.Rand, a, b *protocol.Transaction) *protocol.Transaction {
	c := a.Clone()
	switch rnd.IntN(6) {
	case 0:
		c.Action = b.Action
	case 1:
		c.Protocol = b.Protocol
	case 2:
		c.Bytes = int64(rnd.IntN(3))
	default:
		for i := range c.Facts {
			for _, f := range b.Facts {
				if f.Name != c.Facts[i].Name || len(c.Facts[i].Value.Fields()) == 0 || len(f.Value.Fields()) == 0 {
					continue
				}
				fields := slices.Clone(c.Facts[i].Value.Fields())
				from := f.Value.Fields()[rnd.IntN(len(f.Value.Fields()))]
				at := slices.IndexFunc(fields, func(x protocol.Field) bool { return x.Name == from.Name })
				if at < 0 {
					fields = append(fields, from)
				} else {
					fields[at] = from
				}
				c.Facts[i].Value = protocol.Object(fields...)
			}
		}
	}
	return c
}

// differ asks n questions of a cached set and of plain OPA, and returns the
// first on which they differ, "" if there is none.
func differ(seed uint64, n int, cached, plain *Set) (what string, hits uint64) {
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(seed, 77))
	recent := make([]*Question, 16)
	for i := range recent {
		recent[i] = randomQuestion(rnd)
	}
	for i := range n {
		q := recent[rnd.IntN(len(recent))]
		switch rnd.IntN(8) {
		case 0:
			q = randomQuestion(rnd)
			recent[i%len(recent)] = q
		case 1, 2, 3:
			q = near(rnd, q)
			recent[i%len(recent)] = q
		}
		got, want := cached.Decide(ctx, q), plain.Decide(ctx, q)
		got, want = bare(got), bare(want)
		if !reflect.DeepEqual(got, want) {
			return fmt.Sprintf("seed %d, question %d\ncached: %+v\nplain:  %+v\ninput   %v", seed, i, got, want, plain.builder.input(q)), 0
		}
	}
	return "", cached.CacheStats().Hits
}

// TestAMillionTransactionsAreDecidedAlike is the proof that the cache is exact:
// over sets of every kind, remembered decisions are those that OPA makes of the
// whole input, obligations and reasons included.
func TestAMillionTransactionsAreDecidedAlike(t *testing.T) {
	sets := exactSets(t)
	if len(sets) < 20 {
		t.Fatalf("%d sets", len(sets))
	}
	each := aMillion()/len(sets) + 1
	names := make(chan string, len(sets))
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		names <- name
	}
	close(names)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var hits uint64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for name := range names {
				what, n := differ(uint64(len(name)), each, withCache(sets[name][0], 512), sets[name][1])
				mu.Lock()
				if hits += n; what != "" {
					t.Errorf("%s: %s", name, what)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d transactions under %d sets, %d of them remembered", each*len(sets), len(sets), hits)
	if hits < uint64(each*len(sets)/10) {
		t.Errorf("only %d were remembered, so little was proved", hits)
	}
}

// TestTheProofFindsACacheThatForgetsToLook: with any one of the facts left out
// that a set reads, the test above fails. Otherwise it would prove nothing of
// that fact.
func TestTheProofFindsACacheThatForgetsToLook(t *testing.T) {
	n := 100_000
	if testing.Short() || underRace {
		t.Skip("takes long, and looks for nothing that depends on it")
	}
	for name, pair := range exactSets(t) {
		if name != "shipped" && exactCases[name] == "" {
			continue
		}
		reads := pair[0].Reads()
		for _, left := range reads {
			if blind[name+": "+left] {
				continue
			}
			broken := *pair[0]
			r := *broken.reach
			r.input = &paths{}
			for _, path := range reads {
				if path == left {
					continue
				}
				names := strings.Split(strings.TrimSuffix(strings.TrimPrefix(path, "input."), "?"), ".")
				if strings.HasSuffix(path, "?") {
					r.input.touch(names)
				} else {
					r.input.add(names)
				}
			}
			r.input.seal(0)
			broken.reach = &r
			b := *broken.builder
			b.want = r.input
			broken.builder = &b
			if what, _ := differ(5, n, withCache(&broken, 512), pair[1]); what == "" {
				t.Errorf("%s: without %s nothing is found", name, left)
			}
		}
	}
}

// blind are facts that a set reads and that change none of its decisions.
var blind = map[string]bool{
	"shipped: input.device.posture.assessed":          true, // only where data.posture.require_assessment says so
	"with over data and input: input.device.location": true, // it is replaced wherever it is read
}
