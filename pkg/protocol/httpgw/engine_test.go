package httpgw

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// rawBackend answers every connection's first request with the given bytes and
// closes.
func rawBackend(t testing.TB, answer string) *upstream.Backend {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(conn, answer)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return newBackend(t, ln.Addr().String())
}

// failing is a backend that can not be reached.
type failing struct{ err error }

func (f failing) Do(*upstream.Request, *upstream.Response) error { return f.err }
func (f failing) Dial(context.Context) (net.Conn, error)         { return nil, f.err }

func TestAnswersOfBackendsPass(t *testing.T) {
	for name, tt := range map[string]struct {
		send, answer, want string
	}{
		"a length": {
			get("/api/a"), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok",
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok",
		},
		"chunks": {
			get("/api/a"), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		},
		"chunks and a trailer": {
			get("/api/a"), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
		},
		"chunks to HTTP/1.0": {
			"GET /api/a HTTP/1.0\r\nHost: " + testHost + "\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok",
		},
		"no content": {
			get("/api/a"), "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
			"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
		},
		"no content, said twice": {
			get("/api/a"), "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 204 No Content\r\n\r\n",
		},
		"not modified": {
			get("/api/a"), "HTTP/1.1 304 Not Modified\r\nEtag: \"1\"\r\n\r\n",
			"HTTP/1.1 304 Not Modified\r\nEtag: \"1\"\r\n\r\n",
		},
		"not modified, with the length it would have": {
			get("/api/a"), "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
			"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
		},
		"HEAD with a length": {
			strings.Replace(get("/api/a"), "GET", "HEAD", 1), "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
		},
		"HEAD without a length": {
			strings.Replace(get("/api/a"), "GET", "HEAD", 1), "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n",
			"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n",
		},
		"an interim answer": {
			get("/api/a"), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		},
		"an invitation nobody waits for": {
			get("/api/a"), "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		},
		"no interim answer to HTTP/1.0": {
			"GET /api/a HTTP/1.0\r\nHost: " + testHost + "\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		},
		"fields that are not for the device": {
			get("/api/a"), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAlt-Svc: h3=\":443\"\r\nConnection: X-Hop\r\nX-Hop: a\r\nKeep-Alive: timeout=5\r\n" +
				"Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Anteroom-Decision-Id: forged\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rawBackend(t, tt.answer))
			conn, _ := r.connect()
			if _, err := io.WriteString(conn, tt.send); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(conn)
			if err != nil {
				t.Fatal(err)
			}
			if got := undated(string(all)); got != tt.want {
				t.Errorf("answered\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// undated removes the Date field from an answer.
func undated(s string) string {
	var out strings.Builder
	for line := range strings.SplitAfterSeq(s, "\r\n") {
		if !strings.HasPrefix(line, "Date: ") {
			out.WriteString(line)
		}
	}
	return out.String()
}

func TestAnswersThatCanNotBeUnderstoodAre502(t *testing.T) {
	for name, answer := range map[string]string{
		"no HTTP":                      "hello\r\n\r\n",
		"nothing":                      "",
		"half a head":                  "HTTP/1.1 200 OK\r\nContent-Le",
		"two lengths":                  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
		"a signed length":              "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
		"an unknown coding":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
		"a switch nobody wanted":       "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"no content with a length":     "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
		"no content in chunks":         "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"an interim one with a length": "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"a status below 100":           "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
		"a status beyond 599":          "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rawBackend(t, answer))
			resp, body := r.ask(get("/api/a"))
			if resp.StatusCode != http.StatusBadGateway {
				t.Errorf("answered %s", resp.Status)
			}
			if strings.Contains(body, "127.0.0.1") {
				t.Errorf("the answer tells of the backend: %s", body)
			}
			if _, _, undelivered := r.judge.take(); len(undelivered) != 1 {
				t.Errorf("recorded as undelivered: %q", undelivered)
			}
		})
	}
}

func TestFailuresOfBackends(t *testing.T) {
	for _, tt := range []struct {
		err        error
		status     int
		fhirStatus string
	}{
		{fmt.Errorf("dial: %w", upstream.ErrUnavailable), 503, "transient"},
		{fmt.Errorf("read: %w", upstream.ErrTimeout), 504, "timeout"},
		{errors.New("malformed"), 502, "transient"},
	} {
		r := newRig(t, failing{tt.err})
		resp, body := r.ask(get("/api/a"))
		if resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%v is answered %s %s", tt.err, resp.Status, body)
		}
		resp, body = r.ask(get("/fhir/Observation/1"))
		if resp.StatusCode != tt.status || !strings.Contains(body, `"OperationOutcome"`) || !strings.Contains(body, tt.fhirStatus) {
			t.Errorf("%v is answered %s %s on a FHIR route", tt.err, resp.Status, body)
		}
		if tt.status == 503 && resp.Header.Get("Retry-After") == "" {
			t.Error("503 without Retry-After")
		}
		if _, _, undelivered := r.judge.take(); len(undelivered) != 2 {
			t.Errorf("recorded as undelivered: %q", undelivered)
		}
	}
}

func TestDenialsTellTheDecisionAndNothingElse(t *testing.T) {
	r := newRig(t, failing{errors.New("asked")})
	cause := protocol.CausePolicy
	r.judge.deny = func(*protocol.Route, *protocol.Transaction) protocol.Cause { return cause }
	resp, body := r.ask(get("/api/a"))
	if resp.StatusCode != 403 || resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(body, ":d1\"") ||
		resp.Header.Get("X-Anteroom-Decision-Id") != "d1" {
		t.Errorf("answered %s %v %s", resp.Status, resp.Header, body)
	}
	resp, body = r.ask(get("/fhir/Observation/1"))
	if resp.StatusCode != 403 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/fhir+json") ||
		!strings.Contains(body, `"forbidden"`) || !strings.Contains(body, "d2") {
		t.Errorf("answered %s %v %s", resp.Status, resp.Header, body)
	}
	resp, body = r.ask("GET /fhir/Observation/1 HTTP/1.1\r\nHost: " + testHost + "\r\nAccept: application/fhir+xml\r\n\r\n")
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/fhir+xml") || !strings.Contains(body, "<OperationOutcome") {
		t.Errorf("answered %s %v %s", resp.Status, resp.Header, body)
	}
	cause = protocol.CauseFault
	resp, body = r.ask(get("/api/a"))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("answered %s %v %s", resp.Status, resp.Header, body)
	}
}

// TestRefusalsEchoNothing: what a device sent never stands in an answer or a
// record of a refusal.
func TestRefusalsEchoNothing(t *testing.T) {
	r := newRig(t, failing{errors.New("asked")})
	for _, raw := range []string{
		"GET /api/a;secret HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
		"SECRET /api/a HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
		"GET /secret HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
		"GET /api/a HTTP/1.1\r\nHost: secret\r\n\r\n",
		"GET /api/a HTTP/1.1\r\nHost: " + testHost + "\r\nsecret : a\r\n\r\n",
		"GET /fhir/secret HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
		"GET /fhir/Patient?secret=1 HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
	} {
		resp, body := r.ask(raw)
		if strings.Contains(strings.ToLower(body), "secret") {
			t.Errorf("%q is answered %s %s", raw, resp.Status, body)
		}
	}
	_, refused, _ := r.judge.take()
	for _, f := range refused {
		if strings.Contains(strings.ToLower(f.why), "secret") {
			t.Errorf("recorded: %q", f.why)
		}
	}
}

func TestDataArrivesAsItComes(t *testing.T) {
	next := make(chan struct{})
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	})))
	conn, _ := r.connect()
	fmt.Fprint(conn, get("/api/events"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := br.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("event %d is %q, %v", i, line, err)
		}
		_, _ = br.ReadString('\n')
		next <- struct{}{}
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("the stream ends with %v", err)
	}
}

// TestUploadsArriveAsTheyCome: the backend has the first byte before the device
// has sent the last.
func TestUploadsArriveAsTheyCome(t *testing.T) {
	first := make(chan byte)
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		b := make([]byte, 1)
		_, _ = io.ReadFull(req.Body, b)
		first <- b[0]
		_, _ = io.Copy(io.Discard, req.Body)
	})))
	conn, _ := r.connect()
	fmt.Fprintf(conn, "POST /api/a HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\na", testHost, smallBody+1)
	if b := <-first; b != 'a' {
		t.Errorf("first byte %q", b)
	}
	fmt.Fprint(conn, strings.Repeat("b", smallBody))
	if resp, _ := r.read(bufio.NewReader(conn), "POST"); resp.StatusCode != 200 {
		t.Errorf("answered %s", resp.Status)
	}
}

// TestASmallBodyIsTakenInFirst: a device that dawdles over a small body holds no
// connection to a backend meanwhile.
func TestASmallBodyIsTakenInFirst(t *testing.T) {
	var asked atomic.Int64
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked.Add(1)
		b, _ := io.ReadAll(req.Body)
		_, _ = w.Write(b)
	})))
	conn, s := r.connect()
	fmt.Fprintf(conn, "POST /api/a HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", testHost, smallBody)
	eventually(t, "the request is judged", func() bool { j, _, _ := r.judge.take(); return len(j) == 1 })
	body := strings.Repeat("b", smallBody)
	fmt.Fprint(conn, body[:smallBody/2])
	time.Sleep(20 * time.Millisecond) // time in which it could be asked
	if n := asked.Load(); n != 0 || s.Ongoing() != 1 {
		t.Errorf("the backend was asked %d times before the body was there", n)
	}
	fmt.Fprint(conn, body[smallBody/2:])
	if resp, got := r.read(bufio.NewReader(conn), "POST"); resp.StatusCode != 200 || got != body {
		t.Errorf("answered %s with %d bytes", resp.Status, len(got))
	}
}

// TestAnEarlyAnswerArrives: a backend that answers without reading is heard,
// though the device is still sending.
func TestAnEarlyAnswerArrives(t *testing.T) {
	r := newRig(t, rawEarly(t))
	conn, _ := r.connect()
	fmt.Fprintf(conn, "POST /api/a HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", testHost, 1<<30)
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		buf := make([]byte, 32<<10)
		for {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	}()
	resp, body := r.read(bufio.NewReader(conn), "POST")
	if resp.StatusCode != 413 || body != "no" {
		t.Errorf("answered %s %q", resp.Status, body)
	}
	conn.Close()
	<-stop
}

// rawEarly answers as soon as it has a head, and reads no body.
func rawEarly(t testing.TB) *upstream.Backend {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	release := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
		}
		<-release
	}()
	t.Cleanup(func() { close(release); ln.Close(); <-done })
	return newBackend(t, ln.Addr().String())
}

// endless is a backend whose answer does not come until its request is given up.
func endless(t testing.TB) (b *upstream.Backend, asked, ended chan struct{}) {
	asked, ended = make(chan struct{}, 1), make(chan struct{}, 1)
	b = serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/begun" {
			_, _ = io.WriteString(w, "begun")
			w.(http.Flusher).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body) // net/http sees an end only behind it
		asked <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	}))
	return b, asked, ended
}

func TestADeviceThatGoesAwayEndsItsRequest(t *testing.T) {
	for _, path := range []string{"/api/waiting", "/api/begun"} {
		b, asked, ended := endless(t)
		r := newRig(t, b)
		conn, s := r.connect()
		fmt.Fprint(conn, get(path))
		<-asked
		if s.Ongoing() != 1 {
			t.Errorf("%d transactions under way", s.Ongoing())
		}
		conn.Close()
		wait(t, ended, "the backend's request ends")
		r.served.Wait()
		if _, _, undelivered := r.judge.take(); len(undelivered) != 1 {
			t.Errorf("%s: recorded as undelivered: %q", path, undelivered)
		}
	}
}

// TestADeviceThatGoesAwayAfterItsUploadEndsItsRequest: nobody reads the connection
// any more once a body that was streamed is through, and the backend takes its time.
func TestADeviceThatGoesAwayAfterItsUploadEndsItsRequest(t *testing.T) {
	large := strings.Repeat("a", smallBody+1)
	for what, body := range map[string]string{
		"a length": fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(large), large),
		"chunks":   "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"invited":  "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
	} {
		b, asked, ended := endless(t)
		r := newRig(t, b)
		conn, _ := r.connect()
		fmt.Fprint(conn, "POST /api/waiting HTTP/1.1\r\nHost: "+testHost+"\r\n"+body)
		<-asked
		conn.Close()
		wait(t, ended, "the backend's request ends")
		r.served.Wait()
		if _, _, undelivered := r.judge.take(); len(undelivered) != 1 {
			t.Errorf("%s: recorded as undelivered: %q", what, undelivered)
		}
	}
}

func TestASessionsEndEndsItsRequest(t *testing.T) {
	for _, path := range []string{"/api/waiting", "/api/begun"} {
		b, asked, ended := endless(t)
		r := newRig(t, b)
		conn, s := r.connect()
		fmt.Fprint(conn, get(path))
		<-asked
		s.End(errors.New("revoked"))
		wait(t, ended, "the backend's request ends")
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
			t.Error("the connection was not closed")
		}
		r.served.Wait()
		if _, _, undelivered := r.judge.take(); len(undelivered) != 1 {
			t.Errorf("%s: recorded as undelivered: %q", path, undelivered)
		}
	}
}

func wait(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("never: %s", what)
	}
}

func TestDrainEndsIdleConnections(t *testing.T) {
	r := newRig(t, serveBackend(t, http.NotFoundHandler()))
	conn, s := r.connect()
	br := bufio.NewReader(conn)
	fmt.Fprint(conn, get("/api/a"))
	r.read(br, "GET")
	s.Drain()
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("an idle connection drains with %v", err)
	}
}

func TestDrainLetsARequestFinish(t *testing.T) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-goOn
		_, _ = io.WriteString(w, "whole")
	})))
	conn, s := r.connect()
	br := bufio.NewReader(conn)
	fmt.Fprint(conn, get("/api/a"))
	<-asked
	s.Drain()
	close(goOn)
	if resp, body := r.read(br, "GET"); resp.StatusCode != 200 || body != "whole" {
		t.Errorf("answered %s %q", resp.Status, body)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("the connection goes on after a drain: %v", err)
	}
}

// TestASlowHeadTimesOut: also on a connection that may be idle for longer.
func TestASlowHeadTimesOut(t *testing.T) {
	for _, hot := range []time.Duration{hotTime, time.Nanosecond} {
		r := newRig(t, failing{errors.New("asked")})
		r.g.hot = hot
		r.g.cfg.Listener.Limits.Head = config.Duration(20 * time.Millisecond)
		if resp, _ := r.ask("GET /api/a HTTP/1.1\r\nHo"); resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("answered %s", resp.Status)
		}
	}
}

func TestSilenceEndsAnIdleConnection(t *testing.T) {
	r := newRig(t, failing{errors.New("asked")})
	r.g.cfg.Listener.Limits.Idle = config.Duration(20 * time.Millisecond)
	conn, _ := r.connect()
	if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
		t.Errorf("an idle connection ends with %q, %v", b, err)
	}
}

// TestAStalledBodyIsCutOff: the backend never takes it for whole.
func TestAStalledBodyIsCutOff(t *testing.T) {
	cut := make(chan error, 1)
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, err := io.Copy(io.Discard, req.Body)
		cut <- err
	})))
	r.g.cfg.Listener.Limits.Stall = config.Duration(50 * time.Millisecond)
	for _, framing := range []string{fmt.Sprintf("Content-Length: %d\r\n\r\nhello", smallBody+1), "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
		conn, _ := r.connect()
		fmt.Fprintf(conn, "POST /api/a HTTP/1.1\r\nHost: %s\r\n%s", testHost, framing)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
		select {
		case err := <-cut:
			if err == nil {
				t.Errorf("%q arrived as a whole body", framing)
			}
		case <-time.After(patience):
			t.Fatal("the backend still waits")
		}
	}
	r.served.Wait()
	if _, _, undelivered := r.judge.take(); fmt.Sprint(undelivered) != "[the body did not arrive whole the body did not arrive whole]" {
		t.Errorf("recorded as undelivered: %q", undelivered)
	}
}

// TestAStalledBodyIsTheDevicesFault: a small one is taken in before its backend is
// asked, which then is not; and no other is blamed on its backend either.
func TestAStalledBodyIsTheDevicesFault(t *testing.T) {
	r := newRig(t, serveBackend(t, &corpus.Backend{}))
	r.g.cfg.Listener.Limits.Stall = config.Duration(50 * time.Millisecond)
	for _, framing := range []string{"Content-Length: 6\r\n\r\nhello", fmt.Sprintf("Content-Length: %d\r\n\r\nhello", smallBody+1), "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
		if resp, body := r.ask("POST /api/a HTTP/1.1\r\nHost: " + testHost + "\r\n" + framing); resp.StatusCode != 400 {
			t.Errorf("%q is answered %s %s", framing, resp.Status, body)
		}
	}
}

// TestAnAnswerCutShortIsSeenToBe: the device must not take half an answer for a
// whole one.
func TestAnAnswerCutShortIsSeenToBe(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		r := newRig(t, rawBackend(t, answer))
		conn, _ := r.connect()
		fmt.Fprint(conn, get("/api/a"))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%q was read as whole: %q", answer, b)
		}
		conn.Close()
		r.served.Wait()
		if _, _, undelivered := r.judge.take(); len(undelivered) != 1 {
			t.Errorf("recorded as undelivered: %q", undelivered)
		}
	}
}

// TestAnAnswerWithoutAnEndOfItsOwnIsCutOffHard: HTTP/1.0 ends such an answer
// with the connection; cut short, it must not end as if it were whole.
func TestAnAnswerWithoutAnEndOfItsOwnIsCutOffHard(t *testing.T) {
	r := newRig(t, rawBackend(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"))
	r.secure = true
	conn, _ := r.connect()
	fmt.Fprintf(conn, "GET /api/a HTTP/1.0\r\nHost: %s\r\n\r\n", testHost)
	if b, err := io.ReadAll(conn); err == nil {
		t.Errorf("read as whole: %q", b)
	}
}

func TestObservations(t *testing.T) {
	var seen []Observation
	r := newRig(t, serveBackend(t, http.NotFoundHandler()))
	r.g.cfg.Observe = func(o Observation) { seen = append(seen, o) }
	for _, path := range []string{"/api/a", "/denied", "/nowhere", "/api//"} {
		r.ask(get(path))
		r.served.Wait()
	}
	var got []string
	for _, o := range seen {
		got = append(got, fmt.Sprintf("%s %s %d", o.Listener, o.Route, o.Status))
	}
	if want := []string{"devices api 404", "devices denied 403", "devices  404", "devices  400"}; !slices.Equal(got, want) {
		t.Errorf("observed %q, want %q", got, want)
	}
}

// TestTheHostIsTheOneTheConnectionWasMadeFor: a listener of two names serves
// each on its own connections only; a device that named none may use either.
func TestTheHostIsTheOneTheConnectionWasMadeFor(t *testing.T) {
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	r.g.hosts["other.example"] = true
	for _, tt := range []struct {
		sni, host string
		status    int
	}{
		{testHost, testHost, 200}, {testHost, "other.example", 421}, {"other.example", "other.example", 200},
		{"", "other.example", 200}, {"", testHost, 200}, {"", "third.example", 421},
	} {
		r.tls.SNI = tt.sni
		if resp, _ := r.ask("GET /api/a HTTP/1.1\r\nHost: " + tt.host + "\r\n\r\n"); resp.StatusCode != tt.status {
			t.Errorf("SNI %q, Host %q: answered %s", tt.sni, tt.host, resp.Status)
		}
	}
}

// TestNothingInterimOnceTheAnswerBegan: 100 Continue and its kin come from other
// goroutines than the answer, and must not come into the middle of it.
func TestNothingInterimOnceTheAnswerBegan(t *testing.T) {
	var sent recorder
	a := &answer1{c: &conn1{g: quiet(t), conn: &sent}, method: "POST", minor: 1}
	a.inform(http.StatusEarlyHints, nil)
	if err := a.start(200, nil, 2); err != nil {
		t.Fatal(err)
	}
	a.inform(http.StatusEarlyHints, nil)
	if a.invite() == nil {
		t.Error("invited after the answer began")
	}
	if _, err := a.Write([]byte("ok")); err != nil {
		t.Fatal(err)
	}
	if err := a.finish(nil); err != nil {
		t.Fatal(err)
	}
	a.release()
	a.inform(http.StatusEarlyHints, nil)
	if got, want := undated(sent.String()), "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"; got != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
}

// recorder is a connection that keeps what is written.
type recorder struct {
	memory
	strings.Builder
}

func (r *recorder) Write(p []byte) (int, error) { return r.Builder.Write(p) }

// TestAConnectionThatRestedGoesOn: one that had nothing to do gives away what it
// needs for a request, and is served as ever when one comes, in one piece or byte
// by byte.
func TestAConnectionThatRestedGoesOn(t *testing.T) {
	for _, secure := range []bool{false, true} {
		r := newRig(t, serveBackend(t, &corpus.Backend{}))
		r.secure, r.g.hot = secure, time.Millisecond
		conn, s := r.connect()
		br := bufio.NewReader(conn)
		for i := range 6 {
			s.SetMemo(i)
			raw := post("/api/a", "hello")
			if i%2 == 0 {
				raw = get("/api/a")
			}
			for len(raw) > 0 {
				n := len(raw)
				if i > 2 {
					n = 1
				}
				if _, err := io.WriteString(conn, raw[:n]); err != nil {
					t.Fatal(err)
				}
				raw = raw[n:]
			}
			if resp, _ := r.read(br, "GET"); resp.StatusCode != 200 {
				t.Fatalf("request %d is answered %s", i, resp.Status)
			}
			eventually(t, "it rests", func() bool { return s.Memo() == nil })
		}
		s.Drain()
		if _, err := br.ReadByte(); err == nil {
			t.Error("a session that was asked to finish goes on")
		}
		conn.Close()
	}
}
