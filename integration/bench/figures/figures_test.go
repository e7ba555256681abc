package figures

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheMiddleOfRounds(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 9, 2}, 3}} {
		if got := Median(c.of); got != c.want {
			t.Errorf("of %v: %v, want %v", c.of, got, c.want)
		}
	}
}

func TestAPageIsPrintedAndKept(t *testing.T) {
	p := &Page{Title: "Figures", Command: "go run .", Machine: "2 CPUs", Preface: "Medians.",
		Headings: []string{"what", "median"}, Align: "|---|---:|", Rows: [][]string{{"a request", "1 µs"}, {"b", "22 µs"}}}
	out := filepath.Join(t.TempDir(), "RESULTS.md")
	var said strings.Builder
	if err := p.Deliver(out, &said); err != nil {
		t.Fatal(err)
	}
	if want := "what       median\na request  1 µs\nb          22 µs\nwritten to " + out + "\n"; said.String() != want {
		t.Errorf("printed:\n%s", said.String())
	}
	page, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := "# Figures\n\nWritten by `go run .` on 2 CPUs; do not edit.\n\nMedians.\n\n" +
		"| what | median |\n|---|---:|\n| a request | 1 µs |\n| b | 22 µs |\n"
	if string(page) != want {
		t.Errorf("wrote:\n%s", page)
	}
	if err := p.Deliver(filepath.Join(out, "nowhere"), &said); err == nil {
		t.Error("a page that can not be written was")
	}
	said.Reset()
	if err := p.Deliver("", &said); err != nil || strings.Contains(said.String(), "written") {
		t.Errorf("without a file: %v, %s", err, said.String())
	}
}
