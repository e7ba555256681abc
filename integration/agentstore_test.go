package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// mllpEngine stands for a listener of the gateway that speaks MLLP over mutual TLS:
// it takes messages from who shows a certificate of the hospital's, and commits to
// each.
type mllpEngine struct {
	t    *testing.T
	conf *tls.Config
	addr string

	mu   sync.Mutex
	got  []string // control ids, as they came
	who  map[string]bool
	open map[net.Conn]bool
	ln   net.Listener
	wg   sync.WaitGroup
}

func (e *mllpEngine) start() {
	e.t.Helper()
	ln, err := tls.Listen("tcp", e.addr, e.conf)
	if err != nil {
		e.t.Fatal(err)
	}
	e.ln = ln
	e.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.open[c] = true
			e.mu.Unlock()
			e.wg.Go(func() { e.serve(c.(*tls.Conn)) })
		}
	})
}

func (e *mllpEngine) stop() {
	e.ln.Close()
	e.mu.Lock()
	for c := range e.open {
		c.Close()
	}
	e.mu.Unlock()
	e.wg.Wait()
}

func (e *mllpEngine) serve(c *tls.Conn) {
	defer c.Close()
	if c.HandshakeContext(e.t.Context()) != nil {
		return
	}
	e.mu.Lock()
	e.who[c.ConnectionState().PeerCertificates[0].URIs[0].String()] = true
	e.mu.Unlock()
	for r := bufio.NewReader(c); ; {
		block, err := r.ReadString('\r')
		for err == nil && !strings.HasSuffix(block, "\x1c\r") {
			var more string
			more, err = r.ReadString('\r')
			block += more
		}
		if err != nil {
			return
		}
		id := strings.Split(block, "|")[9]
		e.mu.Lock()
		e.got = append(e.got, id)
		e.mu.Unlock()
		fmt.Fprintf(c, "\x0bMSH|^~\\&|HIS|HOSP|MON|ICU|||ACK^R01|A-%s|P|2.5.1\rMSA|CA|%s\r\x1c\r", id, id)
	}
}

func (e *mllpEngine) received() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

// A ward is a companion that is enrolled as monitor-1 and stores what is sent to
// listen for an engine. Neither of them runs yet.
type ward struct {
	*companion
	h            *enrolling
	e            *mllpEngine
	listen, root string
}

func newWard(t *testing.T) *ward {
	t.Helper()
	w := &ward{h: newEnrolling(t, ""), listen: rig.FreeAddr(t)}
	var token string
	token, w.root = w.h.tokenFor("monitor-1", "patient-monitor")
	pki := peers.NewPKI(t)
	w.e = &mllpEngine{t: t, addr: rig.FreeAddr(t), who: map[string]bool{}, open: map[net.Conn]bool{}, conf: &tls.Config{
		Certificates: []tls.Certificate{pki.Pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: w.h.Roots(), MinVersion: tls.VersionTLS12,
	}}
	w.companion = newCompanion(t, fmt.Sprintf(`state_dir: state
enrolment: {url: %q}
forward:
  - {name: hl7, listen: %q, device: 127.0.0.1, protocol: mllp, gateway: %q, server_name: localhost, ca_file: %q, store: {bytes: 1MiB, message: 64KiB}}
`, w.h.url(""), w.listen, w.e.addr, pki.CAFile))
	w.must(token, "enrol", "--root", w.root)
	return w
}

// TestHL7OfADeviceOutlivesItsAgentAndItsGateway: a monitor sends through an agent
// that is killed again and again, to a gateway that comes and goes. Whatever the
// monitor was told is stored arrives, in order, and once for who knows messages by
// their control id.
func TestHL7OfADeviceOutlivesItsAgentAndItsGateway(t *testing.T) {
	t.Parallel()
	c := newWard(t)

	const messages, kills = 60, 4
	var device net.Conn
	var heard *bufio.Reader
	defer func() {
		if device != nil {
			device.Close()
		}
	}()
	// say sends a message, as often as it takes, until the device hears that it is
	// stored.
	say := func(id string) {
		t.Helper()
		rig.Eventually(t, "the agent to store "+id, func() bool {
			if device == nil {
				conn, err := net.Dial("tcp", c.listen)
				if err != nil {
					return false
				}
				device, heard = conn, bufio.NewReader(conn)
			}
			_ = device.SetDeadline(time.Now().Add(20 * time.Second))
			_, err := fmt.Fprintf(device, "\x0bMSH|^~\\&|MON|ICU|HIS|HOSP|20260101120000||ORU^R01^ORU_R01|%s|P|2.5.1|||AL|NE\rPID|1||123\r\x1c\r", id)
			answer := ""
			for err == nil && !strings.HasSuffix(answer, "\x1c\r") {
				var more string
				more, err = heard.ReadString('\r')
				answer += more
			}
			if err != nil {
				device.Close()
				device = nil
				return false
			}
			if !strings.Contains(answer, "MSA|CA|"+id) {
				t.Fatalf("the device hears %q", answer)
			}
			return true
		})
	}
	c.e.start()
	c.start()
	var want []string
	for i := range messages {
		switch {
		case i == 10, i == 40:
			c.e.stop()
		case i == 30, i == 50:
			c.e.start()
		}
		if i%(messages/kills) == messages/kills/2 {
			c.Kill()
			c.start()
		}
		id := fmt.Sprintf("M%03d", i)
		say(id)
		want = append(want, id)
	}
	defer func() { c.e.stop() }()
	rig.Eventually(t, "every message to arrive", func() bool { return c.status().Entries[0].Stored.Messages == 0 })

	var first []string
	for _, id := range c.e.received() {
		if !slices.Contains(first, id) {
			first = append(first, id)
		}
	}
	if !slices.Equal(first, want) {
		t.Errorf("arrived in this order: %v", first)
	}
	// One may be under way with each kill and each end of the gateway.
	if again := len(c.e.received()) - messages; again > kills+2 {
		t.Errorf("%d messages came again", again)
	}
	if len(c.e.who) != 1 || !c.e.who["spiffe://"+rig.TrustDomain+"/device/monitor-1"] {
		t.Errorf("they came from %v", c.e.who)
	}
	if out := c.must("", "status"); !strings.Contains(out, "hl7: 0 messages wait") {
		t.Errorf("status: %s", out)
	}
}

// TestAnAgentStaysSmallUnderLoad: with a store that is full, a gateway that is away,
// and a hundred connections in the middle of a message.
func TestAnAgentStaysSmallUnderLoad(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, "")
	token, root := h.tokenFor("monitor-1", "patient-monitor")
	listen := rig.FreeAddr(t)
	c := newCompanion(t, fmt.Sprintf(`state_dir: state
enrolment: {url: %q}
forward:
  - {name: hl7, listen: %q, device: 127.0.0.1, protocol: mllp, gateway: %q, connections: 120, store: {bytes: 4MiB, message: 512KiB}}
`, h.url(""), listen, rig.FreeAddr(t)))
	c.must(token, "enrol", "--root", root)
	c.start()
	message := func(id string, n int) string {
		return fmt.Sprintf("\x0bMSH|^~\\&|MON|ICU|HIS|HOSP|||ORU^R01^ORU_R01|%s|P|2.5.1|||AL|NE\rOBX|%s\r\x1c\r", id, strings.Repeat("x", n))
	}
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	conn := dial()
	heard := bufio.NewReader(conn)
	for i, full := 0, false; !full; i++ {
		if _, err := fmt.Fprint(conn, message(fmt.Sprint(i), 400<<10)); err != nil {
			t.Fatal(err)
		}
		answer, err := heard.ReadString(0x1c)
		if err != nil {
			t.Fatal(err)
		}
		full = strings.Contains(answer, "MSA|CE|")
	}
	for i := range 100 {
		conn, half := dial(), message(fmt.Sprint("half-", i), 400<<10)[:300<<10]
		go func() { _, _ = fmt.Fprint(conn, half) }()
	}
	rig.Eventually(t, "all to be connected", func() bool { return c.status().Entries[0].Open == 101 })
	// What was garbage a moment ago is not counted; what is held is.
	var memory []int64
	rig.Eventually(t, "the agent to be small with all that", func() bool {
		memory = append(memory, resident(t, c.PID()))
		return memory[len(memory)-1] <= maxAgentMemory
	})
	t.Logf("resident: %d kB, after %d looks", memory[len(memory)-1]>>10, len(memory))
	if n := c.status().Entries[0].Open; n != 101 {
		t.Errorf("%d connections are open", n)
	}
}
