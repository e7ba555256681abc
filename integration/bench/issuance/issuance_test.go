package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-clients", "x"}, {"more"}, {"-nothing"}} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), args, &out, &errs); code != 2 || errs.Len() == 0 {
			t.Errorf("%v: exit %d, %q", args, code, errs.String())
		}
	}
}

func TestTheGatewayIsJudgedByTheMedianOfRounds(t *testing.T) {
	r := &report{rows: []row{
		{name: "anteroom", rates: []float64{100, 10, 120}, cpu: []float64{1, 1, 1}},
		{name: "slower", rates: []float64{80, 9, 130}, cpu: []float64{1, 1, 1}},
		{name: "faster", rates: []float64{110, 12, 100}, cpu: []float64{1, 1, 1}},
	}}
	text := r.page().Markdown()
	for _, want := range []string{"| slower | 80 | 1.0 ms | 1.11 × as fast (≥ 1) | yes | 80 9 130 |", "| faster | 100 | 1.0 ms | 0.91 × as fast (≥ 1) | NO | 110 12 100 |"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestProcessorTimeIsOurs(t *testing.T) {
	if d, err := processorTime(os.Getpid()); err != nil || d < 0 {
		t.Errorf("%v %v", d, err)
	}
}
