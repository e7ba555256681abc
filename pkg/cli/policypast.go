package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	opabundle "github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
	"github.com/anteroom-iomt/anteroom/pkg/workbench"
)

// policyOptions are those the gateway loads sets with.
func policyOptions(cfg *config.File) (policy.Options, error) {
	loc, err := time.LoadLocation(cfg.Facility.Timezone)
	return policy.Options{MaxBytes: int64(cfg.Policy.MaxSize), Timeout: cfg.Policy.Timeout.D(), Location: loc}, err
}

// setAt loads the set in a directory or a bundle, or the one in force if path is
// "".
func (a *app) setAt(ctx context.Context, cfg *config.File, path string) (*policy.Set, error) {
	opt, err := policyOptions(cfg)
	if err != nil {
		return nil, err
	}
	if path != "" {
		return policy.Load(ctx, path, opt)
	}
	switch cfg.Policy.Source {
	case "bundle":
		lim := opabundle.Limits{Bytes: int64(cfg.Policy.MaxSize), Files: policy.DefaultMaxFiles}
		b, err := opabundle.Kept(filepath.Join(cfg.StateDir, admin.BundleDir), lim)
		if err != nil {
			return nil, err
		}
		if b == nil {
			return nil, fmt.Errorf("no bundle has come from %s yet, so nothing is in force: name a set", cfg.Policy.Bundle.URL)
		}
		src, err := policy.FromBundle(b, fmt.Sprintf("bundle %q of %s", b.Manifest.Revision, cfg.Policy.Bundle.URL), opt)
		if err != nil {
			return nil, err
		}
		return src.Compile(ctx, opt)
	case "pushed":
		st := admin.State{}
		if st.Policies, err = opabundle.OpenHistory(filepath.Join(cfg.StateDir, admin.PolicyDir), time.Now); err != nil {
			return nil, err
		}
		st.Configure(cfg)
		if e, ok := st.Policies.InForce(); ok {
			src, err := st.PolicySource(e.Number)
			if err != nil {
				return nil, err
			}
			return src.Compile(ctx, opt)
		}
	}
	return policy.Load(ctx, cfg.Policy.Enforce, opt)
}

// registry fetches the registry's records of now.
func (a *app) registry(cmd *cobra.Command) (workbench.DeviceList, error) {
	out := workbench.DeviceList{}
	err := a.with(cmd, func(ctx context.Context, api *admin.API) error {
		recs, err := api.List(ctx, admin.ListRequest{})
		if err != nil {
			return err
		}
		for _, r := range recs {
			out[r.ID] = r
		}
		return nil
	})
	return out, err
}

// progressBar shows how far a long work is, on a terminal.
func (a *app) progressBar(what string) (show func(done, total int64), end func()) {
	if !terminal(a.err) {
		return nil, func() {}
	}
	const width = 30
	last := -1
	return func(done, total int64) {
			percent := 100
			if total > 0 {
				percent = int(100 * done / total)
			}
			if percent == last {
				return
			}
			last = percent
			bar := ""
			for i := range width {
				if i < percent*width/100 {
					bar += "█"
				} else {
					bar += "░"
				}
			}
			fmt.Fprintf(a.err, "\r%s %s %3d %%", what, bar, percent)
		}, func() {
			fmt.Fprint(a.err, "\r\033[K")
		}
}
