package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

// queue has somebody wait to begin, and reports when the turn has come.
func queue(t *testing.T, turns *turns, ctx context.Context, from netip.Addr, come func()) {
	t.Helper()
	go func() {
		if turns.begin(ctx, from) == nil {
			come()
		}
	}()
	synctest.Wait()
}

func TestAnAddressThatCrowdsWaitsForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		if err := turns.begin(t.Context(), address(0)); err != nil {
			t.Fatal(err)
		}
		var order []string
		wait := func(from, name string, n int) {
			for i := range n {
				queue(t, turns, t.Context(), netip.MustParseAddr(from), func() { order = append(order, fmt.Sprint(name, i)) })
			}
		}
		wait("10.0.0.1", "crowd ", 4)
		wait("10.0.0.2", "pump ", 1)
		wait("10.0.0.3", "monitor ", 2)
		for range 7 {
			turns.end()
			synctest.Wait()
		}
		want := []string{"crowd 0", "pump 0", "monitor 0", "crowd 1", "monitor 1", "crowd 2", "crowd 3"}
		if !slices.Equal(order, want) {
			t.Errorf("served %v, want %v", order, want)
		}
		turns.end()
		if turns.free != 1 || len(turns.lines) != 0 || turns.next != nil {
			t.Errorf("left over: %d turns, %d lines", turns.free, len(turns.lines))
		}
	})
}

func TestAHandshakeThatHasBegunGoesFirstButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		if err := turns.begin(t.Context(), address(0)); err != nil {
			t.Fatal(err)
		}
		var order strings.Builder
		queue(t, turns, t.Context(), address(1), func() { order.WriteByte('n') })
		for range begunMost + 2 {
			go func() {
				if turns.resume(t.Context()) == nil {
					order.WriteByte('b')
				}
			}()
		}
		synctest.Wait()
		for range begunMost + 3 {
			turns.end()
			synctest.Wait()
		}
		if want := strings.Repeat("b", begunMost) + "nbb"; order.String() != want {
			t.Errorf("served %s, want %s", order.String(), want)
		}
	})
}

// TestEveryoneGetsATurnAndNoMoreThanThereAre has a crowd come, give up and wait for
// its peers at random.
func TestEveryoneGetsATurnAndNoMoreThanThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, crowd = 3, 500
		turns := newTurns(most)
		var now, served, gaveUp atomic.Int64
		compute := func() {
			if n := now.Add(1); n > most {
				t.Errorf("%d compute at once", n)
			}
			time.Sleep(time.Millisecond)
			now.Add(-1)
		}
		for i := range crowd {
			go func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i%5 == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(100))*time.Millisecond)
					defer cancel()
				}
				if turns.begin(ctx, address(i%7)) != nil {
					gaveUp.Add(1)
					return
				}
				compute()
				turns.end()
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // the peer's flight
				if turns.resume(ctx) != nil {
					gaveUp.Add(1)
					return
				}
				compute()
				turns.end()
				served.Add(1)
			}()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if served.Load()+gaveUp.Load() != crowd || served.Load() < crowd*4/5 {
			t.Errorf("%d served, %d gave up, of %d", served.Load(), gaveUp.Load(), crowd)
		}
		if turns.free != most || len(turns.lines) != 0 || turns.next != nil || turns.begun.first != nil {
			t.Errorf("left over: %d turns, %d lines", turns.free, len(turns.lines))
		}
	})
}

func TestADawdlingPeerHoldsNobodyUp(t *testing.T) {
	f := newFixture(t, nil)
	oneTurn(f)
	c := f.client(f.enrol("monitor-1", time.Hour))
	for _, part := range [][]byte{
		nil, // says nothing
		{22, 3, 1, 2, 0, 1},
	} {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	// One that stops after the server's flight, with its certificate owed.
	raw, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	half := &halfway{Conn: raw, answered: make(chan struct{}), done: make(chan struct{})}
	go tls.Client(half, c).Handshake() //nolint:errcheck // it never ends well
	<-half.answered
	defer close(half.done)
	if _, line, err := f.hello(c); err != nil || line != "monitor-1 hello" {
		t.Fatalf("got %q, %v", line, err)
	}
}

// halfway is a client's connection that reads the server's answer and says
// nothing more.
type halfway struct {
	net.Conn
	answered, done chan struct{}
	hello          bool
	once           sync.Once
}

func (c *halfway) Write(p []byte) (int, error) {
	if !c.hello {
		c.hello = true
		return c.Conn.Write(p)
	}
	<-c.done
	return 0, net.ErrClosed
}

func (c *halfway) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.once.Do(func() { close(c.answered) })
	return n, err
}

// oneTurn leaves one turn, however many cores there are.
func oneTurn(f *fixture) {
	f.srv.turns.mu.Lock()
	defer f.srv.turns.mu.Unlock()
	f.srv.turns.free = 1
}

// hold takes all turns, and returns what gives them back.
func hold(t *testing.T, f *fixture) (release func()) {
	t.Helper()
	oneTurn(f)
	if err := f.srv.turns.begin(t.Context(), netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	return f.srv.turns.end
}

func (t *turns) waiting() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.lines {
		for p := l.first; p != nil; p = p.next {
			n++
		}
	}
	return n
}

func TestWhoWaitsForATurnIsNotRefusedHoweverLongItTakes(t *testing.T) {
	f := newFixture(t, func(l *config.Listener) { l.Limits.Handshake = config.Duration(300 * time.Millisecond) })
	release := hold(t, f)
	var came, long atomic.Int64
	f.srv.cfg.Hooks.Turn = func(waited time.Duration) {
		came.Add(1)
		if waited >= 300*time.Millisecond {
			long.Add(1)
		}
	}
	c := f.client(f.enrol("monitor-1", time.Hour))
	const crowd = 8
	done := make(chan error, crowd)
	for range crowd {
		go func() {
			_, line, err := f.hello(c)
			if err == nil && line != "monitor-1 hello" {
				err = fmt.Errorf("heard %q", line)
			}
			done <- err
		}()
	}
	eventually(t, "all wait", func() bool { return f.srv.turns.waiting() == crowd })
	if n := f.srv.Waiting(); n != crowd {
		t.Errorf("%d are said to wait, of %d", n, crowd)
	}
	time.Sleep(400 * time.Millisecond) // longer than a handshake may take
	release()
	for range crowd {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if came.Load() != crowd || long.Load() != crowd || f.srv.Waiting() != 0 {
		t.Errorf("%d turns were told of, %d of them as long waited for; %d wait", came.Load(), long.Load(), f.srv.Waiting())
	}
}

func TestWhoGaveUpWaitingIsPassedOver(t *testing.T) {
	f := newFixture(t, nil)
	release := hold(t, f)
	c := f.client(f.enrol("monitor-1", time.Hour))
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	go tls.Client(conn, c).Handshake() //nolint:errcheck // its connection is closed
	eventually(t, "it waits", func() bool { return f.srv.turns.waiting() == 1 })
	conn.Close()
	release()
	eventually(t, "it is recorded", func() bool { return len(f.log.events("tls.refused")) == 1 })
	if r := f.log.events("tls.refused")[0]; code(r.Detail) != "gone" {
		t.Errorf("recorded as %s: %s", code(r.Detail), r.Error)
	}
	if _, line, err := f.hello(c); err != nil || line != "monitor-1 hello" {
		t.Fatalf("got %q, %v", line, err)
	}
}

func TestShutdownEndsWhoWaitsForATurn(t *testing.T) {
	f := newFixture(t, nil)
	release := hold(t, f)
	defer release()
	c := f.client(f.enrol("monitor-1", time.Hour))
	silent, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	done := make(chan error, 1)
	go func() { _, _, err := f.hello(c); done <- err }()
	eventually(t, "both are there", func() bool {
		return f.srv.turns.waiting() == 1 && f.srv.Listeners()[0].Connections == 2
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	f.srv.Shutdown(ctx)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	if err := <-done; err == nil {
		t.Error("it was served after the end")
	}
}

func code(detail []protocol.Field) string {
	for _, f := range detail {
		if f.Name == "code" {
			return f.Value.Text()
		}
	}
	return ""
}
