// Command bench measures what Anteroom costs beside other gateways.
//
// Each target (nginx, HAProxy, Caddy, nginx with an OPA server, a bare relay and
// Anteroom) stands as a reverse proxy with mutual TLS 1.3 between the same load
// and the same backend, on loopback. The target is pinned to one core; load and
// backend share another.
//
// What is measured is in the list of scenarios. Most figures are the target's
// own CPU time, user and system, of all its processes, from /proc, divided by
// what the load generator counted: it says what a request costs, whatever else
// limits the rate. Targets take turns over several rounds; the table shows
// medians and their ratios. What the design promises about a figure is judged in
// a table of its own.
//
// Anteroom runs as it would in a hospital: shipped policies deciding each
// request, the audit log recording it, an enrolled device sending it. The
// others run without policy, but for the one with an OPA server, and all without
// logs, tuned as their manuals say; their configurations are the templates in the
// folder peers. The load comes from wrk
// where wrk can make it, else from package fleet.
//
// A run in which a request failed, or was answered without reaching the
// backend, is invalid; the table says so and the command exits with 1.
//
//	go run ./integration/bench                         # everything: most of an hour
//	go run ./integration/bench -targets nginx,anteroom # some
//	go run ./integration/bench -rounds 1 -duration 2s  # a first look
//	go run ./integration/bench -quick                  # does it all work?
//
// It needs Linux with two CPUs, and nginx, wrk, gcc, taskset and OpenSSL's
// headers (Debian: nginx wrk gcc util-linux libssl-dev); haproxy if it is to be
// measured, and h2load (nghttp2-client) for HTTP/2. Caddy, and opa where it is
// not in PATH, are built from source by the go command.
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
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	rounds      int
	duration    time.Duration
	warmup      time.Duration
	connections int
	idle        int
	megabytes   int64
	storm       int
	sessions    int
	registry    int
	targets     string
	scenarios   string
	serverCPU   int
	loadCPU     int
	out         string
	caddy       string
	opa         string
	anteroom    string
	profiles    string
	quick       bool
	keep        bool
	verbose     bool
}

func main() {
	if code, ok := part(os.Args); ok {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command; it returns the exit code: 0, 1 when a measurement
// is invalid or could not be made, 2 for wrong usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var opt options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&opt.rounds, "rounds", 3, "how often each target takes its turn")
	fs.DurationVar(&opt.duration, "duration", 10*time.Second, "length of one measurement")
	fs.DurationVar(&opt.warmup, "warmup", 2*time.Second, "load before each measurement that is not counted")
	fs.IntVar(&opt.connections, "connections", 32, "connections of the load generator")
	fs.IntVar(&opt.idle, "idle", 3000, "connections of the idle scenario")
	fs.Int64Var(&opt.megabytes, "megabytes", 2048, "size of an upload and a download, in MiB")
	fs.IntVar(&opt.storm, "storm", 20_000, "devices that come back at once")
	fs.IntVar(&opt.sessions, "sessions", 50_000, "idle sessions of the sessions scenario")
	fs.IntVar(&opt.registry, "registry", 1_000_000, "devices of the registry scenario")
	fs.StringVar(&opt.targets, "targets", strings.Join(names(allTargets(opt)), ","), "which targets, in this order")
	fs.StringVar(&opt.scenarios, "scenarios", strings.Join(scenarioNames(), ","), "which scenarios")
	fs.IntVar(&opt.serverCPU, "server-cpu", 0, "CPU the target is pinned to")
	fs.IntVar(&opt.loadCPU, "load-cpu", 1, "CPU that load and backend are pinned to")
	fs.StringVar(&opt.out, "out", filepath.Join("integration", "bench", "RESULTS.md"), "file the table is also written to, from the module's root; empty for none")
	fs.StringVar(&opt.caddy, "caddy", "", "a caddy binary to use instead of building "+caddyVersion)
	fs.StringVar(&opt.opa, "opa", "", "an opa binary to use instead of the one in PATH, or of building the version that is built in")
	fs.StringVar(&opt.anteroom, "anteroom", "", "an anteroom binary to use instead of building this tree's")
	fs.StringVar(&opt.profiles, "profiles", "", "directory for a CPU profile of each run of Anteroom")
	fs.BoolVar(&opt.quick, "quick", false, "everything once and small, to see that it works; the figures do not count and go to no file")
	fs.BoolVar(&opt.keep, "keep", false, "keep the directory with configurations and logs")
	fs.BoolVar(&opt.verbose, "v", false, "say more while measuring")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if opt.quick {
		opt = opt.small()
	}
	if err := opt.check(fs.NArg()); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	res, err := measureAll(ctx, opt, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	res.command = strings.TrimSpace("go run ./integration/bench " + strings.Join(args, " "))
	res.writeText(stdout)
	if opt.out != "" {
		if err := res.writeFile(opt.out); err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
		fmt.Fprintln(stdout, "written to", opt.out)
	}
	if !res.valid() {
		fmt.Fprintln(stderr, "bench: at least one measurement is invalid; see the table")
		return 1
	}
	return 0
}

// small returns the options of a run that only shows that everything works.
func (o options) small() options {
	o.rounds, o.duration, o.warmup, o.out = 1, time.Second, 0, ""
	o.idle, o.megabytes = 100, 16
	o.storm, o.sessions, o.registry = 200, 100, 5_000
	return o
}

func (o options) check(extra int) error {
	switch {
	case extra > 0:
		return errors.New("no arguments are taken, only flags")
	case o.rounds < 1, o.connections < 1:
		return errors.New("-rounds and -connections must be at least 1")
	case o.idle < 1, o.megabytes < 1, o.storm < 1, o.sessions < 1, o.registry < 1:
		return errors.New("-idle, -megabytes, -storm, -sessions and -registry must be at least 1")
	case o.duration < time.Second || o.duration%time.Second != 0 || o.warmup%time.Second != 0:
		return errors.New("-duration and -warmup are whole seconds")
	case o.serverCPU == o.loadCPU:
		return errors.New("-server-cpu and -load-cpu must differ")
	case max(o.serverCPU, o.loadCPU) >= runtime.NumCPU():
		return fmt.Errorf("this machine has %d CPUs; two are needed", runtime.NumCPU())
	}
	return nil
}

// measureAll prepares the rig and the targets, lets them take turns, and
// returns what was measured. Everything it started has ended when it returns.
func measureAll(ctx context.Context, opt options, progress io.Writer) (*results, error) {
	targets, err := selectTargets(allTargets(opt), opt.targets)
	if err != nil {
		return nil, err
	}
	scenarios, err := selectScenarios(opt.scenarios)
	if err != nil {
		return nil, err
	}
	// Before anything is started, for it is inherited. Scenarios see what came of it.
	if _, err := openFiles(filesFor(opt.sessions)); err != nil {
		return nil, err
	}
	rig, err := newRig(ctx, opt, progress)
	if err != nil {
		return nil, err
	}
	defer rig.close()

	res := &results{options: opt, machine: describeMachine(ctx)}
	res.versions = append(res.versions, version{"backend", rig.backend.version}, version{"wrk", rig.wrkVersion})
	var ready []target
	for _, t := range targets {
		rig.progress("preparing %s", t.name())
		v, err := t.prepare(ctx, rig)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			res.absent = append(res.absent, absence{t.name(), err.Error()})
			rig.progress("%s: %v", t.name(), err)
			continue
		}
		res.versions = append(res.versions, version{t.name(), v})
		ready = append(ready, t)
	}
	for round := range opt.rounds {
		for _, s := range scenarios {
			// The first target of a round is another one each time, so that no
			// target always follows the same neighbour.
			first := round % max(len(ready), 1)
			for _, t := range slices.Concat(ready[first:], ready[:first]) {
				if !s.takes(t.name()) {
					continue
				}
				smp := rig.measure(ctx, s, t)
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				rig.progress("round %d/%d  %-16s %-9s %s", round+1, opt.rounds, s.name, t.name(), smp)
				res.add(s, t.name(), smp)
			}
		}
	}
	return res, nil
}
