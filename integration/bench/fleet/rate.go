package fleet

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"math"
	"runtime"
	"sync"
	"time"
)

// A schedule says when each request of a constant rate is due. It does not
// drift: request i is due i/rate after the start, whatever came of those before.
type schedule struct {
	start time.Time
	rate  float64 // per second
}

func (s schedule) due(i int64) time.Time {
	return s.start.Add(time.Duration(math.Round(float64(i) / s.rate * float64(time.Second))))
}

// errNotSent is the failure of requests whose time passed long before they
// could be sent.
var errNotSent = errors.New("never sent: the gateway is slower than the rate")

// lateness is how long after the end of the plan requests may still be sent.
const lateness = 10 * time.Second

// rate sends requests at a constant rate and measures each from the moment it
// was due. A gateway that stalls delays those that were due meanwhile, and that
// counts: it is what a device would have seen. (A generator that sends the next
// only when it has the answer to the last would leave out just those.)
//
// Requests take turns over the connections. Each has a thread of its own; see
// threadConn.
func (r *run) rate(ctx context.Context) error {
	lanes := make([]*lane, r.Connections)
	for k := range lanes {
		lanes[k] = &lane{run: r, number: k, buf: bufio.NewReaderSize(nil, readBuffer)}
		if err := lanes[k].connect(); err != nil {
			return err
		}
		if err := lanes[k].once(); err != nil {
			return err
		}
	}
	if ok, err := r.ready(); !ok {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for r.in.Scan() && r.in.Text() != Stop {
		}
		cancel()
	}()
	began := time.Now()
	s := schedule{began, r.Rate}
	var wg sync.WaitGroup
	for _, l := range lanes {
		wg.Go(func() { l.work(ctx, s, int64(r.Rate*r.Duration.Seconds())) })
	}
	wg.Wait()
	var all histogram
	for _, l := range lanes {
		all.add(&l.seen)
		l.conn.Close()
	}
	r.answered(all.n, 0)
	r.report.Latency = all.spread()
	return r.done(began)
}

// A lane is one connection and the requests that are its turn.
type lane struct {
	run    *run
	number int
	conn   *tls.Conn
	buf    *bufio.Reader
	seen   histogram
}

func (l *lane) connect() error {
	raw, err := threadDial(l.run.Addr, l.number)
	if err != nil {
		return err
	}
	l.conn = tls.Client(raw, l.run.tls.as(l.number))
	if err := l.conn.Handshake(); err != nil {
		raw.Close()
		return err
	}
	l.buf.Reset(l.conn)
	return nil
}

func (l *lane) once() error { return exchange(l.conn, l.buf, l.run.req) }

// work sends this lane's part of the first n requests.
func (l *lane) work(ctx context.Context, s schedule, n int64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sleepWell()
	end := s.due(n).Add(lateness)
	for i := int64(l.number); i < n && ctx.Err() == nil; i += int64(l.run.Connections) {
		due := s.due(i)
		sleepUntil(due)
		if time.Now().After(end) {
			l.run.failed(errNotSent)
			continue
		}
		if err := l.once(); err != nil {
			l.run.failed(err)
			l.conn.Close()
			for l.connect() != nil && ctx.Err() == nil && time.Now().Before(end) {
				time.Sleep(afterFailure)
			}
			continue
		}
		l.seen.record(time.Since(due))
	}
}
