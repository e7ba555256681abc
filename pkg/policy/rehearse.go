package policy

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

const (
	// maxRehearsed bounds the classes and the problems of a rehearsal.
	maxRehearsed   = 32
	maxRehearsedAt = 8
	// rehearsalTime bounds a rehearsal with a set each of whose decisions meets its
	// time limit. A good one takes some milliseconds.
	rehearsalTime = 5 * time.Second
)

// Rehearse asks a set about reports that life-critical devices make on routes: alarms and
// measurements, of each class that it or old has data on, with nothing in them that
// need not be, and with what they usually hold. It returns where that can not be
// decided, which denies an alarm whatever the rules mean; what is denied is right. Where
// old could not decide either, nothing is said; old may be nil. Nothing of it is
// remembered for devices.
func Rehearse(ctx context.Context, set, old *Set, routes []*protocol.Route) (ps []Problem) {
	classes := set.Keys("classes")
	if old != nil {
		classes = append(classes, old.Keys("classes")...)
	}
	slices.Sort(classes)
	classes = slices.Compact(append(classes, "device"))
	start := set.opt.Clock()
	known := map[string]bool{}
	for _, class := range classes[:min(len(classes), maxRehearsed)] {
		for _, r := range routes {
			for _, tx := range rehearsed() {
				if len(ps) == maxRehearsedAt || set.opt.Clock().Sub(start) > rehearsalTime || ctx.Err() != nil {
					return ps
				}
				q := rehearsal(class, r, tx, start)
				d := set.answer(ctx, q)
				if d.Fault != "" && !known[d.Fault] {
					d = set.answer(ctx, q) // a machine that stalls is no fault of the rules
				}
				if d.Fault == "" || known[d.Fault] || ctx.Err() != nil || old != nil && old.answer(ctx, q).Fault != "" {
					continue
				}
				known[d.Fault] = true
				p := placed(d.Fault)
				p.Message += ": it can not be decided whether a life-critical device of class " + class + " may create " + tx.Resource
				if r.Name != "" {
					p.Message += " on route " + r.Name
				}
				ps = append(ps, p)
			}
		}
	}
	return ps
}

// placed takes file and line out of a fault.
func placed(fault string) Problem {
	at, message, _ := strings.Cut(fault, ": ")
	if i := strings.LastIndexByte(at, ':'); i > 0 {
		if line, err := strconv.Atoi(at[i+1:]); err == nil {
			return Problem{File: at[:i], Line: line, Message: message}
		}
	}
	return Problem{Message: fault}
}

// rehearsal makes the question of a transaction by a usual device.
func rehearsal(class string, r *protocol.Route, tx *protocol.Transaction, now time.Time) *Question {
	rec := &device.Record{
		ID: class + "-1", Class: class, Manufacturer: "Example", Model: "One", Serial: "1", Location: "ICU", Owner: "Ward", LifeCritical: true,
		Status: device.Active, StatusAt: now, Posture: device.Posture{Firmware: "1.2.3", MaxCVSS: 1, AssessedAt: now},
		Patients:  []device.Association{{Patient: "p1"}},
		CreatedAt: now, UpdatedAt: now, Revision: 1,
	}
	s := protocol.NewSession(rec)
	s.Listener, s.Remote, s.Started = "devices", netip.MustParseAddrPort("192.0.2.1:50000"), now
	s.TLS = protocol.TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256", Group: "X25519MLKEM768", SNI: "gateway.example", ALPN: "http/1.1"}
	return &Question{Device: rec, Session: s, Route: r, Transaction: tx, Now: now}
}

// rehearsed are the reports, as the FHIR adapter understands them.
func rehearsed() (txs []*protocol.Transaction) {
	text := func(name, v string) protocol.Field { return protocol.Field{Name: name, Value: protocol.String(v)} }
	list := func(name string, v ...protocol.Value) protocol.Field {
		return protocol.Field{Name: name, Value: protocol.List(v...)}
	}
	object := func(name string, f ...protocol.Field) protocol.Field {
		return protocol.Field{Name: name, Value: protocol.Object(f...)}
	}
	for _, typ := range []string{"Observation", "Communication", "DetectedIssue", "Flag"} {
		for _, usual := range []bool{false, true} {
			patient, patients, headers := protocol.String(""), list("patients"), object("headers")
			if usual {
				patient = protocol.Sensitive("p1")
				patients = list("patients", patient)
				headers = object("headers", list("accept", protocol.String("application/fhir+json")), list("user-agent", protocol.String("monitor/1.2.3")))
			}
			fhir := []protocol.Field{
				text("interaction", "create"), text("type", typ), text("id", ""), text("version", ""), text("level", "type"), text("operation", ""),
				{Name: "patient", Value: patient}, patients,
				list("params"), list("modifiers"), list("includes"), list("chains"), list("result_params"), list("unknown_params"), list("preconditions"),
				{Name: "conditional", Value: protocol.Bool(false)}, {Name: "entry", Value: protocol.Bool(false)}, list("conditional_references"),
				object("body", text("type", typ), text("id", ""), protocol.Field{Name: "patient", Value: patient}),
			}
			http := object("http", text("method", "POST"), text("host", "gateway.example"), list("path", protocol.String("fhir"), protocol.String(typ)), object("query"), headers,
				text("content_type", "application/fhir+json"))
			txs = append(txs, &protocol.Transaction{Protocol: "fhir", Action: "create", Resource: typ, Bytes: 900,
				Facts: []protocol.Field{http, {Name: "fhir", Value: protocol.Object(fhir...)}}})
		}
	}
	return txs
}

// rehearse refuses a set that can not decide on reports that the one in force can
// decide on. A set that begins is not refused, nor the first bundle: nothing better is
// there.
func (e *Engine) rehearse(ctx context.Context, next, now *Set) error {
	if e.opt.Rehearsed == nil || now == nil || now.dir == nowhere {
		return nil
	}
	if ps := Rehearse(ctx, next, now, e.opt.Rehearsed()); len(ps) > 0 {
		return &LoadError{Dir: next.dir, Revision: next.revision, Problems: ps}
	}
	return ctx.Err()
}
