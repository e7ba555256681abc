package mqtt

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
	"github.com/anteroom-iomt/anteroom/pkg/agent/store/storetest"
)

// hello5 is CONNECT of a device of version 5, whose session lasts for some seconds.
func hello5(client string, clean bool, session uint32) []byte {
	c := connect{level: level5, clean: clean, props: properties(nil).with32(propSession, session)}
	p, _, err := readBody(c.packet(client))
	if err != nil {
		return nil
	}
	return p
}

// readBody returns the body of a packet.
func readBody(raw []byte) (body []byte, kind byte, err error) {
	for i, b := range raw[1:] {
		if b < 0x80 {
			return raw[i+2:], raw[0] >> 4, nil
		}
	}
	return nil, 0, errPacket
}

// device5 connects as a device of version 5, and reads what the agent says of
// itself.
func (r *running) device5(t *testing.T, body []byte) (*client, connack) {
	t.Helper()
	c := r.connect(t, body)
	p, err := readPacket(c.r, 1<<10, nil)
	if err != nil {
		t.Fatal(err)
	}
	ack, err := p.connack(level5)
	if err != nil {
		t.Fatalf("CONNACK %x: %v", p.body, err)
	}
	return c, ack
}

// TestAMessageOfVersion5ArrivesWithAllThatIsSaidOfIt, and those of the two versions
// in the order they came.
func TestAMessageOfVersion5ArrivesWithAllThatIsSaidOfIt(t *testing.T) {
	b := newBroker(t)
	b.Stop()
	dir := t.TempDir()
	a := b.agent(dir, nil)
	old := a.device(t)
	c, ack := a.device5(t, hello5("", true, 0))
	if id, ok := ack.props.find(propAssigned); !ok || !strings.HasPrefix(string(id[2:]), "pump-1/") || ack.props.number(propMaxPacket, 0) == 0 {
		t.Errorf("the agent says of itself: %+v", ack)
	}
	props := properties{{propContentType, appendText(nil, "text/plain")}, {propUser, appendText(appendText(nil, "unit"), "mmHg")}, {propUser, appendText(appendText(nil, "unit"), "kPa")}}
	m := &message{level: level5, qos: 2, topic: "vitals", props: props, text: []byte("five")}
	c.send(m.packet(1, false))
	c.expect(typePubrec, []byte{0, 1})
	c.send(withID(typePubrel, 2, 1))
	c.expect(typePubcomp, []byte{0, 1})
	old.publish(1, 1, false, "four")
	soon := &message{level: level5, qos: 1, topic: "vitals", props: properties(nil).with32(propExpiry, 3600), text: []byte("soon")}
	c.send(soon.packet(2, false))
	c.expect(typePuback, []byte{0, 2})
	a.end()
	a = b.agent(dir, nil)
	b.Start()
	a.settled(t, 3)
	if got := b.received(); !slices.Equal(got, []string{"five", "four", "soon"}) {
		t.Fatalf("%q arrived", got)
	}
	if got := b.messages[0]; got.level != level5 || string(got.props.append(nil)) != string(props.append(nil)) {
		t.Errorf("what arrived: %+v", got)
	}
	if left := b.messages[2].props.number(propExpiry, 0); left == 0 || left > 3600 {
		t.Errorf("the message is wanted for %d s", left)
	}
}

// TestAMessageThatNobodyWantsAnyMoreIsNotDelivered.
func TestAMessageThatNobodyWantsAnyMoreIsNotDelivered(t *testing.T) {
	m := &message{level: level5, topic: "a", props: properties(nil).with32(propExpiry, 60)}
	if m.aged(time.Minute) != nil || m.aged(59*time.Second).props.number(propExpiry, 0) != 1 || m.aged(-time.Hour).props.number(propExpiry, 0) != 60 {
		t.Error("its time is counted wrong")
	}
	if m := (&message{level: level5}); m.aged(time.Hour) != m {
		t.Error("one without an end has one")
	}
	b := newBroker(t)
	b.Stop()
	a := b.agent(t.TempDir(), nil)
	c, _ := a.device5(t, hello5("dev", true, 0))
	for id, text := range []string{"gone", "there"} {
		m := &message{level: level5, qos: 1, topic: "vitals", text: []byte(text)}
		if text == "gone" {
			m.props = m.props.with32(propExpiry, 0)
		}
		c.send(m.packet(uint16(id+1), false))
		c.expect(typePuback, []byte{0, byte(id + 1)})
	}
	b.Start()
	if n := a.settled(t, 1); n.Expired != 1 || !slices.Equal(b.received(), []string{"there"}) {
		t.Errorf("%+v, %q", n, b.received())
	}
}

// TestVersion5HasAWordForNo: the device hears it, and so does the agent.
func TestVersion5HasAWordForNo(t *testing.T) {
	b := newBroker(t)
	b.reasons = map[string]byte{"never": 0x87, "busy": 0x97}
	b.ack.props = properties{{propMaxQuality, []byte{1}}, {propRetain, []byte{0}}}
	a := b.agent(t.TempDir(), func(f *settings.Forward) { f.Store.Bytes, f.Store.Message, f.Store.Tries = 2000, 500, 2 })
	c, _ := a.device5(t, hello5("dev", true, 0))
	id := uint16(0)
	publish := func(m message) {
		t.Helper()
		id++
		m.level, m.topic = level5, "vitals"
		c.send(m.packet(id, false))
		kind := byte(typePuback)
		if m.qos == 2 {
			kind = typePubrec
		}
		c.expect(kind, binary.BigEndian.AppendUint16(nil, id))
	}
	publish(message{qos: 1, text: []byte("never")})
	publish(message{qos: 1, text: []byte("busy")})
	publish(message{qos: 2, text: []byte("twice")})
	publish(message{qos: 1, retain: true, text: []byte("kept")})
	publish(message{qos: 1, text: []byte("good")})
	if n := a.settled(t, 1); n.SetAside != 4 || n.Delivered != 1 {
		t.Errorf("%+v", n)
	}
	if got := b.received(); !slices.Equal(got, []string{"never", "busy", "busy", "good"}) {
		t.Errorf("%q arrived", got)
	}
	b.Stop()
	publish(message{qos: 1, text: []byte(strings.Repeat("x", 500))})
	publish(message{qos: 1, text: []byte(strings.Repeat("y", 500))})
	publish(message{qos: 1, text: []byte(strings.Repeat("z", 500))})
	full := message{level: level5, qos: 1, topic: "vitals", text: []byte(strings.Repeat("f", 500))}
	c.send(full.packet(99, false))
	c.expect(typePuback, []byte{0, 99, reasonQuota})
	c.send(encode(typePingreq, 0, nil))
	c.expect(typePingresp, nil)
	alias := message{level: level5, qos: 1, topic: "vitals", props: properties{{propAlias, []byte{0, 1}}}}
	c.send(alias.packet(100, false))
	c.expect(typeDisconnect, []byte{reasonAlias})
	c, _ = a.device5(t, hello5("dev", true, 0))
	long := message{level: level5, qos: 1, topic: "vitals", text: make([]byte, 501)}
	c.send(long.packet(1, false))
	c.expect(typeDisconnect, []byte{reasonSize})
	auth := append(appendText(nil, "MQTT"), 5, 2, 0, 0, 8, propAuthMethod, 0, 5, 'S', 'C', 'R', 'A', 'M', 0, 0)
	a.connect(t, auth).expect(typeConnack, []byte{0, 0x8c, 0})
}

// subscribe is a device's SUBSCRIBE to one filter.
func subscribe(level byte, id uint16) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	if level == level5 {
		body = append(body, 0)
	}
	return encode(typeSubscribe, 2, append(appendText(body, "orders/#"), 1))
}

// TestASubscriptionIsTheGatewaysAndLive: the device hears what the gateway says, when
// it says so, and gets what comes by it.
func TestASubscriptionIsTheGatewaysAndLive(t *testing.T) {
	for _, level := range []byte{level4, level5} {
		b := newBroker(t)
		b.Stop()
		a := b.agent(t.TempDir(), nil)
		connects := func() (c *client, suback []byte) {
			if level == level4 {
				return a.device(t), []byte{0, 9, 1}
			}
			c, _ = a.device5(t, hello5("dev", true, 0))
			return c, []byte{0, 9, 0, 1}
		}
		c, suback := connects()
		c.send(subscribe(level, 9))
		// What it publishes meanwhile is stored.
		c.publish(1, 1, false, levelText(level, "away"))
		b.Start()
		c.expect(typeSuback, suback)
		s := b.back(0)
		if s.client != "pump-1/dev" || s.level != level || s.will != nil {
			t.Errorf("the way back is %+v", s.connect)
		}
		for _, text := range []string{"begin", strings.Repeat("long", 50<<10)} {
			order := message{level: level, qos: 1, topic: "orders/1", text: []byte(text)}
			if _, err := s.Write(order.packet(7, false)); err != nil {
				t.Fatal(err)
			}
			p, err := readPacket(c.r, 1<<20, nil)
			if err != nil {
				t.Fatal(err)
			}
			if m, id, _, err := p.publish(level); err != nil || id != 7 || string(m.text) != text {
				t.Errorf("the device gets %.40q %v", m.text, err)
			}
			c.send(withID(typePuback, 0, 7))
		}
		storetest.Eventually(t, "the device's thanks", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(s.heard) == 3
		})
		// What it publishes does not go by it.
		c.publish(1, 2, false, levelText(level, "here"))
		a.settled(t, 2)
		// The gateway goes: the device is subscribed to nothing any more, and comes again.
		if level == level5 {
			if _, err := s.Write(encode(typeDisconnect, 0, []byte{0x8b})); err != nil {
				t.Fatal(err)
			}
		}
		b.Stop()
		if p, err := readPacket(c.r, 10, nil); err == nil {
			t.Errorf("the device goes on with %+v", p)
		}
		c, suback = connects()
		c.publish(1, 3, false, levelText(level, "away again"))
		c.send(subscribe(level, 9))
		b.Start()
		c.expect(typeSuback, suback)
		a.settled(t, 3)
		c.send(encode(typeDisconnect, 0, nil))
		if _, err := readPacket(c.r, 10, nil); err == nil {
			t.Error("it goes on after DISCONNECT")
		}
	}
}

// levelText is a message that a client of the tests sends without properties, whose
// text is read so in either version.
func levelText(level byte, text string) string {
	if level == level5 {
		return "\x00" + text
	}
	return text
}

// TestAGatewayThatTakesNoSubscriptionSaysSoItself.
func TestAGatewayThatTakesNoSubscriptionSaysSoItself(t *testing.T) {
	b := newBroker(t)
	b.backAck.code = 5
	a := b.agent(t.TempDir(), nil)
	c := a.device(t)
	c.send(subscribe(level4, 9))
	c.expect(typeSuback, []byte{0, 9, 0x80})
	c.send(encode(typeUnsubscribe, 2, appendText([]byte{0, 10}, "a/#")))
	c.expect(typeUnsuback, []byte{0, 10})
	c.publish(1, 1, false, "stored")
	a.settled(t, 1)
	b.mu.Lock()
	b.backAck = connack{code: 0x87}
	b.mu.Unlock()
	five, _ := a.device5(t, hello5("five", true, 0))
	five.send(subscribe(level5, 9))
	five.expect(typeSuback, []byte{0, 9, 0, reasonNotAuthorized})
	// One that wants its session kept is told at once.
	kept := a.connect(t, hello5("kept", false, 60))
	kept.expect(typeConnack, []byte{0, 0x87, 0})
}

// TestASessionThatIsKeptIsTheGateways: the device hears whether there is one, and
// comes for it when the gateway is back.
func TestASessionThatIsKeptIsTheGateways(t *testing.T) {
	b := newBroker(t)
	b.backAck = connack{session: true}
	order := message{qos: 1, topic: "orders/1", text: []byte("kept")}
	b.waits = order.packet(3, false)
	a := b.agent(t.TempDir(), nil)
	keeps := append(appendText(nil, "MQTT"), 4, 0, 0, 0, 0, 3, 'd', 'e', 'v')
	for range 20 { // never what is kept before the answer
		c := a.connect(t, keeps)
		c.expect(typeConnack, []byte{1, 0})
		c.expect(typePublish, order.packet(3, false)[2:])
		c.Close()
	}
	c := a.connect(t, keeps)
	c.expect(typeConnack, []byte{1, 0})
	c.expect(typePublish, order.packet(3, false)[2:])
	if s := b.back(0); s.clean || s.client != "pump-1/dev" {
		t.Errorf("the way back is %+v", s.connect)
	}
	b.Stop()
	if p, err := readPacket(c.r, 10, nil); err == nil {
		t.Errorf("the device goes on with %+v", p)
	}
	c = a.connect(t, keeps)
	c.expect(typeConnack, []byte{0, 0}) // nobody knows
	c.publish(1, 1, false, "away")
	b.Start()
	if p, err := readPacket(c.r, 10, nil); err == nil {
		t.Errorf("it is not told of its session: %+v", p)
	}
	a.settled(t, 1)
	storetest.Eventually(t, "the gateway to be known as there", func() bool { return a.cfg.Gateway.Failed() == nil })
	c = a.connect(t, keeps)
	c.expect(typeConnack, []byte{1, 0})
}

// TestWhatADeviceDoesWrongItHearsFromTheGateway.
func TestWhatADeviceDoesWrongItHearsFromTheGateway(t *testing.T) {
	b := newBroker(t)
	a := b.agent(t.TempDir(), nil)
	c, _ := a.device5(t, hello5("dev", true, 0))
	c.send(subscribe(level5, 9))
	c.expect(typeSuback, []byte{0, 9, 0, 1})
	if _, err := b.back(0).Write(encode(typeDisconnect, 0, []byte{0x93, 0})); err != nil {
		t.Fatal(err)
	}
	c.expect(typeDisconnect, []byte{0x93, 0})
}

// TestADeviceThatDoesNotWaitIsEnded: what it asks for while the gateway is away is
// not kept without end.
func TestADeviceThatDoesNotWaitIsEnded(t *testing.T) {
	b := newBroker(t)
	b.Stop()
	a := b.agent(t.TempDir(), nil)
	c, _ := a.device5(t, hello5("dev", true, 0))
	for id := range ahead + 1 {
		c.send(subscribe(level5, uint16(id+1)))
	}
	c.expect(typeDisconnect, []byte{reasonQuota})
	c, _ = a.device5(t, hello5("dev", true, 0))
	c.send(encode(typeSubscribe, 2, append(appendText([]byte{0, 9, 0}, strings.Repeat("x", maxAsk)), 1)))
	c.expect(typeDisconnect, []byte{reasonSize})
}

// TestAWillWaitsAsItSays, unless the device is back before.
func TestAWillWaitsAsItSays(t *testing.T) {
	b := newBroker(t)
	a := b.agent(t.TempDir(), nil)
	will := func(session, delay uint32, text string) []byte {
		body := append(appendText(nil, "MQTT"), level5, 2|4|1<<3, 0, 0)
		body = properties(nil).with32(propSession, session).append(body)
		body = properties(nil).with32(propWillDelay, delay).append(appendText(body, "dev"))
		return appendText(appendText(body, "state"), text)
	}
	c, _ := a.device5(t, will(3600, 3600, "never"))
	c.Close()
	c, _ = a.device5(t, will(0, 3600, "at once")) // its session ends with it
	c.send(encode(typeDisconnect, 0, []byte{4}))  // DISCONNECT with the will
	a.settled(t, 1)
	if got := b.received(); !slices.Equal(got, []string{"at once"}) {
		t.Errorf("%q arrived", got)
	}
}

// TestWillsThatWaitTakeNoConnectionsPlace: clients that vanish leave room for others,
// and past as many wills as there can be connections, none waits.
func TestWillsThatWaitTakeNoConnectionsPlace(t *testing.T) {
	b := newBroker(t)
	const places = 2
	a := b.agent(t.TempDir(), func(f *settings.Forward) { f.Connections = places })
	will := func(client, text string) []byte {
		body := append(appendText(nil, "MQTT"), level5, 2|4|1<<3, 0, 0)
		body = properties(nil).with32(propSession, 3600).append(body)
		body = properties(nil).with32(propWillDelay, 3600).append(appendText(body, client))
		return appendText(appendText(body, "state"), text)
	}
	for i := range places + 2 {
		c, _ := a.device5(t, will(fmt.Sprint("dev-", i), fmt.Sprint("gone ", i)))
		c.Close()
		storetest.Eventually(t, "there is a place again", func() bool { return a.Door.Counts().Open == 0 })
	}
	a.settled(t, 2)
	// Who is back has no will, whether there is room for it to wait or not.
	was, _ := a.device5(t, will("dev", "never"))
	now, _ := a.device5(t, hello5("dev", true, 0))
	was.expect(typeDisconnect, []byte{reasonTaken})
	here := &message{level: level5, qos: 1, topic: "vitals", text: []byte("here")}
	now.send(here.packet(1, false))
	now.expect(typePuback, []byte{0, 1})
	storetest.Eventually(t, "the former one's place", func() bool { return a.Door.Counts().Open == 1 })
	a.settled(t, 3)
	if got := b.received(); len(got) != 3 || got[2] != "here" || slices.Contains(got, "never") {
		t.Errorf("%q arrived", got)
	}
}

// TestWhoIsTakenHearsIt (§3.1.4).
func TestWhoIsTakenHearsIt(t *testing.T) {
	b := newBroker(t)
	a := b.agent(t.TempDir(), nil)
	was, _ := a.device5(t, hello5("dev", true, 0))
	now, _ := a.device5(t, hello5("dev", true, 0))
	was.expect(typeDisconnect, []byte{reasonTaken})
	if _, err := readPacket(was.r, 1, nil); err == nil {
		t.Error("the former connection goes on")
	}
	now.send(encode(typePingreq, 0, nil))
	now.expect(typePingresp, nil)
}

// TestNobodyWaitsForADeadConnectionOfTheSameClient: not even a byte can be written to
// it, and the next has its answer at once.
func TestNobodyWaitsForADeadConnectionOfTheSameClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, network := net.Pipe()
		here, there := net.Pipe()
		defer network.Close()
		defer there.Close()
		was := &device{Conn: dead, connect: connect{client: "dev", level: level5, clean: true}, taken: make(chan struct{})}
		next := &device{Conn: here, connect: was.connect, taken: make(chan struct{})}
		p := &Port{clients: map[string]*device{"dev": was}}
		began := time.Now()
		answered := make(chan error, 1)
		go func() { answered <- p.welcome(t.Context(), next, &back{client: "dev"}) }()
		ack, err := readPacket(bufio.NewReader(there), 1<<10, nil)
		if err != nil || ack.kind != typeConnack {
			t.Fatalf("%+v %v", ack, err)
		}
		if err := <-answered; err != nil || time.Since(began) > 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		time.Sleep(2 * takenWithin)
		synctest.Wait()
		if _, err := network.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the former connection is open: %v", err)
		}
	})
}

// TestAMessageOfAClockThatWasWrongIsWanted: a box without a clock of its own stores in
// 1970, and is told the time before the gateway is back. How long that message has
// waited nobody knows.
func TestAMessageOfAClockThatWasWrongIsWanted(t *testing.T) {
	b := newBroker(t)
	b.Stop()
	var now atomic.Int64 // seconds
	now.Store(60)
	a := b.agentOf(t.TempDir(), b.Settings("mqtt"), func() time.Time { return time.Unix(now.Load(), 0) })
	c, _ := a.device5(t, hello5("dev", true, 0))
	m := &message{level: level5, qos: 1, topic: "vitals", text: []byte("there"), props: properties(nil).with32(propExpiry, 3600)}
	c.send(m.packet(1, false))
	c.expect(typePuback, []byte{0, 1})
	now.Store(time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC).Unix())
	b.Start()
	if n := a.settled(t, 1); n.Expired != 0 || !slices.Equal(b.received(), []string{"there"}) {
		t.Errorf("%+v, %q", n, b.received())
	}
}

// TestWhoseWillWaitsHoldsNoRoom: a device that goes within a large message leaves room
// for the next.
func TestWhoseWillWaitsHoldsNoRoom(t *testing.T) {
	b := newBroker(t)
	a := b.agent(t.TempDir(), nil)
	body := append(appendText(nil, "MQTT"), level5, 2|4|1<<3, 0, 0)
	body = properties(nil).with32(propSession, 3600).append(body)
	body = properties(nil).with32(propWillDelay, 3600).append(appendText(body, "dev"))
	c, _ := a.device5(t, appendText(appendText(body, "state"), "gone"))
	large := &message{level: level5, qos: 1, topic: "vitals", text: make([]byte, 40<<10)}
	c.send(large.packet(1, false)[:10<<10])
	c.Close()
	other, _ := a.device5(t, hello5("other", true, 0))
	other.send(large.packet(1, false))
	other.expect(typePuback, []byte{0, 1})
	a.settled(t, 1)
}

// TestAClientsNameIsNotLongerThanItCanBe with the device's before it.
func TestAClientsNameIsNotLongerThanItCanBe(t *testing.T) {
	b := newBroker(t)
	a := b.agent(t.TempDir(), nil)
	c := a.connect(t, hello5(strings.Repeat("x", 1<<16-1), true, 3600))
	c.expect(typeConnack, []byte{0, 0x85, 0})
	if _, err := readPacket(c.r, 1<<10, nil); err == nil {
		t.Error("its connection goes on")
	}
}
