package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/anteroom-iomt/anteroom/integration/bench/relay"
)

// caddyVersion is the Caddy that is built and measured.
const caddyVersion = "v2.11.9"

// nginx is the yardstick.
type nginx struct{ bin, dir string }

func (n *nginx) name() string { return "nginx" }

func (n *nginx) prepare(ctx context.Context, r *rig) (string, error) {
	var err error
	if n.bin, err = find("nginx"); err != nil {
		return "", errors.New("not installed (Debian package nginx)")
	}
	if n.dir, err = r.scratch("nginx"); err != nil {
		return "", err
	}
	return nginxVersion(ctx, n.bin)
}

func (n *nginx) start(ctx context.Context, r *rig) (*running, error) {
	conf := filepath.Join(n.dir, "nginx.conf")
	f, err := r.front(n.dir)
	if err != nil {
		return nil, err
	}
	return startPeer(ctx, r, n.name(), f, conf, "nginx.conf.tmpl", n.bin, "-p", n.dir, "-c", conf)
}

// haproxy is HAProxy in the foreground, one process and one thread.
type haproxy struct{ bin, dir string }

func (h *haproxy) name() string { return "haproxy" }

func (h *haproxy) prepare(ctx context.Context, r *rig) (string, error) {
	var err error
	if h.bin, err = find("haproxy"); err != nil {
		return "", errors.New("not installed (Debian package haproxy)")
	}
	if h.dir, err = r.scratch("haproxy"); err != nil {
		return "", err
	}
	return firstLine(exec.CommandContext(ctx, h.bin, "-v").Output())
}

func (h *haproxy) start(ctx context.Context, r *rig) (*running, error) {
	conf := filepath.Join(h.dir, "haproxy.cfg")
	f, err := r.front(h.dir)
	if err != nil {
		return nil, err
	}
	return startPeer(ctx, r, h.name(), f, conf, "haproxy.cfg.tmpl", h.bin, "-db", "-f", conf)
}

// caddy is built from source into the scratch directory.
type caddy struct{ path, dir string }

func (c *caddy) name() string { return "caddy" }

func (c *caddy) prepare(ctx context.Context, r *rig) (string, error) {
	var err error
	if c.dir, err = r.scratch("caddy"); err != nil {
		return "", err
	}
	if c.path == "" {
		bin := filepath.Join(c.dir, "bin")
		cmd := exec.CommandContext(ctx, "go", "install", "github.com/caddyserver/caddy/v2/cmd/caddy@"+caddyVersion)
		cmd.Dir = c.dir
		cmd.Env = append(cmd.Environ(), "GOBIN="+bin, "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("not installed: go install of caddy %s: %w: %s", caddyVersion, err, lastLine(out))
		}
		c.path = filepath.Join(bin, "caddy")
	}
	if c.path, err = filepath.Abs(c.path); err != nil {
		return "", err
	}
	v, err := firstLine(exec.CommandContext(ctx, c.path, "version").Output())
	if err != nil {
		return "", err
	}
	v, _, _ = strings.Cut(v, " ")
	if v == "unknown" {
		// A binary that was built outside its own tree may not know.
		v = caddyVersion
	}
	return "Caddy " + v, nil
}

func (c *caddy) start(ctx context.Context, r *rig) (*running, error) {
	conf := filepath.Join(c.dir, "Caddyfile")
	f, err := r.front(c.dir)
	if err != nil {
		return nil, err
	}
	return startPeer(ctx, r, c.name(), f, conf, "Caddyfile.tmpl", c.path, "run", "--adapter", "caddyfile", "--config", conf)
}

// bareRelay is package relay: the least a gateway could do in Go.
type bareRelay struct{ dir string }

func (b *bareRelay) name() string { return "relay" }

func (b *bareRelay) prepare(_ context.Context, r *rig) (string, error) {
	var err error
	b.dir, err = r.scratch(b.name())
	return "copies bytes between two TLS connections, " + runtime.Version(), err
}

func (b *bareRelay) start(ctx context.Context, r *rig) (*running, error) {
	f, err := r.front(b.dir)
	if err != nil {
		return nil, err
	}
	bulk, err := freePort()
	if err != nil {
		return nil, err
	}
	at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	argv, err := partCommand(partRelay, relay.Config{
		Listen: []string{at(f.Port), at(bulk)}, Backends: []string{at(f.BackendPort), at(f.OriginPort)},
		Cert: f.ServerCert, Key: f.ServerKey, DeviceCA: f.DeviceCA, BackendName: f.BackendName, BackendCA: f.BackendCA,
	})
	if err != nil {
		return nil, err
	}
	p, err := r.serve(b.name(), b.dir, []string{"GOMAXPROCS=1"}, argv...)
	if err != nil {
		return nil, err
	}
	for _, port := range []int{f.Port, bulk} {
		if err := p.ready(ctx, at(port)); err != nil {
			p.stop()
			return nil, err
		}
	}
	return &running{process: p, port: f.Port, cert: r.pki.device.cert, key: r.pki.device.key, scanner: r.pki.device,
		roots: r.pki.backendCA, bulkPort: bulk}, nil
}

// startPeer renders a peer's configuration and starts it.
func startPeer(ctx context.Context, r *rig, name string, f front, conf, template string, argv ...string) (*running, error) {
	dir := f.Dir
	if err := r.render(template, conf, f); err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	// The variables matter to Caddy alone: one thread for Go code, and a home
	// that leaves the user's own alone.
	env := []string{"GOMAXPROCS=1", "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
	p, err := r.serve(name, dir, env, argv...)
	if err != nil {
		return nil, err
	}
	if err := p.ready(ctx, fmt.Sprintf("127.0.0.1:%d", f.Port)); err != nil {
		p.stop()
		return nil, err
	}
	return &running{process: p, port: f.Port, cert: r.pki.device.cert, key: r.pki.device.key, scanner: r.pki.device, roots: r.pki.backendCA}, nil
}

func nginxVersion(ctx context.Context, bin string) (string, error) {
	v, err := firstLine(exec.CommandContext(ctx, bin, "-v").CombinedOutput())
	return strings.TrimPrefix(v, "nginx version: "), err
}

func firstLine(out []byte, err error) (string, error) {
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), err
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
