package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/anteroom-iomt/anteroom/integration/bench/origin"
)

// A backend is the nginx every target forwards to.
type backend struct {
	port, statusPort int
	proc             *process
	version          string
}

// startBackend starts it on the load's CPU and waits until it listens.
func startBackend(ctx context.Context, r *rig) (*backend, error) {
	bin, err := find("nginx")
	if err != nil {
		return nil, err
	}
	dir, err := r.scratch("backend")
	if err != nil {
		return nil, err
	}
	b := &backend{}
	if b.version, err = nginxVersion(ctx, bin); err != nil {
		return nil, err
	}
	if b.port, err = freePort(); err != nil {
		return nil, err
	}
	if b.statusPort, err = freePort(); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	err = r.render("backend.conf.tmpl", conf, map[string]any{
		"Dir": dir, "Port": b.port, "StatusPort": b.statusPort, "ServerName": backendName,
		"Cert": r.pki.backend.cert, "Key": r.pki.backend.key,
	})
	if err != nil {
		return nil, err
	}
	if b.proc, err = startPinned(r.opt.loadCPU, "backend", dir, nil, bin, "-p", dir, "-c", conf); err != nil {
		return nil, err
	}
	if err := b.proc.ready(ctx, fmt.Sprintf("127.0.0.1:%d", b.port)); err != nil {
		b.proc.stop()
		return nil, err
	}
	return b, nil
}

// startOrigin starts the backend for large bodies and WebSockets on the load's
// CPU, and returns its port.
func startOrigin(ctx context.Context, r *rig) (*process, int, error) {
	port, err := freePort()
	if err != nil {
		return nil, 0, err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	argv, err := partCommand(partOrigin, origin.Config{Addr: addr, Cert: r.pki.backend.cert, Key: r.pki.backend.key})
	if err != nil {
		return nil, 0, err
	}
	p, err := startPinned(r.opt.loadCPU, partOrigin, r.dir, []string{"GOMAXPROCS=1"}, argv...)
	if err != nil {
		return nil, 0, err
	}
	if err := p.ready(ctx, addr); err != nil {
		p.stop()
		return nil, 0, err
	}
	return p, port, nil
}

// served returns how many requests the backend has answered, this one included.
func (b *backend) served(ctx context.Context) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/status", b.statusPort), nil)
	if err != nil {
		return 0, err
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return 0, fmt.Errorf("ask the backend for its count: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return 0, fmt.Errorf("read the backend's count: %w", err)
	}
	return parseStubStatus(string(text))
}

// parseStubStatus returns the third number of ngx_http_stub_status_module's
// line of totals: accepts, handled, requests.
func parseStubStatus(text string) (int64, error) {
	_, rest, ok := strings.Cut(text, "accepts handled requests")
	f := strings.Fields(rest)
	if !ok || len(f) < 3 {
		return 0, fmt.Errorf("not a stub_status page: %q", text)
	}
	return strconv.ParseInt(f[2], 10, 64)
}
