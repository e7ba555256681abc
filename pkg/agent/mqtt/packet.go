package mqtt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/anteroom-iomt/anteroom/pkg/agent/store"
)

// The types of packets (MQTT 3.1.1 §2.2.1).
const (
	typeConnect     = 1
	typeConnack     = 2
	typePublish     = 3
	typePuback      = 4
	typePubrec      = 5
	typePubrel      = 6
	typePubcomp     = 7
	typeSubscribe   = 8
	typeSuback      = 9
	typeUnsubscribe = 10
	typeUnsuback    = 11
	typePingreq     = 12
	typePingresp    = 13
	typeDisconnect  = 14
)

// errPacket says that what was sent is no packet of MQTT 3.1.1, or one that must not
// be there.
var errPacket = errors.New("what was sent is not MQTT 3.1.1")

// A packet is one as it was read: its type, its flags, and what follows the fixed
// header.
type packet struct {
	kind  byte
	flags byte
	body  []byte
}

// errLong says that a packet is longer than it may be.
var errLong = errors.New("a packet is longer than it may be")

// readPacket reads a packet with a body of at most most bytes, for which room is
// asked before it is made.
func readPacket(r *bufio.Reader, most int, room *store.Room) (*packet, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	n := 0
	for shift := 0; ; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return nil, whole(err)
		}
		// Four bytes at most, and no longer than need be (§2.2.3).
		if shift > 21 || shift > 0 && b == 0 {
			return nil, errPacket
		}
		n |= int(b&0x7f) << shift
		if b < 0x80 {
			break
		}
	}
	if n > most {
		return nil, errLong
	}
	if err := room.Take(n); err != nil {
		return nil, err
	}
	p := &packet{first >> 4, first & 0x0f, make([]byte, n)}
	if _, err := io.ReadFull(r, p.body); err != nil {
		return nil, whole(err)
	}
	// §2.2.2: flags of all but PUBLISH are fixed.
	want := byte(0)
	switch p.kind {
	case typePublish:
		return p, nil
	case typePubrel, typeSubscribe, typeUnsubscribe:
		want = 2
	}
	if p.flags != want {
		return nil, errPacket
	}
	return p, nil
}

// whole is the error of a packet that is not there whole.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// encode returns a packet.
func encode(kind, flags byte, body []byte) []byte {
	out := append(make([]byte, 0, len(body)+5), kind<<4|flags)
	n := len(body)
	for {
		b := byte(n & 0x7f)
		if n >>= 7; n == 0 {
			return append(append(out, b), body...)
		}
		out = append(out, b|0x80)
	}
}

// withID returns a packet that holds an identifier and nothing else.
func withID(kind, flags byte, id uint16) []byte {
	return encode(kind, flags, binary.BigEndian.AppendUint16(nil, id))
}

// identifier reads a packet that holds an identifier and nothing else.
func (p *packet) identifier() (uint16, error) {
	if len(p.body) != 2 {
		return 0, errPacket
	}
	id := binary.BigEndian.Uint16(p.body)
	if id == 0 {
		return 0, errPacket
	}
	return id, nil
}

// fields reads the parts of a body one after the other. The first error stays.
type fields struct {
	b   []byte
	err error
}

func (f *fields) take(n int) []byte {
	if f.err != nil || len(f.b) < n {
		f.err = errPacket
		return make([]byte, n&0xffff)
	}
	out := f.b[:n]
	f.b = f.b[n:]
	return out
}

func (f *fields) byte() byte     { return f.take(1)[0] }
func (f *fields) uint16() uint16 { return binary.BigEndian.Uint16(f.take(2)) }
func (f *fields) data() []byte   { return f.take(int(f.uint16())) }

// text reads a string (§1.5.3).
func (f *fields) text() string {
	s := string(f.data())
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		f.err = errPacket
	}
	return s
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// A message is what is published.
type message struct {
	qos    byte
	retain bool
	topic  string
	text   []byte
}

// publish reads PUBLISH (§3.3).
func (p *packet) publish() (m message, id uint16, dup bool, err error) {
	f := &fields{b: p.body}
	m = message{qos: p.flags >> 1 & 3, retain: p.flags&1 != 0, topic: f.text()}
	dup = p.flags&8 != 0
	if m.qos > 0 {
		if id = f.uint16(); id == 0 {
			f.err = errPacket
		}
	}
	m.text = f.b
	if m.qos > 2 || m.qos == 0 && dup || m.topic == "" || strings.ContainsAny(m.topic, "#+") {
		f.err = errPacket
	}
	return m, id, dup, f.err
}

// packet writes PUBLISH.
func (m *message) packet(id uint16, dup bool) []byte {
	flags := m.qos << 1
	if m.retain {
		flags |= 1
	}
	if dup {
		flags |= 8
	}
	body := appendText(make([]byte, 0, len(m.topic)+len(m.text)+4), m.topic)
	if m.qos > 0 {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	return encode(typePublish, flags, append(body, m.text...))
}

// A connect is what CONNECT says (§3.1) that matters here.
type connect struct {
	level     byte
	client    string
	keepAlive uint16
	will      *message
}

// connect reads CONNECT. A user and a password are read and forgotten. Of another
// level than 4 nothing else is read.
func (p *packet) connect() (c connect, err error) {
	f := &fields{b: p.body}
	if f.text() != "MQTT" {
		return c, errPacket
	}
	if c.level = f.byte(); f.err != nil || c.level != 4 {
		return c, f.err
	}
	flags := f.byte()
	c.keepAlive = f.uint16()
	c.client = f.text()
	clean, will, qos := flags&2 != 0, flags&4 != 0, flags>>3&3
	if flags&1 != 0 || !will && flags&0x38 != 0 || qos > 2 || flags&0xc0 == 0x40 {
		return c, errPacket
	}
	if will {
		c.will = &message{qos: qos, retain: flags&0x20 != 0, topic: f.text()}
		c.will.text = append([]byte(nil), f.data()...)
		if c.will.topic == "" || strings.ContainsAny(c.will.topic, "#+") {
			return c, errPacket
		}
	}
	if flags&0x80 != 0 {
		f.text()
	}
	if flags&0x40 != 0 {
		f.data()
	}
	if len(f.b) > 0 || c.client == "" && !clean {
		f.err = errPacket
	}
	return c, f.err
}

// subscriptions reads how many filters SUBSCRIBE (§3.8) or UNSUBSCRIBE (§3.10)
// has.
func (p *packet) subscriptions() (id uint16, n int, err error) {
	f := &fields{b: p.body}
	if id = f.uint16(); id == 0 {
		return 0, 0, errPacket
	}
	for ; f.err == nil && len(f.b) > 0; n++ {
		if f.text() == "" || p.kind == typeSubscribe && f.byte() > 2 {
			return 0, 0, errPacket
		}
	}
	if n == 0 {
		return 0, 0, errPacket
	}
	return id, n, f.err
}

// A message rests in the store as it is published, with an identifier that stands
// for none.
func (m *message) rest() []byte { return m.packet(1, false) }

func unrest(body []byte, most int) (m message, err error) {
	p, err := readPacket(bufio.NewReader(strings.NewReader(string(body))), most, nil)
	if err != nil {
		return m, err
	}
	if p.kind != typePublish {
		return m, errPacket
	}
	m, _, _, err = p.publish()
	return m, err
}
