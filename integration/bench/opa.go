package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// opaModule is the module of the OPA server; its version is the one built in.
const opaModule = "github.com/open-policy-agent/opa"

// nginxOPA is nginx with an OPA server beside it that decides every request by
// the shipped policies: how a gateway without policies of its own gets some.
type nginxOPA struct {
	nginx
	path string // of opa
}

func (n *nginxOPA) name() string { return "nginx-opa" }

func (n *nginxOPA) prepare(ctx context.Context, r *rig) (string, error) {
	v, err := n.nginx.prepare(ctx, r)
	if err != nil {
		return "", err
	}
	if n.dir, err = r.scratch(n.name()); err != nil {
		return "", err
	}
	if err := n.findOPA(ctx, r); err != nil {
		return "", err
	}
	for _, name := range []string{"opa.rego", "opa-registry.yaml"} {
		b, err := files.ReadFile("peers/" + name)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(n.dir, name), b, 0o600); err != nil {
			return "", err
		}
	}
	out, err := firstLine(exec.CommandContext(ctx, n.path, "version").Output())
	return v + ", OPA " + strings.TrimPrefix(out, "Version: "), err
}

// findOPA finds the stock OPA program, or builds it.
func (n *nginxOPA) findOPA(ctx context.Context, r *rig) (err error) {
	if n.path != "" {
		n.path, err = filepath.Abs(n.path)
		return err
	}
	if n.path, err = find("opa"); err == nil {
		return nil
	}
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", opaModule)
	list.Dir = r.root
	version, err := firstLine(list.Output())
	if err != nil {
		return err
	}
	bin := filepath.Join(n.dir, "bin")
	cmd := exec.CommandContext(ctx, "go", "install", opaModule+"@"+version)
	cmd.Dir = n.dir
	cmd.Env = append(cmd.Environ(), "GOBIN="+bin, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("not installed: go install of opa %s: %w: %s", version, err, lastLine(out))
	}
	n.path = filepath.Join(bin, "opa")
	return nil
}

func (n *nginxOPA) start(ctx context.Context, r *rig) (*running, error) {
	f, err := r.front(n.dir)
	if err != nil {
		return nil, err
	}
	if f.OPAPort, err = freePort(); err != nil {
		return nil, err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", f.OPAPort)
	opa, err := r.serve("opa", n.dir, []string{"GOMAXPROCS=1", "HOME=" + n.dir}, n.path,
		"run", "--server", "--addr", addr, "--skip-version-check", "--log-level", "error", "--ignore", "*_test.rego", "--ignore", "schemas",
		filepath.Join(r.root, "policies"), "opa.rego", "opa-registry.yaml")
	if err != nil {
		return nil, err
	}
	if err := opa.ready(ctx, addr); err != nil {
		opa.stop()
		return nil, err
	}
	conf := filepath.Join(n.dir, "nginx.conf")
	t, err := startPeer(ctx, r, n.name(), f, conf, "nginx.conf.tmpl", n.bin, "-p", n.dir, "-c", conf)
	if err != nil {
		opa.stop()
		return nil, err
	}
	t.aide, t.decides = opa, true
	return t, nil
}
