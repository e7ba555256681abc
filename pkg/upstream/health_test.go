package upstream

import (
	"bufio"
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

// changes collects what OnChange says.
type changes struct {
	mu  sync.Mutex
	all []string
}

func (c *changes) note(addr string, healthy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, fmt.Sprint(addr, " ", healthy))
}

func (c *changes) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.all, ", ")
}

// clock is a time that tests move.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.ns.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// switched answers while it is on and ends connections while it is off.
func switched(on *atomic.Bool, answer string) func(*peer, int64, net.Conn, *bufio.Reader) {
	return func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
		for {
			if req, _ := p.read(r); req == nil || !on.Load() {
				return
			}
			_, _ = io.WriteString(conn, answer)
		}
	}
}

func TestFailuresInUseSetAnAddressAsideForItsCooldown(t *testing.T) {
	w, now := newWorld(t), newClock()
	var on atomic.Bool
	first := serve(t, w.tls(), switched(&on, strings.Replace(ok, "ok", "1!", 1)))
	second := serve(t, w.tls(), answering(strings.Replace(ok, "ok", "2!", 1)))
	cfg := backendConfig(first.addr, second.addr)
	seen := new(changes)
	b := w.backend(t, cfg, Options{Clock: now.now, OnChange: seen.note})
	for i := range 5 {
		if got := get(t, b); got != "2!" {
			t.Fatalf("answer of %q", got)
		}
		if h, want := b.Health()[0], i < 2; h.Healthy != want || (h.Error == "") != want {
			t.Errorf("after %d failures: %+v", i+1, h)
		}
	}
	if n := first.reqs.Load(); n != 3 {
		t.Errorf("the first address was asked %d times, want until it was set aside", n)
	}
	// When its time is over one request tries it, and the others do not.
	now.advance(time.Minute + time.Second)
	for range 3 {
		get(t, b)
	}
	if n := first.reqs.Load(); n != 4 {
		t.Errorf("the first address was asked %d times, want once more", n)
	}
	on.Store(true)
	now.advance(time.Minute + time.Second)
	for range 2 {
		if got := get(t, b); got != "1!" {
			t.Errorf("after it came back: answer of %q", got)
		}
	}
	want := fmt.Sprintf("%[1]s true, %[2]s true, %[1]s false, %[1]s true", first.addr, second.addr)
	if seen.String() != want {
		t.Errorf("told %s, want %s", seen, want)
	}
}

func TestASuccessForgetsFailures(t *testing.T) {
	w := newWorld(t)
	var on atomic.Bool
	p := serve(t, w.tls(), switched(&on, ok))
	cfg := backendConfig(p.addr)
	cfg.Retries = 0
	b := w.backend(t, cfg, Options{})
	for range 4 {
		on.Store(false)
		for range 2 {
			if _, err := b.RoundTrip(request(t, "GET", "/", nil)); err == nil {
				t.Fatal("answered")
			}
		}
		if !b.Health()[0].Healthy {
			t.Fatal("set aside after failures that were not in a row")
		}
		on.Store(true)
		get(t, b)
	}
}

// While one request finds out whether an address is back, which may take as long
// as a connect may, others do not wait for it too.
func TestOneRequestTriesAnAddressAgain(t *testing.T) {
	a, now := &address{}, newClock()
	a.failed(ErrUnavailable, 1, now.now().Add(time.Minute))
	for _, want := range []bool{true, false, false} {
		if want {
			now.advance(time.Minute)
		}
		if got := a.usable(now.now(), false, time.Minute); got != want {
			t.Errorf("usable %v, want %v", got, want)
		}
		if a.usable(now.now(), true, time.Minute) {
			t.Error("usable before a check has found it so")
		}
	}
}

// A wrong judgement of ours must not be what keeps an alarm from its backend.
func TestWhenAllAreSetAsideAllAreTried(t *testing.T) {
	w := newWorld(t)
	var on atomic.Bool
	p := serve(t, w.tls(), switched(&on, ok))
	cfg := backendConfig(dead(t), p.addr)
	cfg.Health.Failures = 1
	b := w.backend(t, cfg, Options{})
	if _, err := b.RoundTrip(request(t, "GET", "/", nil)); err == nil {
		t.Fatal("answered")
	}
	for _, h := range b.Health() {
		if h.Healthy {
			t.Fatalf("not set aside: %+v", h)
		}
	}
	on.Store(true)
	if get(t, b) != "ok" {
		t.Error("not tried")
	}
}

// TestAProbeSaysHowEachAddressIs, and sets none aside.
func TestAProbeSaysHowEachAddressIs(t *testing.T) {
	w := newWorld(t)
	good := serve(t, w.tls(), func(_ *peer, _ int64, _ net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	addr := gone.Addr().String()
	check(t, gone.Close())
	b := w.backend(t, backendConfig(good.addr, addr), Options{})
	got := b.Probe(t.Context())
	if len(got) != 2 || !got[0].Healthy || got[0].Error != "" || got[1].Healthy || got[1].Address != addr || !strings.Contains(got[1].Error, "refused") {
		t.Errorf("%+v", got)
	}
	for _, h := range b.Health() {
		if !h.Healthy {
			t.Errorf("set aside: %+v", h)
		}
	}
}

func TestChecksFindWhatDiedAndWhatCameBack(t *testing.T) {
	for what, c := range map[string]struct {
		path         string
		good, bad    string
		wantContains string
	}{
		"path":       {"/health?full=1", ok, "HTTP/1.1 503 SECRET\r\nContent-Length: 6\r\n\r\nSECRET", "503"},
		"redirect":   {"/health", "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "404"},
		"no HTTP":    {"/health", ok, "SECRET\r\n\r\n", "can not be understood"},
		"connection": {"", ok, "", ""},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			var up atomic.Bool
			up.Store(true)
			var asked atomic.Value
			p := serve(t, w.tls(), func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
				for {
					req, _ := p.read(r)
					if req == nil {
						return
					}
					asked.Store(req.Host + req.RequestURI)
					answer := c.good
					if !up.Load() {
						answer = c.bad
					}
					if _, err := io.WriteString(conn, answer); err != nil || !strings.HasPrefix(answer, "HTTP") {
						return
					}
				}
			})
			cfg := backendConfig(p.addr)
			cfg.Host = "ehr.internal"
			cfg.Health.Path, cfg.Health.Interval, cfg.Health.Failures = c.path, config.Duration(2*time.Millisecond), 2
			b := w.backend(t, cfg, Options{})
			healthy := func() bool { return b.Health()[0].Healthy }
			if c.path == "" {
				eventually(t, "two checks", func() bool { return p.conns.Load() > 1 })
				if !healthy() || p.reqs.Load() > 0 {
					t.Errorf("health %+v after %d requests", b.Health(), p.reqs.Load())
				}
				return
			}
			eventually(t, "two checks", func() bool { return p.reqs.Load() > 1 })
			if !healthy() {
				t.Fatalf("set aside: %+v", b.Health())
			}
			if got := asked.Load(); got != "ehr.internal"+c.path {
				t.Errorf("asked for %v", got)
			}
			if p.conns.Load() != 1 {
				t.Errorf("%d checks took %d connections", p.reqs.Load(), p.conns.Load())
			}
			up.Store(false)
			eventually(t, "it is set aside", func() bool { return !healthy() })
			if e := b.Health()[0].Error; !strings.Contains(e, c.wantContains) || strings.Contains(e, "SECRET") {
				t.Errorf("the error says %q", e)
			}
			up.Store(true)
			eventually(t, "it is healthy again", healthy)
		})
	}
}

func TestAConnectCheckSeesADeadAddressAndAFalseName(t *testing.T) {
	w := newWorld(t)
	liar := serve(t, w.tls(), answering(ok))
	cfg := backendConfig(dead(t), liar.addr)
	cfg.ServerName = "other.hospital.test"
	cfg.Health.Interval = config.Duration(2 * time.Millisecond)
	b := w.backend(t, cfg, Options{})
	eventually(t, "both are set aside", func() bool { h := b.Health(); return !h[0].Healthy && !h[1].Healthy })
}

func TestCloseEndsACheckThatHangs(t *testing.T) {
	w := newWorld(t)
	p := serve(t, nil, hang)
	cfg := backendConfig(p.addr)
	cfg.Health.Interval, cfg.Health.Timeout, cfg.Connect = config.Duration(time.Hour), config.Duration(time.Hour), config.Duration(time.Hour)
	seen := new(changes)
	b, err := New(cfg, Options{Roots: w.ca.pool(), OnChange: seen.note})
	check(t, err)
	eventually(t, "the check has begun", func() bool { return p.conns.Load() > 0 })
	check(t, b.Close())
	if !b.Health()[0].Healthy || seen.String() != p.addr+" true" {
		t.Errorf("Close was taken for a failure: %s", seen)
	}
}

func TestManyRequestsWhileAddressesComeAndGo(t *testing.T) {
	w := newWorld(t)
	var on [2]atomic.Bool
	var addrs []string
	for i := range on {
		on[i].Store(true)
		addrs = append(addrs, serve(t, w.tls(), switched(&on[i], ok)).addr)
	}
	cfg := backendConfig(addrs...)
	cfg.Health.Interval, cfg.Health.Failures, cfg.Retries = config.Duration(time.Millisecond), 1, 3
	b := w.backend(t, cfg, Options{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				on[0].Store(i%2 == 0) // the second is there all the time
			}
		}
	})
	var good atomic.Int64
	var requests sync.WaitGroup
	for range 4 {
		requests.Go(func() {
			for range 50 {
				resp, err := b.RoundTrip(request(t, "GET", "/", nil))
				if err != nil {
					if !errors.Is(err, ErrAnswer) {
						t.Error(err)
					}
					continue
				}
				resp.Body.Close()
				good.Add(1)
				b.Health()
			}
		})
	}
	requests.Wait()
	close(stop)
	wg.Wait()
	if good.Load() != 200 {
		t.Errorf("%d of 200 requests were answered", good.Load())
	}
}
