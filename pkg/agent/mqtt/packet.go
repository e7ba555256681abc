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

// The levels of the protocol: MQTT 3.1.1 and 5.
const (
	level4 = 4
	level5 = 5
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
	typeAuth        = 15
)

// errPacket says that what was sent is no packet of MQTT, or one that must not be
// there.
var errPacket = errors.New("what was sent is not MQTT")

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
	p, n, err := readHead(r)
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, errLong
	}
	if err := room.Take(n); err != nil {
		return nil, err
	}
	p.body = make([]byte, n)
	if _, err := io.ReadFull(r, p.body); err != nil {
		return nil, whole(err)
	}
	return p, nil
}

// readHead reads the fixed header of a packet, and how long its body is.
func readHead(r *bufio.Reader) (*packet, int, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, 0, err
	}
	n := 0
	for shift := 0; ; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return nil, 0, whole(err)
		}
		// Four bytes at most, and no longer than need be (§2.2.3).
		if shift > 21 || shift > 0 && b == 0 {
			return nil, 0, errPacket
		}
		n |= int(b&0x7f) << shift
		if b < 0x80 {
			break
		}
	}
	p := &packet{kind: first >> 4, flags: first & 0x0f}
	// §2.2.2: flags of all but PUBLISH are fixed.
	want := byte(0)
	switch p.kind {
	case typePublish:
		return p, n, nil
	case typePubrel, typeSubscribe, typeUnsubscribe:
		want = 2
	}
	if p.flags != want {
		return nil, 0, errPacket
	}
	return p, n, nil
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
	return append(encodeHead(kind, flags, len(body), len(body)), body...)
}

// encodeHead returns a fixed header, with room for more behind it.
func encodeHead(kind, flags byte, n, more int) []byte {
	return appendLength(append(make([]byte, 0, more+5), kind<<4|flags), n)
}

// appendLength writes a variable byte integer (version 5 §1.5.5).
func appendLength(b []byte, n int) []byte {
	for ; n > 0x7f; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// raw returns a packet as it was read.
func (p *packet) raw() []byte { return encode(p.kind, p.flags, p.body) }

// withID returns a packet that holds an identifier and nothing else.
func withID(kind, flags byte, id uint16) []byte {
	return encode(kind, flags, binary.BigEndian.AppendUint16(nil, id))
}

// identifier reads a packet that holds an identifier and, in version 5, what became
// of it: success, if it is not said (§3.4.2.1 there).
func (p *packet) identifier(level byte) (id uint16, reason byte, err error) {
	f := &fields{b: p.body}
	id = f.uint16()
	if level == level5 && len(f.b) > 0 {
		reason = f.byte()
		if len(f.b) > 0 {
			f.properties(forReason)
		}
	}
	if id == 0 || len(f.b) > 0 {
		f.err = errPacket
	}
	return id, reason, f.err
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
func (f *fields) uint32() uint32 { return binary.BigEndian.Uint32(f.take(4)) }
func (f *fields) data() []byte   { return f.take(int(f.uint16())) }

// length reads a variable byte integer (version 5 §1.5.5).
func (f *fields) length() (n int) {
	for shift := 0; f.err == nil; shift += 7 {
		b := f.byte()
		if shift > 21 || shift > 0 && b == 0 {
			f.err = errPacket
		}
		if n |= int(b&0x7f) << shift; b < 0x80 {
			break
		}
	}
	return n
}

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
