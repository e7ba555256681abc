package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestBenchmarksAreReadWithTheirProcessors(t *testing.T) {
	b := &benchmarks{seen: map[string]map[string][]float64{}}
	for _, out := range []string{
		"goos: linux\nBenchmarkDecide/create         \t   18103\t     26777 ns/op\t 25000.5 cpu-ns/op\t    6764 B/op\t     108 allocs/op\n" +
			"BenchmarkDecide/create-2       \t   18103\t     30000 ns/op\nBenchmarkFleet/hit/few/100-2 \t 5 \t 7 ns/op\nPASS\n",
		"BenchmarkDecide/create 10 26779 ns/op\n",
	} {
		if err := b.read([]byte(out)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][]float64{"Decide/create-1": {26777, 26779}, "Decide/create-2": {30000}, "Fleet/hit/few/100-2": {7}} {
		if got := b.seen[name][wallTime]; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if got := b.seen["Decide/create-1"][cpuTime]; !slices.Equal(got, []float64{25000.5}) {
		t.Errorf("processor time %v", got)
	}
	if err := b.read([]byte("BenchmarkX 1 two ns/op\n")); err == nil {
		t.Error("what is no number was read")
	}
	// What a benchmark did not give is said, and not taken for nothing.
	if err := b.report(&report{}); err == nil || !strings.Contains(err.Error(), "DecideAgain/create-1 allocs/op") {
		t.Errorf("with benchmarks missing: %v", err)
	}
}

func TestAFigureSaysWhetherItsLimitIsKept(t *testing.T) {
	for want, f := range map[string]figure{
		"x|≤ 1|0.90 µs|yes|0.90 0.80 1.20": {what: "x", unit: "µs", limit: 1, values: []float64{0.9, 0.8, 1.2}},
		"x|≤ 1|1.10 µs|NO|1.10; but":       {what: "x", unit: "µs", limit: 1, values: []float64{1.1}, note: "but"},
		"x|≤ 0|0 allocations|yes|0":        {what: "x", unit: "allocations", limited: true, values: []float64{0}},
		"x|≤ 0|1 allocations|NO|1":         {what: "x", unit: "allocations", limited: true, values: []float64{1}},
		"x|–|25.5 ×|–|25.0 26":             {what: "x", unit: "×", values: []float64{25.04, 26}},
		"x|≤ 60|123 s|NO|123":              {what: "x", unit: "s", limit: 60, values: []float64{123.4}},
	} {
		if got := strings.Join(f.cells(), "|"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := ratios([]float64{2, 9}, []float64{1, 3, 5}); !slices.Equal(got, []float64{2, 3}) {
		t.Errorf("ratios %v", got)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-edits", "0"}, {"stray"}, {"-no-such-flag"}} {
		if code := run(context.Background(), args, io.Discard, io.Discard); code != 2 {
			t.Errorf("%v exits with %d, want 2", args, code)
		}
	}
}
