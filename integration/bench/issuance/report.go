package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/figures"
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
		m := figures.Median(r.ratios(n))
		ratio, kept = fmt.Sprintf("%.2f × as fast (≥ 1)", m), "yes"
		if m < 1 {
			kept = "NO"
		}
	}
	var each []string
	for _, v := range row.rates {
		each = append(each, fmt.Sprintf("%.0f", v))
	}
	return []string{row.name, fmt.Sprintf("%.0f", figures.Median(row.rates)), fmt.Sprintf("%.1f ms", figures.Median(row.cpu)), ratio, kept, strings.Join(each, " ")}
}

func (r *report) page() *figures.Page {
	p := &figures.Page{Title: "How fast certificates are issued", Command: r.command, Machine: r.machine, Headings: headings, Align: "|---|---:|---:|---|---|---|"}
	p.Preface = fmt.Sprintf("The same work for the same client, in one run, by turns: %d clients, %d certificates in a round, %d rounds after one that does not count. "+
		"Each certificate is a TLS handshake, a signing request with a one-time token (`POST /1.0/sign`) and a durable record. "+
		"The gateway also asks its policies, and writes its registry and its audit log. Medians.", r.options.clients, r.options.certificates, r.options.rounds)
	for n := range r.rows {
		p.Rows = append(p.Rows, r.cells(n))
	}
	return p
}
