package policy

import (
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// input builds the input of a question, version 1, as docs/policy-input.md
// describes it, and of that only what want says is read.
func input(q *Question, loc *time.Location, want *paths) *ast.Term {
	o := object{want: want, pairs: make([][2]*ast.Term, 0, 7)}
	if q.Device != nil {
		o.term("device", func(w *paths) *ast.Term { return deviceTerm(q, w) })
	}
	if q.Session != nil {
		o.term("session", func(w *paths) *ast.Term { return sessionTerm(q, w) })
	}
	if q.Transaction != nil {
		o.term("request", func(w *paths) *ast.Term { return requestTerm(q.Transaction, w) })
	}
	if q.Route != nil {
		o.term("route", func(w *paths) *ast.Term { return routeTerm(q.Route, w) })
	}
	o.term("time", func(w *paths) *ast.Term { return timeTerm(q.Now.In(loc), w) })
	o.term("behaviour", behaviourTerm)
	o.term("break_glass", breakGlassTerm)
	return o.done()
}

// An object is one being built, of the members that are wanted.
type object struct {
	want  *paths
	pairs [][2]*ast.Term
}

func (o *object) done() *ast.Term { return ast.NewTerm(ast.NewObject(o.pairs...)) }

func (o *object) term(name string, f func(*paths) *ast.Term) {
	if w := o.want.at(name); w != nil {
		o.pairs = append(o.pairs, [2]*ast.Term{key(name), f(w)})
	}
}

func (o *object) text(name, v string) {
	if o.want.at(name) != nil {
		o.pairs = append(o.pairs, [2]*ast.Term{key(name), ast.StringTerm(v)})
	}
}

func (o *object) number(name string, n int64) {
	if o.want.at(name) != nil {
		o.pairs = append(o.pairs, [2]*ast.Term{key(name), integer(n)})
	}
}

func (o *object) truth(name string, b bool) {
	if o.want.at(name) != nil {
		o.pairs = append(o.pairs, [2]*ast.Term{key(name), ast.InternedTerm(b)})
	}
}

// key returns the term of a member's name. OPA keeps one for many common names.
func key(name string) *ast.Term {
	if ast.HasInternedValue(name) {
		return ast.InternedTerm(name)
	}
	return ast.StringTerm(name)
}

func integer(n int64) *ast.Term {
	if int64(int(n)) == n {
		return ast.InternedTerm(int(n))
	}
	return ast.NewTerm(ast.Number(strconv.FormatInt(n, 10)))
}

// moment writes a time as policies see it: UTC, to the second, "" for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func deviceTerm(q *Question, want *paths) *ast.Term {
	d := q.Device
	o := object{want: want, pairs: make([][2]*ast.Term, 0, 8)}
	o.text("id", d.ID)
	o.text("class", d.Class)
	o.text("manufacturer", d.Manufacturer)
	o.text("model", d.Model)
	o.text("serial", d.Serial)
	o.text("udi", d.UDI)
	o.text("location", d.Location)
	o.text("owner", d.Owner)
	o.text("status", string(d.Status))
	o.truth("life_critical", d.LifeCritical)
	o.term("tags", func(w *paths) *ast.Term {
		tags := object{want: w}
		for k, v := range d.Tags {
			tags.text(k, v)
		}
		return tags.done()
	})
	o.term("posture", func(w *paths) *ast.Term { return postureTerm(&d.Posture, q.Now, w) })
	if q.Session != nil {
		if c := d.Certificate(q.Session.Fingerprint); c != nil {
			o.term("cert", func(w *paths) *ast.Term { return certTerm(c, w) })
		}
	}
	return o.done()
}

func postureTerm(p *device.Posture, now time.Time, want *paths) *ast.Term {
	o := object{want: want}
	o.text("firmware", p.Firmware)
	o.term("max_cvss", func(*paths) *ast.Term { return ast.NewTerm(decimal(p.MaxCVSS)) })
	o.truth("assessed", !p.AssessedAt.IsZero())
	o.text("assessed_at", moment(p.AssessedAt))
	if !p.AssessedAt.IsZero() {
		o.number("age_days", max(0, int64(now.Sub(p.AssessedAt)/(24*time.Hour))))
	}
	return o.done()
}

// decimal returns a finite float as a number, and anything else as the worst
// score there is.
func decimal(f float64) ast.Number {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if strings.ContainsAny(s, "IN") {
		return "10"
	}
	return ast.Number(s)
}

func certTerm(c *device.Certificate, want *paths) *ast.Term {
	o := object{want: want}
	o.text("serial", c.Serial)
	o.text("fingerprint", c.Fingerprint)
	o.text("not_after", moment(c.NotAfter))
	o.truth("hardware_backed", c.HardwareBacked)
	return o.done()
}

func sessionTerm(q *Question, want *paths) *ast.Term {
	s := q.Session
	o := object{want: want}
	o.text("listener", s.Listener)
	if s.Remote.IsValid() {
		o.term("remote_ip", func(*paths) *ast.Term {
			return ast.StringTerm(s.Remote.Addr().Unmap().WithZone("").String())
		})
	}
	o.term("tls", func(w *paths) *ast.Term {
		t := object{want: w}
		t.text("version", s.TLS.Version)
		t.text("cipher", s.TLS.Cipher)
		t.text("group", s.TLS.Group)
		t.text("sni", s.TLS.SNI)
		t.text("alpn", s.TLS.ALPN)
		return t.done()
	})
	o.number("age_s", max(0, int64(q.Now.Sub(s.Started)/time.Second)))
	return o.done()
}

// requestTerm puts the vocabularies' facts first, so that none of them can
// stand in for a field of the request itself.
func requestTerm(t *protocol.Transaction, want *paths) *ast.Term {
	o := object{want: want, pairs: make([][2]*ast.Term, 0, 4+len(t.Facts))}
	o.fields(t.Facts)
	o.text("protocol", t.Protocol)
	o.text("action", t.Action)
	o.text("resource", t.Resource)
	o.number("bytes", t.Bytes)
	return o.done()
}

func routeTerm(r *protocol.Route, want *paths) *ast.Term {
	o := object{want: want}
	o.text("name", r.Name)
	o.text("backend", r.Backend)
	o.text("environment", r.Environment)
	class := r.Class
	if class == "" {
		class = protocol.Clinical
	}
	o.text("class", string(class))
	return o.done()
}

func timeTerm(t time.Time, want *paths) *ast.Term {
	o := object{want: want}
	o.term("weekday", func(*paths) *ast.Term { return ast.StringTerm(strings.ToLower(t.Weekday().String())) })
	o.number("hour", int64(t.Hour()))
	o.number("minute", int64(t.Minute()))
	o.term("date", func(*paths) *ast.Term { return ast.StringTerm(t.Format(time.DateOnly)) })
	return o.done()
}

// behaviourTerm says that nothing unusual is known of the device; the gateway
// keeps no baselines that could say otherwise.
func behaviourTerm(want *paths) *ast.Term {
	o := object{want: want}
	o.text("level", "none")
	o.term("signals", func(*paths) *ast.Term { return ast.ArrayTerm() })
	return o.done()
}

// breakGlassTerm says that no emergency grant is open; the gateway has no way to
// open one.
func breakGlassTerm(want *paths) *ast.Term {
	o := object{want: want}
	o.truth("active", false)
	return o.done()
}

// fields adds the wanted ones of an adapter's facts.
func (o *object) fields(fs []protocol.Field) {
	for i := range fs {
		if w := o.want.at(fs[i].Name); w != nil {
			o.pairs = append(o.pairs, [2]*ast.Term{key(fs[i].Name), valueTerm(fs[i].Value, w)})
		}
	}
}

// valueTerm turns a fact into OPA's form. Lists are taken whole: what is read
// of a list is never known to stop at one element.
func valueTerm(v protocol.Value, want *paths) *ast.Term {
	switch v.Kind() {
	case protocol.KindBool:
		return ast.InternedTerm(v.True())
	case protocol.KindInt:
		return integer(v.Number())
	case protocol.KindString:
		return ast.StringTerm(v.Text())
	case protocol.KindList:
		elems := make([]*ast.Term, len(v.Elems()))
		for i, e := range v.Elems() {
			elems[i] = valueTerm(e, everything)
		}
		return ast.ArrayTerm(elems...)
	case protocol.KindObject:
		o := object{want: want}
		o.fields(v.Fields())
		return o.done()
	}
	return ast.NullTerm()
}
