package protocol

import "strings"

// Kind is the type of a [Value].
type Kind uint8

// The kinds of values, those of JSON with whole numbers only: no fact of a
// protocol known so far needs a fraction.
const (
	KindNull Kind = iota
	KindBool
	KindInt
	KindString
	KindList
	KindObject
)

// A Value is one typed fact. It is a small tree that says what JSON says, but
// is built without reflection and read without allocation, because one is made
// for every transaction.
//
// Values are immutable by convention: whoever is handed one must not change
// the slices inside it, and must not keep it past the transaction.
type Value struct {
	kind      Kind
	sensitive bool
	num       int64
	str       string
	list      []Value
	obj       []Field
}

// A Field is a named value. Names within one object are unique; the adapter
// that builds the object sees to it.
type Field struct {
	Name  string
	Value Value
}

// Null is the value that says "there is none".
func Null() Value { return Value{} }

// Bool returns a truth value.
func Bool(b bool) Value {
	if b {
		return Value{kind: KindBool, num: 1}
	}
	return Value{kind: KindBool}
}

// Int returns a whole number.
func Int(n int64) Value { return Value{kind: KindInt, num: n} }

// String returns a text that names no patient and may be logged.
func String(s string) Value { return Value{kind: KindString, str: s} }

// Sensitive returns a text that may identify a patient. Policies see it as it
// is; the audit log records a keyed pseudonym of it; nothing else may show it.
func Sensitive(s string) Value { return Value{kind: KindString, str: s, sensitive: true} }

// List returns a list of values.
func List(v ...Value) Value { return Value{kind: KindList, list: v} }

// Strings returns a list of texts that may be logged.
func Strings(ss ...string) Value {
	v := make([]Value, len(ss))
	for i, s := range ss {
		v[i] = String(s)
	}
	return Value{kind: KindList, list: v}
}

// Object returns an object with the given fields.
func Object(f ...Field) Value { return Value{kind: KindObject, obj: f} }

// Kind reports the type of v.
func (v Value) Kind() Kind { return v.kind }

// IsSensitive reports whether v is a text that may identify a patient.
func (v Value) IsSensitive() bool { return v.sensitive }

// Text returns the text of a KindString value, and "" of any other.
func (v Value) Text() string { return v.str }

// Number returns the number of a KindInt value, 1 or 0 of a KindBool one, and
// 0 of any other.
func (v Value) Number() int64 { return v.num }

// True reports whether v is the KindBool value true.
func (v Value) True() bool { return v.kind == KindBool && v.num == 1 }

// Elems returns the elements of a KindList value, and nil of any other.
func (v Value) Elems() []Value { return v.list }

// Fields returns the fields of a KindObject value, and nil of any other.
func (v Value) Fields() []Field { return v.obj }

// Get returns the named field of an object, and whether it is there.
func (v Value) Get(name string) (Value, bool) {
	for i := range v.obj {
		if v.obj[i].Name == name {
			return v.obj[i].Value, true
		}
	}
	return Value{}, false
}

// Clone returns a value that shares nothing with v, to be kept past the
// transaction.
func (v Value) Clone() Value {
	v.str = strings.Clone(v.str)
	if v.list != nil {
		list := make([]Value, len(v.list))
		for i := range v.list {
			list[i] = v.list[i].Clone()
		}
		v.list = list
	}
	v.obj = cloneFields(v.obj)
	return v
}

func cloneFields(fs []Field) []Field {
	if fs == nil {
		return nil
	}
	out := make([]Field, len(fs))
	for i := range fs {
		out[i] = Field{strings.Clone(fs[i].Name), fs[i].Value.Clone()}
	}
	return out
}
