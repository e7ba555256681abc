package fleet

import (
	"bufio"
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// A device that was refused tries again after a time between half of the pause
// and the pause, which doubles up to the longest.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
)

// storm is every device coming back at the same moment, as after a power cut.
// Each connects, with a full handshake, until it has sent its request; how long
// that took it is in the report's latency.
func (r *run) storm(ctx context.Context) error {
	if ok, err := r.ready(); !ok {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithDeadline(ctx, began.Add(r.Duration))
	defer cancel()
	var took histogram
	var staying []net.Conn
	var wg sync.WaitGroup
	for i := range r.Connections {
		wg.Go(func() {
			conn, tries, err := r.comeBack(ctx, r.First+i)
			if err != nil {
				r.failed(err)
				return
			}
			in := time.Since(began)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.report.Requests++
			r.report.Tries = max(r.report.Tries, tries)
			took.record(in)
			if r.Stay {
				staying = append(staying, conn)
			} else {
				conn.Close()
			}
		})
	}
	wg.Wait()
	r.report.Latency = took.spread()
	if err := r.done(began); err != nil {
		return err
	}
	for r.in.Scan() {
	}
	for _, c := range staying {
		c.Close()
	}
	return nil
}

// comeBack connects device i and sends its request, however often it takes.
func (r *run) comeBack(ctx context.Context, i int) (conn net.Conn, tries int64, err error) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		tries++
		if conn, err = r.first(ctx, i); err == nil || ctx.Err() != nil {
			return conn, tries, err
		}
		r.mu.Lock()
		r.report.Refused[reason(err)]++
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, tries, err
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// first connects device i and sends one request.
func (r *run) first(ctx context.Context, i int) (net.Conn, error) {
	conn, err := r.tls.handshake(ctx, i, r.tls.as(i))
	if err != nil {
		return nil, err
	}
	if err := exchange(conn, bufio.NewReaderSize(conn, readBuffer), r.req); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
