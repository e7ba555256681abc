package fleet

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
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

const (
	// lateness is how long after the end of the plan requests may still be sent.
	lateness = 10 * time.Second
	// attentive is how long a beat waits at most before it looks whether it should
	// end, and whether an answer is overdue.
	attentive = 100 * time.Millisecond
)

// rate sends requests at a constant rate and measures each from the moment it
// was due. A gateway that stalls delays those that were due meanwhile, and that
// counts: it is what a device would have seen. (A generator that sends the next
// only when it has the answer to the last would leave out just those.)
//
// Requests take turns over the connections, and one thread serves them all: it
// shares a core with the backend, and what it takes itself would be in what it
// measures.
func (r *run) rate(ctx context.Context) error {
	b := &beat{run: r, lanes: make([]*lane, r.Connections), fds: make([]unix.PollFd, r.Connections)}
	defer b.close()
	for k := range b.lanes {
		l := &lane{run: r, number: k, buf: bufio.NewReaderSize(nil, readBuffer), next: int64(k)}
		b.lanes[k] = l
		if err := l.connect(); err != nil {
			return err
		}
		if err := exchange(l.conn, l.buf, r.req); err != nil {
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
	b.schedule = schedule{time.Now(), r.Rate}
	if err := b.work(ctx, int64(r.Rate*r.Duration.Seconds())); err != nil {
		return err
	}
	r.answered(b.seen.n, 0)
	r.report.Latency = b.seen.spread()
	return r.done(b.start)
}

// A beat sends the requests of a schedule over its lanes: request i over lane i
// modulo their number.
type beat struct {
	schedule
	run   *run
	lanes []*lane
	fds   []unix.PollFd // what is waited for on each lane; its answer, or nothing
	seen  histogram
}

// A lane is one connection and the requests that are its turn.
type lane struct {
	run    *run
	number int
	raw    *threadConn
	conn   *tls.Conn // nil if it has none
	buf    *bufio.Reader
	next   int64     // the request that is sent next, or that is being answered
	sent   time.Time // when; zero if none is being answered
}

func (l *lane) connect() (err error) {
	if l.raw, err = threadDial(l.run.Addr, l.number); err != nil {
		return err
	}
	conn := tls.Client(l.raw, l.run.tls.as(l.number))
	if err := conn.Handshake(); err != nil {
		l.raw.Close()
		return err
	}
	l.conn = conn
	l.buf.Reset(conn)
	return nil
}

// work sends the first n requests, and returns when each is answered, or failed.
func (b *beat) work(ctx context.Context, n int64) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sleepWell()
	end := b.due(n).Add(lateness)
	var due int64 // requests before it are
	for ctx.Err() == nil {
		now := time.Now()
		if now.After(end) {
			b.giveUp(n)
			return nil
		}
		for ; due < n && !b.due(due).After(now); due++ {
			if l := b.lanes[due%int64(len(b.lanes))]; l.next == due && l.sent.IsZero() {
				b.send(l)
			}
		}
		waiting := false
		for k, l := range b.lanes {
			// Behind a request that was answered late, the next may be due already.
			for l.sent.IsZero() && l.next < due {
				b.send(l)
			}
			b.fds[k] = unix.PollFd{Fd: -1}
			if !l.sent.IsZero() {
				b.fds[k] = unix.PollFd{Fd: int32(l.raw.fd), Events: unix.POLLIN}
				waiting = true
			}
		}
		if due == n && !waiting {
			return nil
		}
		wait := attentive
		if due < n {
			wait = min(wait, max(time.Until(b.due(due)), 0))
		}
		if err := b.listen(wait); err != nil {
			return err
		}
	}
	return nil
}

// listen waits for answers, not longer than it is told, and reads those that came.
func (b *beat) listen(wait time.Duration) error {
	ts := unix.NsecToTimespec(int64(wait))
	n, err := unix.Ppoll(b.fds, &ts, nil)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("ppoll", err)
	}
	for k, l := range b.lanes {
		switch {
		case l.sent.IsZero():
		case n > 0 && b.fds[k].Revents != 0:
			b.answer(l)
		case n == 0 && wait == attentive && time.Since(l.sent) > patience:
			b.lose(l, errUnanswered)
		}
	}
	return nil
}

// errUnanswered is the failure of a request that nobody answered.
var errUnanswered = fmt.Errorf("not answered within %v", patience)

// send sends the lane's next request.
func (b *beat) send(l *lane) {
	if l.conn == nil {
		if err := l.connect(); err != nil {
			b.lose(l, err)
			return
		}
	}
	if _, err := l.conn.Write(b.run.req); err != nil {
		b.lose(l, err)
		return
	}
	l.sent = time.Now()
}

// answer reads an answer that has begun to come. It comes in one piece, or nearly.
func (b *beat) answer(l *lane) {
	if err := receive(l.buf); err != nil {
		b.lose(l, err)
		return
	}
	b.seen.record(time.Since(b.due(l.next)))
	b.done(l)
}

// lose counts a request as failed, and its connection with it.
func (b *beat) lose(l *lane, err error) {
	b.run.failed(err)
	if l.conn != nil {
		l.raw.Close()
		l.conn = nil
	}
	b.done(l)
}

// done makes the lane's next request the one after.
func (b *beat) done(l *lane) {
	l.next += int64(len(b.lanes))
	l.sent = time.Time{}
}

// giveUp counts all of the first n requests that were not answered.
func (b *beat) giveUp(n int64) {
	for _, l := range b.lanes {
		if !l.sent.IsZero() {
			b.lose(l, errUnanswered)
		}
		for ; l.next < n; l.next += int64(len(b.lanes)) {
			b.run.failed(errNotSent)
		}
	}
}

func (b *beat) close() {
	for _, l := range b.lanes {
		if l != nil && l.conn != nil {
			l.raw.Close()
		}
	}
}
