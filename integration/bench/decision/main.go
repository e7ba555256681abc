// Command decision measures what asking the policy costs, and how long an author
// waits: the figures that the policy engine is held to, each beside its limit.
//
//	go run ./integration/bench/decision          # everything; some minutes
//	go run ./integration/bench/decision -quick   # to see that it works
//
// What a decision costs is measured by the Go benchmarks of pkg/policy, in rounds;
// their own names work with go test -bench and benchstat. The figure is processor
// time, the collector's share with it, so that it counts on a machine that has
// other things to do; what two processors do beside each other is wall time.
// A save and its effect are timed at a running gateway, and a replay is the
// command an operator types, on a log of a million records.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/anteroom-iomt/anteroom/integration/bench/build"
	"github.com/anteroom-iomt/anteroom/integration/bench/figures"
)

// options are the command's flags.
type options struct {
	rounds    int
	benchtime string
	edits     int
	records   int
	out       string
	quick     bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command; it returns the exit code: 0, 1 when something could
// not be measured, 2 for wrong usage. A figure past its limit is shown, and is no
// failure: it may be the machine's.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var opt options
	fs := flag.NewFlagSet("decision", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&opt.rounds, "rounds", 5, "how often each benchmark is run")
	fs.StringVar(&opt.benchtime, "benchtime", "0.5s", "how long, as go test takes it")
	fs.IntVar(&opt.edits, "edits", 10, "how many saves are timed")
	fs.IntVar(&opt.records, "records", 1_000_000, "how many records are replayed")
	fs.StringVar(&opt.out, "out", filepath.Join("integration", "bench", "decision", "RESULTS.md"), "file the table is also written to, from the module's root; empty for none")
	fs.BoolVar(&opt.quick, "quick", false, "everything once and small, to see that it works; the figures do not count and go to no file")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if opt.quick {
		opt.rounds, opt.benchtime, opt.edits, opt.records, opt.out = 1, "10x", 2, 2000, ""
	}
	if fs.NArg() > 0 || opt.rounds < 1 || opt.edits < 1 || opt.records < 1 {
		fmt.Fprintln(stderr, "decision: no arguments are taken, and counts are at least 1")
		return 2
	}
	r := &report{command: strings.TrimSpace("go run ./integration/bench/decision " + strings.Join(args, " ")), machine: figures.Machine(), options: opt}
	if err := measure(ctx, opt, r, stderr); err != nil {
		fmt.Fprintln(stderr, "decision:", err)
		return 1
	}
	if err := r.page().Deliver(opt.out, stdout); err != nil {
		fmt.Fprintln(stderr, "decision:", err)
		return 1
	}
	return 0
}

// measure measures all of it, in a directory that is gone when it returns.
func measure(ctx context.Context, opt options, r *report, progress io.Writer) error {
	dir, err := os.MkdirTemp("", "anteroom-decision-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, err := build.Root(ctx)
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Fprintf(progress, format+"\n", args...) }

	say("building")
	b, err := buildBenchmarks(ctx, root, dir)
	if err != nil {
		return err
	}
	program := filepath.Join(dir, "anteroom")
	if err := build.Anteroom(ctx, root, program); err != nil {
		return err
	}
	for round := range opt.rounds {
		say("round %d/%d of the benchmarks", round+1, opt.rounds)
		if err := b.run(ctx, opt.benchtime); err != nil {
			return err
		}
	}
	if err := b.report(r); err != nil {
		return err
	}
	h, err := newHospital(ctx, program, filepath.Join(dir, "hospital"))
	if err != nil {
		return err
	}
	if err := h.whileRunning(ctx, func() error {
		say("saving %d times at a running gateway", opt.edits)
		if err := h.edits(ctx, opt.edits, r); err != nil {
			return err
		}
		return h.traffic(ctx)
	}); err != nil {
		return err
	}
	say("writing %d records", opt.records)
	if err := h.fill(ctx, opt.records); err != nil {
		return err
	}
	say("replaying them")
	return h.replay(ctx, opt.records, r)
}
