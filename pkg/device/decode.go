package device

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxShared bounds how many texts, and how many sets of tags, a decoder has
// records share. A fleet has fewer classes, models and places than this; what is
// different in every device is not worth remembering.
const maxShared = 1 << 14

// A decoder reads records as the registry writes them: the fields in their order,
// without spaces. It is what makes a start with a million devices one of seconds,
// and it has records share what many of them say, such as their class.
//
// It takes nothing on trust. What does not look exactly as it was written, such as
// a record with a field of a later release, or a text with an escape, is read by
// encoding/json, which also says what is wrong with it; what is read here is what
// encoding/json would have read.
type decoder struct {
	texts map[string]string
	tags  map[string]map[string]string

	b     []byte // the record
	at    int    // how much of it has been read
	bad   bool   // it is not what was expected
	certs [maxCertificates]Certificate
	// The texts that are this record's alone become parts of one: a device has
	// half a dozen, and each by itself costs more than it is long.
	own  []byte
	refs []ref
	// The last time and how it was written: a change stamps several fields alike.
	stamp  time.Time
	stamps []byte
}

// A ref says which part of the record's own texts a field is.
type ref struct {
	to         *string
	begin, end int
}

func newDecoder() *decoder {
	return &decoder{texts: map[string]string{}, tags: map[string]map[string]string{}}
}

// record reads the record of a device.
func (d *decoder) record(id string, value []byte) (*Record, error) {
	rec, ok := d.written(id, value)
	if !ok {
		rec = new(Record)
		if err := json.Unmarshal(value, rec); err != nil {
			return nil, fmt.Errorf("record of %s: %w", id, err)
		}
	}
	if rec.ID != id {
		return nil, fmt.Errorf("record of %s names %s", id, rec.ID)
	}
	return rec, nil
}

// written reads a record as the registry writes it, or reports that it is not.
func (d *decoder) written(id string, value []byte) (*Record, bool) {
	d.b, d.at, d.bad, d.own, d.refs, d.stamps = value, 0, false, d.own[:0], d.refs[:0], nil
	r := &Record{ID: id}
	d.want("{")
	if d.need("id"); string(d.text()) != id {
		return nil, false
	}
	d.need("class")
	d.shared(&r.Class)
	if d.field("manufacturer") {
		d.shared(&r.Manufacturer)
	}
	if d.field("model") {
		d.shared(&r.Model)
	}
	if d.field("serial") {
		d.alone(&r.Serial)
	}
	if d.field("udi") {
		d.alone(&r.UDI)
	}
	if d.field("location") {
		d.shared(&r.Location)
	}
	if d.field("owner") {
		d.shared(&r.Owner)
	}
	if d.field("tags") {
		r.Tags = d.tagged()
	}
	if d.field("life_critical") {
		r.LifeCritical = d.yes()
	}
	var status string
	d.need("status")
	d.shared(&status)
	r.Status = Status(status)
	if d.field("status_reason") {
		d.shared(&r.StatusReason)
	}
	d.need("status_at")
	r.StatusAt = d.time()
	if d.field("revoked_at") {
		r.RevokedAt = d.time()
	}
	d.need("posture")
	d.posture(&r.Posture)
	if d.field("loan") {
		r.Loan = d.loan()
	}
	n := 0
	if d.field("certificates") {
		n = d.certificates()
	}
	d.need("created_at")
	r.CreatedAt = d.time()
	d.need("updated_at")
	r.UpdatedAt = d.time()
	d.need("revision")
	r.Revision = d.number()
	d.want("}")
	if d.bad || d.at != len(d.b) {
		return nil, false
	}
	own := string(d.own)
	for _, f := range d.refs {
		*f.to = own[f.begin:f.end]
	}
	if n > 0 {
		r.Certificates = slices.Clone(d.certs[:n])
	}
	return r, true
}

func (d *decoder) posture(p *Posture) {
	d.want("{")
	if d.field("firmware") {
		d.shared(&p.Firmware)
	}
	if d.field("max_cvss") {
		p.MaxCVSS = d.score()
	}
	if d.field("assessed_at") {
		p.AssessedAt = d.time()
	}
	d.want("}")
}

// loan reads where a device is for a time.
func (d *decoder) loan() *Loan {
	l := new(Loan)
	d.want("{")
	d.need("to")
	d.shared(&l.To)
	if d.field("home_location") {
		d.shared(&l.HomeLocation)
	}
	if d.field("home_owner") {
		d.shared(&l.HomeOwner)
	}
	d.need("since")
	l.Since = d.time()
	d.need("until")
	l.Until = d.time()
	if d.field("then_quarantine") {
		l.ThenQuarantine = d.yes()
	}
	if d.field("by") {
		d.shared(&l.By)
	}
	d.want("}")
	return l
}

// certificates reads a list of them into d.certs, and returns how many they are.
func (d *decoder) certificates() (n int) {
	d.want("[")
	for more := true; more && !d.bad; more = d.has(",") {
		if n == len(d.certs) {
			d.bad = true
			break
		}
		d.certs[n] = Certificate{}
		c := &d.certs[n]
		n++
		d.want("{")
		d.need("serial")
		d.alone(&c.Serial)
		d.need("fingerprint")
		d.alone(&c.Fingerprint)
		d.need("not_before")
		c.NotBefore = d.time()
		d.need("not_after")
		c.NotAfter = d.time()
		if d.field("hardware_backed") {
			c.HardwareBacked = d.yes()
		}
		if d.field("revoked_at") {
			c.RevokedAt = d.time()
		}
		if d.field("revoked_for") {
			d.shared(&c.RevokedFor)
		}
		if d.field("key") {
			d.alone(&c.Key)
		}
		if d.field("way") {
			d.shared(&c.Way)
		}
		if d.field("issued_at") {
			c.IssuedAt = d.time()
		}
		d.want("}")
	}
	d.want("]")
	return n
}

// tagged reads tags. Records are shared and never changed, so two that have the
// same tags can have the same map.
func (d *decoder) tagged() map[string]string {
	begin := d.at
	d.pairs(nil)
	if d.bad {
		return nil
	}
	raw := d.b[begin:d.at]
	if same, ok := d.tags[string(raw)]; ok {
		return same
	}
	out := map[string]string{}
	d.at = begin
	d.pairs(out)
	if !d.bad && len(d.tags) < maxShared {
		d.tags[string(raw)] = out
	}
	return out
}

// pairs reads an object of texts, into a map if there is one. A key that comes
// twice is not as the registry writes it.
func (d *decoder) pairs(into map[string]string) {
	d.want("{")
	for more := true; more && !d.bad; more = d.has(",") {
		key := d.text()
		d.want(":")
		value := d.text()
		if into == nil {
			continue
		}
		if _, twice := into[string(key)]; twice {
			d.bad = true
		}
		into[string(key)] = string(value)
	}
	d.want("}")
}

// has reads s if it is next, and reports whether it was.
func (d *decoder) has(s string) bool {
	if len(d.b)-d.at < len(s) || string(d.b[d.at:d.at+len(s)]) != s {
		return false
	}
	d.at += len(s)
	return true
}

// want reads s, which must be next.
func (d *decoder) want(s string) {
	if !d.has(s) {
		d.bad = true
	}
}

// field reads a field's name, and the comma before it if it is not its object's
// first, if they are next.
func (d *decoder) field(name string) bool {
	rest := d.b[d.at:]
	if d.at > 0 && d.b[d.at-1] != '{' {
		if len(rest) == 0 || rest[0] != ',' {
			return false
		}
		rest = rest[1:]
	}
	n := len(name)
	if len(rest) < n+3 || rest[0] != '"' || string(rest[1:1+n]) != name || rest[n+1] != '"' || rest[n+2] != ':' {
		return false
	}
	d.at = len(d.b) - len(rest) + n + 3
	return true
}

// need reads a field's name, which must be next.
func (d *decoder) need(name string) {
	if !d.field(name) {
		d.bad = true
	}
}

// text reads a text that stands for itself: it has no escape, no control
// character, and is UTF-8. It is valid until the record is.
func (d *decoder) text() []byte {
	d.want(`"`)
	begin, plain := d.at, true
	for i, c := range d.b[begin:] {
		switch {
		case c == '"':
			s := d.b[begin : begin+i]
			d.at = begin + i + 1
			if !plain && !utf8.Valid(s) {
				d.bad = true
			}
			return s
		case c == '\\', c < ' ':
			d.bad = true
			return nil
		case c >= utf8.RuneSelf:
			plain = false
		}
	}
	d.bad = true
	return nil
}

// shared reads a text that other records may have too.
func (d *decoder) shared(to *string) {
	b := d.text()
	s, ok := d.texts[string(b)]
	if !ok {
		if s = string(b); len(d.texts) < maxShared {
			d.texts[s] = s
		}
	}
	*to = s
}

// alone reads a text that is this record's.
func (d *decoder) alone(to *string) {
	begin := len(d.own)
	d.own = append(d.own, d.text()...)
	d.refs = append(d.refs, ref{to, begin, len(d.own)})
}

// yes reads a truth value.
func (d *decoder) yes() bool {
	if d.has("true") {
		return true
	}
	d.want("false")
	return false
}

// digits reads decimal digits.
func (d *decoder) digits() []byte {
	begin := d.at
	for d.at < len(d.b) && d.b[d.at] >= '0' && d.b[d.at] <= '9' {
		d.at++
	}
	return d.b[begin:d.at]
}

// whole reads a whole number of at most most digits, as JSON has it: without a
// zero before it.
func (d *decoder) whole(most int) []byte {
	s := d.digits()
	if len(s) == 0 || len(s) > most || len(s) > 1 && s[0] == '0' {
		d.bad = true
		return nil
	}
	return s
}

// number reads a whole number that any uint64 can hold.
func (d *decoder) number() (n uint64) {
	for _, c := range d.whole(19) {
		n = n*10 + uint64(c-'0')
	}
	return n
}

// score reads a number as severities are written: 9.8.
func (d *decoder) score() float64 {
	begin := d.at
	d.whole(2)
	if d.has(".") && len(d.digits()) == 0 {
		d.bad = true
	}
	f, err := strconv.ParseFloat(string(d.b[begin:d.at]), 64)
	if err != nil {
		d.bad = true
	}
	return f
}

// clock is how a time begins, with its length (RFC 3339 section 5.6).
const clock = "\"2006-01-02T15:04:05"

// time reads a time in UTC.
func (d *decoder) time() time.Time {
	b := d.b[d.at:]
	if len(d.stamps) > 0 && bytes.HasPrefix(b, d.stamps) {
		d.at += len(d.stamps)
		return d.stamp
	}
	if len(b) < len(clock)+2 || b[0] != '"' || b[5] != '-' || b[8] != '-' || b[11] != 'T' || b[14] != ':' || b[17] != ':' {
		d.bad = true
		return time.Time{}
	}
	d.at += len(clock)
	nanos, unit := 0, int(time.Second)
	if d.has(".") {
		part := d.digits()
		if len(part) == 0 || len(part) > 9 {
			d.bad = true
			return time.Time{}
		}
		for _, c := range part {
			unit /= 10
			nanos += int(c-'0') * unit
		}
	}
	d.want(`Z"`)
	year, month, day := d.part(b[1:5]), d.part(b[6:8]), d.part(b[9:11])
	hour, minute, second := d.part(b[12:14]), d.part(b[15:17]), d.part(b[18:20])
	t := time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
	// A day or hour that is none became another time.
	if hour > 23 || minute > 59 || second > 59 || t.Day() != day || t.Month() != time.Month(month) {
		d.bad = true
	}
	d.stamp, d.stamps = t, b[:len(b)-len(d.b)+d.at]
	return t
}

// part is a number of fixed width.
func (d *decoder) part(b []byte) (n int) {
	for _, c := range b {
		if c < '0' || c > '9' {
			d.bad = true
		}
		n = n*10 + int(c-'0')
	}
	return n
}
