package httpgw

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
)

// Unable implements [protocol.Obliged].
func (x *exchange) Unable(tx *protocol.Transaction, o *protocol.Obligations) string {
	if len(o.Redact) > 0 {
		if why := x.unredactable(); why != "" {
			return why
		}
	}
	if len(o.Mirror) > 0 {
		return x.unmirrored(tx, o)
	}
	return ""
}

// take notes what an allowed request obliges to.
func (x *exchange) take(o *protocol.Obligations) {
	x.duties.Store(o)
	if len(o.Bytes) > 0 && x.isHeld && x.m.length < 0 {
		x.g.cfg.Judge.Spend(x.s, o, int64(len(x.held))) // it was read before it was judged
	}
	if a, ok := x.w.(*answer1); ok && x.s.IsDraining() {
		// The session has expired with this request: the device must hear of the
		// connection's end with the answer, or it would send its next request into it.
		a.close = true
	}
}

// takePart notes what entry i of n allowed ones of a Bundle obliges to beside the
// Bundle.
func (x *exchange) takePart(i, n int, o *protocol.Obligations) {
	whole := x.duties.Load()
	if whole == nil {
		whole = &protocol.Obligations{}
		x.duties.Store(whole)
	}
	if len(o.Redact) > 0 {
		if x.parts == nil {
			x.parts = make([][]protocol.Pointer, n)
		}
		x.parts[i] = o.Redact
	}
	var more []int64
	for _, rate := range o.Bytes {
		if !slices.Contains(whole.Bytes, rate) {
			more = append(more, rate)
		}
	}
	if len(more) == 0 {
		return
	}
	// The entry's share of the Bundle can not be told: it pays for all of it.
	x.g.cfg.Judge.Spend(x.s, &protocol.Obligations{Bytes: more}, int64(len(x.held)))
	joined := *whole
	joined.Bytes = slices.Concat(whole.Bytes, more)
	x.duties.Store(&joined)
}

// prepare makes a request for a backend as the duties want it.
func (x *exchange) prepare(t Target, o *protocol.Obligations) {
	if x.redacts() {
		x.wholly()
	}
	if len(o.Bytes) > 0 && x.req.Length < 0 {
		// Declared bytes were counted when it was judged.
		x.req.Body = x.paced(x.req.Body, x.ctx.Done(), func() *protocol.Obligations { return o })
	}
	if len(o.Mirror) > 0 {
		x.mirror(t, o)
	}
}

// fulfil makes a backend's answer what the duties want it to be. It reports false
// if that can not be, and has then answered.
func (x *exchange) fulfil() bool { return !x.redacts() || x.redact() }

// count counts n bytes of an answer against the device's limit, if it has one.
// The answer is not slowed down: the device pays for it with its next request.
func (x *exchange) count(n int) {
	if o := x.duties.Load(); o != nil && len(o.Bytes) > 0 {
		x.g.cfg.Judge.Spend(x.s, o, int64(n))
	}
}

// throttle answers a request that is beyond a limit.
func (x *exchange) throttle(wait time.Duration) {
	const status, why = http.StatusTooManyRequests, "the device is beyond what it may have at once"
	x.status = status
	if a, ok := x.w.(*answer1); ok && x.unreadable() {
		a.close = true
	}
	w := retryLater{x.w, strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)}
	if !x.route.fhir {
		x.g.plain(w, status, x.id, why)
		return
	}
	accept, _ := x.m.header.Get("accept")
	ct, body := fhir.Outcome(accept, x.format(), fhir.IssueOf(status, why, x.id))
	send(w, status, x.id, ct, body)
}

// retryLater adds to an answer when to come again, in seconds (RFC 9110 section
// 10.2.3).
type retryLater struct {
	answerer
	seconds string
}

func (r retryLater) start(status int, h http1.Header, length int64) error {
	return r.answerer.start(status, append(h, http1.Field{Name: "retry-after", Value: r.seconds}), length)
}

// A pacedReader reads no faster than the device's limit lets it, if it has one:
// what has no declared length can not be refused beforehand. It holds nothing of
// the exchange, which may be another request's before the last read is over.
type pacedReader struct {
	from   io.Reader
	judge  protocol.Judge
	s      *protocol.Session
	duties func() *protocol.Obligations
	done   <-chan struct{}
}

// paced returns a reader that is held to the limit of the moment, which duties
// tells. It does not wait any more once done is closed.
func (x *exchange) paced(from io.Reader, done <-chan struct{}, duties func() *protocol.Obligations) io.Reader {
	return &pacedReader{from, x.g.cfg.Judge, x.s, duties, done}
}

func (r *pacedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 {
		r.wait(r.judge.Spend(r.s, r.duties(), int64(n)))
	}
	return n, err
}

func (r *pacedReader) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.done:
	}
}

// A wakingConn is a connection whose end also wakes those who wait for a limit.
type wakingConn struct {
	net.Conn
	wake context.CancelFunc
}

func (c wakingConn) Close() error {
	c.wake()
	return c.Conn.Close()
}

func (g *Gateway) obliged(kind, result string) {
	if g.cfg.Obliged != nil {
		g.cfg.Obliged(kind, result)
	}
}
