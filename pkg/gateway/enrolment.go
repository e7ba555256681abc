package gateway

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/edge"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/acme"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/est"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/scep"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/signedtime"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/step"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
	"github.com/anteroom-iomt/anteroom/pkg/visitor"
)

// An enrolment is the listener where devices enrol: the door they come in by, and
// what answers behind it. It shares nothing with the listeners of devices but the
// CA and the registry.
type enrolment struct {
	door  *edge.Door
	plain *visitor.Listener // for SCEP; nil unless there is one
	web   *web.Server
}

// openEnrolment opens the enrolment listener, if there is to be one.
func (g *Gateway) openEnrolment(ctx context.Context, cfg config.Enrolment) error {
	if cfg.Address == "off" {
		return nil
	}
	registrar := g.service.Registrar()
	makers, err := enrol.LoadMakers(cfg.Manufacturers, registrar.Authorities)
	if err != nil {
		return err
	}
	for _, name := range makers.Ended(g.clock()) {
		g.log.Warn("no device of the manufacturer can enrol with its certificate: the trust anchors are outside their validity", "manufacturer", name)
	}
	for _, name := range makers.StaleLists(g.clock()) {
		g.log.Warn("a revocation list of the manufacturer is outside its validity", "manufacturer", name)
	}
	if err := acme.CheckRoots(cfg.ACME.Attestation); err != nil {
		return err
	}
	overACME := acme.Endpoints(acme.Config{
		Registrar: registrar, Store: g.state.Store, Settings: func() config.ACME { return g.state.Config().Enrolment.ACME }, Clock: g.clock,
		Show: edge.ShowChallenge,
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		},
	})
	clock := signedtime.Endpoints(signedtime.Config{CA: g.state.CA, Clock: g.clock, Logger: g.log})
	overEST := est.Endpoints(est.Config{Registrar: registrar, Makers: makers, OneLine: func() bool { return g.state.Config().Enrolment.EST.OneLine }})
	endpoints := slices.Concat(overEST, step.Endpoints(registrar, g.clock), overACME, clock)
	if cfg.SCEP.Enabled {
		to, err := scep.OpenRecipient(ctx, g.state.CA, filepath.Join(g.state.Config().StateDir, admin.SCEPFile), g.clock)
		if err != nil {
			return err
		}
		endpoints = append(endpoints, scep.Endpoints(scep.Config{Registrar: registrar, Makers: makers, Recipient: to,
			Legacy: func() bool { return len(g.state.Config().Enrolment.SCEP.LegacyClasses) > 0 }})...)
		if len(cfg.SCEP.LegacyClasses) > 0 {
			g.log.Warn("SHA-1, DES and triple DES are taken in SCEP", "classes", strings.Join(cfg.SCEP.LegacyClasses, " "))
		}
	}
	srv, err := web.New(web.Config{
		Registrar: registrar, Audit: g.state.Audit, Settings: func() config.Enrolment { return g.state.Config().Enrolment },
		Endpoints: endpoints, Clock: g.clock, Logger: g.log, Neighbourhood: edge.Neighbourhood,
	})
	if err != nil {
		return err
	}
	door, err := g.edge.OpenDoor(ctx, cfg)
	if err != nil {
		return err
	}
	srv.Serve(door)
	g.enrolment = &enrolment{door: door, web: srv}
	g.log.Info("devices can enrol", "address", door.Addr().String())
	if cfg.SCEP.Address == "off" {
		return nil
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.SCEP.Address)
	if err != nil {
		return fmt.Errorf("listener of SCEP in plain HTTP: %w", err)
	}
	g.enrolment.plain = visitor.NewListener(ln, cfg.Limits.Connections, cfg.Limits.PerAddress, edge.Neighbourhood)
	srv.Serve(g.enrolment.plain)
	g.log.Info("devices can enrol by SCEP in plain HTTP", "address", ln.Addr().String())
	return nil
}

func (e *enrolment) close(ctx context.Context) error {
	if e == nil {
		return nil
	}
	e.web.Close(ctx)
	return e.door.Close()
}

// describe fills in the listener's row of a status page.
func (e *enrolment) describe(st *admin.Status) {
	if e == nil {
		return
	}
	out := admin.ListenerStatus{Name: config.EnrolmentListener, Address: e.door.Addr().String(), Protocol: "enrolment", Profile: "modern", Connections: e.door.Connections()}
	for _, c := range e.door.Certificates() {
		out.Certificates = append(out.Certificates, admin.CertificateStatus{Name: cmp.Or(append(c.DNSNames, "certificate")...), NotAfter: c.NotAfter})
	}
	st.Listeners = append(st.Listeners, out)
	if e.plain != nil {
		st.Listeners = append(st.Listeners, admin.ListenerStatus{Name: config.EnrolmentListener, Address: e.plain.Addr().String(), Protocol: "scep", Profile: "no",
			Connections: e.plain.Connections()})
	}
}

// sameEnrolment reports whether two configurations have the same enrolment
// listener. Quota, grace and what ACME may lead to are asked for with every request.
func sameEnrolment(a, b config.Enrolment) bool {
	a.Quota, a.Grace, a.ClassGrace, a.ACME = b.Quota, b.Grace, b.ClassGrace, b.ACME
	return reflect.DeepEqual(a, b)
}

// enrolled counts an answer to who asked for a certificate.
func (g *Gateway) enrolled(way enrol.Way, result string) { g.metrics.Enrolment(string(way), result) }
