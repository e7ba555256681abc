package gateway

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// backends are the backends of one configuration.
type backends map[string]*backend

// backend is one of them with the configuration it was made from, by which a
// reload knows whether it can stay.
type backend struct {
	*upstream.Backend
	cfg   config.Backend
	trust [sha256.Size]byte // of what its certificate is checked against
}

// trustOf is another where a backend's certificate would be checked against others
// than before, though the configuration says the same.
func trustOf(cfg *config.Backend, ours []*x509.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	if cfg.CAFile != "" {
		b, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return sum // making it anew says what is wrong
		}
		h.Write(b)
	} else {
		for _, c := range ours {
			h.Write(c.Raw)
		}
	}
	h.Sum(sum[:0])
	return sum
}

// newBackends makes the backends of a configuration and takes those of old that
// are configured alike over as they are, with their connections and health.
// fresh are the ones that were made.
func (g *Gateway) newBackends(cfgs []config.Backend, old backends) (all backends, fresh []*backend, err error) {
	ours := g.state.CA.Roots()
	roots := x509.NewCertPool()
	for _, c := range ours {
		roots.AddCert(c)
	}
	all = backends{}
	for _, cfg := range cfgs {
		trust := trustOf(&cfg, ours)
		if b := old[cfg.Name]; b != nil && reflect.DeepEqual(b.cfg, cfg) && b.trust == trust && trust != [sha256.Size]byte{} {
			all[cfg.Name] = b
			continue
		}
		up, err := upstream.New(cfg, upstream.Options{
			Roots: roots, Logger: g.log, Clock: g.clock,
			OnChange: func(addr string, healthy bool) { g.metrics.BackendUp(cfg.Name, addr, healthy) },
			OnShare:  func(result string, waited time.Duration) { g.metrics.BackendShare(cfg.Name, result, waited) },
		})
		if err != nil {
			closeAll(fresh)
			return nil, nil, fmt.Errorf("backend %s: %w", cfg.Name, err)
		}
		b := &backend{up, cfg, trust}
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
