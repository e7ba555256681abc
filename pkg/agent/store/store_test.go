package store

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
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
	"github.com/anteroom-iomt/anteroom/pkg/agent/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines is a protocol whose messages are lines. Its gateway is the test: it says
// what becomes of each.
type lines struct {
	*Port[string]
	outcome func(*Stored[string]) (Outcome, error)

	mu        sync.Mutex
	delivered []string
	sessions  int
}

func (l *lines) Serve(_ context.Context, conn *net.TCPConn) {
	for in := bufio.NewScanner(conn); in.Scan(); {
		if l.Keep([]byte(in.Text()), queue.DigestOf(in.Bytes()), true) != nil {
			return
		}
	}
}

func (l *lines) Read(body []byte) (string, error) {
	if strings.HasPrefix(string(body), "unreadable") {
		return "", errors.New("unreadable")
	}
	return string(body), nil
}

func (l *lines) Extension() string { return ".line" }

func (l *lines) Connect(_ context.Context, conn *tls.Conn, m string) (Session[string], error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions++
	return &line{l, conn, m[0], make(chan struct{})}, nil
}

func (l *lines) received() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.delivered)
}

// line is a session for messages that begin with the same letter.
type line struct {
	lines *lines
	conn  net.Conn
	kind  byte
	gone  chan struct{}
}

func (l *line) Takes(m string) bool    { return m[0] == l.kind }
func (l *line) Ended() <-chan struct{} { return l.gone }
func (l *line) Close()                 { _ = l.conn.Close() }

func (l *line) Deliver(_ context.Context, s *Stored[string]) (Outcome, error) {
	l.lines.mu.Lock()
	l.lines.delivered = append(l.lines.delivered, s.Message)
	l.lines.mu.Unlock()
	return l.lines.outcome(s)
}

func newLines(t *testing.T, outcome func(*Stored[string]) (Outcome, error)) (*lines, string) {
	t.Helper()
	// A connection is good for as long as the test wants it.
	g := storetest.NewGateway(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	l, dir := &lines{outcome: outcome}, t.TempDir()
	var err error
	l.Port, err = Open(Config{Settings: g.Settings("mllp"), Dir: dir, Device: "pump-1", Most: 100, Gateway: g.Relay(), Log: slog.New(slog.DiscardHandler), Clock: time.Now}, l)
	if err != nil {
		t.Fatal(err)
	}
	return l, dir
}

func (l *lines) put(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := l.Keep([]byte(text), queue.DigestOf([]byte(text)), true); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *lines) settled(t *testing.T) queue.Counts {
	t.Helper()
	storetest.Eventually(t, "the store to be empty", func() bool { st, _ := l.Stats(); return st.Messages == 0 })
	_, n := l.Stats()
	return n
}

// TestEveryOutcomeOfADeliveryIsWhatItSays, and messages that need a session of
// another kind get one, in the order they came.
func TestEveryOutcomeOfADeliveryIsWhatItSays(t *testing.T) {
	then := 0
	l, dir := newLines(t, func(s *Stored[string]) (Outcome, error) {
		s.Then = func() { then++ }
		switch s.Message {
		case "reject":
			return Rejected, nil
		case "expire":
			return Expired, nil
		case "fail":
			if s.Try == 0 {
				return Failed, nil
			}
		case "die":
			if !s.Sent {
				return 0, errors.New("died")
			}
		}
		return Delivered, nil
	})
	l.put(t, "a1", "a2", "unreadable", "reject", "expire", "fail", "die", "a3", "a3")
	end := storetest.Run(t, l)
	if n := l.settled(t); n != (queue.Counts{Delivered: 5, Again: 1, SetAside: 2, Expired: 1}) {
		t.Errorf("%+v", n)
	}
	end()
	if got := l.received(); !slices.Equal(got, []string{"a1", "a2", "reject", "expire", "fail", "fail", "die", "die", "a3"}) {
		t.Errorf("%q were sent", got)
	}
	if l.sessions != 7 || then != 7 {
		t.Errorf("%d sessions, and %d deliveries have an afterwards", l.sessions, then)
	}
	for _, name := range []string{"3.line", "4.line"} {
		if _, err := os.Stat(filepath.Join(dir, "aside", name)); err != nil {
			t.Error(err)
		}
	}
}

// TestADeliveredMessageThatStaysOnTheStoreIsNotSentAgain: the disk fails after the
// receiver has it.
func TestADeliveredMessageThatStaysOnTheStoreIsNotSentAgain(t *testing.T) {
	l, _ := newLines(t, func(*Stored[string]) (Outcome, error) { return Delivered, nil })
	l.put(t, "a", "b")
	it, err := l.queue.First()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.queue.Close(); err != nil {
		t.Fatal(err)
	}
	w := &way[string]{port: l.Port}
	defer w.close()
	for range 2 {
		if on := l.stored(t.Context(), w, it, 0); on != paused {
			t.Errorf("the loop goes on with %v", on)
		}
	}
	if got := l.received(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%q were sent", got)
	}
	if err := l.Door.Close(); err != nil {
		t.Error(err)
	}
}

// TestWhatCanNotBeSetAsideHoldsTheOthersUp: the device was told that it arrives.
func TestWhatCanNotBeSetAsideHoldsTheOthersUp(t *testing.T) {
	l, dir := newLines(t, func(s *Stored[string]) (Outcome, error) {
		if s.Message == "a" {
			return Rejected, nil
		}
		return Delivered, nil
	})
	aside := filepath.Join(dir, "aside")
	if err := os.WriteFile(aside, nil, 0o600); err != nil { // no folder
		t.Fatal(err)
	}
	l.put(t, "a", "b")
	storetest.Run(t, l)
	storetest.Eventually(t, "two tries", func() bool { return len(l.received()) == 2 })
	if st, n := l.Stats(); st.Messages != 2 || n.SetAside != 0 {
		t.Errorf("%+v %+v", st, n)
	}
	if err := os.Remove(aside); err != nil {
		t.Fatal(err)
	}
	if n := l.settled(t); n.SetAside != 1 || n.Delivered != 1 {
		t.Errorf("%+v", n)
	}
}

// TestAnErrandWaitsUntilNothingIsStored.
func TestAnErrandWaitsUntilNothingIsStored(t *testing.T) {
	hold := make(chan struct{})
	l, _ := newLines(t, func(*Stored[string]) (Outcome, error) { <-hold; return Delivered, nil })
	l.put(t, "a", "b")
	storetest.Run(t, l)
	done := make(chan []string, 1)
	e := &Errand[string]{Message: "a", Do: func(ctx context.Context, open func(context.Context) (Session[string], error)) error {
		_, err := open(ctx)
		done <- l.received()
		return err
	}}
	if l.Offer(e) {
		t.Error("an errand is taken while a message is delivered")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if l.Wait(ended, e) {
		t.Error("an errand that nobody waits for is taken")
	}
	close(hold)
	if !l.Wait(t.Context(), e) {
		t.Fatal("the errand is not taken")
	}
	if got := <-done; !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("before the errand %q were sent", got)
	}
}

// TestABoxThatIsMovedToAnotherDeviceKeepsItsMessages, and does not deliver them as
// the other's.
func TestABoxThatIsMovedToAnotherDeviceKeepsItsMessages(t *testing.T) {
	dir := t.TempDir()
	g := storetest.NewGateway(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	open := func(device string) (*lines, error) {
		l := &lines{outcome: func(*Stored[string]) (Outcome, error) { return Delivered, nil }}
		var err error
		l.Port, err = Open(Config{Settings: g.Settings("mllp"), Dir: dir, Device: device, Most: 100, Gateway: g.Relay(), Log: slog.New(slog.DiscardHandler), Clock: time.Now}, l)
		return l, err
	}
	waits := func(device string, want int, put ...string) {
		t.Helper()
		l, err := open(device)
		if err != nil {
			t.Fatal(err)
		}
		if st, _ := l.Stats(); st.Messages != want {
			t.Errorf("of %s %d messages wait, want %d", device, st.Messages, want)
		}
		l.put(t, put...)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	waits("pump-1", 0, "a", "b")
	waits("pump-1", 2)
	waits("pump-2", 0, "c")
	if _, err := os.Stat(filepath.Join(dir, "queue.of-pump-1")); err != nil {
		t.Error(err)
	}
	waits("pump-2", 1)
	waits("pump-1", 0)
	waits("pump-1", 0)
	if _, err := open("pump-2"); err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("one file takes another's place: %v", err)
	}
}
