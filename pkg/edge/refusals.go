package edge

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

const (
	// refusalsEach is how many refusals of one kind from one address are
	// recorded singly in a refusalsWindow; the rest are counted and recorded as
	// one. Without it anyone who can reach the listener could fill the disk of
	// a log that fails closed.
	refusalsEach   = 20
	refusalsWindow = time.Minute
	// refusalsMost bounds the addresses that are counted apart; further ones in
	// the same window are counted together.
	refusalsMost = 4096
)

// refusals records refused connections without letting their number choose the
// size of the log. Nothing is dropped uncounted.
type refusals struct {
	ctx   context.Context
	log   Recorder
	now   func() time.Time
	slog  *slog.Logger
	queue chan *audit.Record

	mu   sync.Mutex
	seen map[refusalKey]*refusalCount
}

type refusalKey struct {
	addr     netip.Addr
	listener string
	code     string
}

type refusalCount struct {
	n      int // in this window
	folded int // of these, not recorded singly
}

func newRefusals(ctx context.Context, log Recorder, now func() time.Time, l *slog.Logger) *refusals {
	return &refusals{ctx: ctx, log: log, now: now, slog: l, seen: map[refusalKey]*refusalCount{}, queue: make(chan *audit.Record, refusalsMost)}
}

// record takes one refusal. It does not wait: handshakes must not be slowed by
// the log, and a refusal that finds the queue full is counted instead.
func (f *refusals) record(addr netip.Addr, listener, code string, r *audit.Record) {
	k := refusalKey{addr, listener, code}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.seen[k]
	if c == nil {
		if len(f.seen) >= refusalsMost {
			k.addr = netip.Addr{}
			c = f.seen[k]
		}
		if c == nil {
			c = &refusalCount{}
			f.seen[k] = c
		}
	}
	c.n++
	if c.n <= refusalsEach && k.addr.IsValid() {
		select {
		case f.queue <- r:
			return
		default:
		}
	}
	c.folded++
}

// run writes records until the context ends, and then what is left.
func (f *refusals) run() {
	tick := time.NewTicker(refusalsWindow)
	defer tick.Stop()
	for {
		select {
		case r := <-f.queue:
			f.append(f.ctx, r)
		case <-tick.C:
			f.fold(f.ctx)
		case <-f.ctx.Done():
			last, cancel := context.WithTimeout(context.Background(), closeGrace)
			defer cancel()
			for {
				select {
				case r := <-f.queue:
					f.append(last, r)
					continue
				default:
				}
				f.fold(last)
				return
			}
		}
	}
}

// fold records what was only counted, and begins a new window.
func (f *refusals) fold(ctx context.Context) {
	f.mu.Lock()
	old := f.seen
	f.seen = map[refusalKey]*refusalCount{}
	f.mu.Unlock()
	for k, c := range old {
		if c.folded == 0 {
			continue
		}
		f.append(ctx, &audit.Record{
			Kind: audit.KindTLS, Event: "tls.refused", Listener: k.listener, Remote: netip.AddrPortFrom(k.addr, 0),
			Error: "further refusals of the same kind, counted together",
			Detail: []protocol.Field{
				{Name: "code", Value: protocol.String(k.code)},
				{Name: "count", Value: protocol.Int(int64(c.folded))},
			},
		})
	}
}

func (f *refusals) append(ctx context.Context, r *audit.Record) {
	if err := f.log.Append(ctx, r); err != nil {
		f.slog.Error("recording a refused connection", "listener", r.Listener, "remote", r.Remote.String(), "error", err)
	}
}
