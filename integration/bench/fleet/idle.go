package fleet

import (
	"bufio"
	"context"
	"net"
	"sync"
	"time"
)

// openers is how many devices connect at a time: enough to keep the gateway
// busy, few enough that none waits long.
const openers = 16

// idle opens connections, uses each once, and keeps them.
func (r *run) idle(ctx context.Context) error {
	// The first connection's one-time costs are not what an idle one costs.
	warm, err := r.open(ctx, 0)
	if err != nil {
		return err
	}
	defer warm.Close()
	if ok, err := r.ready(); !ok {
		return err
	}
	began := time.Now()
	conns := make([]net.Conn, r.Connections)
	var wg sync.WaitGroup
	for first := range openers {
		wg.Go(func() {
			for i := first; i < len(conns); i += openers {
				conn, err := r.open(ctx, i)
				if err != nil {
					r.failed(err)
					continue
				}
				conns[i] = conn
				r.answered(1, 0)
			}
		})
	}
	wg.Wait()
	if err := r.done(began); err != nil {
		return err
	}
	for r.in.Scan() { // until nobody listens any more
	}
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
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
	if err = exchange(conn, bufio.NewReaderSize(conn, readBuffer), r.req); err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return raw, nil
}
