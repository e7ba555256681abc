package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/step"
)

// A gateway is anteroom, set up with the command an operator types, with an
// enrolment listener that limits nobody: all clients here have one address.
type gateway struct {
	process
	api *admin.API
}

func (g *gateway) name() string { return "anteroom" }

func startGateway(ctx context.Context, program, dir, profile string) (*gateway, error) {
	var ports [3]string
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "init", "--dir", dir, "--trust-domain", "bench.example", "--organisation", "Bench", "--host", "localhost", "--listen", "127.0.0.1:"+ports[0], "--yes")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("anteroom init: %w: %s", err, out)
	}
	conf := filepath.Join(dir, "anteroom.yaml")
	text, err := os.ReadFile(conf)
	if err != nil {
		return nil, err
	}
	settings := strings.Replace(string(text), "127.0.0.1:9464", "127.0.0.1:"+ports[1], 1) + fmt.Sprintf(`
enrolment:
  address: "127.0.0.1:%s"
  hosts: [localhost]
  limits: {requests: 1000000, per_address: 512}
`, ports[2])
	if err := os.WriteFile(conf, []byte(settings), 0o600); err != nil {
		return nil, err
	}
	g := &gateway{process: process{base: "https://localhost:" + ports[2], pool: x509.NewCertPool()}}
	root, err := os.ReadFile(filepath.Join(dir, "root-ca.crt"))
	if err != nil || !g.pool.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("the gateway's root: %w", err)
	}
	args := []string{"run", "--config", conf}
	if profile != "" {
		if profile, err = filepath.Abs(profile); err != nil {
			return nil, err
		}
		args = append(args, "--cpuprofile", profile)
	}
	if err := g.start(dir, program, args...); err != nil {
		return nil, err
	}
	if err := g.ready(ctx, http.DefaultClient, "http://127.0.0.1:"+ports[1]+"/readyz", dir); err != nil {
		return nil, err
	}
	if g.api, err = admin.Dial(ctx, filepath.Join(dir, "state", admin.SocketName)); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *gateway) tokens(ctx context.Context, ids []string) ([]string, error) {
	out := make([]string, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for n, id := range ids {
		group.Go(func() error {
			t, err := g.api.Token(ctx, admin.TokenRequest{ID: id, Class: "infusion-pump", TTL: time.Hour})
			if err == nil {
				out[n], err = step.Token(t.Token, id, g.base, t.RootFingerprint, time.Now(), t.Expires)
			}
			return err
		})
	}
	return out, group.Wait()
}
