package policy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A writer takes the facts of a question, in order: as OPA's input, or as the
// key of a decision. Each fact comes with its name and with what below it is
// read, which is never nil.
type writer interface {
	open(name string, want *paths, n int) // begins an object of up to n members
	close()
	text(name string, want *paths, v string)
	number(name string, want *paths, n int64)
	truth(name string, want *paths, v bool)
	decimal(name string, want *paths, v float64)
	moment(name string, want *paths, t time.Time) // UTC, to the second
	date(name string, want *paths, t time.Time)   // the day, where t says it is
	addr(name string, want *paths, a netip.Addr)
	value(name string, want *paths, v protocol.Value)
}

// facts names every fact of a question there is, once for all its writers:
// input version 1, as docs/policy-input.md describes it. It writes what is read
// and skips the rest.
type facts struct {
	out writer
	loc *time.Location
	// input is out where that builds an input, which takes whole parts that were
	// built before.
	input *inputWriter
	// key is out where that writes a key, which takes a device's part as it was
	// written before.
	key *keyWriter
}

// The members of the input, in the order in which they are written.
const (
	memberDevice = iota
	memberSession
	memberRequest
	memberRoute
	memberTime
	memberBehaviour
	memberBreakGlass
)

var members = [...]string{"device", "session", "request", "route", "time", "behaviour", "break_glass"}

// write writes the members of the input.
func (f facts) write(q *Question, want *paths) {
	for i := range members {
		if w := want.at(members[i]); w != nil {
			f.member(i, q, w)
		}
	}
}

// member writes a member of the input, if it is there.
func (f facts) member(i int, q *Question, w *paths) {
	switch i {
	case memberDevice:
		if q.Device == nil {
			return
		}
		switch d := deviceFactsOf(q); {
		case f.input != nil && f.input.deviceAgain(&d, w):
		case f.key != nil && f.key.devices != nil:
			f.key.device(f, &d, w)
		default:
			f.device(&d, w)
		}
	case memberSession:
		if q.Session != nil {
			f.session(q, w)
		}
	case memberRequest:
		if q.Transaction != nil {
			f.request(q.Transaction, w)
		}
	case memberRoute:
		switch {
		case q.Route == nil:
		case f.input != nil && f.input.routeAgain(q.Route, w):
		case f.key != nil && f.key.devices != nil:
			f.key.route(f, q.Route, w)
		default:
			f.route(q.Route, w)
		}
	case memberTime:
		f.time(q.Now.In(f.loc), w)
	case memberBehaviour:
		f.behaviour(w)
	case memberBreakGlass:
		f.breakGlass(q, w)
	}
}

func (f facts) text(want *paths, name, v string) {
	if w := want.at(name); w != nil {
		f.out.text(name, w, v)
	}
}

func (f facts) number(want *paths, name string, n int64) {
	if w := want.at(name); w != nil {
		f.out.number(name, w, n)
	}
}

func (f facts) truth(want *paths, name string, v bool) {
	if w := want.at(name); w != nil {
		f.out.truth(name, w, v)
	}
}

func (f facts) moment(want *paths, name string, t time.Time) {
	if w := want.at(name); w != nil {
		f.out.moment(name, w, t)
	}
}

// A deviceFacts is all that the facts of a device come from. What changes by
// itself as time goes by is here as it is at the moment of the question; nothing
// of a device is taken from the clock itself.
type deviceFacts struct {
	record      *device.Record
	fingerprint string // of the session's certificate
	days        int64  // the age of the device's assessment
	patients    uint64 // which of the record's associations hold
}

// There is a bit for each association.
const _ = uint(64 - device.MaxPatients)

func deviceFactsOf(q *Question) deviceFacts {
	d := deviceFacts{record: q.Device}
	if q.Session != nil {
		d.fingerprint = q.Session.Fingerprint
	}
	if at := q.Device.Posture.AssessedAt; !at.IsZero() {
		d.days = max(0, int64(q.Now.Sub(at)/(24*time.Hour)))
	}
	for i := range q.Device.Patients {
		if q.Device.Patients[i].Holds(q.Now) {
			d.patients |= 1 << i
		}
	}
	return d
}

func (f facts) device(facts *deviceFacts, want *paths) {
	d := facts.record
	f.out.open("device", want, 14)
	f.text(want, "id", d.ID)
	f.text(want, "class", d.Class)
	f.text(want, "manufacturer", d.Manufacturer)
	f.text(want, "model", d.Model)
	f.text(want, "serial", d.Serial)
	f.text(want, "udi", d.UDI)
	f.text(want, "location", d.Location)
	f.text(want, "owner", d.Owner)
	f.text(want, "status", string(d.Status))
	f.truth(want, "life_critical", d.LifeCritical)
	if w := want.at("patients"); w != nil {
		f.patients(facts, w)
	}
	if w := want.at("tags"); w != nil {
		f.tags(d.Tags, w)
	}
	if w := want.at("posture"); w != nil {
		f.posture(&d.Posture, facts.days, w)
	}
	if w := want.at("cert"); w != nil && facts.fingerprint != "" {
		if c := d.Certificate(facts.fingerprint); c != nil {
			f.cert(c, w)
		}
	}
	f.out.close()
}

// patients writes with whom the device is associated now, in the form in which
// adapters name the patients of a transaction.
func (f facts) patients(facts *deviceFacts, want *paths) {
	if facts.patients == 0 {
		f.out.value("patients", want, protocol.List())
		return
	}
	list := make([]protocol.Value, 0, 2)
	for i := range facts.record.Patients {
		if facts.patients>>i&1 == 1 {
			list = append(list, protocol.Sensitive(facts.record.Patients[i].Patient.Fact()))
		}
	}
	f.out.value("patients", want, protocol.List(list...))
}

// tags writes tags in an order of their own: a map has none, and equal
// questions are to be written equally.
func (f facts) tags(tags map[string]string, want *paths) {
	f.out.open("tags", want, len(tags))
	if want.all {
		var few [16]string // enough for nearly all, without allocating
		names := few[:0]
		for name := range tags {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			f.out.text(name, everything, tags[name])
		}
	} else {
		for _, w := range want.order {
			if v, ok := tags[w.name]; ok {
				f.out.text(w.name, w, v)
			}
		}
	}
	f.out.close()
}

func (f facts) posture(p *device.Posture, days int64, want *paths) {
	f.out.open("posture", want, 5)
	f.text(want, "firmware", p.Firmware)
	if w := want.at("max_cvss"); w != nil {
		f.out.decimal("max_cvss", w, p.MaxCVSS)
	}
	f.truth(want, "assessed", !p.AssessedAt.IsZero())
	f.moment(want, "assessed_at", p.AssessedAt)
	if !p.AssessedAt.IsZero() {
		f.number(want, "age_days", days)
	}
	f.out.close()
}

func (f facts) cert(c *device.Certificate, want *paths) {
	f.out.open("cert", want, 4)
	f.text(want, "serial", c.Serial)
	f.text(want, "fingerprint", c.Fingerprint)
	f.moment(want, "not_after", c.NotAfter)
	f.truth(want, "hardware_backed", c.HardwareBacked)
	f.out.close()
}

func (f facts) session(q *Question, want *paths) {
	s := q.Session
	f.out.open("session", want, 4)
	f.text(want, "listener", s.Listener)
	if w := want.at("remote_ip"); w != nil && s.Remote.IsValid() {
		f.out.addr("remote_ip", w, s.Remote.Addr().Unmap().WithZone(""))
	}
	if w := want.at("tls"); w != nil {
		f.out.open("tls", w, 5)
		f.text(w, "version", s.TLS.Version)
		f.text(w, "cipher", s.TLS.Cipher)
		f.text(w, "group", s.TLS.Group)
		f.text(w, "sni", s.TLS.SNI)
		f.text(w, "alpn", s.TLS.ALPN)
		f.out.close()
	}
	f.number(want, "age_s", max(0, int64(q.Now.Sub(s.Started)/time.Second)))
	f.out.close()
}

// request leaves out a vocabulary that has the name of one of the request's own
// fields: no fact of an adapter can stand in for those.
func (f facts) request(t *protocol.Transaction, want *paths) {
	f.out.open("request", want, 4+len(t.Facts))
	f.text(want, "protocol", t.Protocol)
	f.text(want, "action", t.Action)
	f.text(want, "resource", t.Resource)
	f.number(want, "bytes", t.Bytes)
	for i := range t.Facts {
		name := t.Facts[i].Name
		switch name {
		case "protocol", "action", "resource", "bytes":
			continue
		}
		if w := want.at(name); w != nil {
			f.out.value(name, w, t.Facts[i].Value)
		}
	}
	f.out.close()
}

func (f facts) route(r *protocol.Route, want *paths) {
	class := r.Class
	if class == "" {
		class = protocol.Clinical
	}
	f.out.open("route", want, 5)
	f.text(want, "name", r.Name)
	f.text(want, "backend", r.Backend)
	f.text(want, "environment", r.Environment)
	f.text(want, "class", string(class))
	f.truth(want, "quarantine_lane", r.Lane)
	f.out.close()
}

// weekdays are the days' names as policies see them, by time.Weekday.
var weekdays = [...]string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

func (f facts) time(t time.Time, want *paths) {
	f.out.open("time", want, 4)
	f.text(want, "weekday", weekdays[t.Weekday()])
	f.number(want, "hour", int64(t.Hour()))
	f.number(want, "minute", int64(t.Minute()))
	if w := want.at("date"); w != nil {
		f.out.date("date", w, t)
	}
	f.out.close()
}

// behaviour says that nothing unusual is known of the device; the gateway keeps
// no baselines that could say otherwise.
func (f facts) behaviour(want *paths) {
	f.out.open("behaviour", want, 2)
	f.text(want, "level", "none")
	if w := want.at("signals"); w != nil {
		f.out.value("signals", w, protocol.List())
	}
	f.out.close()
}

// breakGlass says whether an emergency grant covers the transaction. Nothing is
// there of one that is over.
func (f facts) breakGlass(q *Question, want *paths) {
	active := q.BreakGlass.ActiveAt(q.Now)
	f.out.open("break_glass", want, 3)
	f.truth(want, "active", active)
	if active {
		f.text(want, "reason", q.BreakGlass.Terms.Reason)
		f.moment(want, "until", q.BreakGlass.Until)
	}
	f.out.close()
}
