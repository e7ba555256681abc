package mllp

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
	"github.com/anteroom-iomt/anteroom/pkg/agent/store/storetest"
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = storetest.Patience

// engine is an interface engine behind the gateway: it takes messages and answers
// as the test says. Nothing is answered by "", and by "cut" the connection ends.
type engine struct {
	*storetest.Gateway
	t      *testing.T
	answer func(n int, m *message) []string // codes, one answer for each

	mu  sync.Mutex
	got []string // control ids, in order
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{t: t, answer: func(_ int, m *message) []string {
		if m.enhanced() {
			return []string{"CA"}
		}
		return []string{"AA"}
	}}
	e.Gateway = storetest.NewGateway(t, e.serve)
	return e
}

func (e *engine) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		body, err := readFrame(r, 1<<20, nil)
		if err != nil {
			return
		}
		m, err := parse(body)
		if err != nil {
			e.t.Errorf("the agent sends %q: %v", body, err)
			return
		}
		e.mu.Lock()
		n := len(e.got)
		e.got = append(e.got, m.id())
		e.mu.Unlock()
		for _, code := range e.answer(n, m) {
			switch code {
			case "cut":
				return
			case "":
			default:
				if _, err := c.Write(frame(m.reply(code, "", "", time.Now()))); err != nil {
					return
				}
			}
		}
	}
}

func (e *engine) received() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

// wait waits until so many messages have arrived, and returns them.
func (e *engine) wait(n int) []string {
	e.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if got := e.received(); len(got) >= n {
			return got
		}
	}
	e.t.Fatalf("%v arrived, want %d", e.received(), n)
	return nil
}

// agent is a port that runs, until it is told to end.
type running struct {
	*Port
	end func()
}

func (e *engine) agent(dir string, change func(*settings.Forward)) *running {
	e.t.Helper()
	cfg := e.Settings("mllp")
	if change != nil {
		change(&cfg)
	}
	p, err := Open(Config{Settings: cfg, Dir: dir, Device: "monitor-1", Gateway: e.Relay(), Log: slog.New(slog.DiscardHandler), Clock: time.Now})
	if err != nil {
		e.t.Fatal(err)
	}
	return &running{p, storetest.Run(e.t, p)}
}

// sender is a device's connection.
type sender struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (r *running) connect(t *testing.T) *sender {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(4 * patience))
	return &sender{t, c, bufio.NewReader(c)}
}

// text is a message with a control id and what MSH-15 and MSH-16 say.
func text(id, accept, app string) string {
	return strings.TrimRight(fmt.Sprintf("MSH|^~\\&|MON|ICU|HIS|HOSP|20260101120000||ORU^R01^ORU_R01|%s|P|2.5.1|||%s|%s", id, accept, app), "|") + "\rPID|1||123\r"
}

func (s *sender) send(text string) {
	s.t.Helper()
	if _, err := s.Write(frame([]byte(text))); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sender) hear() answer {
	s.t.Helper()
	body, err := readFrame(s.r, 1<<20, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := parse(body)
	if err != nil || m.answer == nil {
		s.t.Fatalf("the device hears %q (%v)", body, err)
	}
	return *m.answer
}

func (s *sender) expect(code, id string) {
	s.t.Helper()
	if got := s.hear(); got != (answer{code, id}) {
		s.t.Errorf("the device hears %s of %s, want %s of %s", got.code, got.id, code, id)
	}
}

// settled waits until nothing waits and so many messages were done with, and
// returns what was done.
func (r *running) settled(t *testing.T, total uint64) queue.Counts {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if st, n := r.Stats(); st.Messages == 0 && n.Delivered+n.SetAside == total {
			return n
		}
	}
	st, n := r.Stats()
	t.Fatalf("%+v, %+v", st, n)
	return queue.Counts{}
}

// TestWhatIsStoredIsDeliveredInOrder: in enhanced mode, with the gateway away, over
// an agent that ends and is started again, and with it back.
func TestWhatIsStoredIsDeliveredInOrder(t *testing.T) {
	e := newEngine(t)
	dir := t.TempDir()
	a := e.agent(dir, nil)
	s := a.connect(t)
	s.send(text("1", "AL", "NE"))
	s.expect("CA", "1")
	e.wait(1)
	a.settled(t, 1)
	e.Stop()
	var want []string
	for i := range 5 {
		id := fmt.Sprint("away-", i)
		want = append(want, id)
		s.send(text(id, "AL", ""))
		s.expect("CA", id)
		s.send(text(id, "AL", "")) // it did not hear
		s.expect("CA", id)
	}
	a.end()
	a = e.agent(dir, nil)
	s = a.connect(t)
	s.send(text("away-4", "AL", ""))
	s.expect("CA", "away-4")
	s.send(text("restarted", "AL", ""))
	s.expect("CA", "restarted")
	e.Start()
	got := e.wait(7)
	if want := append(append([]string{"1"}, want...), "restarted"); !slices.Equal(got, want) {
		t.Errorf("%v arrived, want %v", got, want)
	}
	a.settled(t, 6)
}

// TestWhatHasNoAnswerIsSentAgainAndNothingElse: the receiver takes a message and
// the connection dies before its answer.
func TestWhatHasNoAnswerIsSentAgainAndNothingElse(t *testing.T) {
	e := newEngine(t)
	e.answer = func(n int, m *message) []string {
		if n == 1 || n == 2 {
			return []string{"cut"}
		}
		return []string{"CA"}
	}
	a := e.agent(t.TempDir(), nil)
	s := a.connect(t)
	for _, id := range []string{"a", "b", "c"} {
		s.send(text(id, "AL", ""))
		s.expect("CA", id)
	}
	if got := e.wait(5); !slices.Equal(got, []string{"a", "b", "b", "b", "c"}) {
		t.Errorf("%v arrived", got)
	}
	if n := a.settled(t, 3); n != (queue.Counts{Delivered: 3, Again: 2}) {
		t.Errorf("%+v", n)
	}
}

// TestInOriginalModeADeviceHearsTheReceiver, whatever that says, and an error where
// it says nothing.
func TestInOriginalModeADeviceHearsTheReceiver(t *testing.T) {
	e := newEngine(t)
	say := map[string][]string{"1": {"AA"}, "2": {"AR"}, "3": {"AE"}, "4": {"cut"}, "5": {"AA"}, "7": {"AA"}}
	e.answer = func(_ int, m *message) []string { return say[m.id()] }
	a := e.agent(t.TempDir(), func(f *settings.Forward) { f.Store.Wait = config.Duration(5 * time.Second) })
	s := a.connect(t)
	for _, c := range []struct{ id, code string }{{"1", "AA"}, {"2", "AR"}, {"3", "AE"}, {"4", "AE"}, {"5", "AA"}} {
		s.send(text(c.id, "", ""))
		s.expect(c.code, c.id)
	}
	e.Stop()
	s.send(text("6", "", ""))
	s.expect("AE", "6")
	if st, n := a.Stats(); st.Messages != 0 || n.Delivered != 4 || n.Refused != 2 {
		t.Errorf("%+v %+v", st, n)
	}
	e.Start()
	// The agent does not try at each moment; a device that hears an error sends again.
	for got := (answer{"AE", "7"}); got != (answer{"AA", "7"}); got = s.hear() {
		if got != (answer{"AE", "7"}) {
			t.Fatalf("the device hears %+v", got)
		}
		s.send(text("7", "", ""))
	}
	if got := e.wait(6); !slices.Equal(got, []string{"1", "2", "3", "4", "5", "7"}) {
		t.Errorf("%v arrived: what was answered with an error is delivered later", got)
	}
}

func TestInOriginalModeASiteMayAnswerForDelivery(t *testing.T) {
	e := newEngine(t)
	e.Stop()
	a := e.agent(t.TempDir(), func(f *settings.Forward) { f.Store.Original = "accept" })
	s := a.connect(t)
	s.send(text("1", "", ""))
	s.expect("AA", "1")
	e.Start()
	e.wait(1)
	a.settled(t, 1)
}

// TestADirectMessageIsBehindWhatIsStored: two modes of one device keep its order.
func TestADirectMessageIsBehindWhatIsStored(t *testing.T) {
	e := newEngine(t)
	e.Stop()
	a := e.agent(t.TempDir(), nil)
	s := a.connect(t)
	s.send(text("1", "AL", ""))
	s.expect("CA", "1")
	s.send(text("2", "", ""))
	e.Start()
	s.expect("AA", "2")
	if got := e.received(); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("%v arrived", got)
	}
}

// TestWhatIsRejectedIsSetAside, and what is answered with an error a few times; the
// messages behind it go on.
func TestWhatIsRejectedIsSetAside(t *testing.T) {
	e := newEngine(t)
	say := map[string]string{"1": "CR", "2": "CE", "3": "CA"}
	e.answer = func(_ int, m *message) []string { return []string{say[m.id()]} }
	dir := t.TempDir()
	a := e.agent(dir, nil)
	s := a.connect(t)
	for _, id := range []string{"1", "2", "3"} {
		s.send(text(id, "AL", ""))
		s.expect("CA", id)
	}
	if got := e.wait(4); !slices.Equal(got, []string{"1", "2", "2", "3"}) {
		t.Errorf("%v arrived", got)
	}
	if n := a.settled(t, 3); n != (queue.Counts{Delivered: 1, SetAside: 2}) {
		t.Errorf("%+v", n)
	}
	for name, id := range map[string]string{"1.hl7": "1", "2.hl7": "2"} {
		body, err := os.ReadFile(filepath.Join(dir, "aside", name))
		if err != nil || string(body) != text(id, "AL", "") {
			t.Errorf("%s: %q %v", name, body, err)
		}
	}
}

// TestALaterAnswerReachesTheDevice: in enhanced mode the application's answer comes
// after the other one, or in its place.
func TestALaterAnswerReachesTheDevice(t *testing.T) {
	e := newEngine(t)
	say := map[string][]string{"1": {"CA", "AA"}, "2": {"AA"}, "3": {"AA"}, "4": {"CA", "AE"}}
	e.answer = func(_ int, m *message) []string { return say[m.id()] }
	a := e.agent(t.TempDir(), nil)
	s := a.connect(t)
	s.send(text("1", "AL", "AL"))
	s.expect("CA", "1")
	s.expect("AA", "1")
	s.send("MSH|^~\\&|MON|ICU|HIS|HOSP|||ACK|9|P|2.5.1\rMSA|CA|1\r") // the device's thanks
	s.send(text("2", "NE", "AL"))
	s.expect("AA", "2")
	s.send(text("3", "AL", "NE"))
	s.expect("CA", "3")
	s.send(text("4", "AL", "ER"))
	s.expect("CA", "4")
	s.expect("AE", "4")
	if n := a.settled(t, 4); n.Delivered != 4 {
		t.Errorf("%+v", n)
	}
}

func TestAFullStoreSaysSoAndKeepsWhatItHas(t *testing.T) {
	e := newEngine(t)
	e.Stop()
	a := e.agent(t.TempDir(), func(f *settings.Forward) { f.Store.Bytes, f.Store.Message = 300, 200 })
	s := a.connect(t)
	for _, id := range []string{"1", "2"} {
		s.send(text(id, "AL", ""))
		s.expect("CA", id)
	}
	s.send(text("3", "AL", ""))
	s.expect("CE", "3")
	s.send(text("4", "SU", "")) // it wants to hear of success only
	s.send(text("5", "ER", ""))
	s.expect("CE", "5")
	e.Start()
	e.wait(2)
	n := a.settled(t, 2)
	s.send(text("3", "AL", ""))
	s.expect("CA", "3")
	if got := e.wait(3); !slices.Equal(got, []string{"1", "2", "3"}) || n.Refused != 3 {
		t.Errorf("%v arrived, %+v", got, n)
	}
}

func TestWhatIsNoMessageIsRefused(t *testing.T) {
	e := newEngine(t)
	a := e.agent(t.TempDir(), nil)
	s := a.connect(t)
	s.send(text("", "AL", ""))
	s.expect("CR", "")
	s.send(strings.Replace(text("x", "", ""), "|x|", "||", 1))
	s.expect("AR", "")
	for what, in := range map[string]string{"no HL7": "\x0bhello\x1c\r", "no block": "hello", "too long": "\x0b" + strings.Repeat("x", 70<<10)} {
		s := a.connect(t)
		_, _ = s.Write([]byte(in))
		if _, err := s.r.ReadByte(); err == nil {
			t.Errorf("%s is answered", what)
		}
	}
	if got := e.received(); len(got) != 0 {
		t.Errorf("%v arrived", got)
	}
}

// TestAMessageThatWasCutOffIsNotTaken: half a message is none, also if it could be
// read.
func TestAMessageThatWasCutOffIsNotTaken(t *testing.T) {
	e := newEngine(t)
	a := e.agent(t.TempDir(), nil)
	s := a.connect(t)
	whole := string(frame([]byte(text("1", "AL", ""))))
	_, _ = s.Write([]byte(whole[:len(whole)-1]))
	s.Close()
	s = a.connect(t)
	s.send(text("2", "AL", ""))
	s.expect("CA", "2")
	if got := e.wait(1); !slices.Equal(got, []string{"2"}) {
		t.Errorf("%v arrived", got)
	}
	a.settled(t, 1)
}

// TestManyLargeMessagesTakeNoMoreThanOne: whoever is on the cable could take the
// box's memory otherwise.
func TestManyLargeMessagesTakeNoMoreThanOne(t *testing.T) {
	e := newEngine(t)
	a := e.agent(t.TempDir(), func(f *settings.Forward) { f.Connections, f.Store.Message, f.Store.Bytes = 200, 1<<20, 8<<20 })
	begin := append([]byte{startBlock}, bytes.Repeat([]byte("x"), 1<<20-2)...)
	storetest.LargeIsBounded(t, func() net.Conn { return a.connect(t).Conn }, begin, func() {
		s := a.connect(t)
		s.send(text("1", "AL", ""))
		s.expect("CA", "1")
	})
}

// TestALargeMessageWaitsForTheOneBeforeIt and is taken then.
func TestALargeMessageWaitsForTheOneBeforeIt(t *testing.T) {
	e := newEngine(t)
	a := e.agent(t.TempDir(), nil)
	long := text("1", "AL", "") + "OBX|" + strings.Repeat("x", 40<<10)
	half, other := a.connect(t), a.connect(t)
	if _, err := half.Write(frame([]byte(long))[:30<<10]); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = other.Write(frame([]byte(strings.Replace(long, "|1|", "|2|", 1)))) }()
	half.Close()
	other.expect("CA", "2")
	other.send(strings.Replace(long, "|1|", "|3|", 1))
	other.expect("CA", "3")
	if got := e.wait(2); !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("%v arrived", got)
	}
}
