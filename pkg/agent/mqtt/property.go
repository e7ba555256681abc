package mqtt

import (
	"encoding/binary"
	"slices"
)

// The properties of version 5 (§2.2.2.2) that mean something here.
const (
	propFormat        = 0x01
	propExpiry        = 0x02
	propContentType   = 0x03
	propResponseTopic = 0x08
	propCorrelation   = 0x09
	propSubscription  = 0x0b
	propSession       = 0x11
	propAssigned      = 0x12
	propKeepAlive     = 0x13
	propAuthMethod    = 0x15
	propAuthData      = 0x16
	propProblem       = 0x17
	propWillDelay     = 0x18
	propRequest       = 0x19
	propResponseInfo  = 0x1a
	propReference     = 0x1c
	propReason        = 0x1f
	propReceive       = 0x21
	propAliasMost     = 0x22
	propAlias         = 0x23
	propMaxQuality    = 0x24
	propRetain        = 0x25
	propUser          = 0x26
	propMaxPacket     = 0x27
	propWildcard      = 0x28
	propIdentifiers   = 0x29
	propShared        = 0x2a
)

// Which properties may be where.
const (
	forPublish    = "\x01\x02\x03\x08\x09\x23\x26"
	forWill       = "\x01\x02\x03\x08\x09\x18\x26"
	forConnect    = "\x11\x15\x16\x17\x19\x21\x22\x26\x27"
	forConnack    = "\x11\x12\x13\x15\x16\x1a\x1c\x1f\x21\x22\x24\x25\x26\x27\x28\x29\x2a"
	forSubscribe  = "\x0b\x26"
	forReason     = "\x1f\x26"
	forDisconnect = "\x11\x1c\x1f\x26"
)

// A property is one as it was read.
type property struct {
	id    byte
	value []byte // with its length before it, if it has one
}

type properties []property

// properties reads properties that may be here, each but a user's once.
func (f *fields) properties(allowed string) (out properties) {
	in := &fields{b: f.take(f.length()), err: f.err}
	for in.err == nil && len(in.b) > 0 {
		id, before := in.byte(), in.b
		switch id {
		case propFormat, propProblem, propRequest, propMaxQuality, propRetain, propWildcard, propIdentifiers, propShared:
			in.byte()
		case propKeepAlive, propReceive, propAliasMost, propAlias:
			in.uint16()
		case propExpiry, propSession, propWillDelay, propMaxPacket:
			in.uint32()
		case propSubscription:
			in.length()
		case propCorrelation, propAuthData:
			in.data()
		case propUser:
			in.text()
			in.text()
		default:
			in.text()
		}
		_, twice := out.find(id)
		if slices.Index([]byte(allowed), id) < 0 || twice && id != propUser {
			in.err = errPacket
		}
		if in.err == nil {
			out = append(out, property{id, before[:len(before)-len(in.b)]})
		}
	}
	f.err = in.err
	return out
}

func (p properties) find(id byte) ([]byte, bool) {
	for i := range p {
		if p[i].id == id {
			return p[i].value, true
		}
	}
	return nil, false
}

// number returns a property that is a number, or what it is if it is not there.
func (p properties) number(id byte, absent uint32) (n uint32) {
	value, ok := p.find(id)
	if !ok {
		return absent
	}
	for _, b := range value {
		n = n<<8 | uint32(b)
	}
	return n
}

// without returns all properties but some.
func (p properties) without(ids ...byte) properties {
	return slices.DeleteFunc(slices.Clone(p), func(q property) bool { return slices.Contains(ids, q.id) })
}

func (p properties) with32(id byte, n uint32) properties {
	return append(p, property{id, binary.BigEndian.AppendUint32(nil, n)})
}

func (p properties) append(b []byte) []byte {
	n := 0
	for i := range p {
		n += 1 + len(p[i].value)
	}
	b = appendLength(b, n)
	for i := range p {
		b = append(append(b, p[i].id), p[i].value...)
	}
	return b
}
