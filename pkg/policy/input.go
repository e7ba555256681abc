package policy

import (
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A builder makes inputs for one set. It holds nothing of any question.
type builder struct {
	loc  *time.Location
	want *paths
	// words are the texts that the set's own rules and data use, ready made:
	// most of what is compared with them is one of them.
	words map[string]*ast.Term
}

// Limits of builder.words. Longer texts are seldom met again.
const (
	maxWords   = 1 << 14
	maxWordLen = 64
)

func newBuilder(loc *time.Location, want *paths, data *datum, modules map[string]*ast.Module) *builder {
	b := &builder{loc: loc, want: want, words: map[string]*ast.Term{}}
	ast.WalkTerms(ast.NewTerm(data.ast()), b.learn)
	for _, m := range modules {
		ast.WalkTerms(m, b.learn)
	}
	return b
}

func (b *builder) learn(t *ast.Term) bool {
	if s, ok := t.Value.(ast.String); ok && len(s) <= maxWordLen && len(b.words) < maxWords {
		if b.words[string(s)] == nil {
			// A term of its own: those of a module carry a location.
			b.words[string(s)] = ast.StringTerm(string(s))
		}
	}
	return false
}

func (b *builder) word(s string) *ast.Term {
	if t := b.words[s]; t != nil {
		return t
	}
	return ast.StringTerm(s)
}

// input builds the input of a question, version 1, as docs/policy-input.md
// describes it, and of that only what the set reads.
func (b *builder) input(q *Question) *ast.Term {
	o := b.object(b.want, 7)
	if w := o.wants("device"); w != nil && q.Device != nil {
		o.term("device", w, b.device(q, w))
	}
	if w := o.wants("session"); w != nil && q.Session != nil {
		o.term("session", w, b.session(q, w))
	}
	if w := o.wants("request"); w != nil && q.Transaction != nil {
		o.term("request", w, b.request(q.Transaction, w))
	}
	if w := o.wants("route"); w != nil && q.Route != nil {
		o.term("route", w, b.route(q.Route, w))
	}
	if w := o.wants("time"); w != nil {
		o.term("time", w, b.time(q.Now.In(b.loc), w))
	}
	if w := o.wants("behaviour"); w != nil {
		o.term("behaviour", w, b.behaviour(w))
	}
	if w := o.wants("break_glass"); w != nil {
		o.term("break_glass", w, b.breakGlass(w))
	}
	return o.done()
}

// An object is one being built, of the members that are wanted.
type object struct {
	b     *builder
	want  *paths
	pairs [][2]*ast.Term
}

// object begins one of about n members.
func (b *builder) object(want *paths, n int) object {
	if !want.all {
		n = len(want.kids)
	}
	return object{b, want, make([][2]*ast.Term, 0, n)}
}

func (o *object) done() *ast.Term {
	if len(o.pairs) == 0 {
		return ast.InternedEmptyObject
	}
	return ast.NewTerm(ast.NewObject(o.pairs...))
}

// wants returns what of the member is read, or nil if nothing is.
func (o *object) wants(name string) *paths { return o.want.at(name) }

// term adds a member that is wanted.
func (o *object) term(name string, w *paths, t *ast.Term) {
	key := w.key
	if key == nil {
		key = o.b.word(name)
	}
	o.pairs = append(o.pairs, [2]*ast.Term{key, t})
}

func (o *object) text(name, v string) {
	if w := o.wants(name); w != nil {
		o.term(name, w, o.b.word(v))
	}
}

func (o *object) number(name string, n int64) {
	if w := o.wants(name); w != nil {
		o.term(name, w, integer(n))
	}
}

func (o *object) truth(name string, v bool) {
	if w := o.wants(name); w != nil {
		o.term(name, w, ast.InternedTerm(v))
	}
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

func (b *builder) device(q *Question, want *paths) *ast.Term {
	d := q.Device
	o := b.object(want, 14)
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
	if w := o.wants("tags"); w != nil {
		tags := b.object(w, len(d.Tags))
		for k, v := range d.Tags {
			tags.text(k, v)
		}
		o.term("tags", w, tags.done())
	}
	if w := o.wants("posture"); w != nil {
		o.term("posture", w, b.posture(&d.Posture, q.Now, w))
	}
	if w := o.wants("cert"); w != nil && q.Session != nil {
		if c := d.Certificate(q.Session.Fingerprint); c != nil {
			o.term("cert", w, b.cert(c, w))
		}
	}
	return o.done()
}

func (b *builder) posture(p *device.Posture, now time.Time, want *paths) *ast.Term {
	o := b.object(want, 5)
	o.text("firmware", p.Firmware)
	if w := o.wants("max_cvss"); w != nil {
		o.term("max_cvss", w, ast.NewTerm(decimal(p.MaxCVSS)))
	}
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

func (b *builder) cert(c *device.Certificate, want *paths) *ast.Term {
	o := b.object(want, 5)
	o.text("serial", c.Serial)
	o.text("fingerprint", c.Fingerprint)
	o.text("not_after", moment(c.NotAfter))
	o.truth("hardware_backed", c.HardwareBacked)
	return o.done()
}

func (b *builder) session(q *Question, want *paths) *ast.Term {
	s := q.Session
	o := b.object(want, 5)
	o.text("listener", s.Listener)
	if w := o.wants("remote_ip"); w != nil && s.Remote.IsValid() {
		o.term("remote_ip", w, ast.StringTerm(s.Remote.Addr().Unmap().WithZone("").String()))
	}
	if w := o.wants("tls"); w != nil {
		t := b.object(w, 5)
		t.text("version", s.TLS.Version)
		t.text("cipher", s.TLS.Cipher)
		t.text("group", s.TLS.Group)
		t.text("sni", s.TLS.SNI)
		t.text("alpn", s.TLS.ALPN)
		o.term("tls", w, t.done())
	}
	o.number("age_s", max(0, int64(q.Now.Sub(s.Started)/time.Second)))
	return o.done()
}

// request leaves out a vocabulary that has the name of one of the request's own
// fields: no fact of an adapter can stand in for those.
func (b *builder) request(t *protocol.Transaction, want *paths) *ast.Term {
	o := b.object(want, 4+len(t.Facts))
	for i := range t.Facts {
		switch t.Facts[i].Name {
		case "protocol", "action", "resource", "bytes":
		default:
			o.fields(t.Facts[i : i+1])
		}
	}
	o.text("protocol", t.Protocol)
	o.text("action", t.Action)
	o.text("resource", t.Resource)
	o.number("bytes", t.Bytes)
	return o.done()
}

func (b *builder) route(r *protocol.Route, want *paths) *ast.Term {
	o := b.object(want, 5)
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

func (b *builder) time(t time.Time, want *paths) *ast.Term {
	o := b.object(want, 5)
	if o.wants("weekday") != nil {
		o.text("weekday", strings.ToLower(t.Weekday().String()))
	}
	o.number("hour", int64(t.Hour()))
	o.number("minute", int64(t.Minute()))
	if o.wants("date") != nil {
		o.text("date", t.Format(time.DateOnly))
	}
	return o.done()
}

// behaviour says that nothing unusual is known of the device; the gateway
// keeps no baselines that could say otherwise.
func (b *builder) behaviour(want *paths) *ast.Term {
	o := b.object(want, 5)
	o.text("level", "none")
	if w := o.wants("signals"); w != nil {
		o.term("signals", w, ast.InternedEmptyArray)
	}
	return o.done()
}

// breakGlass says that no emergency grant is open; the gateway has no way to
// open one.
func (b *builder) breakGlass(want *paths) *ast.Term {
	o := b.object(want, 5)
	o.truth("active", false)
	return o.done()
}

// fields adds the wanted ones of an adapter's facts.
func (o *object) fields(fs []protocol.Field) {
	for i := range fs {
		if w := o.wants(fs[i].Name); w != nil {
			o.term(fs[i].Name, w, o.b.value(fs[i].Value, w))
		}
	}
}

// value turns a fact into OPA's form. Lists are taken whole: what is read of a
// list is never known to stop at one element.
func (b *builder) value(v protocol.Value, want *paths) *ast.Term {
	switch v.Kind() {
	case protocol.KindBool:
		return ast.InternedTerm(v.True())
	case protocol.KindInt:
		return integer(v.Number())
	case protocol.KindString:
		return b.word(v.Text())
	case protocol.KindList:
		if len(v.Elems()) == 0 {
			return ast.InternedEmptyArray
		}
		elems := make([]*ast.Term, len(v.Elems()))
		for i, e := range v.Elems() {
			elems[i] = b.value(e, everything)
		}
		return ast.ArrayTerm(elems...)
	case protocol.KindObject:
		o := b.object(want, len(v.Fields()))
		o.fields(v.Fields())
		return o.done()
	}
	return ast.NullTerm()
}
