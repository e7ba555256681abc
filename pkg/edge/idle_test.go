package edge

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw"
)

// inUse returns the bytes of live objects and of stacks.
func inUse() (heap, stacks int64) {
	var m runtime.MemStats
	for range 3 { // each collection halves a stack that is too large
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), int64(m.StackInuse)
}

// TestASessionTakesAKilobyte: a context, a timer or a channel more for each device
// that is connected and says nothing is not seen anywhere else.
func TestASessionTakesAKilobyte(t *testing.T) {
	const n, most = 4000, 1100
	reg := fleetOf(n)
	table := newSessions(reg, time.Now)
	defer table.Close()
	sessions := make([]*protocol.Session, n)
	conn, _ := net.Pipe()
	defer conn.Close()
	before, _ := inUse()
	for i := range sessions {
		s := sessionOf(reg, fmt.Sprintf("monitor-%d", i), time.Now().Add(time.Hour))
		s.OnEnd(func() { conn.Close() })
		s.OnEnd(func() { s.Drain() })
		s.OnDrain(func() { conn.Close() })
		if err := table.add(s, 1); err != nil {
			t.Fatal(err)
		}
		sessions[i] = s
	}
	after, _ := inUse()
	if each := (after - before) / n; each > most {
		t.Errorf("a session takes %d bytes, more than %d", each, most)
	}
	for _, s := range sessions {
		s.Close(errFinished)
		table.remove(s)
	}
}

// BenchmarkIdleConnection connects devices that then say nothing, and reports what
// the gateway keeps for each: live objects and the stack. What the allocator wastes
// comes on top, and what is kept of a device that asked for something; the idle
// scenario of integration/bench measures all of it. 0.3 kB of this is the device's
// end of the connection.
func BenchmarkIdleConnection(b *testing.B) {
	f := newFixture(b, nil)
	cfg := listenerConfig("idle")
	cfg.Limits.Connections, cfg.Limits.PerDevice = 10_000, 10_000
	cfg.Limits.Idle = config.Duration(time.Hour)
	gateway, err := httpgw.New(httpgw.Config{Listener: cfg, Judge: &Judge{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	f.srv.cfg.Adapter = func(config.Listener) (protocol.Adapter, error) { return gateway, nil }
	if err := f.srv.Apply(b.Context(), []config.Listener{cfg}); err != nil {
		b.Fatal(err)
	}
	addr, client := f.srv.Listeners()[0].Address.String(), f.client(f.enrol("monitor-1", time.Hour))
	client.NextProtos = []string{"http/1.1"}
	const n = 500
	var conns [n]net.Conn
	for b.Loop() {
		heap, stacks := inUse()
		for i := range conns {
			raw, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			if err := tls.Client(raw, client).Handshake(); err != nil {
				b.Fatal(err)
			}
			conns[i] = raw // what TLS keeps at the device's end is not counted
		}
		eventually(b, "they are connected", func() bool { return f.srv.Sessions.Len() == n })
		time.Sleep(2 * time.Second) // until they wait with nothing in hand
		h, s := inUse()
		b.ReportMetric(float64(h-heap)/n, "heap-B/conn")
		b.ReportMetric(float64(s-stacks)/n, "stack-B/conn")
		for _, c := range conns {
			c.Close()
		}
		eventually(b, "they are gone", func() bool { return f.srv.Sessions.Len() == 0 })
	}
}
