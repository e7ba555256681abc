package httpgw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// copySize is the size of the buffers bodies are copied through.
const copySize = 32 << 10

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}

// An exchange is one request on its way: judged, forwarded, answered.
type exchange struct {
	g      *Gateway
	s      *protocol.Session
	badge  *badge
	m      *message
	w      answerer
	ctx    context.Context
	cancel context.CancelFunc
	began  time.Time
	table  *Table
	route  *route
	tx     protocol.Transaction
	id     string // of the decision
	// duties are what else the decision obliges to, or nil. A later one on what
	// lasts replaces them.
	duties atomic.Pointer[protocol.Obligations]
	// parts are what is to be redacted for each entry of a Bundle; nil if nothing
	// is for any.
	parts [][]protocol.Pointer
	// held is the body, where the decision needed it whole.
	held   []byte
	isHeld bool
	// forwarded says that a backend's connection may be reading the body.
	forwarded bool
	status    int
}

// exchange serves one request that an engine has read. It has answered when it
// returns, and nobody reads the body any more but the engine.
func (g *Gateway) exchange(ctx context.Context, s *protocol.Session, b *badge, m *message, w answerer, began time.Time) {
	x := &exchange{g: g, s: s, badge: b, m: m, w: w, began: began}
	x.ctx, x.cancel = context.WithCancel(ctx)
	defer x.cancel()
	x.table = g.table.Load()
	x.route = x.table.match(s.Listener, m.host, m.target.Path)
	x.serve()
	name := ""
	if x.route != nil {
		name = x.route.Name
	}
	g.observe(s, name, x.status, began)
}

func (g *Gateway) observe(s *protocol.Session, route string, status int, began time.Time) {
	if g.cfg.Observe != nil {
		g.cfg.Observe(Observation{Listener: s.Listener, Route: route, Status: status, Duration: time.Since(began)})
	}
}

// serve is the way of one transaction.
func (x *exchange) serve() {
	x.tx = x.m.transaction()
	if x.route == nil {
		x.refuse(unfit(http.StatusNotFound, "no route leads there"))
		return
	}
	if x.m.header.has("upgrade") {
		x.upgrade()
		return
	}
	if x.route.fhir {
		x.serveFHIR()
		return
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
	if v, n := x.m.header.get("content-encoding"); n > 0 && !strings.EqualFold(v, "identity") {
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

// forward sends the request in its canonical form and passes the answer on.
func (x *exchange) forward(t Target) {
	req := x.request(t)
	duties := x.duties.Load()
	if duties != nil {
		x.prepare(req, t, duties)
	}
	x.forwarded = true
	if x.m.body == nil || x.isHeld {
		stop := x.w.watch(x.cancel)
		defer stop()
	}
	resp, err := x.route.backend.RoundTrip(req)
	if err != nil {
		x.failed(err)
		return
	}
	defer resp.Body.Close()
	if duties != nil && !x.fulfil(resp, duties) {
		return
	}
	x.answer(resp)
}

// request makes the backend's request from what was judged.
func (x *exchange) request(t Target) *http.Request {
	path := x.route.rewrite(t.Path)
	u := &url.URL{Path: "/" + strings.Join(path, "/"), RawPath: string(AppendPath(nil, path))}
	if len(t.Query) > 0 {
		u.RawQuery = string(AppendQuery(nil, t.Query))
	}
	h := outbound(x.m.header, x.m.conn.named, x.badge.of(x.s, x.m.authority()))
	h["X-Anteroom-Decision-Id"] = []string{x.id}
	h["Via"] = []string{x.m.version + " anteroom"}
	req := &http.Request{Method: x.m.method, URL: u, Host: x.route.hostSent, Header: h, ProtoMajor: 1, ProtoMinor: 1}
	if req.Host == "" {
		req.Host = x.m.authority()
	}
	switch {
	case x.isHeld:
		body := x.held
		req.ContentLength = int64(len(body))
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	case x.m.body != nil:
		req.ContentLength = x.m.length
		req.Body = io.NopCloser(x.m.body)
	default:
		req.Body = http.NoBody
	}
	ctx := upstream.WithInterim(x.ctx, func(code int, h textproto.MIMEHeader) {
		if code > http.StatusSwitchingProtocols {
			x.w.inform(code, inbound(http.Header(h)))
		}
	})
	return req.WithContext(ctx)
}

// answer passes a backend's response on, as it comes.
func (x *exchange) answer(resp *http.Response) {
	if resp.StatusCode < 200 || resp.StatusCode > 599 {
		// A 101 nobody asked for would leave the device in another protocol.
		x.failed(errors.New("the status is none of a final answer"))
		return
	}
	h := inbound(resp.Header)
	length := resp.ContentLength
	if x.m.method == http.MethodHead || resp.StatusCode == http.StatusNotModified {
		length = described(resp.Header)
	}
	x.status = resp.StatusCode
	if err := x.w.start(resp.StatusCode, h, length); err != nil {
		x.broken("the device went away before its answer")
		return
	}
	if !nobody(x.m.method, resp.StatusCode) {
		if why := x.copy(resp.Body, length); why != "" {
			x.broken(why)
			return
		}
	}
	if err := x.w.finish(inbound(resp.Trailer)); err != nil {
		x.broken("the device went away before the end of its answer")
	}
}

// described returns the length of the body that an answer without one speaks of
// (RFC 9110 section 8.6), or -1 if it says nothing.
func described(h http.Header) int64 {
	if v := h["Content-Length"]; len(v) == 1 {
		if n, ok := parseLength(v[0]); ok {
			return n
		}
	}
	return -1
}

// copy passes a body on, each piece as soon as it is there.
func (x *exchange) copy(from io.Reader, length int64) (why string) {
	bp := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(bp)
	buf := *bp
	var done int64
	// A backend that stops in the middle of an answer must not hold the
	// connection for ever.
	stall := x.g.cfg.Listener.Limits.Stall.D()
	stuck := time.AfterFunc(stall, x.cancel)
	defer stuck.Stop()
	for {
		stuck.Reset(stall)
		n, err := from.Read(buf)
		done += int64(n)
		if n > 0 {
			if _, werr := x.w.Write(buf[:n]); werr != nil {
				return "the device went away before the end of its answer"
			}
		}
		if err == io.EOF || err == nil && done == length {
			return ""
		}
		if err != nil {
			return "the backend's answer ended early"
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
		status, why = http.StatusServiceUnavailable, "no address of the backend can be reached"
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
	accept, _ := x.m.header.get("accept")
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
	b, ok := x.m.body.(*stream1)
	return ok && !x.forwarded && b.body.invite != nil
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
	h := http.Header{"Content-Type": {contentType}, "Cache-Control": {"no-store"}, "X-Anteroom-Decision-Id": {id}}
	if status == http.StatusServiceUnavailable {
		h["Retry-After"] = []string{"5"}
	}
	if w.start(status, h, int64(len(body))) == nil {
		if _, err := w.Write(body); err == nil {
			w.finish(nil)
		}
	}
}
