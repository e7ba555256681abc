package httpgw

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
)

// obliges has the rig's judge oblige everything it allows to what is given.
func (r *rig) obliges(list ...protocol.Obligation) {
	r.judge.oblige = func(*protocol.Route, *protocol.Transaction) []protocol.Obligation { return list }
}

func duty(kind string, v protocol.Value) protocol.Obligation {
	return protocol.Obligation{Kind: kind, Value: v}
}

// TestADeviceBeyondItsLimitHearsWhenToComeAgain: in the language of its route,
// and the connection stays.
func TestADeviceBeyondItsLimitHearsWhenToComeAgain(t *testing.T) {
	r := newRig(t, serveBackend(t, &corpus.Backend{}))
	r.judge.deny = func(*protocol.Route, *protocol.Transaction) protocol.Cause { return protocol.CauseLimit }
	r.judge.wait = 1200 * time.Millisecond
	conn, _ := r.connect()
	br := bufio.NewReader(conn)
	for _, tt := range []struct{ send, contentType, says string }{
		{get("/api/a"), "application/problem+json", `"status":429`},
		{get("/fhir/Patient/1"), "application/fhir+json; charset=utf-8", `"code":"throttled"`},
		{post("/fhir/Observation", `{"resourceType":"Observation"}`), "application/fhir+json; charset=utf-8", `"code":"throttled"`},
	} {
		if _, err := io.WriteString(conn, tt.send); err != nil {
			t.Fatal(err)
		}
		resp, body := r.read(br, http.MethodGet)
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "2" || resp.Header.Get("Content-Type") != tt.contentType ||
			!strings.Contains(body, tt.says) || resp.Close {
			t.Errorf("%q is answered %s %v %s", tt.send, resp.Status, resp.Header, body)
		}
	}
}

// TestABatchWhoseEntryIsBeyondALimitIsRefusedWhole: an answer for a part of it
// would tell the device that the rest had been done.
func TestABatchWhoseEntryIsBeyondALimitIsRefusedWhole(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.judge.deny = func(_ *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		if tx.Resource == "Patient" {
			return protocol.CauseLimit
		}
		return protocol.CauseNone
	}
	resp, body := r.ask(post("/fhir", fmt.Sprintf(bundle, "batch")))
	if reqs, _ := backend.Take(); resp.StatusCode != http.StatusTooManyRequests || len(reqs) != 0 {
		t.Errorf("answered %s %s, and %d arrived", resp.Status, body, len(reqs))
	}
}

// TestWhatTheAdapterCanNotMeetIsRefused: the judge is told so beforehand.
func TestWhatTheAdapterCanNotMeetIsRefused(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.obliges(duty("redact", protocol.String("/name")))
	resp, _ := r.ask(get("/api/a"))
	if reqs, _ := backend.Take(); resp.StatusCode != http.StatusForbidden || len(reqs) != 0 {
		t.Errorf("answered %s, and %d arrived", resp.Status, len(reqs))
	}
}

// TestBytesOfBothBodiesAreCounted: those that were declared by the judge itself,
// the others here, over either version of HTTP.
func TestBytesOfBothBodiesAreCounted(t *testing.T) {
	big := strings.Repeat("x", 100_000)
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		io.WriteString(w, big)
	})))
	spent := func() (n int64) {
		r.judge.mu.Lock()
		defer r.judge.mu.Unlock()
		n, r.judge.spent = r.judge.spent, 0
		return n
	}
	chunked := "POST /api/a HTTP/1.1\r\nHost: " + testHost + "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
	declared := "POST /api/a HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Length: 5\r\n\r\nabcde"
	patient := `{"resourceType":"Patient"}`
	held := "POST /fhir/Patient HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Type: application/fhir+json\r\nTransfer-Encoding: chunked\r\n\r\n" +
		fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(patient), patient)
	for _, tt := range []struct {
		send string
		want int
	}{{get("/api/a"), len(big)}, {declared, len(big)}, {chunked, len(big) + 5}, {held, len(big) + len(patient)}} {
		r.obliges(duty("limit_bytes", protocol.Int(1000)))
		if resp, body := r.ask(tt.send); resp.StatusCode != 200 || body != big {
			t.Fatalf("%q is answered %s with %d bytes", tt.send, resp.Status, len(body))
		}
		if n := spent(); n != int64(tt.want) {
			t.Errorf("%q: %d bytes counted, want %d", tt.send, n, tt.want)
		}
		r.obliges(duty("limit_rps", protocol.Int(1000)))
		r.ask(tt.send)
		if n := spent(); n != 0 {
			t.Errorf("%q: %d bytes counted without a limit", tt.send, n)
		}
	}
}

// TestABodyPaysByItsOwnRequest: a backend's connection may read a body when its
// request has been answered already and the exchange serves the next one.
func TestABodyPaysByItsOwnRequest(t *testing.T) {
	r := newRig(t, failing{io.EOF})
	duties, err := protocol.Oblige([]protocol.Obligation{duty("limit_bytes", protocol.Int(1000))})
	if err != nil {
		t.Fatal(err)
	}
	var x exchange
	s := r.newSession()
	defer s.End(io.EOF)
	x.begin(r.g, s, nil, &message{length: -1}, nil, time.Now())
	x.ctx = s.Context()
	x.duties.Store(duties)
	x.req.Length, x.req.Body = -1, readerFunc(func(p []byte) (int, error) {
		x.begin(nil, nil, nil, nil, nil, time.Now()) // the next request, meanwhile
		return len(p), nil
	})
	x.prepare(Target{}, duties)
	if _, err := x.req.Body.Read(make([]byte, 5)); err != nil || r.judge.spent != 5 {
		t.Errorf("%d bytes were counted, %v", r.judge.spent, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestABatchPaysForTheLimitsOfItsEntries: what a request may not have without
// paying, it does not get in a batch.
func TestABatchPaysForTheLimitsOfItsEntries(t *testing.T) {
	r := newRig(t, serveBackend(t, &corpus.Backend{}))
	r.judge.oblige = func(_ *protocol.Route, tx *protocol.Transaction) []protocol.Obligation {
		if tx.Resource == "Patient" {
			return []protocol.Obligation{duty("limit_bytes", protocol.Int(1000))}
		}
		return nil
	}
	if resp, body := r.ask(post("/fhir", fmt.Sprintf(bundle, "transaction"))); resp.StatusCode != 200 {
		t.Fatalf("answered %s %s", resp.Status, body)
	}
	if r.judge.spent < int64(len(fmt.Sprintf(bundle, "transaction")))/2 {
		t.Errorf("%d bytes counted", r.judge.spent)
	}
}

// TestAnAnswerInAnExpiringSessionSaysThatItIsTheLast: a device that sent its next
// request into a connection that closes would not know what became of it.
func TestAnAnswerInAnExpiringSessionSaysThatItIsTheLast(t *testing.T) {
	r := newRig(t, serveBackend(t, &corpus.Backend{}))
	conn, s := r.connect()
	r.judge.oblige = func(*protocol.Route, *protocol.Transaction) []protocol.Obligation {
		s.Expire(time.Nanosecond, s.Started.Add(time.Second))
		return []protocol.Obligation{duty("max_session_s", protocol.Int(1))}
	}
	if _, err := io.WriteString(conn, get("/api/a")); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, _ := r.read(br, http.MethodGet)
	if resp.StatusCode != 200 || !resp.Close {
		t.Errorf("answered %s, close %v", resp.Status, resp.Close)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("then %v", err)
	}
}

// TestAWebSocketEndsWithAnExpiringSession, and none begins in one.
func TestAWebSocketEndsWithAnExpiringSession(t *testing.T) {
	b, ended := echoSocket(t)
	r := newRig(t, b)
	c, _, s, err := r.dialSocket("/socket/a")
	if err != nil {
		t.Fatal(err)
	}
	s.Expire(time.Nanosecond, s.Started.Add(time.Second))
	if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the device hears %v", err)
	}
	<-ended

	conn, s := r.connect()
	r.judge.oblige = func(*protocol.Route, *protocol.Transaction) []protocol.Obligation {
		s.Expire(time.Nanosecond, s.Started.Add(time.Second))
		return []protocol.Obligation{duty("max_session_s", protocol.Int(1))}
	}
	if _, err := io.WriteString(conn, shake+"\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, _ := r.read(bufio.NewReader(conn), http.MethodGet)
	if resp.StatusCode != http.StatusServiceUnavailable || !resp.Close {
		t.Errorf("a handshake in a session that expires is answered %s", resp.Status)
	}
	if _, _, u := r.judge.take(); len(u) != 1 {
		t.Errorf("undelivered: %q", u)
	}
}

// TestAWebSocketIsHeldToItsLimit: it waits as long as it is told to, and a wait
// does not outlive it.
func TestAWebSocketIsHeldToItsLimit(t *testing.T) {
	b, ended := echoSocket(t)
	r := newRig(t, b)
	r.obliges(duty("limit_bytes", protocol.Int(1000)))
	r.judge.wait = time.Hour
	c, _, s, err := r.dialSocket("/socket/a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		r.judge.mu.Lock()
		n := r.judge.spent
		r.judge.mu.Unlock()
		if n >= 5 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was counted")
		}
	}
	s.End(io.EOF)
	<-ended
	r.served.Wait()
}
