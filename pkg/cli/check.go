package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
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
)

// A finding is the result of one check.
type finding struct {
	What  string `json:"what"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	Note  string `json:"note,omitempty"`
	// Warning is set if the note says what the gateway starts with and somebody
	// should look at.
	Warning bool `json:"warning,omitempty"`
}

func (a *app) checkCommand() *cobra.Command {
	var strict, offline bool
	c := &cobra.Command{
		Use: "check", Short: "Check configuration, policies, certificates, ports and backends", Args: args(),
		Long: `Try everything that the gateway needs at its start, and say what would keep it from
it (FAIL) and what it would start with, though somebody should look at it (warn):
a backend that does not answer, a disk that is nearly full. Nothing is changed. It
may be run beside the gateway, such as before a changed configuration is saved.

The exit status is 0 if the gateway would start. With --strict warnings count too.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			found := check(cmd.Context(), cfg, offline)
			err = a.print(found, func(w io.Writer) {
				for _, f := range found {
					switch {
					case !f.OK:
						fmt.Fprintf(w, "FAIL  %s: %s\n", f.What, f.Error)
					case f.Warning:
						fmt.Fprintf(w, "warn  %s (%s)\n", f.What, f.Note)
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
			warnings := 0
			for _, f := range found {
				if !f.OK {
					return errors.New("the gateway would not start as configured")
				}
				if f.Warning {
					warnings++
				}
			}
			if strict && warnings > 0 {
				return errors.New("the gateway would start, with " + plural(warnings, "warning"))
			}
			return nil
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "fail on warnings too")
	c.Flags().BoolVar(&offline, "offline", false, "do not ask the backends")
	return c
}

// check tries everything the gateway needs at its start.
func check(ctx context.Context, cfg *config.File, offline bool) []finding {
	out := []finding{{What: "configuration " + cfg.Path, OK: true}}
	add := func(what, note string, err error) {
		f := finding{What: what, OK: err == nil, Note: note, Warning: strings.Contains(note, warning)}
		if err != nil {
			f.Error = err.Error()
		}
		out = append(out, f)
	}
	add(checkPolicies(ctx, cfg))

	live := status(ctx, cfg)
	running := live != nil
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
		add("state "+cfg.StateDir, openToOthers(cfg.StateDir), err)
	}
	if note := space(cfg); note != "" {
		add("disk of "+cfg.Audit.Dir, note, nil)
	}
	// Without the CA nobody can say whether a backend proves itself.
	offline = offline || roots == nil
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
				note = warning + "outside their validity: " + strings.Join(ended, ", ")
			}
			if stale := makers.StaleLists(time.Now()); len(stale) > 0 {
				note = strings.TrimPrefix(note+"; "+warning+"revocation lists outside their validity: "+strings.Join(stale, ", "), "; ")
			}
		}
		add("manufacturers' trust anchors", note, err)
	}
	if list := cfg.Enrolment.ACME.Attestation; len(list) > 0 {
		add("roots of attestations", "", acme.CheckRoots(list))
	}
	var held ports
	defer held.close()
	for _, l := range listeners {
		if l.Certificate.Source == "files" {
			_, err := edge.ReadCertificate(l.Certificate, l.Hosts, time.Now())
			add("certificate of listener "+l.Name, "", err)
		}
		if running {
			add("listener "+l.Name, "in use", nil)
			continue
		}
		add("listener "+l.Name+" on "+l.Address, "", held.take("listener "+l.Name, l.Address))
	}
	if addr := cfg.Enrolment.SCEP.Address; addr != "off" && !running {
		add("listener of SCEP in plain HTTP on "+addr, "", held.take("SCEP in plain HTTP", addr))
	}
	if addr := cfg.Revocation.Address; addr != "off" && !running {
		add("listener "+config.RevocationListener+" on "+addr, "", held.take("listener "+config.RevocationListener, addr))
	}
	if addr := cfg.Telemetry.Address; addr != "off" && !running {
		add("telemetry on "+addr, "", held.take("telemetry", addr))
	}
	for _, b := range checkBackends(ctx, cfg.Backends, roots, live, offline) {
		add("backend "+b.name, b.note, b.err)
	}
	for _, r := range cfg.Routes {
		if r.Lane {
			add("route "+r.Name, warning+"a quarantine lane, so quarantined devices may connect, for this route only", nil)
		}
		if r.OnFailure == "pass" {
			add("route "+r.Name, warning+"passes on failure, so with little disk left for the audit log, reports of life-critical devices go on", nil)
		}
	}
	if !cfg.BreakGlass.TwoPersons {
		add("break-glass", warning+"one operator alone may open it", nil)
	}
	return out
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
			note += fmt.Sprintf("; "+warning+"%s obliges to mirror to %q, and there is no such backend, so that it denies", mirrors[name], name)
		}
	}
	return note
}
