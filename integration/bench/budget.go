package main

import "fmt"

// A budget is a promise of the design about a figure of Anteroom's: that it is
// at most a number, or at most so many times another figure of the same run.
type budget struct {
	what     string
	scenario string
	figure   string // a further one of the scenario; empty for its own
	limit    float64
	unit     string // of an absolute budget
	// The figure that a relative budget is a multiple of.
	toScenario, toTarget string
}

// budgets lists them in the order of the report.
func budgets() []budget {
	return []budget{
		{what: "keep-alive request, to nginx", scenario: "keepalive", limit: 1.15, toScenario: "keepalive", toTarget: "nginx"},
		{what: "request with an id of its own, to nginx", scenario: "tagged", limit: 1.15, toScenario: "tagged", toTarget: "nginx"},
		{what: "full handshake, to nginx", scenario: "handshake", limit: 0.75, toScenario: "handshake", toTarget: "nginx"},
		{what: "resumption, to its own full handshake", scenario: "resumption", limit: 0.5, toScenario: "handshake", toTarget: gateway},
		{what: "idle connection", scenario: "idle", limit: 20, unit: "kB"},
		// Where nginx took 18 kB, that was 1.11 times as much; a peer's chain of
		// certificates and its keys' kind are in it on both sides.
		{what: "idle connection, to nginx", scenario: "idle", limit: 1.11, toScenario: "idle", toTarget: "nginx"},
		{what: "upload, to a bare relay", scenario: "upload", limit: 1.05, toScenario: "upload", toTarget: "relay"},
		{what: "upload, to HAProxy", scenario: "upload", limit: 1.11, toScenario: "upload", toTarget: "haproxy"},
		{what: "memory of an upload", scenario: "upload-memory", limit: 256, unit: "kB"},
		{what: "download, to a bare relay", scenario: "download", limit: 1.05, toScenario: "download", toTarget: "relay"},
		{what: "download, to HAProxy", scenario: "download", limit: 1.11, toScenario: "download", toTarget: "haproxy"},
		{what: "memory of a download", scenario: "download-memory", limit: 256, unit: "kB"},
		{what: "latency added at half load, p50", scenario: "latency", limit: 100, unit: "µs"},
		{what: "latency added at half load, p99", scenario: "latency", figure: addedP99, limit: 1000, unit: "µs"},
		{what: "p99 of connected devices in a storm", scenario: "storm", limit: 50, unit: "ms"},
		{what: "revocation to the last connection's end", scenario: "sessions", limit: 50, unit: "ms"},
		{what: "all held transactions judged anew", scenario: "sessions", figure: recheck, limit: 1, unit: "s"},
		{what: "start with a large registry", scenario: "registry", limit: 5, unit: "s"},
		{what: "memory of a device's record", scenario: "registry", figure: perRecord, limit: 1500, unit: "bytes"},
		{what: "connection with a large registry, to a small one", scenario: "registry", figure: lookup, limit: 1.1, unit: times},
	}
}

// times is the unit of what is so many times something else.
const times = "×"

// gateway is the target that the budgets are for.
const gateway = "anteroom"

// A verdict is what a run says about a budget.
type verdict struct{ what, limit, measured, kept string }

// verdicts returns one for each budget that was measured.
func (r *results) verdicts() []verdict {
	var vs []verdict
	for _, b := range budgets() {
		got, ok := r.median(b.scenario, gateway, b.figure)
		if !ok {
			continue
		}
		unit, digits := b.unit, 1
		if b.toScenario != "" {
			base, ok := r.median(b.toScenario, b.toTarget, "")
			if !ok || base == 0 {
				continue
			}
			got, unit = got/base, times
		}
		if unit == times {
			digits = 2
		}
		v := verdict{what: b.what, limit: fmt.Sprintf("≤ %v %s", b.limit, unit), measured: fmt.Sprintf("%.*f %s", digits, got, unit), kept: "yes"}
		if got > b.limit {
			v.kept = "**no**"
		}
		// A promise about fifty thousand is not kept by nineteen.
		if short := r.short(b.scenario); short != "" {
			v.kept += ", " + short
		}
		vs = append(vs, v)
	}
	return vs
}

// short says how much less of a scenario was measured than was asked for, or nothing.
func (r *results) short(scenario string) string {
	if w := r.row(scenario, gateway); w != nil {
		for _, s := range w.samples {
			if s.short != "" {
				return s.short
			}
		}
	}
	return ""
}
