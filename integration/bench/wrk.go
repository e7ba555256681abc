package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// loadGrace is how much longer than its duration the load may take before it
// is killed.
const loadGrace = 30 * time.Second

// buildLoad writes the load's files and compiles the library that gives wrk a
// client certificate.
func (r *rig) buildLoad(ctx context.Context) error {
	dir, err := r.scratch("load")
	if err != nil {
		return err
	}
	for _, name := range []string{"clientcert.c", "post.lua", "observation.json"} {
		b, err := files.ReadFile("load/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	r.script, r.body = filepath.Join(dir, "post.lua"), filepath.Join(dir, "observation.json")
	r.preload = filepath.Join(dir, "clientcert.so")
	cmd := exec.CommandContext(ctx, "gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror",
		"-o", r.preload, filepath.Join(dir, "clientcert.c"), "-ldl", "-lssl")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile clientcert.c (Debian package libssl-dev): %w: %s", err, out)
	}
	if r.wrk, err = find("wrk"); err != nil {
		return err
	}
	// wrk prints its version with its usage and then exits with an error.
	out, _ := exec.CommandContext(ctx, r.wrk, "-v").CombinedOutput()
	r.wrkVersion, _, _ = strings.Cut(string(out), " Copyright")
	return nil
}

// A load is what wrk, or h2load, counted.
type load struct {
	requests int64
	duration time.Duration
	errors   map[string]int64 // by kind; zero counts are left out
	note     string           // what it saw of latency
}

// errNoRequest says that no request was answered in time.
var errNoRequest = errors.New("wrk finished no request")

// post lets wrk send the FHIR create over keep-alive connections for d, with more
// arguments for its script.
func (r *rig) post(ctx context.Context, t *running, d time.Duration, more ...string) (load, error) {
	ctx, cancel := context.WithTimeout(ctx, d+loadGrace)
	defer cancel()
	args := append([]string{
		"-c", strconv.Itoa(r.opt.loadCPU), r.wrk,
		"-t1", "-c" + strconv.Itoa(r.opt.connections), "-d" + strconv.Itoa(int(d/time.Second)) + "s", "--timeout", "10s",
		"-s", r.script, t.url(), "--", r.body, fhirPath,
	}, more...)
	cmd := exec.CommandContext(ctx, "taskset", args...)
	cmd.Env = append(cmd.Environ(), "LD_PRELOAD="+r.preload, "BENCH_CERT="+t.cert, "BENCH_KEY="+t.key)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return load{}, fmt.Errorf("wrk: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return parseLoad(string(out))
}

// parseLoad reads the line that post.lua prints.
func parseLoad(out string) (load, error) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "result" {
			continue
		}
		n := make(map[string]int64)
		for i := 1; i+1 < len(f); i += 2 {
			v, err := strconv.ParseInt(f[i+1], 10, 64)
			if err != nil {
				return load{}, fmt.Errorf("wrk's result %q: %w", line, err)
			}
			n[f[i]] = v
		}
		l := load{
			requests: n["requests"], duration: time.Duration(n["duration_us"]) * time.Microsecond,
			note:   fmt.Sprintf("p50 %s, p99 %s", tenth(time.Duration(n["p50_us"])*time.Microsecond), tenth(time.Duration(n["p99_us"])*time.Microsecond)),
			errors: make(map[string]int64),
		}
		for _, kind := range []string{"connect", "read", "write", "status", "timeout"} {
			if v := n[kind]; v != 0 {
				l.errors[kind+" error"] = v
			}
		}
		if l.requests == 0 {
			return l, errNoRequest
		}
		return l, nil
	}
	return load{}, fmt.Errorf("wrk printed no result: %s", out)
}
