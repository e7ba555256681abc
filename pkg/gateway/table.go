package gateway

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"reflect"
	"slices"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// backends are the backends of one configuration.
type backends map[string]*backend

// backend is one of them with the configuration it was made from, by which a
// reload knows whether it can stay.
type backend struct {
	*upstream.Backend
	cfg config.Backend
}

// newBackends makes the backends of a configuration and takes those of old that
// are configured alike over as they are, with their connections and health.
// fresh are the ones that were made.
func (g *Gateway) newBackends(cfgs []config.Backend, old backends) (all backends, fresh []*backend, err error) {
	roots := x509.NewCertPool()
	for _, c := range g.state.CA.Roots() {
		roots.AddCert(c)
	}
	all = backends{}
	for _, cfg := range cfgs {
		if b := old[cfg.Name]; b != nil && reflect.DeepEqual(b.cfg, cfg) {
			all[cfg.Name] = b
			continue
		}
		up, err := upstream.New(cfg, upstream.Options{
			Roots: roots, Logger: g.log, Clock: g.clock,
			OnChange: func(addr string, healthy bool) { g.metrics.BackendUp(cfg.Name, addr, healthy) },
		})
		if err != nil {
			closeAll(fresh)
			return nil, nil, fmt.Errorf("backend %s: %w", cfg.Name, err)
		}
		b := &backend{up, cfg}
		all[cfg.Name] = b
		fresh = append(fresh, b)
	}
	return all, fresh, nil
}

func closeAll(bs []*backend) {
	for _, b := range bs {
		b.Close()
	}
}

// sorted returns the backends by name.
func (bs backends) sorted() []*backend {
	var out []*backend
	for _, b := range bs {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b *backend) int { return cmp.Compare(a.cfg.Name, b.cfg.Name) })
	return out
}
