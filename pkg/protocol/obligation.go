package protocol

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The kinds of obligations, as policies write them. There are no others: a
// decision that obliges the gateway to anything else denies.
const (
	// KindRedact: JSON pointers to what is taken out of the answer.
	KindRedact = "redact"
	// KindRPS: transactions a second, of one device.
	KindRPS = "limit_rps"
	// KindBytes: bytes of bodies a second, of one device, in both directions.
	KindBytes = "limit_bytes"
	// KindMaxSession: the age in seconds past which the session takes nothing new.
	KindMaxSession = "max_session_s"
	// KindMirror: names of backends that get a copy of the request.
	KindMirror = "mirror"
	// KindTag: words written to the audit record.
	KindTag = "tag"
)

// Limits of what one decision obliges to.
const (
	maxRPS          = 1_000_000
	maxBytesRate    = 1_000_000_000_000
	maxSessionAge   = 365 * 24 * 60 * 60 // seconds
	maxPointers     = 64
	maxPointerBytes = 256
	maxMirrors      = 4
	maxNameBytes    = 64
	maxTags         = 16
)

// Obligations are what the gateway must also do when it allows. They were read
// and checked when the decision was made and are shared by all transactions with
// an equal one: nobody changes them. A nil *Obligations is none.
type Obligations struct {
	// Redact lists what is taken out of the answer, in order of their texts.
	Redact []Pointer
	// RPS and Bytes are limits in transactions and bytes a second, in ascending
	// order. All of them hold: each counts what it is asked for.
	RPS, Bytes []int64
	// MaxSession is the age past which the session takes nothing new, or 0.
	MaxSession time.Duration
	// Mirror names the backends that get a copy of the request, in order.
	Mirror []string
	// Tags are the words for the record, in order.
	Tags []string

	value Value
}

// An Obligation is one of them as a policy writes it.
type Obligation struct {
	Kind  string
	Value Value
}

// A Pointer leads to a part of a JSON document: the names and indexes on the
// way (RFC 6901's reference tokens), at least one.
type Pointer []string

// String returns the pointer as policies write it.
func (p Pointer) String() string {
	var b strings.Builder
	for _, t := range p {
		b.WriteByte('/')
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(t, "~", "~0"), "/", "~1"))
	}
	return b.String()
}

// Oblige reads obligations. Several of one kind add up to the strictest: every
// limit holds, the shortest session counts, everything is redacted, mirrored and
// tagged. It returns nil if there are none. The error says what can not be met,
// and holds no value, because values may be made of what a device sent.
func Oblige(list []Obligation) (*Obligations, error) {
	if len(list) == 0 {
		return nil, nil
	}
	o := &Obligations{}
	for _, b := range list {
		if err := o.add(b); err != nil {
			return nil, err
		}
	}
	o.settle()
	switch {
	case len(o.Redact) > maxPointers:
		return nil, fmt.Errorf("the rules oblige the gateway to redact more than %d things at once", maxPointers)
	case len(o.Mirror) > maxMirrors:
		return nil, fmt.Errorf("the rules oblige the gateway to mirror to more than %d backends at once", maxMirrors)
	case len(o.Tags) > maxTags:
		return nil, fmt.Errorf("the rules oblige the gateway to more than %d tags at once", maxTags)
	}
	return o, nil
}

func (o *Obligations) add(b Obligation) error {
	switch b.Kind {
	case KindRedact:
		return each(b, "a JSON pointer such as \"/subject/display\", or a list of them", func(s string) bool {
			p, ok := parsePointer(s)
			o.Redact = append(o.Redact, p)
			return ok
		})
	case KindRPS:
		n, err := number(b, maxRPS)
		o.RPS = append(o.RPS, n)
		return err
	case KindBytes:
		n, err := number(b, maxBytesRate)
		o.Bytes = append(o.Bytes, n)
		return err
	case KindMaxSession:
		n, err := number(b, maxSessionAge)
		if age := time.Duration(n) * time.Second; o.MaxSession == 0 || age < o.MaxSession {
			o.MaxSession = age
		}
		return err
	case KindMirror:
		return each(b, "the name of a backend, or a list of them", func(s string) bool {
			o.Mirror = append(o.Mirror, s)
			return s != "" && len(s) <= maxNameBytes
		})
	case KindTag:
		return each(b, "a word of letters, digits and -._:/ with up to 64 of them, or a list of such words", func(s string) bool {
			o.Tags = append(o.Tags, s)
			return isTag(s)
		})
	}
	return KnownObligation(b.Kind)
}

// KnownObligation returns nil for a kind of obligation that there is, and else
// the error that [Oblige] has for it.
func KnownObligation(kind string) error {
	switch kind {
	case KindRedact, KindRPS, KindBytes, KindMaxSession, KindMirror, KindTag:
		return nil
	}
	if plainKind(kind) {
		return fmt.Errorf("the rules oblige the gateway to %q, which it cannot do; it can %s, %s, %s, %s, %s and %s", kind,
			KindRedact, KindRPS, KindBytes, KindMaxSession, KindMirror, KindTag)
	}
	return fmt.Errorf("the rules oblige the gateway to something it cannot do")
}

// plainKind reports whether an unknown kind may be shown: it is a word as one
// writes it in a rule, and not likely something that a device sent.
func plainKind(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '_' && (c < 'a' || c > 'z') {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

func wrongValue(kind, want string) error {
	return fmt.Errorf("the rules oblige the gateway to %s, whose value must be %s", kind, want)
}

// number reads a value that is a positive whole number.
func number(b Obligation, most int64) (int64, error) {
	n := b.Value.Number()
	if b.Value.Kind() != KindInt || n < 1 || n > most {
		return 0, wrongValue(b.Kind, "a whole number from 1 to "+strconv.FormatInt(most, 10))
	}
	return n, nil
}

// each reads a value that is a text or a list of them, but not an empty one.
func each(b Obligation, want string, take func(string) bool) error {
	list := b.Value.Elems()
	if b.Value.Kind() == KindString {
		list = []Value{b.Value}
	}
	for _, v := range list {
		if v.Kind() != KindString || !take(v.Text()) {
			return wrongValue(b.Kind, want)
		}
	}
	if len(list) == 0 {
		return wrongValue(b.Kind, want)
	}
	return nil
}

// parsePointer reads a JSON pointer (RFC 6901 section 3). The whole document is
// nothing to point at, and neither is the place after a list's end; the type of
// a resource is what says that it is one.
func parsePointer(s string) (Pointer, bool) {
	rest, ok := strings.CutPrefix(s, "/")
	if !ok || len(s) > maxPointerBytes {
		return nil, false
	}
	p := Pointer(strings.Split(rest, "/"))
	for i, t := range p {
		if t == "" || t == "-" || strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(t), "~") {
			return nil, false
		}
		p[i] = strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~")
	}
	return p, p[len(p)-1] != "resourceType"
}

// isTag reports whether s may stand in a record as it is and be searched for.
func isTag(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._:/", c) >= 0) {
			return false
		}
	}
	return s != "" && len(s) <= maxNameBytes
}

// settle puts everything in order, so that equal obligations are equal as
// values, and writes them as they are recorded.
func (o *Obligations) settle() {
	slices.SortFunc(o.Redact, func(a, b Pointer) int { return slices.Compare(a, b) })
	o.Redact = slices.CompactFunc(o.Redact, func(a, b Pointer) bool { return slices.Equal(a, b) })
	slices.Sort(o.RPS)
	o.RPS = slices.Compact(o.RPS)
	slices.Sort(o.Bytes)
	o.Bytes = slices.Compact(o.Bytes)
	slices.Sort(o.Mirror)
	o.Mirror = slices.Compact(o.Mirror)
	slices.Sort(o.Tags)
	o.Tags = slices.Compact(o.Tags)

	var fs []Field
	add := func(kind string, list []Value) {
		if len(list) > 0 {
			fs = append(fs, Field{kind, List(list...)})
		}
	}
	var pointers, rps, bytes []Value
	for _, p := range o.Redact {
		pointers = append(pointers, String(p.String()))
	}
	for _, n := range o.RPS {
		rps = append(rps, Int(n))
	}
	for _, n := range o.Bytes {
		bytes = append(bytes, Int(n))
	}
	add(KindRedact, pointers)
	add(KindRPS, rps)
	add(KindBytes, bytes)
	if o.MaxSession > 0 {
		fs = append(fs, Field{KindMaxSession, Int(int64(o.MaxSession / time.Second))})
	}
	add(KindMirror, Strings(o.Mirror...).Elems())
	add(KindTag, Strings(o.Tags...).Elems())
	o.value = Object(fs...)
}

// Value returns the obligations as the audit log records them: an object of
// kinds, each with the list of what was asked for, max_session_s with one number.
// Of none it is null.
func (o *Obligations) Value() Value {
	if o == nil {
		return Null()
	}
	return o.value
}

// Each calls f with each kind that is there, and what is asked for in words.
func (o *Obligations) Each(f func(kind, what string)) {
	for _, m := range o.Value().Fields() {
		var words []string
		for _, v := range m.Value.Elems() {
			words = append(words, word(v))
		}
		if m.Value.Kind() == KindInt {
			words = []string{word(m.Value)}
		}
		f(m.Name, strings.Join(words, " "))
	}
}

func word(v Value) string {
	if v.Kind() == KindInt {
		return strconv.FormatInt(v.Number(), 10)
	}
	return v.Text()
}
