package httpgw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

const (
	// copySize is the size of the buffers bodies are copied through.
	copySize = 32 << 10
	// smallBody is the largest body that is taken in before its request is sent, so
	// that a device that dawdles holds no connection to a backend, and one packet
	// carries all of it.
	smallBody = 32 << 10
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}

// An exchange is one request on its way: judged, forwarded, answered. One may be
// used for one request after another.
type exchange struct {
	g     *Gateway
	s     *protocol.Session
	badge *badge
	m     *message
	w     answerer
	// ctx ends when nobody waits for the answer any more. upstream or stopper end
	// what is asked of a backend then.
	ctx      context.Context
	upstream context.Context
	stopper  *upstream.Stopper
	began    time.Time
	table    *Table
	route    *route
	tx       protocol.Transaction
	id       string // of the decision
	// duties are what else the decision obliges to, or nil. A later one on what
	// lasts replaces them.
	duties atomic.Pointer[protocol.Obligations]
	// parts are what is to be redacted for each entry of a Bundle; nil if nothing
	// is for any.
	parts [][]protocol.Pointer
	tee   *teeBody // the body, if it is mirrored as it goes by
	// held is the body, where it was taken in whole.
	held   []byte
	isHeld bool
	small  *[]byte // what held is in, if it is from copyBuffers
	// forwarded says that a backend's connection may be reading the body.
	forwarded bool
	watching  bool // the device is watched for going away
	status    int
	// again says that the request is the last one again, as far as its head goes and
	// but for its length, and past what was made of that one. trimmed says that its target was changed.
	again, trimmed bool
	past           earlier

	// What is asked of the backend, and answered, and what goes to the device.
	req    upstream.Request
	resp   upstream.Response
	fields http1.Header
}

// An earlier is a request that was understood by its head alone.
type earlier struct {
	table       *Table // nil if there is none
	route       *route
	interaction *fhir.Interaction // nil on a route that is not FHIR's
	tx          protocol.Transaction
}

// recall makes the transaction of a request that is the last one again; ok is false
// if it has to be understood anew.
func (x *exchange) recall() (ok bool) {
	p := &x.past
	if !x.again || p.table != x.table || p.route != x.route || p.interaction != nil && x.wanted(p.interaction) {
		x.past = earlier{}
		return false
	}
	switch {
	case p.tx.Bytes != x.m.length:
		p.tx.Bytes, p.tx.Like = x.m.length, nil // which makes it another one
	case p.tx.Like == nil:
		p.tx.Like = new(protocol.Memo)
	}
	x.tx = p.tx
	return true
}

// remember keeps what was made of a request for recall.
func (x *exchange) remember(it *fhir.Interaction) {
	if !x.trimmed {
		x.past = earlier{x.table, x.route, it, x.tx}
	}
}

// begin makes x ready for a request; the caller sets ctx and stopper.
func (x *exchange) begin(g *Gateway, s *protocol.Session, b *badge, m *message, w answerer, began time.Time) {
	x.g, x.s, x.badge, x.m, x.w, x.began = g, s, b, m, w, began
	x.route, x.tx, x.id = nil, protocol.Transaction{}, ""
	if x.duties.Load() != nil {
		x.duties.Store(nil)
	}
	x.tee, x.parts, x.held, x.isHeld, x.small, x.forwarded, x.status = nil, nil, nil, false, nil, false, 0
	x.again, x.trimmed = false, false
}

// run serves one request that an engine has read. It has answered when it
// returns, and nobody reads the body any more but the engine.
func (x *exchange) run() {
	x.table = x.g.table.Load()
	x.route = x.table.match(x.s.Listener, x.m.host, x.m.target.Path)
	if x.g.cfg.Dated != nil {
		if date, n := x.m.header.Get("date"); n == 1 {
			x.g.cfg.Dated(x.s, date)
		}
	}
	x.serve()
	if x.tee != nil {
		x.tee.close()
	}
	if x.small != nil {
		copyBuffers.Put(x.small)
	}
	name := ""
	if x.route != nil {
		name = x.route.Name
	}
	x.g.observe(x.s, name, x.status, x.began)
}

func (g *Gateway) observe(s *protocol.Session, route string, status int, began time.Time) {
	if g.cfg.Observe != nil {
		g.cfg.Observe(Observation{Listener: s.Listener, Route: route, Status: status, Duration: time.Since(began)})
	}
}

// serve is the way of one transaction.
func (x *exchange) serve() {
	upgrade := x.m.header.Has("upgrade")
	if x.route != nil && x.route.fhir && !upgrade {
		x.serveFHIR()
		return
	}
	switch {
	case x.route == nil:
		x.tx = x.m.transaction()
		x.refuse(unfit(http.StatusNotFound, "no route leads there"))
		return
	case upgrade:
		x.tx = x.m.transaction()
		x.upgrade()
		return
	case !x.recall():
		x.tx = x.m.transaction()
		x.remember(nil)
	}
	if x.judge(&x.tx) {
		x.forward(x.m.target)
	}
}

// judge asks for a decision and answers the device if it is no.
func (x *exchange) judge(tx *protocol.Transaction) bool {
	tx.Obliged = x
	v := x.g.cfg.Judge.Judge(x.ctx, x.s, &x.route.Route, tx)
	x.id = v.ID
	if v.Allow {
		if v.Obligations != nil {
			x.take(v.Obligations)
		}
		return true
	}
	x.deny(v)
	return false
}

// hold reads the whole body, within the limit for decisions. What can not be
// had whole is refused: a decision on a part of it would be a decision on
// something else (known as a bypass by oversized body elsewhere).
func (x *exchange) hold() *fault {
	if x.isHeld || x.m.body == nil {
		return nil
	}
	limit := int64(x.g.cfg.Listener.Limits.DecisionBytes)
	// The rest of such a body is not read, so the connection ends with it.
	tooLarge := &fault{http.StatusRequestEntityTooLarge, "the body is larger than a decision may need", true}
	if x.m.length > limit {
		return tooLarge
	}
	if x.encoded() {
		return unfit(http.StatusUnsupportedMediaType, "the body is encoded, and the decision needs to read it")
	}
	var buf bytes.Buffer
	if x.m.length > 0 {
		buf.Grow(int(x.m.length) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(x.m.body, limit+1))
	switch {
	case n > limit:
		return tooLarge
	case errors.Is(err, errBody):
		return bad("the framing of the body is broken")
	case err != nil:
		return bad("the body did not arrive whole")
	case x.m.length >= 0 && n != x.m.length:
		return bad("the body did not arrive whole")
	}
	x.held, x.isHeld = buf.Bytes(), true
	return nil
}

// encoded reports whether the body is not what it says, but a coding of that.
func (x *exchange) encoded() bool {
	v, n := x.m.header.Get("content-encoding")
	return n > 0 && !strings.EqualFold(v, "identity")
}

// takeIn takes a small body in, if it was not held before.
func (x *exchange) takeIn() error {
	if x.isHeld || x.m.body == nil || x.m.length < 0 || x.m.length > smallBody || x.uninvited() {
		return nil
	}
	x.small = copyBuffers.Get().(*[]byte)
	buf := (*x.small)[:x.m.length]
	if _, err := io.ReadFull(x.m.body, buf); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errTruncated
		}
		return err
	}
	x.held, x.isHeld = buf, true
	return nil
}

// uninvited reports whether the device waits to be invited to send its body.
func (x *exchange) uninvited() bool {
	b, ok := x.m.body.(*stream1)
	return ok && b.body.invite != nil
}

// forward sends the request in its canonical form and passes the answer on.
func (x *exchange) forward(t Target) {
	defer x.unwatch()
	if x.ask(t, nil) == nil && x.fulfil() {
		x.answer()
	}
}

// ask sends the request and takes the head of its answer, or answers the device
// itself and returns why. change, if there is one, changes the fields that are
// sent.
func (x *exchange) ask(t Target, change func(http1.Header) http1.Header) error {
	err := x.takeIn()
	if err == nil {
		x.request(t)
		if change != nil {
			x.req.Header = change(x.req.Header)
		}
		if duties := x.duties.Load(); duties != nil {
			x.prepare(t, duties)
		}
		x.forwarded = true
		x.watching = true
		x.w.watch()
		err = x.route.backend.Do(&x.req, &x.resp)
	}
	if err != nil {
		x.failed(err)
	}
	return err
}

// unwatch ends the watch over the device that ask began.
func (x *exchange) unwatch() {
	if x.watching {
		x.watching = false
		x.w.unwatch()
	}
}

// request makes the backend's request from what was judged.
func (x *exchange) request(t Target) {
	h := outbound(x.req.Header[:0], x.m.header, x.m.conn.named)
	h = append(h, http1.Field{Name: "x-anteroom-decision-id", Value: x.id}, http1.Field{Name: "via", Value: via(x.m.version)})
	x.req = upstream.Request{
		Method: x.m.method, Target: t.rewritten(x.route.strips(), x.route.base), Host: x.route.hostSent, Header: h, Fixed: x.badge.of(x.s, x.m.authority),
		Device: x.s.Device().ID, Context: x.upstream, Stopper: x.stopper, Inform: x.req.Inform, Patience: x.g.cfg.Listener.Limits.Stall.D(),
	}
	if x.req.Host == "" {
		x.req.Host = x.m.authority
	}
	if x.req.Inform == nil {
		x.req.Inform = x.inform
	}
	switch {
	case x.isHeld:
		x.req.Held, x.req.Length = x.held, int64(len(x.held))
	case x.m.body != nil:
		x.req.Body, x.req.Length = x.m.body, x.m.length
	}
}

// inform passes an interim response on, but 100: the device hears that from the
// gateway when its body is wanted.
func (x *exchange) inform(status int, h http1.Header) {
	if status == http.StatusContinue {
		return
	}
	x.w.inform(status, inbound(nil, h))
}

func via(version string) string {
	switch version {
	case "1.0":
		return "1.0 anteroom"
	case "1.1":
		return "1.1 anteroom"
	}
	return "2 anteroom"
}

// answer passes a backend's response on, as it comes.
func (x *exchange) answer() {
	defer x.resp.Close()
	resp := &x.resp
	x.fields = inbound(x.fields[:0], resp.Header)
	length := resp.Length
	if x.m.method == http.MethodHead || resp.Status == http.StatusNotModified {
		length = described(resp.Header)
	}
	x.status = resp.Status
	if err := x.w.start(resp.Status, x.fields, length); err != nil {
		x.broken("the device went away before its answer")
		return
	}
	if !nobody(x.m.method, resp.Status) {
		if why := x.copy(); why != "" {
			x.broken(why)
			return
		}
	}
	if err := x.w.finish(inbound(nil, resp.Trailer)); err != nil {
		x.broken("the device went away before the end of its answer")
	}
}

// described returns the length of the body that an answer without one speaks of
// (RFC 9110 section 8.6), or -1 if it says nothing.
func described(h http1.Header) int64 {
	if v, n := h.Get("content-length"); n == 1 {
		if n, ok := http1.ParseLength(v); ok {
			return n
		}
	}
	return -1
}

// copy passes a body on, each piece as soon as it is there. The backend may not
// keep silent for longer than the request's Patience, or it would hold the
// connection for ever.
func (x *exchange) copy() (why string) {
	length := x.resp.Length
	for done := int64(0); ; {
		p, err := x.resp.Next()
		if err == io.EOF {
			return ""
		}
		if err != nil {
			return "the backend's answer ended early"
		}
		x.count(len(p))
		if _, werr := x.w.Write(p); werr != nil {
			return "the device went away before the end of its answer"
		}
		if done += int64(len(p)); done == length {
			continue // the end of the answer goes with it
		}
		if werr := x.w.flush(); werr != nil {
			return "the device went away before the end of its answer"
		}
	}
}

// broken records and ends an answer that did not come to its end.
func (x *exchange) broken(why string) {
	x.w.abort()
	x.g.cfg.Judge.Undelivered(x.s, x.id, why)
}

// failed answers a request whose backend could not be asked, and records that
// what was allowed did not happen.
func (x *exchange) failed(err error) {
	status, why := http.StatusBadGateway, "the backend's answer could not be understood"
	switch {
	case x.s.Context().Err() != nil || errors.Is(err, context.Canceled):
		x.broken("the device went away, or its session ended")
		return
	case errors.Is(err, errBody), errors.Is(err, errTruncated):
		x.g.cfg.Judge.Undelivered(x.s, x.id, "the body did not arrive whole")
		x.write(http.StatusBadRequest, "the body did not arrive whole", true)
		return
	case errors.Is(err, upstream.ErrTimeout):
		status, why = http.StatusGatewayTimeout, "the backend did not answer in time"
	case errors.Is(err, upstream.ErrUnavailable):
		status, why = http.StatusServiceUnavailable, "no connection to the backend is to be had"
	}
	x.g.cfg.Logger.Warn("forwarding failed", "route", x.route.Name, "backend", x.route.Backend, "decision", x.id, "error", err)
	x.g.cfg.Judge.Undelivered(x.s, x.id, why)
	x.write(status, why, false)
}

// refuse answers and records a request that is not judged, because it could not
// be understood or leads nowhere.
func (x *exchange) refuse(f *fault) {
	var r *protocol.Route
	if x.route != nil {
		r = &x.route.Route
	}
	x.id = x.g.cfg.Judge.Refused(x.ctx, x.s, r, &x.tx, strconv.Itoa(f.status), f.why)
	x.write(f.status, f.why, f.fatal)
}

// deny answers a request whose decision is no.
func (x *exchange) deny(v protocol.Verdict) {
	x.id = v.ID
	if v.Cause == protocol.CauseLimit {
		x.throttle(v.RetryAfter)
		return
	}
	if v.Cause == protocol.CauseFault {
		x.write(http.StatusServiceUnavailable, "the gateway can not decide at the moment", false)
		return
	}
	x.write(http.StatusForbidden, "not allowed", false)
}

// write answers with a refusal in the language of the route.
func (x *exchange) write(status int, why string, fatal bool) {
	x.status = status
	if a, ok := x.w.(*answer1); ok && (fatal || x.unreadable()) {
		a.close = true
	}
	if x.route == nil || !x.route.fhir {
		x.g.plain(x.w, status, x.id, why)
		return
	}
	accept, _ := x.m.header.Get("accept")
	ct, body := fhir.Outcome(accept, x.format(), fhir.IssueOf(status, why, x.id))
	send(x.w, status, x.id, ct, body)
}

// unreadable reports whether more of the body is left than is read to keep the
// connection, or whether the device waits to be invited to send it. The device
// must hear of the connection's end with the answer, or it would send its next
// request into it.
func (x *exchange) unreadable() bool {
	if x.m.body == nil || x.isHeld {
		return false
	}
	if x.m.length > drainMax {
		return true
	}
	return !x.forwarded && x.uninvited()
}

// format returns the value of the _format parameter.
func (x *exchange) format() string {
	for _, p := range x.m.target.Query {
		if p.Name == "_format" {
			return p.Value
		}
	}
	return ""
}

// plain answers with a problem document (RFC 9457).
func (g *Gateway) plain(w answerer, status int, id, why string) {
	body := fmt.Appendf(nil, `{"type":"about:blank","title":%q,"status":%d,"detail":%q,"instance":"urn:anteroom:decision:%s"}`+"\n",
		http.StatusText(status), status, why, id)
	send(w, status, id, "application/problem+json", body)
}

// send writes a whole response of ours.
func send(w answerer, status int, id, contentType string, body []byte) {
	h := http1.Header{{Name: "content-type", Value: contentType}, {Name: "cache-control", Value: "no-store"}, {Name: "x-anteroom-decision-id", Value: id}}
	if status == http.StatusServiceUnavailable {
		h = append(h, http1.Field{Name: "retry-after", Value: "5"})
	}
	if w.start(status, h, int64(len(body))) == nil {
		if _, err := w.Write(body); err == nil {
			w.finish(nil)
		}
	}
}
