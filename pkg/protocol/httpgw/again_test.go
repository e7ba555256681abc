package httpgw

import (
	"bufio"
	"bytes"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
)

// A device that says the same thing over and over is understood the same way each
// time, whatever came between: what is judged, what the backend gets and what the
// device hears is what one that asks for the first time sees.
func TestTheSameAgainIsUnderstoodTheSame(t *testing.T) {
	chunked := "POST /api/a HTTP/1.1\r\nHost: " + testHost + "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	old := "POST /api/a HTTP/1.0\r\nHost: " + testHost + "\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello"
	requests := []string{
		get("/api/a"), get("/api/a?x=1&x=2"), post("/api/a", "hello"), post("/api/a", "world"), post("/api/a", ""), post("/api/a", "hello there"), chunked, old,
		get("/fhir/Observation/1"), get("/fhir/Observation?patient=7"), post("/fhir/Observation", `{"resourceType":"Observation"}`),
		post("/fhir/Observation", `{"resourceType":"Observation" }`), post("/nowhere", "a"), post("/nowhere", "bc"),
		get("/fhir/"), get("/denied/x"), get("/nowhere"),
		"GET https://" + testHost + "/api/a HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
		strings.Replace(get("/api/a"), "\r\n\r\n", "\r\nUser-Agent: "+strings.Repeat("x", 5<<10)+"\r\n\r\n", 1),
	}
	type seen struct {
		status  string
		body    string
		judged  judged
		refused refusal
	}
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.judge.unasked = func(path ...string) bool { return true }
	likes := map[*protocol.Memo]string{}
	deny := r.judge.deny
	alike := 0
	r.judge.deny = func(route *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		if tx.Like != nil {
			alike++
			facts := render(protocol.Object(tx.Facts...)) + tx.Action + tx.Resource
			if have, ok := likes[tx.Like]; ok && have != facts {
				t.Errorf("alike, and not the same:\n%s\n%s", have, facts)
			}
			likes[tx.Like] = facts
		}
		return deny(route, tx)
	}
	send := func(conn io.Writer, br *bufio.Reader, raw string) (out seen) {
		if _, err := io.WriteString(conn, raw); err != nil {
			t.Fatal(err)
		}
		resp, body := r.read(br, raw[:strings.IndexByte(raw, ' ')])
		out.status, out.body = resp.Status, body
		j, ref, _ := r.judge.take()
		if len(j) == 1 {
			out.judged = j[0]
			// The decision's id is another each time.
			out.body = ""
		}
		if len(ref) == 1 {
			out.refused, out.body = ref[0], ""
		}
		return out
	}
	alone := map[string]seen{}
	for _, raw := range requests {
		conn, _ := r.connect()
		alone[raw] = send(conn, bufio.NewReader(conn), raw)
		conn.Close()
	}
	conn, _ := r.connect()
	defer conn.Close()
	br := bufio.NewReader(conn)
	for _, a := range requests {
		for _, b := range requests {
			for _, raw := range []string{a, a, b, b, b, a} {
				if got := send(conn, br, raw); got != alone[raw] {
					t.Fatalf("%q\nbetween others: %+v\nalone:          %+v", raw, got, alone[raw])
				}
			}
		}
	}
	if alike == 0 {
		t.Error("nothing was alike")
	}
}

// What was understood under one table of routes is not kept for another.
func TestTheSameAgainAfterTheRoutesChanged(t *testing.T) {
	r := newRig(t, serveBackend(t, &corpus.Backend{}))
	conn, _ := r.connect()
	defer conn.Close()
	br := bufio.NewReader(conn)
	ask := func() int {
		if _, err := io.WriteString(conn, get("/api/a")); err != nil {
			t.Fatal(err)
		}
		resp, _ := r.read(br, "GET")
		return resp.StatusCode
	}
	for range 3 {
		if got := ask(); got != 200 {
			t.Fatal(got)
		}
	}
	table, err := NewTable(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.g.SetTable(table)
	for range 2 {
		if got := ask(); got != 404 {
			t.Fatal(got)
		}
	}
}

// A body that a policy set begins to read is read from the next request on.
func TestTheSameAgainWhenItsBodyIsWanted(t *testing.T) {
	r := newRig(t, serveBackend(t, &corpus.Backend{}))
	unasked := true
	r.judge.unasked = func(path ...string) bool { return unasked }
	conn, _ := r.connect()
	defer conn.Close()
	br := bufio.NewReader(conn)
	body := `{"resourceType":"Observation","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/7"}}`
	for i := range 6 {
		unasked = i < 3
		if _, err := io.WriteString(conn, post("/fhir/Observation", body)); err != nil {
			t.Fatal(err)
		}
		if resp, text := r.read(br, "POST"); resp.StatusCode != 200 && resp.StatusCode != 201 {
			t.Fatal(resp.Status, text)
		}
		j, _, _ := r.judge.take()
		if got := strings.Contains(j[0].request, `patient:~"7"`); got == unasked {
			t.Errorf("request %d: the body was read: %v\n%s", i, got, j[0].request)
		}
	}
}

// Requests that differ in what is only passed on are understood once, and each
// reaches the backend with what it said itself; in anything else they differ.
func TestWhatIsPassedOnMayDiffer(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.judge.unasked = func(path ...string) bool { return true }
	var like []*protocol.Memo
	deny := r.judge.deny
	r.judge.deny = func(route *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		like = append(like, tx.Like)
		return deny(route, tx)
	}
	conn, _ := r.connect()
	defer conn.Close()
	br := bufio.NewReader(conn)
	with := func(raw, fields string) string {
		return strings.Replace(raw, "\r\n\r\n", "\r\n"+fields+"\r\n\r\n", 1)
	}
	body := `{"resourceType":"Observation","status":"final"}`
	first := with(post("/fhir/Observation", body), "X-Request-Id: 1\r\nTraceparent: 00-aa-01-00\r\nUser-Agent: a")
	for _, tc := range []struct {
		name, raw, id string
		same          bool
	}{
		{"another id", strings.Replace(first, "Id: 1", "Id: 2", 1), "2", true},
		{"a longer one, of another trace", strings.NewReplacer("Id: 1", "Id: "+strings.Repeat("3", 50), "-aa-", "-bb-").Replace(first), strings.Repeat("3", 50), true},
		{"another name for it", strings.Replace(first, "X-Request-Id: 1", "X-Request-Ie: 1", 1), "", false},
		{"none", strings.Replace(first, "X-Request-Id: 1\r\n", "", 1), "", false},
		{"two", strings.Replace(first, "X-Request-Id: 1\r\n", "X-Request-Id: 1\r\nX-Request-Id: 2\r\n", 1), "1", false},
		{"another order", strings.NewReplacer("X-Request-Id: 1\r\nTraceparent: 00-aa-01-00", "Traceparent: 00-aa-01-00\r\nX-Request-Id: 1").Replace(first), "1", false},
		{"another fact", strings.Replace(first, "User-Agent: a", "User-Agent: b", 1), "1", false},
		{"another target", strings.Replace(first, "/fhir/Observation", "/fhir/Observation?_format=json", 1), "1", false},
		{"another method", strings.Replace(first, "POST /fhir/Observation", "PUT /fhir/Observation/1", 1), "1", false},
		{"another length", with(post("/fhir/Observation", body+" "), "X-Request-Id: 1\r\nTraceparent: 00-aa-01-00\r\nUser-Agent: a"), "1", false},
		{"a field more that is named by Connection", strings.Replace(first, "User-Agent: a", "User-Agent: a\r\nConnection: x-request-id", 1), "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			like = nil
			backend.Take()
			for _, raw := range []string{first, first, first, tc.raw} {
				if _, err := io.WriteString(conn, raw); err != nil {
					t.Fatal(err)
				}
				if resp, text := r.read(br, "POST"); resp.StatusCode != 200 {
					t.Fatal(resp.Status, text)
				}
			}
			if len(like) != 4 || like[2] == nil || (like[3] == like[2]) != tc.same {
				t.Errorf("understood as the last one: %v; memos %v", like[3] == like[2], like)
			}
			got, _ := backend.Take()
			if id := got[len(got)-1].Header.Get("X-Request-Id"); id != tc.id {
				t.Errorf("the backend got the id %q, and the device sent %q", id, tc.id)
			}
			if id := got[0].Header.Get("X-Request-Id"); id != "1" {
				t.Errorf("the backend got the id %q of the first", id)
			}
		})
	}
	// What is not well formed is not understood by what came before it.
	if _, err := io.WriteString(conn, first+strings.Replace(first, "Id: 1", "Id: \x01", 1)); err != nil {
		t.Fatal(err)
	}
	r.read(br, "POST")
	if resp, _ := r.read(br, "POST"); resp.StatusCode != 400 {
		t.Error(resp.Status)
	}
}

// What has a body of another length is refused where it is refused by itself, and is
// another transaction elsewhere.
func TestABodyOfAnotherLengthIsAnotherTransaction(t *testing.T) {
	r := newRig(t, serveBackend(t, &corpus.Backend{}))
	var sizes []int64
	var likes []*protocol.Memo
	r.judge.deny = func(_ *protocol.Route, tx *protocol.Transaction) protocol.Cause {
		sizes, likes = append(sizes, tx.Bytes), append(likes, tx.Like)
		return protocol.CauseNone
	}
	get0 := strings.Replace(get("/api/a"), "\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n", 1)
	for name, tc := range map[string]struct {
		first, then string
		refused     bool
	}{
		"longer":            {post("/api/a", "hello"), post("/api/a", "hello there"), false},
		"none":              {post("/api/a", "hello"), post("/api/a", ""), false},
		"a leading zero":    {post("/api/a", "hello"), strings.Replace(post("/api/a", "hello"), "h: 5", "h: 05", 1), true},
		"a sign":            {post("/api/a", "hello"), strings.Replace(post("/api/a", "hello"), "h: 5", "h: +5", 1), true},
		"two":               {post("/api/a", "hello"), strings.Replace(post("/api/a", "hello"), "h: 5", "h: 5, 5", 1), true},
		"that of no number": {post("/api/a", "hello"), strings.Replace(post("/api/a", "hello"), "h: 5", "h:", 1), true},
		"where none is":     {get0, strings.Replace(get0, "h: 0", "h: 5", 1) + "hello", true},
	} {
		t.Run(name, func(t *testing.T) {
			sizes, likes = nil, nil
			conn, _ := r.connect()
			defer conn.Close()
			br := bufio.NewReader(conn)
			for i, raw := range []string{tc.first, tc.first, tc.then, tc.then} {
				if _, err := io.WriteString(conn, raw); err != nil {
					t.Fatal(err)
				}
				resp, text := r.read(br, raw[:strings.IndexByte(raw, ' ')])
				if tc.refused && i == 2 {
					if resp.StatusCode != 400 || len(sizes) != 2 {
						t.Errorf("%s, %s; judged were %d", resp.Status, text, len(sizes))
					}
					return
				}
				if resp.StatusCode != 200 {
					t.Fatal(resp.Status, text)
				}
			}
			was := int64(len(tc.first) - strings.Index(tc.first, "\r\n\r\n") - 4)
			is := int64(len(tc.then) - strings.Index(tc.then, "\r\n\r\n") - 4)
			if !slices.Equal(sizes, []int64{was, was, is, is}) {
				t.Errorf("judged were bodies of %d", sizes)
			}
			if likes[1] == nil || likes[2] != nil || likes[3] == nil || likes[3] == likes[1] {
				t.Errorf("they are like %v", likes)
			}
		})
	}
}

// Nothing that something looks at is only passed on.
func TestWhatIsPassedOnIsNothingElse(t *testing.T) {
	for _, name := range []string{"correlation-id", "date", "request-id", "traceparent", "tracestate", "x-correlation-id", "x-request-id"} {
		if !passing(name) {
			t.Errorf("%s does not pass", name)
		}
		if shownAt(name) >= 0 || private(name) || hop[name] || essential[name] || overrides[name] {
			t.Errorf("%s is more than passed on", name)
		}
	}
	for _, names := range []map[string]bool{hop, essential, overrides} {
		for name := range names {
			if passing(name) {
				t.Errorf("%s is only passed on", name)
			}
		}
	}
	for _, name := range shown {
		if passing(name) {
			t.Errorf("%s is only passed on", name)
		}
	}
}

// What is known of a name without asking is what comes of asking.
func TestWhatStaysHereIsKnownWithoutAsking(t *testing.T) {
	for _, name := range []string{
		"accept", "accept-encoding", "accept-language", "authorization", "connection", "content-length", "content-type", "cookie", "host", "if-match",
		"if-none-exist", "if-none-match", "prefer", "traceparent", "tracestate", "user-agent", "x-correlation-id", "x-request-id",
	} {
		if private(name) != isPrivate(name) {
			t.Errorf("%s stays here: %v without asking, and %v", name, private(name), isPrivate(name))
		}
	}
}

// FuzzAgain: a request behind another is understood as it is by itself, and one that
// is taken for the other again says the same.
func FuzzAgain(f *testing.F) {
	first := strings.Replace(get("/fhir/Observation/1?_count=5"), "\r\n\r\n", "\r\nX-Request-Id: 1\r\nUser-Agent: a\r\nDate: b\r\n\r\n", 1)
	for _, second := range []string{
		first, strings.Replace(first, "Id: 1", "Id: 22", 1), strings.Replace(first, "Agent: a", "Agent: b", 1), strings.Replace(first, "Id: 1", "Id: \x01", 1),
		strings.Replace(first, "Date: b", "Date:", 1), strings.Replace(first, "Id: 1", "Id: 1\r\nContent-Length: 1", 1), strings.ToLower(first), get("/"), post("/fhir/Observation", ""),
	} {
		f.Add([]byte(first), []byte(second))
	}
	f.Add([]byte(post("/a", "hello")), []byte(post("/a", "")))
	f.Add([]byte(post("/a", "hello")), []byte(strings.Replace(post("/a", "hello"), "h: 5", "h: 05", 1)))
	f.Add([]byte(strings.Replace(post("/a", ""), "POST", "GET", 1)), []byte(strings.Replace(post("/a", "hello"), "POST", "GET", 1)))
	g := quiet(f)
	session := protocol.NewSession(nil)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		c, alone := unread(g, session), unread(g, session)
		defer c.w.release()
		defer alone.w.release()
		if !understands(c, a) {
			return
		}
		before := render(protocol.Object(c.msg.facts(-1)))
		c.last.known = true
		ok := understands(c, b)
		if ok != understands(alone, b) {
			t.Fatalf("%q behind %q is understood: %v", b, a, ok)
		}
		if !ok {
			return
		}
		got, want := c.msg, alone.msg
		if !slices.Equal(got.header, want.header) || c.src.r != alone.src.r || c.head.minor != alone.head.minor || c.head.Line != alone.head.Line || c.last.framed != alone.last.framed {
			t.Fatalf("%q behind %q is read as %+v, and alone as %+v", b, a, got, want)
		}
		if (got.body == nil) != (want.body == nil) {
			t.Fatalf("%q behind %q has a body: %v", b, a, got.body != nil)
		}
		got.body, want.body, got.header, want.header = nil, nil, nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q behind %q is %+v, and alone %+v", b, a, got, want)
		}
		if after := render(protocol.Object(c.msg.facts(-1))); c.last.known && after != before {
			t.Fatalf("%q is taken for %q, and says\n%s\n%s", b, a, after, before)
		}
	})
}

// unread returns a connection on which nothing was read yet.
func unread(g *Gateway, s *protocol.Session) *conn1 {
	c := &conn1{g: g, s: s, conn: memory{bytes.NewReader(nil)}}
	c.src = source{conn: c.conn, stall: time.Minute}
	c.equip()
	return c
}

// understands reads the head that b begins with, as if nothing stood before it.
func understands(c *conn1, b []byte) bool {
	c.src.buf, c.src.r, c.src.w = bytes.Clone(b), 0, len(b)
	if len(b) == 0 || c.readHead(time.Now()) != nil {
		return false
	}
	if c.last.known {
		c.body(c.last.framed)
		return true
	}
	return c.message() == nil
}
