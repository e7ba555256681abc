package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
	"github.com/anteroom-iomt/anteroom/integration/bench/origin"
	"github.com/anteroom-iomt/anteroom/integration/bench/relay"
	"github.com/anteroom-iomt/anteroom/integration/bench/seed"
)

// The command starts itself again for the parts that must be processes of their
// own, so that their CPU time is told apart and they can be pinned.
const (
	partFleet  = "fleet"
	partOrigin = "origin"
	partRelay  = "relay"
	partSeed   = "seed"
)

// part runs the part of the rig that the program's arguments name, if they do.
func part(args []string) (code int, ok bool) {
	if len(args) != 3 {
		return 0, false
	}
	ctx := context.Background() // a part ends when its standard input does, or when it is killed
	switch args[1] {
	case partFleet:
		return fleet.Main(ctx, args[2], os.Stdin, os.Stdout), true
	case partOrigin:
		return origin.Main(args[2], os.Stderr), true
	case partSeed:
		return seed.Main(ctx, args[2], os.Stderr), true
	case partRelay:
		return relay.Main(args[2], os.Stderr), true
	}
	return 0, false
}

// partCommand returns the command line of a part.
func partCommand(name string, config any) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(config)
	return []string{self, name, string(text)}, err
}

// A crew is a fleet at work in a process of its own, on the load's CPU.
type crew struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	events chan fleet.Event // closed when the process has ended
	log    *tail
	exit   error // read after events is closed
}

// man starts a fleet. The caller dismisses it.
func (r *rig) man(plan fleet.Plan) (*crew, error) {
	argv, err := partCommand(partFleet, plan)
	if err != nil {
		return nil, err
	}
	taskset, err := find("taskset")
	if err != nil {
		return nil, err
	}
	c := &crew{events: make(chan fleet.Event, 16), log: new(tail)}
	argv = append([]string{taskset, "-c", strconv.Itoa(r.opt.loadCPU)}, argv...)
	if plan.Mode == fleet.Storm {
		// On the core that they share, those who make the storm must not hold up
		// those who measure what it does.
		argv = append([]string{"nice", "-n", "19"}, argv...)
	}
	c.cmd = exec.Command(argv[0], argv[1:]...)
	c.cmd.Stderr = c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the fleet: %w", err)
	}
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e fleet.Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				e = fleet.Event{Event: "error", Error: "not an event: " + lines.Text()}
			}
			c.events <- e
		}
		c.exit = c.cmd.Wait()
		close(c.events)
	}()
	return c, nil
}

// await returns the next event, which must be the named one.
func (c *crew) await(ctx context.Context, name string, within time.Duration) (fleet.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case e, ok := <-c.events:
		switch {
		case !ok:
			return e, fmt.Errorf("the fleet ended (%v): %s", c.exit, c.log)
		case e.Event == "error":
			return e, errors.New("the fleet: " + e.Error)
		case e.Event != name:
			return e, fmt.Errorf("the fleet says %q, not %q", e.Event, name)
		}
		return e, nil
	case <-ctx.Done():
		return fleet.Event{}, fmt.Errorf("the fleet does not say %q within %v: %s", name, within, c.log)
	}
}

// say gives the fleet a word.
func (c *crew) say(word string) error {
	_, err := io.WriteString(c.in, word+"\n")
	return err
}

// dismiss lets the fleet go and waits until its process has ended.
func (c *crew) dismiss() {
	c.in.Close()
	late := time.AfterFunc(endWithin, func() { _ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) })
	defer late.Stop()
	for range c.events { // what it still says, until it has ended
	}
}

// fleetTime is how long so many devices may take, one after another.
func fleetTime(devices int) time.Duration { return time.Duration(devices) * slowDevice }

// slowDevice is the longest that a device is waited for.
const slowDevice = 20 * time.Millisecond

// perform mans a plan, and returns what it reports and how much CPU time the
// target used meanwhile.
func (r *rig) perform(ctx context.Context, t *running, plan fleet.Plan, within time.Duration) (*fleet.Report, time.Duration, error) {
	c, err := r.man(plan)
	if err != nil {
		return nil, 0, err
	}
	defer c.dismiss()
	if _, err := c.await(ctx, "ready", within); err != nil {
		return nil, 0, err
	}
	var report *fleet.Report
	used, err := t.spends(func() error {
		if err := c.say(fleet.Go); err != nil {
			return err
		}
		e, err := c.await(ctx, "done", within)
		report = e.Report
		return err
	})
	return report, used, err
}

// spends returns the CPU time that the target uses while f runs.
func (t *running) spends(f func() error) (time.Duration, error) {
	before, err := t.cpu()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := t.cpu()
	return after - before, err
}

// faultsOf lists what failed, or that nothing was answered.
func faultsOf(r *fleet.Report) []string {
	fs := countFaults(r.Failed)
	if len(fs) == 0 && r.Requests == 0 {
		fs = []string{"no request was answered"}
	}
	return fs
}

// plan returns a plan for this target, to be filled in further: a device sends
// the FHIR create.
func (t *running) plan(r *rig, mode fleet.Mode) fleet.Plan {
	return fleet.Plan{
		Mode: mode, Addr: fmt.Sprintf("127.0.0.1:%d", t.port), ServerName: frontHost, Roots: t.roots, Cert: t.cert, Key: t.key,
		Group: "X25519", Method: "POST", Path: fhirPath, ContentType: "application/fhir+json", Body: r.body,
		Connections: churners, Duration: r.opt.duration,
	}
}
