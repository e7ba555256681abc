package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// askAs is ask for a device.
func askAs(ctx context.Context, b *Backend, device, target string) error {
	resp := new(Response)
	if err := b.Do(&Request{Method: "GET", Target: target, Host: name, Device: device, Context: ctx, Stopper: new(Stopper)}, resp); err != nil {
		return err
	}
	defer resp.Close()
	_, err := io.Copy(io.Discard, resp.Reader())
	return err
}

// slowly answers what asks for /slow when there is leave, and all else at once.
func slowly(leave <-chan struct{}) func(*peer, int64, net.Conn, *bufio.Reader) {
	return func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
		for {
			req, _ := p.read(r)
			if req == nil {
				return
			}
			if strings.HasPrefix(req.URL.Path, "/slow") {
				select {
				case <-leave:
				case <-p.done:
					return
				}
			}
			if _, err := io.WriteString(conn, ok); err != nil {
				return
			}
		}
	}
}

// shared returns what devices have of a backend, and how many of their requests
// wait.
func shared(b *Backend) (held, waiting int) {
	for i := range b.shares.part {
		p := &b.shares.part[i]
		p.mu.Lock()
		for _, h := range p.of {
			held += h.held
			for w := h.line.first; w != nil; w = w.next {
				waiting++
			}
		}
		p.mu.Unlock()
	}
	return held, waiting
}

// A device with a thousand slow requests leaves the connections of the others alone.
func TestAGreedyDeviceWaitsForItself(t *testing.T) {
	for _, two := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", two), func(t *testing.T) {
			w := newWorld(t)
			leave := make(chan struct{})
			p := serve(t, w.tls(), slowly(leave))
			cfg := backendConfig(p.addr)
			cfg.MaxConnections, cfg.HTTP2, cfg.Timeout = 12, two, config.Duration(time.Minute)
			var served, other atomic.Int64
			b := w.backend(t, cfg, Options{OnShare: func(result string, _ time.Duration) {
				if result == shareServed {
					served.Add(1)
				} else {
					other.Add(1)
				}
			}})
			const greed = 1000
			var asked sync.WaitGroup
			for range greed {
				asked.Go(func() {
					if err := askAs(t.Context(), b, "greedy", "/slow"); err != nil {
						t.Error(err)
					}
				})
			}
			eventually(t, "the greedy device has its share", func() bool { return p.reqs.Load() == shareLeast })
			eventually(t, "the rest of it waits", func() bool { held, waiting := shared(b); return held == shareLeast && waiting == greed-shareLeast })
			// Nothing of that device's ends meanwhile.
			for i := range 50 {
				if err := askAs(t.Context(), b, fmt.Sprintf("pump-%d", i%5), "/quick"); err != nil {
					t.Fatal(err)
				}
			}
			if held, waiting := shared(b); held != shareLeast || waiting != greed-shareLeast {
				t.Errorf("the greedy device has %d and waits for %d", held, waiting)
			}
			close(leave)
			asked.Wait()
			if served.Load() != greed-shareLeast || other.Load() != 0 {
				t.Errorf("%d waited and were served, %d otherwise", served.Load(), other.Load())
			}
			if held, waiting := shared(b); held != 0 || waiting != 0 {
				t.Errorf("left over: %d, and %d wait", held, waiting)
			}
		})
	}
}

func TestWhoWaitsForAShareTooLongOrGivesUp(t *testing.T) {
	w := newWorld(t)
	leave := make(chan struct{})
	p := serve(t, w.tls(), slowly(leave))
	cfg := backendConfig(p.addr)
	cfg.MaxPerDevice, cfg.Timeout = 1, config.Duration(300*time.Millisecond)
	results := make(chan string, 4)
	b := w.backend(t, cfg, Options{OnShare: func(result string, _ time.Duration) { results <- result }})
	resp := new(Response) // its body is not read to the end yet
	check(t, b.Do(&Request{Method: "GET", Target: "/", Host: name, Device: "pump", Context: t.Context()}, resp))

	if err := askAs(t.Context(), b, "pump", "/"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, errShare) {
		t.Errorf("too long: %v", err)
	}
	if r := <-results; r != shareRefused {
		t.Errorf("too long: counted as %s", r)
	}
	if !b.Health()[0].Healthy {
		t.Error("an address is blamed for what a device asks for")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- askAs(ctx, b, "pump", "/") }()
	eventually(t, "it waits", func() bool { _, n := shared(b); return n == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if r := <-results; r != shareGone {
		t.Errorf("given up: counted as %s", r)
	}
	check(t, askAs(t.Context(), b, "", "/")) // nobody's is not bounded
	resp.Close()
	resp.Close()
	check(t, askAs(t.Context(), b, "pump", "/"))
	if held, _ := shared(b); held != 0 {
		t.Errorf("left over: %d", held)
	}
}

// However a request ends, what its device had is given back.
func TestAShareIsGivenBackHoweverARequestEnds(t *testing.T) {
	w := newWorld(t)
	for name, tt := range map[string]struct {
		script func(*peer, int64, net.Conn, *bufio.Reader)
		change func(*config.Backend)
	}{
		"answered": {script: answering(ok)},
		"no body":  {script: answering("HTTP/1.1 204 No Content\r\n\r\n")},
		"to the end": {script: func(p *peer, _ int64, c net.Conn, r *bufio.Reader) {
			p.read(r)
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nok")
		}},
		"broken off": {script: func(p *peer, _ int64, c net.Conn, r *bufio.Reader) {
			p.read(r)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
		}},
		"no answer":   {script: func(p *peer, _ int64, _ net.Conn, r *bufio.Reader) { p.read(r) }},
		"nonsense":    {script: answering("nonsense\r\n\r\n")},
		"unavailable": {script: answering(ok), change: func(c *config.Backend) { c.Addresses = []string{dead(t)} }},
		"HTTP/2":      {script: answering(ok), change: func(c *config.Backend) { c.HTTP2 = true }},
		"HTTP/2 down": {script: answering(ok), change: func(c *config.Backend) { c.HTTP2, c.Addresses = true, []string{dead(t)} }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := backendConfig(serve(t, w.tls(), tt.script).addr)
			if tt.change != nil {
				tt.change(&cfg)
			}
			b := w.backend(t, cfg, Options{})
			for range 3 {
				_ = askAs(t.Context(), b, "pump", "/")
			}
			if held, waiting := shared(b); held != 0 || waiting != 0 {
				t.Errorf("%d are held, %d wait", held, waiting)
			}
		})
	}
}

func TestWhatADeviceCanHaveOfABackend(t *testing.T) {
	for connections, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 32: 4, 40: 5, 512: 64, 4096: 512} {
		if got := defaultShare(connections); got != want {
			t.Errorf("of %d connections: %d, want %d", connections, got, want)
		}
	}
}

// A share costs a request next to nothing, and no memory once devices are known.
func TestASharesMemoryIsUsedAgain(t *testing.T) {
	s := newShares(1)
	ids := make([]string, 2*shareParts*idleMost) // more than are remembered
	for i := range ids {
		ids[i] = fmt.Sprintf("pump-%d", i)
	}
	i := 0
	once := func() {
		id := ids[i%len(ids)]
		i++
		h, w := s.take(id)
		if w != nil {
			t.Fatal("it has to wait")
		}
		h.give()
	}
	for range 10 * len(ids) {
		once()
	}
	for i := range s.part {
		if p := &s.part[i]; len(p.of) > idleMost || p.kept > idleMost {
			t.Errorf("%d devices are remembered, %d shares kept", len(p.of), p.kept)
		}
	}
	if n := testing.AllocsPerRun(2000, once); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

// BenchmarkShare is what a request pays for its device's share.
func BenchmarkShare(b *testing.B) {
	s := newShares(64)
	b.ReportAllocs()
	for b.Loop() {
		h, w := s.take("patient-monitor-0042")
		if w != nil {
			b.Fatal("it has to wait")
		}
		h.give()
	}
}

// Who has given up is not remembered: a device whose requests are long could have it
// all, by asking and giving up for hours.
func TestWhoGaveUpTakesNoMemory(t *testing.T) {
	given, cancel := context.WithCancel(t.Context())
	cancel()
	s := newShares(1)
	h, _ := s.take("pump")
	p := &pool{bound: 1}
	p.take()
	first, last := 0, 0
	for i := range 100 {
		h, w := s.take("pump")
		_, place := p.take()
		if i == 50 { // one goes on waiting, in the midst of them
			continue
		}
		if err := h.wait(given, w); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := p.wait(given, place); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	for w := h.line.first; w != nil; w = w.next {
		first++
	}
	for w := p.line.first; w != nil; w = w.next {
		last++
	}
	if first != 1 || last != 1 {
		t.Fatalf("%d wait for a share and %d for a connection, and one does", first, last)
	}
	w, place := h.line.last, p.line.last
	h.give()
	p.dialed(false)
	if err := h.wait(t.Context(), w); err != nil {
		t.Error(err)
	}
	if _, err := p.wait(t.Context(), place); err != nil {
		t.Error(err)
	}
	if h.give(); h.line.first != nil || h.line.last != nil || h.held != 0 || p.line.first != nil || p.line.last != nil {
		t.Error("something is left over")
	}
}
