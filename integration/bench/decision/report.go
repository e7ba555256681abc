package main

import (
	"fmt"
	"strings"

	"github.com/anteroom-iomt/anteroom/integration/bench/figures"
)

// A report is all that one run found out.
type report struct {
	command, machine string
	options          options
	figures          []figure
}

// A figure is one thing that was measured; less is better where there is a
// limit.
type figure struct {
	what, unit string
	limit      float64
	limited    bool // limit counts although it is 0
	values     []float64
	note       string
}

func (r *report) add(f figure) { r.figures = append(r.figures, f) }

// number prints three digits that count.
func number(v float64) string {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// cells are what the tables print of a figure.
func (f *figure) cells() []string {
	limit, kept := "–", "–"
	m := figures.Median(f.values)
	if f.limit > 0 || f.limited {
		limit, kept = "≤ "+number(f.limit), "yes"
		if m > f.limit {
			kept = "NO"
		}
	}
	var all []string
	for _, v := range f.values {
		all = append(all, number(v))
	}
	rounds := strings.Join(all, " ")
	if f.note != "" {
		rounds += "; " + f.note
	}
	return []string{f.what, limit, number(m) + " " + f.unit, kept, rounds}
}

// headings of the table.
var headings = []string{"what", "limit", "median", "kept", "each round"}

func (r *report) page() *figures.Page {
	p := &figures.Page{Title: "What a decision costs", Command: r.command, Machine: r.machine, Headings: headings, Align: "|---|---:|---:|---|---|"}
	p.Preface = fmt.Sprintf("Costs are processor time, the garbage collector's with it; decisions are by the shipped policy set. "+
		"Benchmarks: those of pkg/policy, %d rounds of %s each, on one processor unless two are named.", r.options.rounds, r.options.benchtime)
	for i := range r.figures {
		p.Rows = append(p.Rows, r.figures[i].cells())
	}
	return p
}
