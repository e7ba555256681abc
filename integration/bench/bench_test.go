package main

import (
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
)

// TestMain lets the test's program be the parts of the rig too.
func TestMain(m *testing.M) {
	if code, ok := part(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func TestParseStat(t *testing.T) {
	const line = "4242 (a (strange) name) S 17 4242 4242 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7\n"
	got, err := parseStat([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if want := (procStat{parent: 17, own: 120, reaped: 7}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 2", strings.Replace(line, " 100 ", " x ", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) succeeds", bad)
		}
	}
}

func TestTreeCPUCountsDescendantsOnly(t *testing.T) {
	stats := map[int]procStat{
		1: {parent: 0, own: 1000}, 10: {parent: 1, own: 1, reaped: 2}, 11: {parent: 10, own: 30},
		12: {parent: 11, own: 400}, 20: {parent: 1, own: 5000},
	}
	got, err := treeCPU(stats, 10)
	if err != nil {
		t.Fatal(err)
	}
	if want := 433 * time.Second / clockTicks; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := treeCPU(stats, 99); err == nil {
		t.Error("a process that is gone has a CPU time")
	}
}

func needTaskset(t *testing.T) {
	t.Helper()
	if _, err := find("taskset"); err != nil {
		if os.Getenv("ANTEROOM_REQUIRE_PEERS") != "" {
			t.Fatal("taskset is not installed (Debian package util-linux)")
		}
		t.Skip("taskset is not installed")
	}
}

func TestProcessIsCountedAndStopped(t *testing.T) {
	needTaskset(t)
	p, err := startPinned(0, "loop", t.TempDir(), nil, "sh", "-c", "while :; do :; done")
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		used, err := p.cpu()
		if err != nil {
			p.stop()
			t.Fatal(err)
		}
		if used > 0 {
			break
		}
		if time.Now().After(deadline) {
			p.stop()
			t.Fatal("a busy loop has used no CPU time")
		}
	}
	p.stop()
	if _, err := p.cpu(); err == nil {
		t.Error("a stopped process is still counted")
	}
}

func TestParseLoad(t *testing.T) {
	out := "Running 1s test\nresult requests 1000 duration_us 1000000 connect 0 read 2 write 0 status 3 timeout 0 p50_us 250 p99_us 900\n"
	l, err := parseLoad(out)
	if err != nil {
		t.Fatal(err)
	}
	if l.requests != 1000 || l.duration != time.Second || l.note != "p50 250µs, p99 900µs" {
		t.Errorf("got %+v", l)
	}
	if len(l.errors) != 2 || l.errors["read error"] != 2 || l.errors["status error"] != 3 {
		t.Errorf("errors are %v", l.errors)
	}
	for _, bad := range []string{"", "result requests x", "result requests 0 duration_us 1"} {
		if _, err := parseLoad(bad); err == nil {
			t.Errorf("parseLoad(%q) succeeds", bad)
		}
	}
}

func TestParseH2Load(t *testing.T) {
	const out = `Application protocol: h2
finished in 2.01s, 6250.50 req/s, 1.02MB/s
requests: 12501 total, 12565 started, 12501 done, 12500 succeeded, 1 failed, 1 errored, 2 timeout
status codes: 12490 2xx, 3 3xx, 7 4xx, 0 5xx
                     min         max         mean         sd        +/- sd
time for request:      303us     31.21ms      5.07ms      1.71ms    74.20%
`
	l, err := parseH2Load(out)
	if err != nil {
		t.Fatal(err)
	}
	if l.requests != 12490 || l.duration != 2010*time.Millisecond || l.note != "mean 5.07ms, slowest 31.21ms" {
		t.Errorf("got %+v", l)
	}
	if want := map[string]int64{"failed": 1, "timeout": 2, "3xx": 3, "4xx": 7}; !maps.Equal(l.errors, want) {
		t.Errorf("errors are %v, want %v", l.errors, want)
	}
	for _, bad := range []string{"", strings.Replace(out, "protocol: h2", "protocol: http/1.1", 1), strings.Replace(out, "12490 2xx", "0 2xx", 1), strings.Replace(out, "12490", "x", 1)} {
		if _, err := parseH2Load(bad); err == nil {
			t.Errorf("parseH2Load(%q) succeeds", bad)
		}
	}
}

func TestParseStubStatus(t *testing.T) {
	n, err := parseStubStatus("Active connections: 1 \nserver accepts handled requests\n 7 7 123 \nReading: 0 Writing: 1 Waiting: 0 \n")
	if err != nil || n != 123 {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := parseStubStatus("<html>"); err == nil {
		t.Error("another page is taken for a count")
	}
}

// TestReport holds what the table owes its reader: medians and ratios, a run
// with faults has no figure, and who was not measured is named.
func TestReport(t *testing.T) {
	s := scenarios()[0]
	r := &results{options: options{targets: "nginx,haproxy,caddy,anteroom", rounds: 3}, command: "bench"}
	for _, f := range []float64{10, 30, 20} {
		r.add(s, "nginx", sample{figure: f, note: "x"})
		r.add(s, "anteroom", sample{figure: f * 1.5})
	}
	r.add(s, "caddy", sample{figure: 1, faults: []string{"7 × status error"}})
	r.absent = append(r.absent, absence{"haproxy", "not installed (Debian package haproxy)"})

	want := []line{
		{"nginx", "20.0", "1.00", "10.0 30.0 20.0", "x"},
		{"haproxy", "–", "–", "–", "not installed (Debian package haproxy)"},
		{"caddy", "invalid", "–", "–", "round 1: 7 × status error"},
		{"anteroom", "30.0", "1.50", "15.0 45.0 30.0", ""},
	}
	got := r.lines(s)
	if len(got) != len(want) {
		t.Fatalf("got %d lines, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d is %+v, want %+v", i, got[i], want[i])
		}
	}
	if r.valid() {
		t.Error("a run with faults is valid")
	}
	path := filepath.Join(t.TempDir(), "RESULTS.md")
	if err := r.writeFile(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("| anteroom | 30.0 | 1.50 |")) || !bytes.Contains(b, []byte("7 × status error")) {
		t.Errorf("the file lacks a row:\n%s", b)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"-rounds", "0"}, {"-duration", "1500ms"}, {"-server-cpu", "1"}, {"-load-cpu", "4096"}, {"stray"}, {"-no-such-flag"},
	} {
		if code := run(context.Background(), args, io.Discard, io.Discard); code != 2 {
			t.Errorf("%v exits with %d, want 2", args, code)
		}
	}
}

// TestPeersDoTheJob starts each installed peer from its template and proves
// that it does what it is measured at.
func TestPeersDoTheJob(t *testing.T) {
	if os.Getenv("ANTEROOM_REQUIRE_PEERS") == "" {
		for _, p := range []string{"nginx", "haproxy", "wrk", "gcc", "taskset", "opa"} {
			if _, err := find(p); err != nil {
				t.Skipf("%s is not installed", p)
			}
		}
	}
	ctx := t.Context()
	r, err := newRig(ctx, options{loadCPU: 0, serverCPU: 0}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	for _, tgt := range []target{&nginx{}, &haproxy{}, &nginxOPA{}, &bareRelay{}} {
		if _, err := tgt.prepare(ctx, r); err != nil {
			t.Fatal(err)
		}
		run, err := tgt.start(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := run.check(ctx, r); err != nil {
			t.Errorf("%s: %v", tgt.name(), err)
		}
		run.stop()
	}
}

func TestBudgetsAreJudgedByMedians(t *testing.T) {
	r := &results{options: options{targets: "nginx,anteroom"}}
	for _, s := range scenarios() {
		switch s.name {
		case "keepalive":
			r.add(s, "nginx", sample{figure: 20})
			r.add(s, gateway, sample{figure: 40})
		case "handshake":
			r.add(s, "nginx", sample{faults: []string{"broken"}})
			r.add(s, gateway, sample{figure: 100})
		case "resumption":
			r.add(s, gateway, sample{figure: 50})
		case "sessions":
			r.add(s, gateway, sample{figure: 12, more: map[string]float64{recheck: 2}, short: "with 19 idle sessions"})
		case "registry":
			r.add(s, gateway, sample{figure: 1, more: map[string]float64{lookup: 1.04}})
		}
	}
	want := []verdict{
		{"keep-alive request, to nginx", "≤ 1.15 ×", "2.00 ×", "**no**"},
		{"resumption, to its own full handshake", "≤ 0.5 ×", "0.50 ×", "yes"},
		{"revocation to the last connection's end", "≤ 50 ms", "12.0 ms", "yes, with 19 idle sessions"},
		{"all held transactions judged anew", "≤ 1 s", "2.0 s", "**no**, with 19 idle sessions"},
		{"start with a large registry", "≤ 5 s", "1.0 s", "yes"},
		{"connection with a large registry, to a small one", "≤ 1.1 ×", "1.04 ×", "yes"},
	}
	if got := r.verdicts(); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOfTurnsTheMedianCountsAndEveryFault(t *testing.T) {
	m := middle([]sample{{figure: 3, faults: []string{"reset"}}, {figure: 1}, {figure: 2, note: "this one"}})
	if m.figure != 2 || m.note != "this one" || !slices.Equal(m.faults, []string{"reset"}) {
		t.Errorf("of 3, 1 and 2: %+v", m)
	}
}

func TestEveryBudgetIsOfAScenarioThatExists(t *testing.T) {
	for _, b := range budgets() {
		for _, name := range []string{b.scenario, b.toScenario} {
			if _, err := selectScenarios(name); name != "" && err != nil {
				t.Errorf("%s: %v", b.what, err)
			}
		}
	}
}

func TestParsePSS(t *testing.T) {
	n, err := parsePSS("55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  512 kB\nPss_Anon: 100 kB\n")
	if err != nil || n != 512<<10 {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := parsePSS("Rss: 900 kB\n"); err == nil {
		t.Error("another text is taken for a memory map")
	}
}

func TestMemoryOfAProcessIsItsTreesAndIsWatched(t *testing.T) {
	needTaskset(t)
	p, err := startPinned(0, "tree", t.TempDir(), nil, "sh", "-c", "sleep 1000 & wait")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // the child too
		p.stop()
	})
	w := (&running{process: p}).watchMemory()
	alone := func() bool {
		stats, err := readStats("/proc")
		return err != nil || len(tree(stats, p.cmd.Process.Pid)) < 2
	}
	for deadline := time.Now().Add(time.Minute); alone(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the shell has no child")
		}
	}
	n, err := p.memory()
	if err != nil || n <= 0 {
		t.Errorf("memory is %d, %v", n, err)
	}
	if top, err := w.top(); err != nil || top <= 0 {
		t.Errorf("at most %d, %v", top, err)
	}
}

func TestAStormIsJudgedByWhoWasConnectedAndWhoCameBack(t *testing.T) {
	established := func() *fleet.Report {
		return &fleet.Report{Requests: 10, Latency: &fleet.Spread{N: 10, P50: time.Millisecond, P99: 7 * time.Millisecond, Max: 9 * time.Millisecond}}
	}
	back := []*fleet.Report{
		{Requests: 3, Tries: 2, Refused: map[string]int64{"read: reset": 4}, Elapsed: 2 * time.Second, Latency: &fleet.Spread{P50: time.Second, Max: 2 * time.Second}},
		{Requests: 2, Tries: 1, Elapsed: time.Second, Latency: &fleet.Spread{P50: time.Millisecond, Max: time.Second}},
	}
	s := stormSample(established(), back, time.Second, true)
	if s.figure != 7 || len(s.faults) > 0 || !strings.HasPrefix(s.note, "5 devices, who stayed; half served within 1s, the last after 2s; 4 tries repeated, at most 2 for one device;") {
		t.Errorf("got %+v", s)
	}
	back[1].Failed = map[string]int64{"dial: timed out": 1}
	broken := established()
	broken.Failed = map[string]int64{"read: reset": 2}
	if s := stormSample(broken, back, 0, false); !slices.Equal(s.faults, []string{"established: 2 × read: reset", "refused for good: 1 × dial: timed out"}) {
		t.Errorf("faults are %q", s.faults)
	}
}

func TestOnlySessionsThatShouldEndMay(t *testing.T) {
	at := time.Now()
	end := func(device int) crews {
		c := &crew{events: make(chan fleet.Event, 3), log: new(tail)}
		c.events <- fleet.Event{Event: "closed", Device: 0, At: at.Add(time.Second)}
		c.events <- fleet.Event{Event: "closed", Device: device, At: at}
		return crews{c}
	}
	even := func(d int) bool { return d%2 == 0 }
	first, last, err := end(4).closed(t.Context(), 2, even)
	if err != nil || !first.Equal(at) || !last.Equal(at.Add(time.Second)) {
		t.Errorf("from %v to %v, %v", first, last, err)
	}
	if _, _, err := end(3).closed(t.Context(), 2, even); err == nil {
		t.Error("a session that nothing was wrong with ended unseen")
	}
	gone := end(4)
	close(gone[0].events)
	if _, _, err := gone.closed(t.Context(), 3, even); err == nil {
		t.Error("a session that did not end is taken for one that did")
	}
}
