package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// account returns what a pool thinks there is.
func account(p *pool) (open, dialing, idle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.dialing, len(p.idle)
}

// gated answers each request when there is leave.
func gated(leave <-chan struct{}) func(*peer, int64, net.Conn, *bufio.Reader) {
	return func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
		for {
			if req, _ := p.read(r); req == nil {
				return
			}
			select {
			case <-leave:
			case <-p.done:
				return
			}
			if _, err := io.WriteString(conn, ok); err != nil {
				return
			}
		}
	}
}

// ask sends a request with Do and drops the answer.
func ask(ctx context.Context, b *Backend, s *Stopper) error {
	resp := new(Response)
	if err := b.Do(&Request{Method: "GET", Target: "/", Host: name, Context: ctx, Stopper: s}, resp); err != nil {
		return err
	}
	defer resp.Close()
	for {
		if _, err := resp.Next(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func TestACrowdSharesTheConnectionsThereMayBe(t *testing.T) {
	w := newWorld(t)
	p := serve(t, w.tls(), answering(ok))
	cfg := backendConfig(p.addr)
	cfg.MaxConnections = 3
	b := w.backend(t, cfg, Options{})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if err := ask(t.Context(), b, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := p.conns.Load(); n > 3 {
		t.Errorf("%d connections were made, of 3 at most", n)
	}
	if n := p.reqs.Load(); n != 100 {
		t.Errorf("%d of 100 requests arrived", n)
	}
}

func TestWhoWaitsForAConnectionIsServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pool{most: 1, bound: 2}
		var cs [2]conn
		for range cs {
			if c, place := p.take(); c != nil || place != nil {
				t.Fatal("no leave to connect")
			}
			p.dialed(true)
		}
		var order []int
		var cancels []context.CancelFunc
		for i := range 5 {
			c, place := p.take()
			if c != nil || place == nil {
				t.Fatal("more connections than there may be")
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancels = append(cancels, cancel)
			go func() {
				if _, err := p.wait(ctx, place); err == nil {
					order = append(order, i)
				}
			}()
			synctest.Wait()
		}
		cancels[1]()
		synctest.Wait()
		p.put(&cs[0], time.Now())
		synctest.Wait()
		p.gone() // one was closed: leave to make another
		synctest.Wait()
		if open, dialing, idle := account(p); open != 2 || dialing != 1 || idle != 0 {
			t.Errorf("open %d, dialing %d, idle %d", open, dialing, idle)
		}
		p.dialed(false) // that failed: the next one may try
		synctest.Wait()
		p.put(&cs[0], time.Now())
		synctest.Wait()
		if len(order) != 4 || order[0] != 0 || order[1] != 2 || order[2] != 3 || order[3] != 4 {
			t.Errorf("served %v, want 0 2 3 4", order)
		}
		for _, cancel := range cancels {
			cancel()
		}
	})
}

func TestNotAllConnectionsAreMadeAtOnce(t *testing.T) {
	p := &pool{most: 1, bound: 1000}
	var place *waiter
	for n := 0; place == nil; n++ {
		if n > dialsMost {
			t.Fatalf("%d connections are made at once, of %d at most", n, dialsMost)
		}
		_, place = p.take()
	}
	p.dialed(true)
	if c, err := p.wait(t.Context(), place); c != nil || err != nil {
		t.Errorf("%v, %v: want leave to connect", c, err)
	}
}

func TestWhoGivesUpWaitingLeavesNothingBehind(t *testing.T) {
	w := newWorld(t)
	leave := make(chan struct{})
	p := serve(t, w.tls(), gated(leave))
	cfg := backendConfig(p.addr)
	cfg.MaxConnections = 1
	b := w.backend(t, cfg, Options{})
	pl := &b.addrs[0].pool
	first := make(chan error)
	go func() { first <- ask(t.Context(), b, nil) }()
	eventually(t, "the first request", func() bool { return p.reqs.Load() == 1 })

	waits := func() bool { pl.mu.Lock(); defer pl.mu.Unlock(); return pl.line.last != nil }
	for name, give := range map[string]func(context.CancelFunc, *Stopper){
		"its context ends":   func(cancel context.CancelFunc, _ *Stopper) { cancel() },
		"its device is gone": func(_ context.CancelFunc, s *Stopper) { s.Stop() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		s, done := new(Stopper), make(chan error)
		go func() { done <- ask(ctx, b, s) }()
		eventually(t, name+": waiting", waits)
		give(cancel, s)
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	stopped := new(Stopper)
	stopped.Stop()
	if err := ask(t.Context(), b, stopped); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped before: %v", err)
	}

	close(leave)
	check(t, <-first)
	check(t, ask(t.Context(), b, nil))
	if open, dialing, idle := account(pl); open != 1 || dialing != 0 || idle != 1 {
		t.Errorf("open %d, dialing %d, idle %d", open, dialing, idle)
	}
	b.closeIdle(false)
	if open, _, idle := account(pl); open != 0 || idle != 0 {
		t.Errorf("closed, but open %d, idle %d", open, idle)
	}
	if !b.Health()[0].Healthy {
		t.Error("an address is blamed for who gave up")
	}
}

func TestAFullPoolIsNoFaultOfTheAddress(t *testing.T) {
	w := newWorld(t)
	p := serve(t, w.tls(), gated(nil))
	other := serve(t, w.tls(), answering(ok))
	cfg := backendConfig(p.addr, other.addr)
	cfg.MaxConnections, cfg.Health.Failures, cfg.Timeout = 1, 1, config.Duration(20*time.Millisecond)
	b := w.backend(t, cfg, Options{})
	b.addrs[0].pool.take() // the one connection there may be
	if err := ask(t.Context(), b, nil); !errors.Is(err, ErrUnavailable) || !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
	if !b.Health()[0].Healthy || other.conns.Load() != 0 {
		t.Error("an address was set aside because it has enough to do")
	}
}

func TestATimeoutCountsOnlyWhereNobodyGetsThrough(t *testing.T) {
	w := newWorld(t)
	p := serve(t, nil, hang)
	for _, well := range []bool{true, false} {
		cfg := backendConfig(p.addr)
		cfg.Connect, cfg.Health.Failures, cfg.Retries = config.Duration(50*time.Millisecond), 1, 0
		b := w.backend(t, cfg, Options{})
		if well { // as it is when another request is answered meanwhile
			b.addrs[0].pool.good = time.Now().Add(time.Hour)
		}
		if err := ask(t.Context(), b, nil); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if _, err := b.Dial(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if b.Health()[0].Healthy != well {
			t.Errorf("well to others %v, and healthy %v", well, !well)
		}
		if open, dialing, _ := account(&b.addrs[0].pool); open != 0 || dialing != 0 {
			t.Errorf("open %d, dialing %d", open, dialing)
		}
	}
	// A refusal is the address's own word, whatever others got.
	b := w.backend(t, backendConfig(dead(t)), Options{})
	b.cfg.Health.Failures, b.addrs[0].pool.good = 1, time.Now().Add(time.Hour)
	if err := ask(t.Context(), b, nil); !errors.Is(err, ErrUnavailable) || b.Health()[0].Healthy {
		t.Errorf("%v, healthy %v", err, b.Health()[0].Healthy)
	}
}
