package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// warning begins what a note warns of.
const warning = "WARNING: "

// status returns the status of the gateway that runs on a configuration's state,
// or nil.
func status(ctx context.Context, cfg *config.File) *admin.Status {
	api, err := admin.Dial(ctx, filepath.Join(cfg.StateDir, admin.SocketName))
	if err != nil {
		return nil
	}
	defer api.Close()
	st, err := api.Status(ctx)
	if err != nil {
		return &admin.Status{}
	}
	return st
}

// openToOthers warns of a state directory into which others may put files.
func openToOthers(dir string) string {
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm()&0o022 == 0 {
		return ""
	}
	return fmt.Sprintf(warning+"others than its owner may write in it (mode %04o); chmod 700 it", st.Mode().Perm())
}

// space warns of a disk on which the audit log would take no records.
func space(cfg *config.File) string {
	left, err := audit.FreeSpace(cfg.Audit.Dir)
	if err != nil || left >= uint64(cfg.Audit.MinFree) {
		return ""
	}
	return fmt.Sprintf(warning+"%d MiB are free, and with less than %d MiB (audit.min_free) nothing is recorded, and so nothing allowed", left>>20, uint64(cfg.Audit.MinFree)>>20)
}

// ports are addresses that are listened on until the check is over, as the gateway
// would: two settings with the same one are no good.
type ports []port

type port struct {
	what string
	ln   net.Listener
}

// take listens on an address, or says why that can not be.
func (p *ports) take(what, addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		*p = append(*p, port{what, ln})
		return nil
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		_, n, _ := net.SplitHostPort(addr)
		for _, q := range *p {
			if _, m, _ := net.SplitHostPort(q.ln.Addr().String()); m == n {
				return fmt.Errorf("%s is configured to listen there, too: %w", q.what, err)
			}
		}
	}
	return err
}

func (p *ports) close() {
	for _, q := range *p {
		_ = q.ln.Close()
	}
}

// backendCheck is how a backend is.
type backendCheck struct {
	name, note string
	err        error
}

// checkBackends makes every backend, which fails if its settings are no good, and
// asks its addresses, which warns: the gateway starts without them. Of what a
// gateway runs with, it knows how it is.
func checkBackends(ctx context.Context, all []config.Backend, roots *x509.CertPool, live *admin.Status, offline bool) []backendCheck {
	out := make([]backendCheck, len(all))
	var wg sync.WaitGroup
	for i, cfg := range all {
		wg.Go(func() {
			cfg.Health.Interval = 0
			out[i].name = cfg.Name
			up, err := upstream.New(cfg, upstream.Options{Roots: roots})
			if err != nil {
				out[i].err = err
				return
			}
			switch {
			case live != nil:
				out[i].note = down(asked(live, cfg.Name))
			case !offline:
				out[i].note = down(up.Probe(ctx))
			}
			out[i].err = up.Close()
		})
	}
	wg.Wait()
	return out
}

// asked returns how a running gateway finds a backend.
func asked(live *admin.Status, name string) (out []upstream.AddressHealth) {
	for _, b := range live.Backends {
		if b.Name != name {
			continue
		}
		for _, a := range b.Addresses {
			out = append(out, upstream.AddressHealth(a))
		}
	}
	return out
}

// down warns of addresses that do not answer.
func down(all []upstream.AddressHealth) string {
	var out []string
	for _, a := range all {
		if !a.Healthy {
			out = append(out, a.Address+": "+a.Error)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return warning + "no answer from " + strings.Join(out, "; ")
}
