package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/figures"
)

// results is all that one run of the command found out.
type results struct {
	options  options
	command  string
	machine  []string
	versions []version
	absent   []absence
	rows     []*row
}

type version struct{ what, version string }

// An absence is a target that could not be measured, and why.
type absence struct{ target, why string }

// A row is one target in one scenario.
type row struct {
	scenario scenario
	target   string
	samples  []sample
}

// add files a sample.
func (r *results) add(s scenario, target string, smp sample) {
	w := r.row(s.name, target)
	if w == nil {
		w = &row{scenario: s, target: target}
		r.rows = append(r.rows, w)
	}
	w.samples = append(w.samples, smp)
}

// valid reports whether nothing went wrong in any measurement of a target that
// counts: in a run that only shows that everything works, a peer's mishap is told
// and is not ours.
func (r *results) valid() bool {
	return !slices.ContainsFunc(r.rows, func(w *row) bool { return len(w.faults()) > 0 && (!r.options.quick || w.target == gateway) })
}

func (w *row) faults() []string {
	var fs []string
	for i, s := range w.samples {
		for _, f := range s.faults {
			fs = append(fs, fmt.Sprintf("round %d: %s", i+1, f))
		}
	}
	return fs
}

// figures returns the figure of each round, or the further one of that name.
func (w *row) figures(name string) []float64 {
	var fs []float64
	for _, s := range w.samples {
		switch v, ok := s.more[name]; {
		case s.skip != "":
		case name == "":
			fs = append(fs, s.figure)
		case ok:
			fs = append(fs, v)
		}
	}
	return fs
}

// row returns the row of a target in a scenario, or nil.
func (r *results) row(scenario, target string) *row {
	i := slices.IndexFunc(r.rows, func(w *row) bool { return w.scenario.name == scenario && w.target == target })
	if i < 0 {
		return nil
	}
	return r.rows[i]
}

// median returns the median over the rounds of a target's figure in a scenario,
// or of the further figure of that name. There is none of what was not measured,
// or not rightly.
func (r *results) median(scenario, target, name string) (float64, bool) {
	w := r.row(scenario, target)
	if w == nil || len(w.faults()) > 0 || len(w.figures(name)) == 0 {
		return 0, false
	}
	return figures.Median(w.figures(name)), true
}

// A line is what the tables print of one row.
type line struct{ target, median, ratio, rounds, note string }

// lines returns the table of one scenario: measured targets, then absent ones.
func (r *results) lines(s scenario) []line {
	base, _ := r.median(s.name, s.baseline(), "")
	var ls []line
	for _, name := range r.order() {
		if !s.takes(name) {
			continue
		}
		none := line{target: name, median: "–", ratio: "–", rounds: "–"}
		if i := slices.IndexFunc(r.absent, func(a absence) bool { return a.target == name }); i >= 0 {
			none.note = r.absent[i].why
			ls = append(ls, none)
			continue
		}
		w := r.row(s.name, name)
		if w == nil {
			continue
		}
		last := w.samples[len(w.samples)-1]
		if fs := w.faults(); len(fs) > 0 {
			none.median, none.note = "invalid", strings.Join(fs, "; ")
			ls = append(ls, none)
			continue
		}
		m, ok := r.median(s.name, name, "")
		if !ok {
			none.note = last.skip
			ls = append(ls, none)
			continue
		}
		l := line{target: name, median: fmt.Sprintf("%.1f", m), ratio: "–", note: last.note}
		if base > 0 {
			l.ratio = fmt.Sprintf("%.2f", m/base)
		}
		var rounds []string
		for _, f := range w.figures("") {
			rounds = append(rounds, fmt.Sprintf("%.1f", f))
		}
		l.rounds = strings.Join(rounds, " ")
		ls = append(ls, l)
	}
	return ls
}

// order returns the targets as they were asked for.
func (r *results) order() []string {
	var out []string
	for name := range strings.SplitSeq(r.options.targets, ",") {
		out = append(out, strings.TrimSpace(name))
	}
	return out
}

// measured returns the scenarios that have rows, in order.
func (r *results) measured() []scenario {
	var out []scenario
	for _, s := range scenarios() {
		if slices.ContainsFunc(r.rows, func(w *row) bool { return w.scenario.name == s.name }) {
			out = append(out, s)
		}
	}
	return out
}

// writeText prints the tables for a terminal.
func (r *results) writeText(w io.Writer) {
	for _, s := range r.measured() {
		fmt.Fprintf(w, "\n%s\n", s.title)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(tw, "target\tmedian %s\t× %s\trounds\tlast round\n", s.unit, s.baseline())
		for _, l := range r.lines(s) {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", l.target, l.median, l.ratio, l.rounds, strings.ReplaceAll(l.note, "\n", " "))
		}
		_ = tw.Flush() // the terminal's matter
	}
	if vs := r.verdicts(); len(vs) > 0 {
		fmt.Fprint(w, "\nBudgets\n")
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprint(tw, "what\tbudget\tmeasured\tkept\n")
		for _, v := range vs {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", v.what, v.limit, v.measured, v.kept)
		}
		_ = tw.Flush()
	}
	fmt.Fprintln(w)
}

// writeFile writes the report, in Markdown, to path.
func (r *results) writeFile(path string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# What a request costs\n\nWritten by `%s` on %s; do not edit.\n\n", r.command, time.Now().UTC().Format("2 January 2006"))
	fmt.Fprintf(&b, "Each target is pinned to one core and takes its turn in %d rounds of %s, with %d connections where nothing else is said; load and backend share another core. "+
		"A figure is the median of the rounds, less is better, and CPU time is the target's own, user and system, of all its processes. "+
		"Anteroom decides every request by the shipped policies and records it; the others do neither, but for nginx-opa, which asks an OPA server.\n", r.options.rounds, r.options.duration, r.options.connections)
	if vs := r.verdicts(); len(vs) > 0 {
		b.WriteString("\n## Budgets\n\n| what | budget | measured | kept |\n|---|---:|---:|---|\n")
		for _, v := range vs {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", v.what, v.limit, v.measured, v.kept)
		}
	}
	for _, s := range r.measured() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| target | median %s | × %s | rounds | last round |\n|---|---:|---:|---|---|\n", s.title, s.how, s.unit, s.baseline())
		for _, l := range r.lines(s) {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", l.target, l.median, l.ratio, l.rounds, cell(l.note))
		}
	}
	b.WriteString("\n## Where\n\n")
	for _, m := range r.machine {
		fmt.Fprintf(&b, "- %s\n", m)
	}
	b.WriteString("\n## What\n\n| program | version |\n|---|---|\n")
	for _, v := range r.versions {
		fmt.Fprintf(&b, "| %s | %s |\n", v.what, cell(v.version))
	}
	b.WriteString("\nConfigurations: the templates in [peers](peers).\n")
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// cell makes text fit into a table's cell.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s)
}

// quiet is the load average up to which a machine counts as having nothing else
// to do: what remains of a build that just ended.
const quiet = 1.5

// describeMachine returns the facts a reader needs to judge the figures.
func describeMachine(ctx context.Context) []string {
	facts := []string{fmt.Sprintf("%d CPUs, %s", runtime.NumCPU(), procField("/proc/cpuinfo", "model name"))}
	if m := procField("/proc/meminfo", "MemTotal"); m != "" {
		facts = append(facts, "memory "+m)
	}
	if out, err := exec.CommandContext(ctx, "uname", "-r").Output(); err == nil {
		v, _, _ := strings.Cut(strings.TrimSpace(string(out)), "-") // less the builder's own suffix
		facts = append(facts, "Linux "+v)
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		f := strings.Fields(string(b))
		fact := "load average before the run " + f[0]
		if l, err := strconv.ParseFloat(f[0], 64); err == nil && l > quiet {
			fact += ": **the machine was busy with other things, so figures vary more than they should**"
		}
		facts = append(facts, fact)
	}
	return append(facts, runtime.Version())
}

// procField returns the value of the first "name: value" line of a file.
func procField(path, name string) string {
	b, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
