package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/anteroom-iomt/anteroom/integration/bench/build"
	"github.com/anteroom-iomt/anteroom/integration/bench/seed"
)

// The devices that send Anteroom's load, of classes that the shipped policies
// let report vital signs, and store studies.
const (
	benchDevice  = "bench-monitor"
	benchClass   = "patient-monitor"
	benchScanner = "bench-scanner"
	scannerClass = "ct-scanner"
)

// anteroom is the gateway of this tree, set up with the commands an operator
// types: init, device enroll, run.
type anteroom struct {
	path, dir string
	seeded    seeding              // what the registry was filled with
	revoked   int                  // how many of those devices may have been revoked
	apart     map[string]*anteroom // by the name of a seeding
	runs      int                  // how often it was started for a profile
}

func (a *anteroom) name() string { return "anteroom" }

func (a *anteroom) prepare(ctx context.Context, r *rig) (string, error) {
	var err error
	if a.dir, err = r.scratch("anteroom"); err != nil {
		return "", err
	}
	if a.path == "" {
		a.path = filepath.Join(r.dir, "anteroom-bin")
		if err := build.Anteroom(ctx, r.root, a.path); err != nil {
			return "", err
		}
	}
	if a.path, err = filepath.Abs(a.path); err != nil {
		return "", err
	}
	if err := a.initialise(ctx); err != nil {
		return "", err
	}
	return a.version(ctx, r), nil
}

// initialise sets a gateway up in its directory and enrols the devices.
func (a *anteroom) initialise(ctx context.Context) error {
	for _, args := range [][]string{
		{"init", "--dir", a.dir, "--trust-domain", "bench.example", "--organisation", "Bench", "--host", frontHost, "--yes"},
		{"device", "enroll", benchDevice, "--class", benchClass, "--out", filepath.Join(a.dir, "enrolled")},
		{"device", "enroll", benchScanner, "--class", scannerClass, "--out", filepath.Join(a.dir, "enrolled")},
	} {
		cmd := exec.CommandContext(ctx, a.path, args...)
		cmd.Dir = a.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("anteroom %s: %w: %s", args[0], err, lastLine(out))
		}
	}
	return nil
}

// version names the commit the binary was built from, as git describes it.
func (a *anteroom) version(ctx context.Context, r *rig) string {
	cmd := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	cmd.Dir = r.root
	if v, err := firstLine(cmd.Output()); err == nil && v != "" {
		return "Anteroom " + v
	}
	return "Anteroom, of this tree"
}

func (a *anteroom) start(ctx context.Context, r *rig) (*running, error) {
	f, err := r.front(a.dir)
	if err != nil {
		return nil, err
	}
	telemetry, err := freePort()
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(a.dir, "anteroom.yaml")
	data := struct {
		front
		TelemetryPort int
	}{f, telemetry}
	if err := r.render("anteroom.yaml.tmpl", conf, data); err != nil {
		return nil, err
	}
	argv := []string{a.path, "run", "--config", conf}
	if r.opt.profiles != "" {
		dir, err := filepath.Abs(r.opt.profiles)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		a.runs++
		argv = append(argv, "--cpuprofile", filepath.Join(dir, fmt.Sprintf("%d.pprof", a.runs)))
	}
	// It finds the one processor that it is pinned to itself.
	p, err := r.serve(a.name(), a.dir, nil, argv...)
	if err != nil {
		return nil, err
	}
	if err := p.ready(ctx, fmt.Sprintf("127.0.0.1:%d", f.Port)); err != nil {
		p.stop()
		return nil, err
	}
	a.revoked++ // a run may revoke one
	monitor, scanner := a.enrolled(benchDevice), a.enrolled(benchScanner)
	return &running{process: p, port: f.Port, cert: monitor.cert, key: monitor.key, scanner: scanner, devices: a.devices(), decides: true, roots: filepath.Join(a.dir, "root-ca.crt"), home: a.dir, revoked: a.revoked - 1}, nil
}

// enrolled returns the files of a device that was enrolled.
func (a *anteroom) enrolled(id string) pair {
	out := filepath.Join(a.dir, "enrolled", id)
	return pair{cert: out + ".crt", key: out + ".key"}
}

// devices returns the file of the devices that were seeded.
func (a *anteroom) devices() string { return filepath.Join(a.dir, "devices.json") }

// seed returns a gateway in a directory of its own, whose registry is filled up
// to what is wanted.
func (a *anteroom) seed(ctx context.Context, r *rig, want seeding) (target, error) {
	b := a.apart[want.name]
	if b == nil {
		dir, err := r.scratch("anteroom-" + want.name)
		if err != nil {
			return nil, err
		}
		b = &anteroom{path: a.path, dir: dir}
		if err := b.initialise(ctx); err != nil {
			return nil, err
		}
		if a.apart == nil {
			a.apart = make(map[string]*anteroom)
		}
		a.apart[want.name] = b
	}
	return b, b.fill(ctx, r, want)
}

// fleetPrefix and a number is the id of a device that was seeded with a
// certificate.
const fleetPrefix = "fleet-"

// fill fills the registry.
func (a *anteroom) fill(ctx context.Context, r *rig, want seeding) error {
	for _, s := range []struct {
		have, want  int
		prefix, out string
	}{
		{a.seeded.devices, want.devices, fleetPrefix, a.devices()},
		{a.seeded.others, want.others, "other-", ""},
	} {
		if s.want <= s.have {
			continue
		}
		r.progress("%s: seeding %d devices", a.name(), s.want-s.have)
		argv, err := partCommand(partSeed, seed.Config{
			Config: filepath.Join(a.dir, "anteroom.yaml"), Class: scannerClass, Prefix: s.prefix, First: s.have, Count: s.want - s.have, Out: s.out,
		})
		if err != nil {
			return err
		}
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("seed devices: %w: %s", err, lastLine(out))
		}
	}
	a.seeded.devices, a.seeded.others = max(a.seeded.devices, want.devices), max(a.seeded.others, want.others)
	return nil
}
