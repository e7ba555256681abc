package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// quiet is how often at most a port says the same of strangers: who can connect
	// could fill the disk otherwise.
	quiet = 10 * time.Second
	// acceptPause is how long a port that can not accept waits: out of descriptors,
	// mostly.
	acceptPause = 100 * time.Millisecond
)

// Counts are what a port has done since it was opened.
type Counts struct {
	Open     int    `json:"open"`     // connections now
	Accepted uint64 `json:"accepted"` // connections so far
	Refused  uint64 `json:"refused"`  // from a wrong address, or one too many
}

// A Door is a port that connections come in by. One address may, if from is valid.
type Door struct {
	name string
	ln   net.Listener
	from netip.Addr
	most int
	log  *slog.Logger

	mu     sync.Mutex
	counts Counts
	conns  map[net.Conn]struct{}
	closed bool
	spoke  time.Time
	wg     sync.WaitGroup
}

// OpenDoor listens.
func OpenDoor(name, addr string, from netip.Addr, most int, log *slog.Logger) (*Door, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &Door{name: name, ln: ln, from: from.Unmap(), most: most, log: log.With("port", name), conns: map[net.Conn]struct{}{}}, nil
}

// Addr returns where the door listens.
func (d *Door) Addr() net.Addr { return d.ln.Addr() }

// Counts returns what the door has done.
func (d *Door) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.counts
	c.Open = len(d.conns)
	return c
}

// Serve hands each connection that is let in to serve, on a goroutine of its own,
// and closes it afterwards. It returns when ctx has ended and every serve has
// returned; connections are closed then.
func (d *Door) Serve(ctx context.Context, serve func(context.Context, *net.TCPConn)) {
	defer context.AfterFunc(ctx, d.close)()
	for {
		conn, err := d.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				break
			}
			d.log.Error("accepting", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		if !d.enter(conn) {
			continue
		}
		d.wg.Go(func() {
			defer d.Leave(conn)
			serve(ctx, conn.(*net.TCPConn))
		})
	}
	d.wg.Wait()
}

func (d *Door) close() {
	_ = d.ln.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for c := range d.conns {
		_ = c.Close()
	}
}

// enter lets a connection in, or closes it with a reset: a stranger learns no more
// than that.
func (d *Door) enter(conn net.Conn) bool {
	peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	stranger := err != nil || d.from.IsValid() && peer.Addr().Unmap().WithZone("") != d.from.WithZone("")
	d.mu.Lock()
	if !stranger && len(d.conns) < d.most && !d.closed {
		d.conns[conn] = struct{}{}
		d.counts.Accepted++
		d.mu.Unlock()
		return true
	}
	d.mu.Unlock()
	why := "the device has as many connections as it may"
	if stranger {
		why = "only the device may connect here"
	}
	d.stranger(conn, why, nil)
	return false
}

// stranger counts a connection that is refused, says so if nothing was said for a
// while, and closes it.
func (d *Door) stranger(conn net.Conn, why string, err error) {
	d.mu.Lock()
	d.counts.Refused++
	refused, say := d.counts.Refused, time.Since(d.spoke) >= quiet
	if say {
		d.spoke = time.Now()
	}
	d.mu.Unlock()
	if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
		_ = tcp.SetLinger(0) // where there is an error, TLS has said something
	}
	_ = conn.Close()
	if say {
		attrs := []any{"reason", why, "remote", conn.RemoteAddr().String(), "refused", refused}
		if err != nil {
			attrs = append(attrs, "error", err)
		}
		d.log.Warn("a connection is refused", attrs...)
	}
}

// Leave closes a connection and gives its place to another, before its serve returns
// if that has more to do.
func (d *Door) Leave(conn net.Conn) {
	_ = conn.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, conn)
}

// Close closes a door that was never served.
func (d *Door) Close() error { return d.ln.Close() }
