package fleet

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// openers is how many devices connect at a time: enough to keep the gateway
// busy, few enough that none waits long.
const openers = 16

// idle opens connections, uses each once, and keeps them. It tells of each that
// the gateway ends.
func (r *run) idle(ctx context.Context) error {
	// The first connection's one-time costs are not what an idle one costs.
	warm, err := r.open(ctx, r.First)
	if err != nil {
		return err
	}
	warm.Close()
	if ok, err := r.ready(); !ok {
		return err
	}
	began := time.Now()
	var leaving atomic.Bool
	var opening, watching sync.WaitGroup
	conns := make([]net.Conn, r.Connections)
	for first := range openers {
		opening.Go(func() {
			for i := first; i < len(conns); i += openers {
				conn, err := r.open(ctx, r.First+i)
				if err != nil {
					r.failed(err)
					continue
				}
				conns[i] = conn
				r.answered(1, 0)
				watching.Go(func() {
					// Anything that comes now, the closing alert too, is the end.
					_, _ = conn.Read(make([]byte, 1))
					if at := time.Now(); !leaving.Load() {
						_ = r.tell(Event{Event: "closed", Device: r.First + i, At: at}) // or nobody listens any more
					}
				})
			}
		})
	}
	opening.Wait()
	if err := r.done(began); err != nil {
		return err
	}
	for r.in.Scan() { // until nobody listens any more
	}
	leaving.Store(true)
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
	watching.Wait()
	return nil
}

// open connects device i, sends one request, and returns the connection below
// TLS: that the gateway ends it can be seen there, and a device that only waits
// needs no more.
func (r *run) open(ctx context.Context, i int) (net.Conn, error) {
	conn, err := r.tls.handshake(ctx, i, r.tls.as(i))
	if err != nil {
		return nil, err
	}
	raw := conn.NetConn()
	in := bufio.NewReaderSize(conn, readBuffer)
	if r.WebSocket {
		err = upgrade(conn, in, r.req)
	} else {
		err = exchange(conn, in, r.req)
	}
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return raw, nil
}

// upgrade asks for a WebSocket.
func upgrade(conn net.Conn, in *bufio.Reader, req []byte) error {
	if _, err := conn.Write(req); err != nil {
		return err
	}
	status, _, err := readHead(in)
	if err == nil && status != 101 {
		err = fmt.Errorf("asked for a WebSocket, answered with status %d", status)
	}
	return err
}
