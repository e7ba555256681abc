// Command issuance measures how many certificates a second the gateway issues,
// beside step-ca itself, which its CA is built from.
//
//	go run ./integration/bench/issuance          # some minutes; rewrites RESULTS.md
//	go run ./integration/bench/issuance -quick   # to see that it works
//
// Both do the same work for the same client, in the same run, by turns: a
// connection with a TLS handshake for each certificate, POST /1.0/sign with a signing
// request and a one-time token, and the certificate on stable storage before the
// answer. The gateway also asks its policies, writes its registry and its audit log.
// What it writes is checked: a certificate counts if it chains to the right root.
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
	rounds, certificates, clients int
	stepCA, anteroom, out         string
	profile                       string
	quick                         bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command; it returns the exit code: 0, 1 when something could
// not be measured, 2 for wrong usage. A gateway that is slower is shown, and is no
// failure: it may be the machine's.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var opt options
	fs := flag.NewFlagSet("issuance", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&opt.rounds, "rounds", 5, "how often each is measured, by turns")
	fs.IntVar(&opt.certificates, "certificates", 400, "certificates in a round")
	fs.IntVar(&opt.clients, "clients", 8, "clients at the same time")
	fs.StringVar(&opt.stepCA, "step-ca", "step-ca", "the step-ca program")
	fs.StringVar(&opt.anteroom, "anteroom", "", "the anteroom program (default: it is built)")
	fs.StringVar(&opt.out, "out", filepath.Join("integration", "bench", "issuance", "RESULTS.md"), "file the table is also written to, from the module's root; empty for none")
	fs.StringVar(&opt.profile, "cpuprofile", "", "file for a CPU profile of the gateway; writing it costs a little")
	fs.BoolVar(&opt.quick, "quick", false, "once and small, to see that it works; the figures do not count and go to no file")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if opt.quick {
		opt.rounds, opt.certificates, opt.out = 1, 16, ""
	}
	if fs.NArg() > 0 || opt.rounds < 1 || opt.certificates < 1 || opt.clients < 1 {
		fmt.Fprintln(stderr, "issuance: no arguments are taken, and counts are at least 1")
		return 2
	}
	r := &report{command: strings.TrimSpace("go run ./integration/bench/issuance " + strings.Join(args, " ")), machine: figures.Machine(), options: opt}
	if err := measure(ctx, opt, r, stderr); err != nil {
		fmt.Fprintln(stderr, "issuance:", err)
		return 1
	}
	if err := r.page().Deliver(opt.out, stdout); err != nil {
		fmt.Fprintln(stderr, "issuance:", err)
		return 1
	}
	return 0
}

// measure measures both, in a directory that is gone when it returns.
func measure(ctx context.Context, opt options, r *report, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "anteroom-issuance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := opt.anteroom
	if program == "" {
		fmt.Fprintln(progress, "building")
		program = filepath.Join(dir, "anteroom")
		root, err := build.Root(ctx)
		if err != nil {
			return err
		}
		if err := build.Anteroom(ctx, root, program); err != nil {
			return err
		}
	}
	peers := []func() (issuer, error){
		func() (issuer, error) { return startGateway(ctx, program, filepath.Join(dir, "gateway"), opt.profile) },
		func() (issuer, error) { return startStep(ctx, opt.stepCA, filepath.Join(dir, "step-bbolt"), "bbolt") },
		func() (issuer, error) {
			return startStep(ctx, opt.stepCA, filepath.Join(dir, "step-badger"), "badgerv2")
		},
	}
	var all []issuer
	defer func() {
		for _, i := range all {
			err = errors.Join(err, i.stop())
		}
	}()
	for _, start := range peers {
		i, err := start()
		if err != nil {
			return err
		}
		all = append(all, i)
		r.rows = append(r.rows, row{name: i.name()})
	}
	// The first round warms up and does not count.
	for round := range opt.rounds + 1 {
		for n, i := range all {
			fmt.Fprintf(progress, "round %d/%d: %s\n", round, opt.rounds, i.name())
			s, err := issue(ctx, i, opt, round)
			if err != nil {
				return fmt.Errorf("%s: %w", i.name(), err)
			}
			if round > 0 {
				r.rows[n].add(s)
			}
		}
	}
	return nil
}
