package gateway

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// noBundle is why nothing is allowed until the first bundle came.
const noBundle = "no policy bundle has come from the bundle server yet"

// fetched sets up the bundle server's client and returns the set to begin with:
// the last good one, or one that allows nothing.
func (g *Gateway) fetched(ctx context.Context, cfg *config.File) (*policy.Source, error) {
	c := &cfg.Policy.Bundle
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("policy.bundle.url: %w", err)
	}
	server, err := upstream.New(config.Backend{
		Name: "bundle server", Addresses: []string{net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))},
		ServerName: u.Hostname(), CAFile: c.CAFile, SystemRoots: c.CAFile == "",
	}, upstream.Options{Logger: g.log, Clock: g.clock})
	if err != nil {
		return nil, fmt.Errorf("policy.bundle: %w", err)
	}
	g.server = server
	opt := policy.Options{MaxBytes: int64(cfg.Policy.MaxSize), Timeout: cfg.Policy.Timeout.D(), Clock: g.clock}
	rc := bundle.RemoteConfig{
		URL: c.URL, Transport: server, Interval: c.Interval.D(), Dir: filepath.Join(cfg.StateDir, admin.BundleDir),
		Limits: bundle.Limits{Bytes: opt.MaxBytes, Files: policy.DefaultMaxFiles}, Now: g.clock, Logger: g.log, Refused: g.bundleRefused,
	}
	if !c.InsecureUnsigned {
		if rc.Key, err = bundleKey(c); err != nil {
			return nil, err
		}
	}
	if c.Token.Set() {
		rc.Token = c.Token.Read
	}
	source := func(b *bundle.Bundle) (*policy.Source, error) {
		return policy.FromBundle(b, fmt.Sprintf("bundle %q of %s", b.Manifest.Revision, c.URL), opt)
	}
	rc.Check = func(ctx context.Context, b *bundle.Bundle) error {
		src, err := source(b)
		if err != nil {
			return err
		}
		if g.engine != nil {
			return g.engine.Check(ctx, src)
		}
		_, err = src.Compile(ctx, opt)
		return err
	}
	rc.Enforce = func(ctx context.Context, b *bundle.Bundle) error {
		src, err := source(b)
		if err != nil {
			return err
		}
		return g.engine.Put(ctx, src)
	}
	if g.remote, err = bundle.OpenRemote(rc); err != nil {
		return nil, err
	}
	kept, err := g.remote.Kept(ctx)
	if err != nil {
		// The server may have what mends it; until then nothing is allowed.
		g.log.Error("nothing is allowed until the bundle server answers", "error", err)
	}
	if kept == nil {
		return policy.Nothing(noBundle), nil
	}
	return source(kept)
}

// maxKeyFile bounds a public key's file.
const maxKeyFile = 64 << 10

func bundleKey(c *config.PolicyBundle) (*bundle.Key, error) {
	st, err := os.Stat(c.Key)
	if err != nil {
		return nil, fmt.Errorf("policy.bundle.key: %w", err)
	}
	if st.Size() > maxKeyFile {
		return nil, fmt.Errorf("policy.bundle.key: %s is larger than %d bytes", c.Key, maxKeyFile)
	}
	data, err := os.ReadFile(c.Key)
	if err != nil {
		return nil, fmt.Errorf("policy.bundle.key: %w", err)
	}
	pub, err := bundle.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("policy.bundle.key: %s: %w", c.Key, err)
	}
	return &bundle.Key{Public: pub, ID: c.KeyID, Scope: c.Scope}, nil
}

// bundleRefused records a bundle that is not put in force.
func (g *Gateway) bundleRefused(revision string, why error) {
	g.metrics.PolicyRefused()
	if err := g.note(context.Background(), audit.KindPolicy, "policy.refused", why.Error(), field("revision", revision),
		field("previous", g.engine.Current().Revision())); err != nil {
		g.log.Error("recording a refused policy bundle", "error", err)
	}
}
