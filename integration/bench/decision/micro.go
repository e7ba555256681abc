package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/anteroom-iomt/anteroom/integration/bench/build"
	"github.com/anteroom-iomt/anteroom/integration/bench/figures"
)

// wanted are the benchmarks of pkg/policy that figures are made of.
const wanted = "^Benchmark(Decide|DecideAgain|Fleet|Registry|Shadow)$"

// benchmarks are those of pkg/policy, and what came of them.
type benchmarks struct {
	program, dir string
	// seen holds, by name with the number of processors and by unit, a value for
	// each round.
	seen map[string]map[string][]float64
}

func buildBenchmarks(ctx context.Context, root, scratch string) (*benchmarks, error) {
	b := &benchmarks{program: filepath.Join(scratch, "policy.test"), dir: filepath.Join(root, "pkg", "policy"), seen: map[string]map[string][]float64{}}
	return b, build.Go(ctx, root, "test", "-c", "-o", b.program, "./pkg/policy")
}

// run runs all of them once, on one processor and on two.
func (b *benchmarks) run(ctx context.Context, benchtime string) error {
	cmd := exec.CommandContext(ctx, b.program, "-test.run", "^$", "-test.bench", wanted, "-test.benchtime", benchtime, "-test.cpu", "1,2")
	cmd.Dir = b.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("the benchmarks: %w: %s", err, out)
	}
	return b.read(out)
}

// benchLine is a line of a benchmark's output: a name, the number of processors
// unless it is one, a count, and values with their units.
var benchLine = regexp.MustCompile(`^Benchmark(\S+?)(-\d+)?\s+\d+\s+(.*)$`)

// read adds what a run of the benchmarks printed.
func (b *benchmarks) read(out []byte) error {
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		m := benchLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		cpus := "1"
		if m[2] != "" {
			cpus = m[2][1:]
		}
		name := m[1] + "-" + cpus
		if b.seen[name] == nil {
			b.seen[name] = map[string][]float64{}
		}
		fields := strings.Fields(m[3])
		for i := 0; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("%q: %w", lines.Text(), err)
			}
			b.seen[name][fields[i+1]] = append(b.seen[name][fields[i+1]], v)
		}
	}
	return lines.Err()
}

// of returns the values of a benchmark, or notes that it has none.
func (b *benchmarks) of(name, unit string, missing *[]string) []float64 {
	v := b.seen[name][unit]
	if len(v) == 0 {
		*missing = append(*missing, name+" "+unit)
	}
	return v
}

const (
	cpuTime  = "cpu-ns/op"
	wallTime = "ns/op"
	allocs   = "allocs/op"
)

// kinds are the questions that decisions are timed with.
var kinds = []string{"create", "search", "stow", "deny"}

// report makes figures of what was seen.
func (b *benchmarks) report(r *report) error {
	var missing []string
	worst := func(bench, unit string) (name string, v []float64) {
		for _, k := range kinds {
			if s := b.of(bench+"/"+k+"-1", unit, &missing); name == "" || figures.Median(s) > figures.Median(v) {
				name, v = k, s
			}
		}
		return name, v
	}
	micro := func(v []float64) []float64 {
		out := slices.Clone(v)
		for i := range out {
			out[i] /= 1000
		}
		return out
	}
	name, v := worst("DecideAgain", cpuTime)
	r.add(figure{what: "a remembered decision, the slowest of four kinds (" + name + ")", unit: "µs", limit: 1, values: micro(v)})
	_, v = worst("DecideAgain", allocs)
	r.add(figure{what: "what it allocates", unit: "allocations", limit: 0, limited: true, values: v})
	name, v = worst("Decide", cpuTime)
	r.add(figure{what: "a decision not remembered, shipped set, the slowest of four kinds (" + name + ")", unit: "µs", limit: 20, values: micro(v)})
	for _, path := range []struct{ bench, what string }{{"DecideAgain", "remembered"}, {"Decide", "not remembered"}} {
		one, two := b.of(path.bench+"/parallel-1", wallTime, &missing), b.of(path.bench+"/parallel-2", wallTime, &missing)
		r.add(figure{what: "decisions " + path.what + ": two processors beside one", unit: "× as many a second", values: ratios(one, two)})
	}
	for _, path := range []struct{ name, what string }{{"hit", "remembered"}, {"miss", "not remembered"}} {
		base := b.of("Fleet/"+path.name+"/few/100-1", cpuTime, &missing)
		same := b.of("Fleet/"+path.name+"/few/100000-1", cpuTime, &missing)
		all := b.of("Fleet/"+path.name+"/all/100000-1", cpuTime, &missing)
		r.add(figure{what: "look-up and decision " + path.what + ", 100,000 devices enrolled beside 100, the same traffic", unit: "×", limit: 1.1, values: ratios(same, base)})
		r.add(figure{what: "the same, but all 100,000 of them talk in turn", unit: "×", values: ratios(all, base)})
	}
	r.add(figure{what: "the registry's look-up alone, 100,000 devices beside 100", unit: "×",
		values: ratios(b.of("Registry/100000-1", wallTime, &missing), b.of("Registry/100-1", wallTime, &missing))})
	r.add(figure{what: "what a shadow set costs a request", unit: "µs", values: micro(b.of("Shadow-1", cpuTime, &missing))})
	if len(missing) > 0 {
		return fmt.Errorf("no benchmark gave %s; there are %s", strings.Join(missing, ", "), strings.Join(slices.Sorted(maps.Keys(b.seen)), ", "))
	}
	return nil
}

// ratios divides round by round: what one round's machine did to both sides
// cancels out.
func ratios(a, b []float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		out = append(out, a[i]/b[i])
	}
	return out
}
