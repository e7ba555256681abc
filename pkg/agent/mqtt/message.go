package mqtt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"
)

// A message is what is published.
type message struct {
	level  byte // of the protocol that it came by
	qos    byte
	retain bool
	topic  string
	props  properties // of version 5
	text   []byte
}

// errAlias says that a topic is named by a number, which nobody said may be.
var errAlias = errors.New("a topic has an alias, and the agent takes none")

// publish reads PUBLISH (§3.3).
func (p *packet) publish(level byte) (m message, id uint16, dup bool, err error) {
	f := &fields{b: p.body}
	m = message{level: level, qos: p.flags >> 1 & 3, retain: p.flags&1 != 0, topic: f.text()}
	dup = p.flags&8 != 0
	if m.qos > 0 {
		if id = f.uint16(); id == 0 {
			f.err = errPacket
		}
	}
	if level == level5 && f.err == nil {
		m.props = f.properties(forPublish)
		if _, ok := m.props.find(propAlias); ok && f.err == nil {
			return m, id, dup, errAlias
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
	if m.level == level5 {
		body = m.props.append(body)
	}
	return encode(typePublish, flags, append(body, m.text...))
}

// aged returns a message as it is after it waited, whose time has run shorter
// (version 5 §3.3.2.3.3), or nil if that is over.
func (m *message) aged(waited time.Duration) *message {
	value, ok := m.props.find(propExpiry)
	if !ok {
		return m
	}
	left := int64(binary.BigEndian.Uint32(value)) - int64(max(waited, 0)/time.Second)
	if left <= 0 {
		return nil
	}
	n := *m
	n.props = m.props.without(propExpiry).with32(propExpiry, uint32(left))
	return &n
}

// A message rests in the store as it is published, with an identifier that stands
// for none. Before one of version 5 stands a byte that begins no packet.
func (m *message) rest() []byte {
	if m.level == level5 {
		return append([]byte{level5}, m.packet(1, false)...)
	}
	return m.packet(1, false)
}

func unrest(body []byte, most int) (m message, err error) {
	level := byte(level4)
	if len(body) > 0 && body[0] == level5 {
		level, body = level5, body[1:]
	}
	p, err := readPacket(bufio.NewReader(strings.NewReader(string(body))), most, nil)
	if err != nil {
		return m, err
	}
	if p.kind != typePublish {
		return m, errPacket
	}
	m, _, _, err = p.publish(level)
	return m, err
}

// subscriptions reads how many filters SUBSCRIBE (§3.8) or UNSUBSCRIBE (§3.10)
// has.
func (p *packet) subscriptions(level byte) (id uint16, n int, err error) {
	f := &fields{b: p.body}
	if id = f.uint16(); id == 0 {
		return 0, 0, errPacket
	}
	if level == level5 {
		allowed := forSubscribe
		if p.kind == typeUnsubscribe {
			allowed = string(rune(propUser))
		}
		f.properties(allowed)
	}
	for ; f.err == nil && len(f.b) > 0; n++ {
		if f.text() == "" {
			return 0, 0, errPacket
		}
		if p.kind != typeSubscribe {
			continue
		}
		// Version 5 has more than the quality there (§3.8.3.1).
		options := f.byte()
		if level == level4 && options > 2 || options&3 == 3 || options>>4 > 2 {
			return 0, 0, errPacket
		}
	}
	if n == 0 {
		return 0, 0, errPacket
	}
	return id, n, f.err
}

// unsubscribed is the answer to SUBSCRIBE or UNSUBSCRIBE whose filters the gateway
// has not taken: for each the same reason.
func (p *packet) unsubscribed(level, reason byte) ([]byte, error) {
	id, n, err := p.subscriptions(level)
	if err != nil {
		return nil, err
	}
	body := binary.BigEndian.AppendUint16(nil, id)
	if level == level5 {
		body = append(body, 0)
	}
	if p.kind == typeUnsubscribe {
		if level == level5 {
			body = append(body, slices.Repeat([]byte{0x11}, n)...) // there was none
		}
		return encode(typeUnsuback, 0, body), nil
	}
	if level == level4 {
		reason = 0x80
	}
	return encode(typeSuback, 0, append(body, slices.Repeat([]byte{reason}, n)...)), nil
}
