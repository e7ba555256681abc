package mqtt

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
	"github.com/anteroom-iomt/anteroom/pkg/agent/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = storetest.Patience

// broker is what MQTT 3.1.1 says a server with sessions is, as far as one client
// that publishes needs it. The test says where its connections die.
type broker struct {
	*storetest.Gateway
	t *testing.T
	// cut says whether the connection ends instead of an acknowledgement.
	cut func(kind byte, n int) bool

	mu       sync.Mutex
	got      []string // what was published, once for each time that counts
	messages []message
	reasons  map[string]byte // of version 5, by the text
	ack      connack
	backAck  connack
	waits    []byte // for who has a way back
	backs    []*brokerSession
	unfree   map[uint16]bool
	clients  []string
	answered int
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	b := &broker{t: t, unfree: map[uint16]bool{}, cut: func(byte, int) bool { return false }}
	b.Gateway = storetest.NewGateway(t, b.serve)
	return b
}

func (b *broker) serve(c net.Conn) {
	s := &brokerSession{Conn: c}
	for r := bufio.NewReader(c); ; {
		p, err := readPacket(r, 1<<20, nil)
		if err != nil {
			return
		}
		answer, die := b.take(s, p)
		if die {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// brokerSession is a connection to the broker, by which nothing is published if it
// is a device's way back.
type brokerSession struct {
	net.Conn
	connect
	heard []*packet
}

func (b *broker) take(s *brokerSession, p *packet) (answer []byte, die bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	back := strings.Contains(s.client, "/")
	switch p.kind {
	case typeConnect:
		c, err := p.connect()
		if err != nil || c.will != nil {
			b.t.Errorf("CONNECT %x: %v", p.body, err)
		}
		s.connect = c
		if !strings.Contains(c.client, "/") {
			if c.clean || !c.keeps() && c.level == level5 {
				b.t.Errorf("the session that is published in is not kept: %x", p.body)
			}
			b.clients = append(b.clients, c.client)
			return b.ack.packet(c.level), false
		}
		b.backs = append(b.backs, s)
		return append(b.backAck.packet(c.level), b.waits...), false
	case typePublish:
		m, id, _, err := p.publish(s.level)
		if err != nil || back {
			b.t.Errorf("PUBLISH %x of %s: %v", p.body, s.client, err)
			return nil, true
		}
		if m.qos < 2 || !b.unfree[id] {
			b.got = append(b.got, string(m.text))
			b.messages = append(b.messages, m)
		}
		var kind byte = typePuback
		switch m.qos {
		case 0:
			return nil, false
		case 2:
			b.unfree[id] = true
			kind = typePubrec
		}
		answer = withID(kind, 0, id)
		if reason := b.reasons[string(m.text)]; reason != 0 && s.level == level5 {
			delete(b.unfree, id)
			answer = encode(kind, 0, []byte{byte(id >> 8), byte(id), reason, 0})
		}
	case typePubrel:
		id, _, err := p.identifier(s.level)
		if err != nil {
			b.t.Error(err)
		}
		delete(b.unfree, id)
		answer = withID(typePubcomp, 0, id)
	case typePingreq:
		return encode(typePingresp, 0, nil), false
	case typeDisconnect:
		return nil, true
	case typeSubscribe, typePuback:
		s.heard = append(s.heard, p)
		if !back {
			b.t.Errorf("the agent sends a packet of type %d where it publishes", p.kind)
		}
		if p.kind == typePuback {
			return nil, false
		}
		granted := []byte{p.body[0], p.body[1], 1}
		if s.level == level5 {
			granted = []byte{p.body[0], p.body[1], 0, 1}
		}
		return encode(typeSuback, 0, granted), false
	default:
		b.t.Errorf("the agent sends a packet of type %d", p.kind)
	}
	b.answered++
	return answer, b.cut(answer[0]>>4, b.answered)
}

// back waits for a way back, the nth, and returns it.
func (b *broker) back(n int) (s *brokerSession) {
	b.t.Helper()
	storetest.Eventually(b.t, "the device's way back", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.backs) > n {
			s = b.backs[n]
		}
		return s != nil
	})
	return s
}

func (b *broker) received() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

type running struct {
	*Port
	end func()
}

func (b *broker) agent(dir string, change func(*settings.Forward)) *running {
	b.t.Helper()
	cfg := b.Settings("mqtt")
	if change != nil {
		change(&cfg)
	}
	return b.agentOf(dir, cfg, time.Now)
}

// agentOf runs an agent with a clock.
func (b *broker) agentOf(dir string, cfg settings.Forward, clock func() time.Time) *running {
	b.t.Helper()
	p, err := Open(Config{Settings: cfg, Dir: dir, Gateway: b.Relay(), Device: "pump-1", Log: slog.New(slog.DiscardHandler), Clock: clock})
	if err != nil {
		b.t.Fatal(err)
	}
	return &running{p, storetest.Run(b.t, p)}
}

// settled waits until nothing waits and so many messages were delivered.
func (r *running) settled(t *testing.T, delivered uint64) queue.Counts {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if st, n := r.Stats(); st.Messages == 0 && n.Delivered == delivered {
			return n
		}
	}
	st, n := r.Stats()
	t.Fatalf("%+v, %+v", st, n)
	return n
}

// client is a device's connection.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (r *running) connect(t *testing.T, body []byte) *client {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	c := &client{t, conn, bufio.NewReader(conn)}
	c.send(encode(typeConnect, 0, body))
	return c
}

// hello is CONNECT of a device with a clean session.
var hello = append(appendText(nil, "MQTT"), 4, 2, 0, 0, 0, 3, 'd', 'e', 'v')

func (r *running) device(t *testing.T) *client {
	t.Helper()
	c := r.connect(t, hello)
	c.expect(typeConnack, []byte{0, 0})
	return c
}

func (c *client) send(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) expect(kind byte, body []byte) {
	c.t.Helper()
	p, err := readPacket(c.r, 1<<10, nil)
	if err != nil || p.kind != kind || !bytes.Equal(p.body, body) {
		c.t.Fatalf("the device hears %+v (%v), want type %d %x", p, err, kind, body)
	}
}

func (c *client) publish(qos byte, id uint16, dup bool, text string) {
	c.t.Helper()
	m := &message{qos: qos, topic: "vitals", text: []byte(text)}
	c.send(m.packet(id, dup))
	b := binary.BigEndian.AppendUint16(nil, id)
	switch qos {
	case 1:
		c.expect(typePuback, b)
	case 2:
		c.expect(typePubrec, b)
		c.send(withID(typePubrel, 2, id))
		c.expect(typePubcomp, b)
	}
}

// TestWhatIsPublishedIsDeliveredInOrderAndOnce: with a gateway that is away, an agent
// that ends and is started again, and connections that die at every point.
func TestWhatIsPublishedIsDeliveredInOrderAndOnce(t *testing.T) {
	for name, kind := range map[string]byte{"never": 0, "PUBREC": typePubrec, "PUBCOMP": typePubcomp} {
		t.Run("cut at "+name, func(t *testing.T) {
			b := newBroker(t)
			cuts := 0
			b.cut = func(k byte, _ int) bool {
				if k == kind && cuts < 3 {
					cuts++
					return true
				}
				return false
			}
			b.Stop()
			dir := t.TempDir()
			a := b.agent(dir, nil)
			c := a.device(t)
			c.publish(2, 1, false, "a")
			c.publish(2, 1, true, "a")  // it did not hear
			c.publish(2, 1, false, "a") // a new one, whose identifier is free again
			c.publish(2, 2, false, "b")
			a.end()
			a = b.agent(dir, nil)
			c = a.device(t)
			c.publish(2, 2, true, "b")
			c.publish(2, 2, true, "c") // not what it was: not the same
			b.Start()
			a.settled(t, 4)
			if got := b.received(); !slices.Equal(got, []string{"a", "a", "b", "c"}) {
				t.Errorf("%q arrived", got)
			}
			if len(b.unfree) > 0 || slices.ContainsFunc(b.clients, func(s string) bool { return s != "pump-1" }) {
				t.Errorf("not released: %v; clients %q", b.unfree, b.clients)
			}
		})
	}
}

// TestQualityOneIsSentUntilItIsAcknowledged.
func TestQualityOneIsSentUntilItIsAcknowledged(t *testing.T) {
	b := newBroker(t)
	b.cut = func(_ byte, n int) bool { return n == 1 || n == 2 }
	a := b.agent(t.TempDir(), nil)
	c := a.device(t)
	c.publish(1, 7, false, "a")
	c.publish(1, 8, false, "b")
	if n := a.settled(t, 2); n.Again != 2 {
		t.Errorf("%+v", n)
	}
	if got := b.received(); !slices.Equal(got, []string{"a", "a", "a", "b"}) {
		t.Errorf("%q arrived", got)
	}
}

func TestQualityZeroIsPassedOnOrDropped(t *testing.T) {
	b := newBroker(t)
	a := b.agent(t.TempDir(), nil)
	c := a.device(t)
	c.publish(0, 0, false, "a")
	a.settled(t, 1)
	b.Stop()
	c.publish(1, 1, false, "b") // so that the agent sees that the gateway is away
	for a.cfg.Gateway.Failed() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	for range fleeting + 5 {
		c.publish(0, 0, false, "x")
	}
	c.publish(1, 2, false, "c")
	b.Start()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && !slices.Contains(b.received(), "c"); time.Sleep(5 * time.Millisecond) {
	}
	if _, n := a.Stats(); n.Dropped != 5 {
		t.Errorf("%+v", n)
	}
}

// TestTheDeviceIsToldWhatTheAgentIsNot: no other version, and no acknowledgement of
// what is not stored.
func TestTheDeviceIsToldWhatTheAgentIsNot(t *testing.T) {
	b := newBroker(t)
	b.Stop()
	a := b.agent(t.TempDir(), func(f *settings.Forward) { f.Store.Bytes, f.Store.Message = 300, 200 })
	c := a.device(t)
	c.send(encode(typePingreq, 0, nil))
	c.expect(typePingresp, nil)
	c.publish(1, 1, false, strings.Repeat("x", 200))
	full := &message{qos: 1, topic: "vitals", text: []byte(strings.Repeat("y", 200))}
	c.send(full.packet(2, false))
	if p, err := readPacket(c.r, 100, nil); err == nil {
		t.Errorf("what is not stored is answered: %+v", p)
	}
	v3 := a.connect(t, append(appendText(nil, "MQTT"), 3, 2, 0, 0, 0, 0))
	v3.expect(typeConnack, []byte{0, 1})
	if _, n := a.Stats(); n.Refused != 1 {
		t.Errorf("%+v", n)
	}
}

// TestAWillIsPublishedWhenTheDeviceGoesWithoutAWord, and not when it says so; the same
// client again takes the place of the former.
func TestAWillIsPublishedWhenTheDeviceGoesWithoutAWord(t *testing.T) {
	b := newBroker(t)
	a := b.agent(t.TempDir(), nil)
	will := append(appendText(nil, "MQTT"), 4, 2|4|1<<3, 0, 0)
	will = appendText(appendText(appendText(will, "dev"), "state"), "gone")
	c := a.connect(t, will)
	c.expect(typeConnack, []byte{0, 0})
	c.send(encode(typeDisconnect, 0, nil))
	if _, err := readPacket(c.r, 1, nil); err != io.EOF {
		t.Errorf("after DISCONNECT: %v", err)
	}
	c = a.connect(t, will)
	c.expect(typeConnack, []byte{0, 0})
	again := a.device(t)
	if _, err := readPacket(c.r, 1, nil); err == nil {
		t.Error("the former connection goes on")
	}
	a.settled(t, 1)
	again.publish(1, 1, false, "here")
	a.settled(t, 2)
	if got := b.received(); !slices.Equal(got, []string{"gone", "here"}) {
		t.Errorf("%q arrived", got)
	}
}

func TestWhatIsNoMQTTIsRefused(t *testing.T) {
	b := newBroker(t)
	a := b.agent(t.TempDir(), nil)
	first := func(what string, in []byte) {
		t.Helper()
		conn, err := net.Dial("tcp", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Write(in)
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: %d bytes are heard", what, n)
		}
	}
	first("HTTP", []byte("GET / HTTP/1.1\r\n\r\n"))
	first("a packet before CONNECT", encode(typePingreq, 0, nil))
	first("a long packet", []byte{typeConnect << 4, 0xff, 0xff, 0xff, 0x7f})
	first("a length of five bytes", []byte{typeConnect << 4, 0x80, 0x80, 0x80, 0x80, 1})
	first("a reserved flag", encode(typeConnect, 0, append(appendText(nil, "MQTT"), 4, 3, 0, 0, 0, 1, 'a')))
	first("a password without a user", encode(typeConnect, 0, append(appendText(nil, "MQTT"), 4, 0x42, 0, 0, 0, 1, 'a', 0, 1, 'b')))
	first("bytes behind it", encode(typeConnect, 0, append(slices.Clone(hello), 1)))
	second := func(what string, in []byte) {
		t.Helper()
		c := a.device(t)
		c.send(in)
		if p, err := readPacket(c.r, 10, nil); err == nil {
			t.Errorf("%s is answered with %+v", what, p)
		}
	}
	pub := (&message{qos: 1, topic: "a", text: []byte("x")}).packet(1, false)
	second("CONNECT again", encode(typeConnect, 0, hello))
	second("quality 3", append([]byte{typePublish<<4 | 6}, pub[1:]...))
	second("an identifier of 0", (&message{qos: 1, topic: "a"}).packet(0, false))
	second("a wildcard", (&message{qos: 1, topic: "a/#"}).packet(1, false))
	second("no topic", (&message{qos: 1}).packet(1, false))
	second("a server's packet", withID(typePuback, 0, 1))
	second("flags of PUBREL", withID(typePubrel, 0, 1))
	second("SUBSCRIBE to nothing", encode(typeSubscribe, 2, []byte{0, 1}))
	second("a long message", (&message{qos: 1, topic: "a", text: make([]byte, 65<<10)}).packet(1, false))
	if st, _ := a.Stats(); st.Messages > 0 || len(b.received()) > 0 {
		t.Errorf("%+v, %q", st, b.received())
	}
}

// TestManyLargePacketsTakeNoMoreThanOne: their length is the first thing that is
// said of them.
func TestManyLargePacketsTakeNoMoreThanOne(t *testing.T) {
	b := newBroker(t)
	a := b.agent(t.TempDir(), func(f *settings.Forward) { f.Connections, f.Store.Message, f.Store.Bytes = 200, 1<<20, 8<<20 })
	n := 0
	begin := (&message{qos: 1, topic: "vitals", text: make([]byte, 1<<20)}).packet(1, false)[:100]
	storetest.LargeIsBounded(t, func() net.Conn {
		n++
		c := a.connect(t, appendText(slices.Clone(hello[:10]), fmt.Sprint("dev-", n)))
		c.expect(typeConnack, []byte{0, 0})
		return c.Conn
	}, begin, func() { a.device(t).publish(1, 1, false, "small") })
}

// TestLargeMessagesOfQualityZeroAreOne while they wait for the gateway.
func TestLargeMessagesOfQualityZeroAreOne(t *testing.T) {
	b := newBroker(t)
	b.Stop()
	a := b.agent(t.TempDir(), nil)
	c := a.device(t)
	c.publish(1, 1, false, "stored")
	for range 3 {
		c.publish(0, 0, false, strings.Repeat("x", 40<<10))
	}
	c.publish(1, 2, false, "stored too")
	if _, n := a.Stats(); n.Dropped != 2 {
		t.Errorf("%+v", n)
	}
	b.Start()
	a.settled(t, 3)
}

func FuzzPacket(f *testing.F) {
	f.Add(encode(typeConnect, 0, hello))
	f.Add((&message{qos: 2, retain: true, topic: "a/b", text: []byte("x")}).packet(7, true))
	f.Add(encode(typeSubscribe, 2, append(appendText([]byte{0, 9}, "a/#"), 1)))
	f.Add((&message{level: level5, qos: 1, topic: "a", props: properties(nil).with32(propExpiry, 7), text: []byte("x")}).packet(7, true))
	f.Add(encode(typeSubscribe, 2, append(appendText([]byte{0, 9, 2, propSubscription, 1}, "a/#"), 0x2d)))
	f.Add(encode(typeConnect, 0, hello5("dev", true, 60)))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := readPacket(bufio.NewReader(bytes.NewReader(in)), 1<<10, nil)
		if err != nil {
			return
		}
		if got := encode(p.kind, p.flags, p.body); !bytes.Equal(got, in[:len(got)]) {
			t.Errorf("%x is read, and written as %x", in, got)
		}
		_, _ = p.connect()
		for _, level := range []byte{level4, level5} {
			_, _, _ = p.subscriptions(level)
			_, _, _ = p.identifier(level)
			_, _ = p.connack(level)
			_, _ = p.unsubscribed(level, reasonNotAuthorized)
			if p.kind != typePublish {
				continue
			}
			m, id, dup, err := p.publish(level)
			if err != nil {
				continue
			}
			if got := m.packet(id, dup); !bytes.Equal(got, in[:len(got)]) {
				t.Errorf("%x is published as %x", in, got)
			}
			if rest, err := unrest(m.rest(), 1<<11); err != nil || rest.level != level || rest.topic != m.topic || !bytes.Equal(rest.text, m.text) || rest.qos != m.qos || rest.retain != m.retain || !bytes.Equal(rest.props.append(nil), m.props.append(nil)) {
				t.Errorf("%+v is stored as %+v: %v", m, rest, err)
			}
		}
	})
}
