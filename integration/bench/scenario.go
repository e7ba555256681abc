package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A scenario is one thing that is measured of every target.
type scenario struct {
	name  string
	title string
	unit  string                    // of its figure; less is better
	how   string                    // what the figure is, for who reads the report
	base  string                    // the target that ratios are to; empty for nginx
	only  []string                  // targets it is for; nil for all
	seed  func(opt options) seeding // devices it is about; nil for one
	// beside are the devices of a second gateway that runs beside the first, to
	// compare the two; nil for none.
	beside func(opt options) seeding
	env    []string // of the targets
	run    func(ctx context.Context, r *rig, t *running) (sample, error)
}

// yardstick is the target that ratios are to where a scenario names no other.
const yardstick = "nginx"

// baseline returns the target that the scenario's ratios are to.
func (s scenario) baseline() string {
	if s.base != "" {
		return s.base
	}
	return yardstick
}

// takes reports whether the scenario is for the named target.
func (s scenario) takes(target string) bool { return s.only == nil || slices.Contains(s.only, target) }

// scenarios lists all of them, in the order they are measured and reported.
// Another one is another function of the same form and a line here.
func scenarios() []scenario {
	// The relay makes a connection to the backend for each of a device's, so it
	// is no measure where those come and go.
	terminating := []string{"nginx", "haproxy", "caddy", gateway}
	return []scenario{
		{
			name: "keepalive", title: "CPU per HTTP/1.1 keep-alive request, 1 kB FHIR POST, mutual TLS 1.3", unit: "µs",
			how: "The target's own user and system time divided by the requests that were answered. nginx-opa is nginx asking an OPA server with the shipped policies about every request; both count.",
			run: keepAlive, only: []string{"nginx", "haproxy", "caddy", "nginx-opa", "relay", gateway},
		},
		{
			name: "tagged", title: "The same, each request with an id of its own", unit: "µs",
			how: "A thousand X-Request-Ids in turn, as clients send them that can be traced. Anteroom reads each head, and finds that it says what the last one said.",
			run: tagged, only: []string{"nginx", "haproxy", gateway},
		},
		{
			name: "varied", title: "The same, each request another than the one before in what is decided on", unit: "µs",
			how: "A thousand requests in turn, each with its id and its length. Anteroom finds that a request says what the last one said but for its length, and decides on each.",
			run: varied, only: []string{"nginx", "haproxy", gateway},
		},
		{
			name: "handshake", title: "CPU per connection with a full TLS 1.3 handshake and one request", unit: "µs",
			how: "Every connection is a new one with a client certificate, X25519 and no ticket; the client's side sees that none is resumed. The one request is in the figure.",
			run: handshake, only: terminating,
		},
		{
			name: "handshake-hybrid", title: "The same with X25519MLKEM768, for those who speak it", unit: "µs",
			how: "The group that Anteroom prefers: a recording of today's traffic stays closed to tomorrow's quantum computer.",
			run: handshakeHybrid, only: terminating,
		},
		{
			name: "resumption", title: "CPU per connection resumed with a TLS 1.3 ticket, and one request", unit: "µs",
			how: "Devices come back with the ticket of the connection before; all must be resumed. Anteroom asks the registry as it does in a full handshake.",
			run: resumption, only: terminating,
		},
		{
			name: "idle", title: "Memory of an idle connection", unit: "kB",
			how: "Proportional set size of all the target's processes, gained per connection after each sent one request and stays open. Kernel memory is not in it. With Anteroom each connection is another device's, with a certificate and a record of its own.",
			run: idle, only: terminating, seed: func(o options) seeding { return seeding{name: "crowd", devices: o.idle} },
		},
		{
			name: "upload", title: "CPU per MB of an upload (STOW-RS)", unit: "µs", base: "relay",
			how: "One body over one connection, to a backend that reads it whole before it answers. Time to first byte is from the request's first byte sent to the body's first byte at the backend, new connections on both sides included.",
			run: upload, only: []string{"nginx", "haproxy", "caddy", "relay", gateway},
		},
		{
			name: "download", title: "CPU per MB of a download", unit: "µs", base: "relay",
			how: "One body over one connection. Time to first byte is from the request to the body's first byte at the device.",
			run: download, only: []string{"nginx", "haproxy", "caddy", "relay", gateway},
		},
		{
			name: "upload-memory", title: "Memory of an upload", unit: "kB",
			how: "Proportional set size at its highest while 32 bodies pass at once, less the same of one, for each of the 31 more: what a connection on either side and a body between them hold. " + collected,
			run: uploadMemory, only: []string{"nginx", "haproxy", "caddy", "relay", gateway}, env: collects,
		},
		{
			name: "download-memory", title: "Memory of a download", unit: "kB",
			how: "The same of bodies on their way out. " + collected,
			run: downloadMemory, only: []string{"nginx", "haproxy", "caddy", "relay", gateway}, env: collects,
		},
		{
			name: "h2", title: "CPU per HTTP/2 request, 1 kB FHIR POST, mutual TLS 1.3", unit: "µs",
			how: "h2load with 8 connections of 8 streams each; towards the backend everybody speaks HTTP/1.1.",
			run: multiplexed, only: []string{"nginx", "haproxy", "caddy", "nginx-opa", gateway},
		},
		{
			name: "latency", title: "Latency added at half load, median", unit: "µs",
			how: "A constant rate, half of what the target was just seen to be able to, each request measured from the moment it was due, so that a stall counts for all that it delayed; less the same of the backend asked directly over TLS. Generator and backend share a core, which is in both.",
			run: latency, only: []string{"nginx", "haproxy", "caddy", "nginx-opa", "relay", gateway},
		},
		{
			name: "storm", title: "What connected devices notice when all others come back at once: p99", unit: "ms",
			how: "After a power cut every device connects at the same moment, each with a certificate of its own and a full handshake, and tries again until it was served; none may be left out. Meanwhile others, connected before, send at a constant rate, measured from when each request was due.",
			run: storm, only: []string{gateway}, seed: func(o options) seeding { return seeding{name: "crowd", devices: o.storm} },
		},
		{
			name: "sessions", title: "From revoking a device to the end of its last connection, among idle sessions", unit: "ms",
			how: "From the call to the admin socket, until the device's side has seen each of its connections end. Then sessions that each hold a transaction, a WebSocket, are judged anew because a policy changed that ends those of one device, the last to be judged: from the moment it was saved until they have ended.",
			run: sessions, only: []string{gateway}, seed: func(o options) seeding {
				// Each round revokes one.
				return seeding{name: "sessions", devices: sessionDevices(o.sessions) + o.rounds + 1}
			},
		},
		{
			name: "registry", title: "From starting with a large registry to the first answered request", unit: "s",
			how: "From the start of the process to the first answer to a device, which does not wait until all devices are in memory. A device's memory is all that is resident after the start, divided by the number of devices. What a connection costs is measured by turns of this gateway and of one beside it that knows no others than those who connect.",
			run: registry, only: []string{gateway}, seed: func(o options) seeding { return seeding{name: "registry", devices: churners, others: o.registry} },
			beside: func(options) seeding { return seeding{name: "few", devices: churners} },
		},
	}
}

func scenarioNames() []string {
	var ns []string
	for _, s := range scenarios() {
		ns = append(ns, s.name)
	}
	return ns
}

// selectScenarios returns those named in the comma-separated list.
func selectScenarios(list string) ([]scenario, error) {
	all := scenarios()
	var picked []scenario
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(s scenario) bool { return s.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("no scenario %q; there are %s", name, strings.Join(scenarioNames(), ", "))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

// A sample is the outcome of one scenario with one target in one round.
type sample struct {
	figure float64            // in the scenario's unit
	more   map[string]float64 // further figures that there is a budget for, by name
	note   string             // what else was seen: rate, latency
	short  string             // how much less was measured than was asked for, where the machine has no more
	skip   string             // why there is no figure, where that is nobody's fault
	faults []string
}

// String describes the sample in one line.
func (s sample) String() string {
	switch {
	case len(s.faults) > 0:
		return "INVALID: " + strings.Join(s.faults, "; ")
	case s.skip != "":
		return "– (" + s.skip + ")"
	}
	return fmt.Sprintf("%.2f  (%s)", s.figure, s.note)
}

// countFaults makes faults of errors that were counted by kind.
func countFaults(counts map[string]int64) []string {
	var fs []string
	for kind, n := range counts {
		fs = append(fs, fmt.Sprintf("%d × %s", n, kind))
	}
	slices.Sort(fs)
	return fs
}

// measure starts the target, proves that it works, measures, and stops it.
// What goes wrong is in the sample.
func (r *rig) measure(ctx context.Context, s scenario, t target) sample {
	r.env = s.env
	run, err := r.bring(ctx, t, s.seed)
	if err != nil {
		return sample{faults: []string{err.Error()}}
	}
	defer run.stop()
	if s.beside != nil {
		if run.beside, err = r.bring(ctx, t, s.beside); err != nil {
			return sample{faults: []string{err.Error()}}
		}
		defer run.beside.stop()
	}
	smp, err := s.run(ctx, r, run)
	if err != nil {
		smp.faults = append(smp.faults, err.Error())
	}
	if r.opt.verbose {
		r.progress("%s: %s", t.name(), run.out)
	}
	return smp
}

// bring starts a target that knows as many devices as seed says, and checks it. The
// caller stops it.
func (r *rig) bring(ctx context.Context, t target, seed func(options) seeding) (*running, error) {
	if seeder, ok := t.(seeder); ok && seed != nil {
		var err error
		if t, err = seeder.seed(ctx, r, seed(r.opt)); err != nil {
			return nil, err
		}
	}
	run, err := t.start(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := run.check(ctx, r); err != nil {
		run.stop()
		return nil, err
	}
	return run, nil
}

// keepAlive measures the CPU time of a request on connections that stay open.
// The few handshakes of the run are in the figure, of every target alike.
func keepAlive(ctx context.Context, r *rig, t *running) (sample, error) { return r.steady(ctx, t) }

// tagged is keepAlive with requests that differ in their ids.
func tagged(ctx context.Context, r *rig, t *running) (sample, error) { return r.steady(ctx, t, "1000") }

// varied is keepAlive with requests that differ in their lengths too.
func varied(ctx context.Context, r *rig, t *running) (sample, error) {
	return r.steady(ctx, t, "1000", "32")
}

func (r *rig) steady(ctx context.Context, t *running, more ...string) (sample, error) {
	if r.opt.warmup > 0 {
		// A machine with other things to do may take a second over the first one.
		if _, err := r.post(ctx, t, r.opt.warmup, more...); err != nil && !errors.Is(err, errNoRequest) {
			return sample{}, fmt.Errorf("warm up: %w", err)
		}
	}
	return r.perRequest(ctx, t, func() (load, error) { return r.post(ctx, t, r.opt.duration, more...) })
}

// perRequest measures the CPU time of a request of a load, all of which must
// reach the backend.
func (r *rig) perRequest(ctx context.Context, t *running, send func() (load, error)) (sample, error) {
	servedBefore, err := r.backend.served(ctx)
	if err != nil {
		return sample{}, err
	}
	var l load
	used, err := t.spends(func() (err error) {
		l, err = send()
		return err
	})
	if err != nil {
		return sample{}, err
	}
	servedAfter, err := r.backend.served(ctx)
	if err != nil {
		return sample{}, err
	}
	smp := sample{
		figure: float64(used) / float64(time.Microsecond) / float64(l.requests),
		note: fmt.Sprintf("%.0f/s, %s, core %.0f %% busy", float64(l.requests)/l.duration.Seconds(),
			l.note, 100*used.Seconds()/l.duration.Seconds()),
		faults: countFaults(l.errors),
	}
	if got := servedAfter - servedBefore; got < l.requests {
		smp.faults = append(smp.faults, fmt.Sprintf("%d answers but only %d requests at the backend", l.requests, got))
	}
	return smp, nil
}
