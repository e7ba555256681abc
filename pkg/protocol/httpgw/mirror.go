package httpgw

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

const (
	// mirrorsAtOnce bounds the copies that are on their way. A backend that takes
	// 10 ms for each gets 6,400 a second.
	mirrorsAtOnce = 64
	// mirrorBytes bounds the bodies that are kept for copies, together.
	mirrorBytes = 64 << 20
	// mirrorTime bounds how long one copy may take.
	mirrorTime = 10 * time.Second
	// mirrorAnswer bounds how much of an answer is read, to keep the connection.
	mirrorAnswer = 256 << 10
)

// Results of mirroring, for metrics.
const (
	mirrorSent    = "sent"
	mirrorFailed  = "failed"
	mirrorSkipped = "skipped"
)

// A mirror is a backend as a place for copies.
type mirror struct {
	name     string
	backend  Backend
	hostSent string
	base     []string
}

// Mirrors sends copies of requests to second backends, behind the requests: it
// never delays one and never makes one fail. How much it does at once is bounded;
// what is beyond that is skipped, counted, and recorded as what it is. There is
// one for all adapters. It is safe for concurrent use.
type Mirrors struct {
	log   *slog.Logger
	slots chan struct{}
	ctx   context.Context
	stop  context.CancelFunc

	mu     sync.Mutex
	closed bool
	bytes  int64
	wg     sync.WaitGroup
}

// NewMirrors returns Mirrors that work until Close.
func NewMirrors(log *slog.Logger) *Mirrors {
	m := &Mirrors{log: log, slots: make(chan struct{}, mirrorsAtOnce)}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

// Close ends the copies that are on their way and waits for them.
func (m *Mirrors) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.stop()
	m.wg.Wait()
}

// reserve takes n bytes of the memory for bodies, and reports whether there were
// as many.
func (m *Mirrors) reserve(n int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bytes+int64(n) > mirrorBytes {
		return false
	}
	m.bytes += int64(n)
	return true
}

func (m *Mirrors) release(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes -= int64(n)
}

// begin has f run if there is room for another copy.
func (m *Mirrors) begin(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	select {
	case m.slots <- struct{}{}:
	default:
		return false
	}
	m.wg.Go(func() {
		defer func() { <-m.slots }()
		f()
	})
	return true
}

// unmirrored says why a request can not be mirrored as o asks, as far as that is
// known before it is sent.
func (x *exchange) unmirrored(tx *protocol.Transaction, o *protocol.Obligations) string {
	switch {
	case x.g.cfg.Mirrors == nil:
		return "requests are not mirrored here"
	case x.m.header.Has("upgrade"):
		return "an upgraded connection can not be mirrored"
	case x.m.length > x.mirrorMost():
		return "the body is larger than one that is mirrored may be"
	}
	whole := x.duties.Load()
	for _, name := range o.Mirror {
		switch {
		case x.table.mirrors[name] == nil:
			return "there is no backend of the name it is to be mirrored to"
		case name == x.route.Backend:
			return "the backend it is to be mirrored to is its own"
		case tx.Of != "" && !x.route.Observe && (whole == nil || !slices.Contains(whole.Mirror, name)):
			return "an entry is mirrored with all of its Bundle, and the Bundle is not"
		}
	}
	return ""
}

// mirrorMost is the largest body that is mirrored.
func (x *exchange) mirrorMost() int64 { return int64(x.g.cfg.Listener.Limits.DecisionBytes) }

// ownOnly reports whether a field of a request is for its own backend only.
func ownOnly(f http1.Field) bool {
	return f.Name == "authorization" || f.Name == "cookie" || f.Name == "x-api-key"
}

// mirror sends copies of the request in the form in which it goes to its backend,
// at once if its body is known, else when the backend has read it.
func (x *exchange) mirror(t Target, o *protocol.Obligations) {
	c := &copies{m: x.g.cfg.Mirrors, g: x.g, s: x.s, id: x.id, most: x.mirrorMost()}
	for _, name := range o.Mirror {
		c.list = append(c.list, x.copied(x.table.mirrors[name], t))
	}
	if x.req.Body == nil {
		c.send(x.req.Held)
		return
	}
	x.tee = &teeBody{from: x.req.Body, copies: c, length: x.m.length}
	x.req.Body = x.tee
}

// copied returns a copy of the request, less its body. It shares no memory with
// it that is used again, for the request is over before the copy is sent.
func (x *exchange) copied(to *mirror, t Target) copied {
	h := slices.DeleteFunc(slices.Clone(x.req.Header), ownOnly)
	h = append(h, http1.Field{Name: "x-anteroom-mirror", Value: "1"})
	r := &upstream.Request{
		Method: x.req.Method, Target: t.rewritten(x.route.strips(), to.base), Host: to.hostSent, Header: h, Fixed: x.req.Fixed,
		Device: x.s.Device().ID, Patience: mirrorTime,
	}
	if r.Host == "" {
		r.Host = x.m.authority
	}
	return copied{to, r}
}

// A copied is a copy of a request, less its body.
type copied struct {
	to  *mirror
	req *upstream.Request
}

// copies are the copies of one request, which may outlive its exchange.
type copies struct {
	m    *Mirrors
	g    *Gateway
	s    *protocol.Session
	id   string // of the decision
	most int64  // bytes of a body
	list []copied
}

const errBusy = "there are too many copies on their way"

// send sends the copies with a body that is whole. It keeps none of it.
func (cs *copies) send(body []byte) {
	for _, c := range cs.list {
		if !cs.m.reserve(len(body)) {
			cs.skip(c, errBusy)
			continue
		}
		body := bytes.Clone(body)
		began := cs.m.begin(func() {
			defer cs.m.release(len(body))
			if err := cs.m.send(c, body); err != nil {
				cs.m.log.Warn("a request was not mirrored", "backend", c.to.name, "decision", cs.id, "error", err)
				cs.g.cfg.Judge.Undelivered(cs.s, cs.id, "not mirrored to "+c.to.name+": it did not take it")
				cs.g.obliged(protocol.KindMirror, mirrorFailed)
				return
			}
			cs.g.obliged(protocol.KindMirror, mirrorSent)
		})
		if !began {
			cs.m.release(len(body))
			cs.skip(c, errBusy)
		}
	}
}

// skip counts and records a copy that is not sent.
func (cs *copies) skip(c copied, why string) {
	cs.g.cfg.Judge.Undelivered(cs.s, cs.id, "not mirrored to "+c.to.name+": "+why)
	cs.g.obliged(protocol.KindMirror, mirrorSkipped)
}

// send sends one copy and forgets the answer.
func (m *Mirrors) send(c copied, body []byte) error {
	ctx, cancel := context.WithTimeout(m.ctx, mirrorTime)
	defer cancel()
	c.req.Context, c.req.Held, c.req.Length = ctx, body, int64(len(body))
	var resp upstream.Response
	if err := c.to.backend.Do(c.req, &resp); err != nil {
		return err
	}
	defer resp.Close()
	_, _ = io.CopyN(io.Discard, resp.Reader(), mirrorAnswer)
	if resp.Status >= http.StatusInternalServerError {
		return fmt.Errorf("it answered %d", resp.Status)
	}
	return nil
}

// A teeBody is a request's body on its way to its backend, of which a copy is
// kept: when the backend has read all of it the copies are sent, and if it does
// not, or it is too large, they are skipped.
type teeBody struct {
	from   io.Reader
	copies *copies
	length int64 // as declared, or -1

	mu   sync.Mutex
	kept []byte
	done bool
}

func (b *teeBody) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.done:
		return n, err
	case int64(len(b.kept)+n) > b.copies.most:
		b.end("the body is larger than one that is mirrored may be")
		return n, err
	case !b.copies.m.reserve(n):
		b.end(errBusy)
		return n, err
	}
	b.kept = append(b.kept, p[:n]...)
	if b.length < 0 && err == io.EOF || int64(len(b.kept)) == b.length {
		b.end("")
	}
	return n, err
}

// close ends the copies of a body that was not read to its end.
func (b *teeBody) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.done {
		b.end("its backend did not read the body to its end")
	}
}

// end sends the copies, or says why not. The caller holds mu.
func (b *teeBody) end(why string) {
	b.done = true
	b.copies.m.release(len(b.kept))
	kept := b.kept
	b.kept = nil
	if why == "" {
		b.copies.send(kept)
		return
	}
	for _, c := range b.copies.list {
		b.copies.skip(c, why)
	}
}
