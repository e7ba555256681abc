package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/edge"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/acme"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	opabundle "github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// A finding is the result of one check.
type finding struct {
	What  string `json:"what"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	Note  string `json:"note,omitempty"`
}

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Check configuration, policies, certificates and ports", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			found := check(cmd.Context(), cfg)
			err = a.print(found, func(w io.Writer) {
				for _, f := range found {
					switch {
					case !f.OK:
						fmt.Fprintf(w, "FAIL  %s: %s\n", f.What, f.Error)
					case f.Note != "":
						fmt.Fprintf(w, "ok    %s (%s)\n", f.What, f.Note)
					default:
						fmt.Fprintf(w, "ok    %s\n", f.What)
					}
				}
			})
			if err != nil {
				return err
			}
			for _, f := range found {
				if !f.OK {
					return errors.New("the gateway would not start as configured")
				}
			}
			return nil
		},
	}
}

// check tries everything the gateway needs at its start.
func check(ctx context.Context, cfg *config.File) []finding {
	out := []finding{{What: "configuration " + cfg.Path, OK: true}}
	add := func(what, note string, err error) {
		f := finding{What: what, OK: err == nil, Note: note}
		if err != nil {
			f.Error = err.Error()
		}
		out = append(out, f)
	}
	add(checkPolicies(ctx, cfg))

	running := false
	if api, err := admin.Dial(ctx, filepath.Join(cfg.StateDir, admin.SocketName)); err == nil {
		running = true
		api.Close()
	}
	var roots *x509.CertPool
	var ours []*x509.Certificate
	if running {
		add("state "+cfg.StateDir, "a gateway is running on it", nil)
		roots = x509.NewCertPool()
	} else {
		st, err := admin.OpenState(ctx, cfg, slog.New(slog.DiscardHandler), time.Now)
		if err == nil {
			roots, _ = st.CA.Pool()
			ours = append(st.CA.Intermediates(), st.CA.Roots()...)
			err = st.Close()
		}
		add("state "+cfg.StateDir, "", err)
	}
	if roots == nil {
		roots = x509.NewCertPool()
	}
	listeners := cfg.Listeners
	if e := cfg.Enrolment; e.Address != "off" {
		listeners = append(slices.Clip(listeners), config.Listener{Name: config.EnrolmentListener, Address: e.Address, Hosts: e.Hosts, Certificate: e.Certificate})
	}
	if list := cfg.Enrolment.Manufacturers; len(list) > 0 {
		makers, err := enrol.LoadMakers(list, func() []*x509.Certificate { return ours })
		note := ""
		if err == nil {
			if ended := makers.Ended(time.Now()); len(ended) > 0 {
				note = "WARNING: outside their validity: " + strings.Join(ended, ", ")
			}
			if stale := makers.StaleLists(time.Now()); len(stale) > 0 {
				note = strings.TrimPrefix(note+"; WARNING: revocation lists outside their validity: "+strings.Join(stale, ", "), "; ")
			}
		}
		add("manufacturers' trust anchors", note, err)
	}
	if list := cfg.Enrolment.ACME.Attestation; len(list) > 0 {
		add("roots of attestations", "", acme.CheckRoots(list))
	}
	for _, l := range listeners {
		if l.Certificate.Source == "files" {
			_, err := edge.ReadCertificate(l.Certificate, l.Hosts, time.Now())
			add("certificate of listener "+l.Name, "", err)
		}
		if running {
			add("listener "+l.Name, "in use", nil)
			continue
		}
		add("listener "+l.Name+" on "+l.Address, "", free(l.Address))
	}
	if addr := cfg.Enrolment.SCEP.Address; addr != "off" && !running {
		add("listener of SCEP in plain HTTP on "+addr, "", free(addr))
	}
	if addr := cfg.Revocation.Address; addr != "off" && !running {
		add("listener "+config.RevocationListener+" on "+addr, "", free(addr))
	}
	if addr := cfg.Telemetry.Address; addr != "off" && !running {
		add("telemetry on "+addr, "", free(addr))
	}
	for _, b := range cfg.Backends {
		b.Health.Interval = 0
		up, err := upstream.New(b, upstream.Options{Roots: roots})
		if err == nil {
			err = up.Close()
		}
		add("backend "+b.Name, "", err)
	}
	for _, r := range cfg.Routes {
		if r.Lane {
			add("route "+r.Name, "WARNING: a quarantine lane, so quarantined devices may connect, for this route only", nil)
		}
	}
	if !cfg.BreakGlass.TwoPersons {
		add("break-glass", "WARNING: one operator alone may open it", nil)
	}
	return out
}

// free reports whether an address can be listened on.
func free(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return ln.Close()
}

// checkPolicies loads what the gateway would begin with.
func checkPolicies(ctx context.Context, cfg *config.File) (what, note string, err error) {
	opt := policy.Options{MaxBytes: int64(cfg.Policy.MaxSize), Timeout: cfg.Policy.Timeout.D()}
	what = "policies " + cfg.Policy.Enforce
	var src *policy.Source
	switch cfg.Policy.Source {
	case "bundle":
		what = "policies of " + cfg.Policy.Bundle.URL
		if cfg.Policy.Bundle.InsecureUnsigned {
			return what, "taken without a signature", nil
		}
		data, err := os.ReadFile(cfg.Policy.Bundle.Key)
		if err == nil {
			_, err = opabundle.ParseKey(data)
		}
		return what, "the server is not asked", err
	case "pushed":
		st := admin.State{}
		if st.Policies, err = opabundle.OpenHistory(filepath.Join(cfg.StateDir, admin.PolicyDir), time.Now); err != nil {
			return what, "", err
		}
		st.Configure(cfg)
		if e, ok := st.Policies.InForce(); ok {
			what = "policies, pushed revision " + e.Short()
			if src, err = st.PolicySource(e.Number); err != nil {
				return what, "", err
			}
		}
	}
	if src == nil {
		if src, err = policy.Read(cfg.Policy.Enforce, opt); err != nil {
			return what, "", err
		}
	}
	set, err := src.Compile(ctx, opt)
	if err != nil {
		return what, "", err
	}
	return what, "revision " + set.Revision() + unknownMirrors(cfg, set), nil
}

// unknownMirrors warns of backends that policies oblige to mirror to and that
// there are none of: what they hold for would be denied.
func unknownMirrors(cfg *config.File, set *policy.Set) (note string) {
	mirrors := set.Mirrors()
	for _, name := range slices.Sorted(maps.Keys(mirrors)) {
		if !slices.ContainsFunc(cfg.Backends, func(b config.Backend) bool { return b.Name == name }) {
			note += fmt.Sprintf("; WARNING: %s obliges to mirror to %q, and there is no such backend, so that it denies", mirrors[name], name)
		}
	}
	return note
}
