package workbench

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/policies"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// A ward is a small hospital's registry, policies and log.
type ward struct {
	tb      testing.TB
	dir     string
	set     *policy.Set
	devices DeviceList
	log     *audit.Log
	now     time.Time
	n       int
	grant   *breakglass.Grant // under which is decided
	cause   string            // that stops what is allowed
}

func newWard(tb testing.TB) *ward {
	tb.Helper()
	w := &ward{tb: tb, dir: tb.TempDir(), devices: DeviceList{}, now: time.Date(2026, 3, 4, 9, 0, 0, 0, time.UTC)}
	w.set = w.load("", "")
	var err error
	w.log, err = audit.Open(context.Background(), audit.Config{
		Dir: filepath.Join(w.dir, "audit"), Origin: audit.Origin("hospital.example"), Clock: func() time.Time { return w.now },
		Audit: config.Audit{BlockRecords: 4096, BlockTime: config.Duration(time.Second), FlushTime: config.Duration(50 * time.Millisecond),
			Buffer: 8 << 20, RotateSize: 64 << 20, Identifiers: "pseudonym"},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { w.close() })
	for i, class := range []string{"patient-monitor", "infusion-pump", "ventilator", "glucose-meter", "ct-scanner"} {
		for j := range 4 {
			id := fmt.Sprintf("%s-%d", class, j)
			w.devices[id] = &device.Record{ID: id, Class: class, Status: device.Active, Location: "icu-2", Manufacturer: "Example",
				Posture: device.Posture{AssessedAt: w.now.AddDate(0, -1, 0)}, Revision: uint64(10*i + j + 1)}
		}
	}
	return w
}

func (w *ward) close() {
	if w.log != nil {
		if err := w.log.Close(); err != nil {
			w.tb.Error(err)
		}
		w.log = nil
	}
}

// load loads the shipped set with one file more.
func (w *ward) load(name, body string) *policy.Set {
	w.tb.Helper()
	dir := filepath.Join(w.tb.TempDir(), "policies")
	if err := policies.Write(dir); err != nil {
		w.tb.Fatal(err)
	}
	if name != "" {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), []byte(body), 0o600); err != nil {
			w.tb.Fatal(err)
		}
	}
	s, err := policy.Load(context.Background(), dir, policy.Options{})
	if err != nil {
		w.tb.Fatal(err)
	}
	return s
}

// fhir is a FHIR request as the adapter tells of it.
func fhir(interaction, typ, patient string) *protocol.Transaction {
	s := protocol.String
	f := func(name string, v protocol.Value) protocol.Field { return protocol.Field{Name: name, Value: v} }
	method := map[string]string{"create": "POST", "update": "PUT", "delete": "DELETE"}[interaction]
	if method == "" {
		method = "GET"
	}
	params := protocol.List()
	if interaction == "search-type" {
		params = protocol.Strings("patient")
	}
	return &protocol.Transaction{Protocol: "fhir", Action: interaction, Resource: typ, Bytes: 900, Facts: []protocol.Field{
		f("http", protocol.Object(f("method", s(method)), f("host", s("gw.hospital.example")), f("path", protocol.List(s("fhir"), s(typ), protocol.Sensitive("id-"+patient))),
			f("query", protocol.Object()), f("headers", protocol.Object(f("user-agent", protocol.Strings("monitor/4.2")))), f("content_type", s("application/fhir+json")))),
		f("fhir", protocol.Object(f("interaction", s(interaction)), f("type", s(typ)), f("id", protocol.Sensitive("id-"+patient)), f("version", s("")),
			f("patient", protocol.Sensitive(patient)), f("operation", s("")), f("level", s("type")), f("params", params), f("modifiers", protocol.List()),
			f("includes", protocol.List()), f("chains", protocol.List()), f("result_params", protocol.List()), f("unknown_params", protocol.List()),
			f("preconditions", protocol.List()), f("conditional", protocol.Bool(false)), f("entry", protocol.Bool(false)))),
	}}
}

func (w *ward) session(d *device.Record) *protocol.Session {
	s := protocol.NewSession(d)
	s.ID, s.Listener, s.Fingerprint = "s-"+d.ID, "devices", "f-"+d.ID
	s.Remote = netip.MustParseAddrPort("10.1.2.3:4567")
	s.Started = w.now.Add(-90 * time.Second)
	s.TLS = protocol.TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256", Group: "X25519MLKEM768", SNI: "gw.hospital.example", ALPN: "h2"}
	return s
}

var route = &protocol.Route{Name: "ehr", Backend: "ehr", Environment: "production", Class: protocol.Clinical}

// decide has the set in force decide a transaction and records it, as the judge
// does. It returns the decision's id.
func (w *ward) decide(id string, tx *protocol.Transaction) string {
	w.tb.Helper()
	d := w.devices[id]
	s := w.session(d)
	dec := w.set.Decide(context.Background(), &policy.Question{Device: d, Session: s, Route: route, Transaction: tx, BreakGlass: w.grant, Now: w.now})
	w.n++
	rec := &audit.Record{Kind: audit.KindTransaction, Event: decided, Device: d.ID, Class: d.Class, DeviceStatus: string(d.Status), DeviceRevision: d.Revision,
		Fingerprint: s.Fingerprint, Session: s.ID, Age: 90 * time.Second, Listener: s.Listener, Remote: s.Remote, TLS: &s.TLS, Route: route.Name, Backend: route.Backend,
		Environment: route.Environment, RouteClass: string(route.Class), Transaction: tx,
		Decision: &audit.Decision{ID: fmt.Sprintf("d%05d", w.n), Allow: dec.Allow, Reasons: dec.Reasons, Denials: dec.Denials, Revision: dec.Revision, Elapsed: dec.Elapsed}}
	for _, a := range d.Patients {
		rec.DevicePatients = append(rec.DevicePatients, a.Patient.Fact())
	}
	if !dec.Allow {
		rec.Decision.Cause = "policy"
	}
	if w.cause != "" {
		rec.Decision.Allow, rec.Decision.Cause, rec.Decision.Denials = false, w.cause, []string{"beyond it"}
	}
	if g := w.grant; g != nil {
		rec.BreakGlass = &audit.BreakGlass{ID: g.ID, Reason: g.Terms.Reason, Until: g.Until}
	}
	w.append(rec)
	return rec.Decision.ID
}

func (w *ward) append(r *audit.Record) {
	w.tb.Helper()
	if err := w.log.Append(context.Background(), r); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *ward) audit() string {
	w.tb.Helper()
	if err := w.log.Flush(context.Background()); err != nil {
		w.tb.Fatal(err)
	}
	return filepath.Join(w.dir, "audit")
}
