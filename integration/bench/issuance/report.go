package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A report is all that one run found out. The first row is the gateway's.
type report struct {
	command, machine string
	options          options
	rows             []row
}

// A row is what was measured of one issuer.
type row struct {
	name  string
	rates []float64
	cpu   []float64 // milliseconds
}

func (r *row) add(s sample) {
	r.rates = append(r.rates, s.rate)
	r.cpu = append(r.cpu, float64(s.cpu)/float64(time.Millisecond))
}

// median returns the middle of v, or the mean of the two middle ones.
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

// ratios are the gateway's rates by another's, round by round: two that were
// measured after each other had the same machine.
func (r *report) ratios(of int) (out []float64) {
	for n, v := range r.rows[of].rates {
		out = append(out, r.rows[0].rates[n]/v)
	}
	return out
}

var headings = []string{"issuer", "certificates a second", "processor time for one", "the gateway is", "kept", "each round"}

func (r *report) cells(n int) []string {
	row := &r.rows[n]
	ratio, kept := "–", "–"
	if n > 0 {
		m := median(r.ratios(n))
		ratio, kept = fmt.Sprintf("%.2f × as fast (≥ 1)", m), "yes"
		if m < 1 {
			kept = "NO"
		}
	}
	var each []string
	for _, v := range row.rates {
		each = append(each, fmt.Sprintf("%.0f", v))
	}
	return []string{row.name, fmt.Sprintf("%.0f", median(row.rates)), fmt.Sprintf("%.1f ms", median(row.cpu)), ratio, kept, strings.Join(each, " ")}
}

func (r *report) writeText(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(headings, "\t"))
	for n := range r.rows {
		fmt.Fprintln(tw, strings.Join(r.cells(n), "\t"))
	}
	_ = tw.Flush() // the terminal's matter
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# How fast certificates are issued\n\nWritten by `%s` on %s; do not edit.\n\n", r.command, r.machine)
	fmt.Fprintf(&b, "The same work for the same client, in one run, by turns: %d clients, %d certificates in a round, %d rounds after one that does not count. "+
		"Each certificate is a TLS handshake, a signing request with a one-time token (`POST /1.0/sign`) and a durable record. "+
		"The gateway also asks its policies, and writes its registry and its audit log. Medians.\n\n", r.options.clients, r.options.certificates, r.options.rounds)
	fmt.Fprintf(&b, "| %s |\n|---|---:|---:|---|---|---|\n", strings.Join(headings, " | "))
	for n := range r.rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r.cells(n), " | "))
	}
	return b.String()
}
