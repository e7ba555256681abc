package policy

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/policies"
)

// questions are what devices ask most.
func questions() map[string]*Question {
	return map[string]*Question{
		"create": ask("patient-monitor", fhirAsks("create", "Observation")),
		"search": ask("infusion-pump", fhirAsks("search-type", "MedicationRequest", field("params", protocol.Strings("patient")))),
		"stow":   ask("ct-scanner", httpAsks("POST", nil, "dicom-web", "studies")),
		"deny":   ask("patient-monitor", fhirAsks("read", "Patient")),
	}
}

// decide asks the same again and again.
func decide(b *testing.B, s *Set, q *Question) {
	ctx := context.Background()
	if d := s.Decide(ctx, q); d.Fault != "" {
		b.Fatal(d.Fault)
	}
	b.ReportAllocs()
	done := cpu(b)
	for b.Loop() {
		if d := s.Decide(ctx, q); d.Fault != "" {
			b.Fatal(d.Fault)
		}
	}
	done()
}

// beside has every processor ask the same.
func beside(b *testing.B, s *Set, q *Question) {
	b.ReportAllocs()
	done := cpu(b)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			s.Decide(context.Background(), q)
		}
	})
	done()
}

// BenchmarkDecide asks OPA each time.
func BenchmarkDecide(b *testing.B) {
	s := load(b, shipped, Options{CacheEntries: -1})
	for name, q := range questions() {
		b.Run(name, func(b *testing.B) {
			decide(b, s, q)
		})
	}
	b.Run("parallel", func(b *testing.B) { beside(b, s, questions()["create"]) })
	b.Run("input", func(b *testing.B) {
		q := questions()["create"]
		b.ReportAllocs()
		for b.Loop() {
			s.builder.input(q)
		}
	})
}

// BenchmarkDecideAgain asks what was asked before.
func BenchmarkDecideAgain(b *testing.B) {
	s := load(b, shipped, Options{})
	for name, q := range questions() {
		b.Run(name, func(b *testing.B) {
			decide(b, s, q)
		})
	}
	b.Run("parallel", func(b *testing.B) { beside(b, s, questions()["create"]) })
}

// BenchmarkKey is what finding out costs whether a question was asked before, without
// the looking.
func BenchmarkKey(b *testing.B) {
	s := load(b, shipped, Options{})
	for name, q := range questions() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a, ok := s.cache.ask(s, q)
				if !ok {
					b.Fatal("the key is too large")
				}
				s.cache.release(a)
			}
		})
	}
}

// BenchmarkEditToLive is how long an author waits for a saved rule to decide:
// until the save has settled, and the set is read, compiled and put in force.
func BenchmarkEditToLive(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "policies")
	if err := policies.Write(dir); err != nil {
		b.Fatal(err)
	}
	e, err := NewEngine(b.Context(), config.Policy{Enforce: dir}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	live := make(chan *Set, 1)
	defer e.OnChange(func(s *Set) { live <- s })()
	ctx, stop := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.Watch(ctx) })
	defer func() { stop(); wg.Wait() }()
	for i := 0; b.Loop(); i++ {
		writeFile(b, dir, "authz/edited.rego", rules(fmt.Sprintf("deny contains \"edit %d\" if input.device.class == \"nothing\"", i)))
		<-live
	}
}

// BenchmarkBedside is what holding a class to its patients costs: its own
// decisions, and those of a class that is not held.
func BenchmarkBedside(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "policies")
	if err := policies.Write(dir); err != nil {
		b.Fatal(err)
	}
	free := load(b, dir, Options{CacheEntries: -1})
	writeFile(b, dir, "classes/bedside.yaml", "patient-monitor: {fhir: {compartment: {held: [write, search]}}}\n")
	held := load(b, dir, Options{CacheEntries: -1})
	patients := field("patients", protocol.List(protocol.Sensitive("p1")))
	q := ask("patient-monitor", fhirAsks("create", "Observation", patients))
	q.Device.Patients = []device.Association{{Patient: "Patient/p1"}}
	other := ask("ventilator", fhirAsks("create", "Observation"))
	for _, c := range []struct {
		name string
		set  *Set
		q    *Question
	}{{"shipped", free, q}, {"held", held, q}, {"another", held, other}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := c.set.Decide(context.Background(), c.q); !d.Allow {
					b.Fatal(d)
				}
			}
		})
	}
}
