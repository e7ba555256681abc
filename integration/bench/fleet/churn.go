package fleet

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"sync"
	"time"
)

// afterFailure is how long a device rests after a failure, so that a gateway
// that refuses everything is not asked as fast as it can refuse.
const afterFailure = 10 * time.Millisecond

// churn makes connections that live for one request each.
func (r *run) churn(ctx context.Context) error {
	// One connection before what is measured: with it, each device that is to
	// resume has its first ticket.
	devices := make([]*churner, r.Connections)
	for i := range devices {
		devices[i] = &churner{run: r, number: i, conf: r.tls.config(i, r.Resume), buf: bufio.NewReaderSize(nil, readBuffer)}
		if !r.Resume && i > 0 {
			continue
		}
		if _, err := devices[i].once(ctx); err != nil {
			return err
		}
	}
	if ok, err := r.ready(); !ok {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithDeadline(ctx, began.Add(r.Duration))
	defer cancel()
	var wg sync.WaitGroup
	for _, d := range devices {
		wg.Go(func() { d.loop(ctx) })
	}
	wg.Wait()
	return r.done(began)
}

// A churner is one device, with at most one connection at a time.
type churner struct {
	run    *run
	number int
	conf   *tls.Config
	buf    *bufio.Reader
}

// loop works until ctx is done. What is under way then is finished and counted.
func (d *churner) loop(ctx context.Context) {
	var requests, resumed int64
	for ctx.Err() == nil {
		again, err := d.once(context.WithoutCancel(ctx))
		if err != nil {
			d.run.failed(err)
			time.Sleep(afterFailure)
			continue
		}
		requests++
		if again {
			resumed++
		}
	}
	d.run.answered(requests, resumed)
}

// once connects, sends one request, waits until the gateway closes, and reports
// whether the session was a resumed one.
func (d *churner) once(ctx context.Context) (resumed bool, err error) {
	conn, err := d.run.tls.handshake(ctx, d.number, d.conf)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	d.buf.Reset(conn)
	if err := exchange(conn, d.buf, d.run.req); err != nil {
		return false, err
	}
	if _, err := io.Copy(io.Discard, d.buf); err != nil {
		return false, err
	}
	return conn.ConnectionState().DidResume, nil
}
