package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// What h2load keeps open: connections, and requests under way on each.
const (
	h2Connections = "8"
	h2Streams     = "8"
)

// multiplexed measures the CPU time of a request over HTTP/2.
func multiplexed(ctx context.Context, r *rig, t *running) (sample, error) {
	h2load, err := find("h2load")
	if err != nil {
		return sample{skip: "h2load is not installed (Debian package nghttp2-client)"}, nil
	}
	if r.opt.warmup > 0 {
		if _, err := r.postH2(ctx, h2load, t, r.opt.warmup); err != nil {
			return sample{}, fmt.Errorf("warm up: %w", err)
		}
	}
	return r.perRequest(ctx, t, func() (load, error) { return r.postH2(ctx, h2load, t, r.opt.duration) })
}

// postH2 lets h2load send the FHIR create for d.
func (r *rig) postH2(ctx context.Context, h2load string, t *running, d time.Duration) (load, error) {
	ctx, cancel := context.WithTimeout(ctx, d+loadGrace)
	defer cancel()
	cmd := exec.CommandContext(ctx, "taskset", "-c", strconv.Itoa(r.opt.loadCPU), h2load,
		"-t1", "-c"+h2Connections, "-m"+h2Streams, "-D"+strconv.Itoa(int(d/time.Second)), "-d", r.body,
		"-H", "Content-Type: application/fhir+json", "-H", "Accept: application/fhir+json",
		"--connect-to", fmt.Sprintf("127.0.0.1:%d", t.port), t.url()+fhirPath)
	cmd.Env = append(cmd.Environ(), "LD_PRELOAD="+r.preload, "BENCH_CERT="+t.cert, "BENCH_KEY="+t.key)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return load{}, fmt.Errorf("h2load: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return parseH2Load(string(out))
}

// parseH2Load reads what h2load prints at the end. Only answers of success
// count as requests.
func parseH2Load(out string) (load, error) {
	l := load{errors: make(map[string]int64)}
	for line := range strings.Lines(out) {
		what, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		var err error
		switch f := strings.Fields(line); {
		case what == "Application protocol" && strings.TrimSpace(rest) != "h2":
			return load{}, fmt.Errorf("h2load speaks%s, not h2", rest)
		case strings.HasPrefix(what, "finished in "):
			l.duration, err = time.ParseDuration(strings.TrimSuffix(f[2], ","))
		case what == "requests":
			// "errored" are among "failed".
			_, err = count(rest, l.errors, "failed", "timeout")
		case what == "status codes":
			if l.requests, err = count(rest, nil, "2xx"); err == nil {
				_, err = count(rest, l.errors, "3xx", "4xx", "5xx")
			}
		case what == "time for request" && len(f) > 5:
			l.note = fmt.Sprintf("mean %s, slowest %s", f[5], f[4])
		}
		if err != nil {
			return load{}, fmt.Errorf("h2load's %q: %w", strings.TrimSpace(line), err)
		}
	}
	if l.requests == 0 || l.duration == 0 {
		return load{}, errors.New("h2load finished no request")
	}
	return l, nil
}

// count reads "12 total, 3 failed, …": it adds up what is named, and puts what
// is not zero into a map, unless that is nil.
func count(text string, into map[string]int64, names ...string) (sum int64, err error) {
	for part := range strings.SplitSeq(text, ",") {
		number, name, _ := strings.Cut(strings.TrimSpace(part), " ")
		for _, want := range names {
			if name != want {
				continue
			}
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil {
				return 0, err
			}
			if sum += n; n != 0 && into != nil {
				into[name] = n
			}
		}
	}
	return sum, nil
}
