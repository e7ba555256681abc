package policy

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A keyWriter is a writer of a question as bytes: equal bytes, equal input. It
// writes what the inputWriter would build, in a form that can be read in only
// one way: each member is its name, a type, and a value of known length, and
// each object ends.
type keyWriter struct {
	b       []byte
	devices *deviceKeys // nil if none are kept
	// last is the route that was written last, and lastRoute how.
	last      *protocol.Route
	lastRoute []byte
}

// Types of what follows a member's name, or stands in a list.
const (
	keyEnd byte = iota
	keyObject
	keyText
	keyNumber
	keyFalse
	keyTrue
	keyDecimal
	keyMoment
	keyNoMoment
	keyDate
	keyAddr4
	keyAddr16
	keyNull
	keyList
)

// member writes a name and a type. A name of the tree of paths is its number
// there; any other is 0 and the name.
func (k *keyWriter) member(name string, want *paths, typ byte) {
	k.b = append(k.b, typ)
	k.b = binary.AppendUvarint(k.b, want.id)
	if want.id == 0 {
		k.string(name)
	}
}

func (k *keyWriter) string(s string) {
	k.b = binary.AppendUvarint(k.b, uint64(len(s)))
	k.b = append(k.b, s...)
}

func (k *keyWriter) open(name string, want *paths, _ int) { k.member(name, want, keyObject) }

func (k *keyWriter) close() { k.b = append(k.b, keyEnd) }

func (k *keyWriter) text(name string, want *paths, v string) {
	k.member(name, want, keyText)
	k.string(v)
}

func (k *keyWriter) number(name string, want *paths, n int64) {
	k.member(name, want, keyNumber)
	k.b = binary.AppendVarint(k.b, n)
}

func (k *keyWriter) truth(name string, want *paths, v bool) {
	typ := keyFalse
	if v {
		typ = keyTrue
	}
	k.member(name, want, typ)
}

func (k *keyWriter) decimal(name string, want *paths, v float64) {
	k.member(name, want, keyDecimal)
	k.b = binary.BigEndian.AppendUint64(k.b, math.Float64bits(v))
}

func (k *keyWriter) moment(name string, want *paths, t time.Time) {
	if t.IsZero() {
		k.member(name, want, keyNoMoment)
		return
	}
	k.member(name, want, keyMoment)
	k.b = binary.AppendVarint(k.b, t.Unix())
}

func (k *keyWriter) date(name string, want *paths, t time.Time) {
	k.member(name, want, keyDate)
	y, m, d := t.Date()
	k.b = binary.AppendVarint(k.b, int64(y))
	k.b = append(k.b, byte(m), byte(d))
}

func (k *keyWriter) addr(name string, want *paths, a netip.Addr) {
	if a.Is4() {
		k.member(name, want, keyAddr4)
		v := a.As4()
		k.b = append(k.b, v[:]...)
		return
	}
	k.member(name, want, keyAddr16)
	v := a.As16()
	k.b = append(k.b, v[:]...)
}

func (k *keyWriter) value(name string, want *paths, v protocol.Value) {
	k.member(name, want, kindOf(v))
	k.payload(v, want)
}

func kindOf(v protocol.Value) byte {
	switch v.Kind() {
	case protocol.KindBool:
		if v.True() {
			return keyTrue
		}
		return keyFalse
	case protocol.KindInt:
		return keyNumber
	case protocol.KindString:
		return keyText
	case protocol.KindList:
		return keyList
	case protocol.KindObject:
		return keyObject
	}
	return keyNull
}

func (k *keyWriter) payload(v protocol.Value, want *paths) {
	switch v.Kind() {
	case protocol.KindInt:
		k.b = binary.AppendVarint(k.b, v.Number())
	case protocol.KindString:
		k.string(v.Text())
	case protocol.KindList:
		k.b = binary.AppendUvarint(k.b, uint64(len(v.Elems())))
		for _, e := range v.Elems() {
			k.b = append(k.b, kindOf(e))
			k.payload(e, everything)
		}
	case protocol.KindObject:
		fs := v.Fields()
		if s := want.shaped(fs); s != nil {
			for i, w := range s.want {
				if w != nil {
					k.value(fs[i].Name, w, fs[i].Value)
				}
			}
		} else {
			for i := range fs {
				if w := want.at(fs[i].Name); w != nil {
					k.value(fs[i].Name, w, fs[i].Value)
				}
			}
		}
		k.b = append(k.b, keyEnd)
	}
}
