// Package figures is what the commands below integration/bench do alike with what
// they measured: the middle of rounds, a word about the machine, and a table that is
// printed and kept beside the command.
package figures

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Median returns the middle of v, or the mean of the two middle ones; 0 of none.
func Median(v []float64) float64 {
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

// Machine says what a reader needs to know of it, as of now.
func Machine() string {
	text := fmt.Sprintf("%d CPUs, %s, %s", runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format("2 January 2006"))
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ := strings.Cut(string(b), " ")
		text += ", load average before the run " + load
	}
	return text
}

// A Page is a table with what there is to say of it.
type Page struct {
	Title, Command, Machine string
	Preface                 string // what was measured, and how
	Headings                []string
	Align                   string // the line below the headings in Markdown
	Rows                    [][]string
}

// Text writes the table for a terminal.
func (p *Page) Text(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{p.Headings}, p.Rows...) {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	_ = tw.Flush() // the terminal's matter
}

// Markdown returns all of the page.
func (p *Page) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nWritten by `%s` on %s; do not edit.\n\n%s\n\n", p.Title, p.Command, p.Machine, p.Preface)
	fmt.Fprintf(&b, "| %s |\n%s\n", strings.Join(p.Headings, " | "), p.Align)
	for _, row := range p.Rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	return b.String()
}

// Deliver prints the table and writes the page to a file, unless out is empty.
func (p *Page) Deliver(out string, stdout io.Writer) error {
	p.Text(stdout)
	if out == "" {
		return nil
	}
	if err := os.WriteFile(out, []byte(p.Markdown()), 0o644); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "written to", out)
	return nil
}
