package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
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

// median returns the middle of v, or the mean of the two middle ones; 0 of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

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
	m := median(f.values)
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

// headings of both tables.
var headings = []string{"what", "limit", "median", "kept", "each round"}

func (r *report) writeText(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(headings, "\t"))
	for i := range r.figures {
		fmt.Fprintln(tw, strings.Join(r.figures[i].cells(), "\t"))
	}
	_ = tw.Flush() // the terminal's matter
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What a decision costs\n\nWritten by `%s` on %s; do not edit.\n\n", r.command, r.machine)
	b.WriteString("Costs are processor time, the garbage collector's with it; decisions are by the shipped policy set. ")
	fmt.Fprintf(&b, "Benchmarks: those of pkg/policy, %d rounds of %s each, on one processor unless two are named.\n\n", r.options.rounds, r.options.benchtime)
	fmt.Fprintf(&b, "| %s |\n|---|---:|---:|---|---|\n", strings.Join(headings, " | "))
	for i := range r.figures {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r.figures[i].cells(), " | "))
	}
	return b.String()
}
