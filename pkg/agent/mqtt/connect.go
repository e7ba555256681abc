package mqtt

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// A connect is what CONNECT says (§3.1) that matters here.
type connect struct {
	level     byte
	clean     bool
	client    string
	keepAlive uint16
	props     properties
	will      *message
	willDelay time.Duration
}

// connect reads CONNECT. A user and a password are read and forgotten. Of another
// level than those that are known nothing else is read.
func (p *packet) connect() (c connect, err error) {
	f := &fields{b: p.body}
	if f.text() != "MQTT" {
		return c, errPacket
	}
	if c.level = f.byte(); f.err != nil || c.level != level4 && c.level != level5 {
		return c, f.err
	}
	flags := f.byte()
	c.keepAlive = f.uint16()
	if c.level == level5 {
		c.props = f.properties(forConnect)
	}
	c.client = f.text()
	will, qos := flags&4 != 0, flags>>3&3
	c.clean = flags&2 != 0
	if flags&1 != 0 || !will && flags&0x38 != 0 || qos > 2 || c.level == level4 && flags&0xc0 == 0x40 {
		return c, errPacket
	}
	if will {
		c.will = &message{level: c.level, qos: qos, retain: flags&0x20 != 0}
		if c.level == level5 {
			props := f.properties(forWill)
			// At the end of the session if that is before (version 5 §3.1.3.2.2).
			c.willDelay = time.Duration(min(props.number(propWillDelay, 0), c.props.number(propSession, 0))) * time.Second
			c.will.props = props.without(propWillDelay)
		}
		c.will.topic = f.text()
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
	if len(f.b) > 0 || c.level == level4 && c.client == "" && !c.clean {
		f.err = errPacket
	}
	return c, f.err
}

// keeps reports whether the device wants its session, with subscriptions and what
// they bring, to be kept while it is not there.
func (c *connect) keeps() bool {
	if c.level == level5 {
		return c.props.number(propSession, 0) > 0
	}
	return !c.clean
}

// packet writes CONNECT of a client with another id, who has neither will nor
// password.
func (c *connect) packet(client string) []byte {
	flags := byte(0)
	if c.clean {
		flags = 2
	}
	body := append(appendText(nil, "MQTT"), c.level, flags)
	body = binary.BigEndian.AppendUint16(body, uint16(keepAlive/time.Second))
	if c.level == level5 {
		body = c.props.append(body)
	}
	return encode(typeConnect, 0, appendText(body, client))
}

// A connack is what CONNACK says (§3.2).
type connack struct {
	session bool // there is one of before
	code    byte
	props   properties
}

func (p *packet) connack(level byte) (a connack, err error) {
	if p.kind != typeConnack {
		return a, errPacket
	}
	f := &fields{b: p.body}
	flags := f.byte()
	a.session, a.code = flags&1 != 0, f.byte()
	if level == level5 {
		a.props = f.properties(forConnack)
	}
	if flags > 1 || len(f.b) > 0 {
		f.err = errPacket
	}
	return a, f.err
}

func (a *connack) packet(level byte) []byte {
	body := []byte{0, a.code}
	if a.session && a.code == 0 {
		body[0] = 1
	}
	if level == level5 {
		body = a.props.append(body)
	}
	return encode(typeConnack, 0, body)
}

// passing reports whether the gateway refuses for the time being only.
func (a *connack) passing(level byte) bool {
	if level == level4 {
		return a.code == 3
	}
	return a.code == 0x88 || a.code == 0x89 || a.code == 0x97 || a.code == 0x9f
}

// refusedError says that the gateway takes no session.
type refusedError struct{ connack }

func (e *refusedError) Error() string {
	s := fmt.Sprintf("the gateway refuses the session (code %#02x)", e.code)
	if why, ok := e.props.find(propReason); ok {
		s += fmt.Sprintf(": %.200q", why[2:])
	}
	return s
}
