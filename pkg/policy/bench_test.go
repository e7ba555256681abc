package policy

import (
	"context"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
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

// BenchmarkDecide asks OPA each time.
func BenchmarkDecide(b *testing.B) {
	s := load(b, shipped, Options{CacheEntries: -1})
	ctx := context.Background()
	for name, q := range questions() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := s.Decide(ctx, q); d.Fault != "" {
					b.Fatal(d.Fault)
				}
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		q := questions()["create"]
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				s.Decide(ctx, q)
			}
		})
	})
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
	ctx := context.Background()
	for name, q := range questions() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := s.Decide(ctx, q); d.Fault != "" {
					b.Fatal(d.Fault)
				}
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		q := questions()["create"]
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				s.Decide(ctx, q)
			}
		})
	})
}
