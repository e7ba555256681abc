package upstream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// captured sends one request and returns the head that arrived, as lines.
func captured(t *testing.T, w *world, req *http.Request) []string {
	t.Helper()
	heads := make(chan []string, 1)
	p := serve(t, w.tls(), func(_ *peer, _ int64, conn net.Conn, r *bufio.Reader) {
		var head []string
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
			head = append(head, line)
		}
		heads <- head
		_, _ = io.WriteString(conn, ok)
	})
	resp, err := w.backend(t, backendConfig(p.addr), Options{}).RoundTrip(req)
	check(t, err)
	resp.Body.Close()
	return <-heads
}

func TestPathAndQueryArriveByteForByte(t *testing.T) {
	w := newWorld(t)
	for _, target := range []string{
		"/", "/Patient/1", "/a//b", "//a", "//a//", "/a/", "/a%20b", "/a%2520b", "/%E2%82%AC", "/%c3%a9", "/a;b=c", "/a:b@c!$&'()*+,=", "/a~b-c_d.e",
		"/Observation?code=http%3A%2F%2Floinc.org%7C8867-4", "/a?", "/a?b", "/a?b=c&b=d&&", "/a?b=c%26d&e=%00", "/a?b=c+d%2Bd", "/a?x=1;y=2", "/a?b=?/:@!$'()*,",
		"/Patient/$everything", "/Patient/%24everything", "/a%41", "/Binary/x%7Ey", "/a?q=%ZZ",
	} {
		path, query, has := strings.Cut(target, "?")
		decoded, err := url.PathUnescape(path)
		check(t, err)
		for form, u := range map[string]*url.URL{
			"path":   {Path: decoded, RawPath: path, RawQuery: query, ForceQuery: has},
			"opaque": {Opaque: path, RawQuery: query, ForceQuery: has},
		} {
			if form == "opaque" && strings.HasPrefix(path, "//") {
				continue // means an authority to net/url; refused below
			}
			req := (&http.Request{Method: "GET", URL: u, Header: http.Header{"User-Agent": nil}, Host: "ehr"}).WithContext(t.Context())
			if got := captured(t, w, req)[0]; got != "GET "+target+" HTTP/1.1\r\n" {
				t.Errorf("%s %s arrived as %q", form, target, got)
			}
		}
	}
}

func TestAPathThatWouldArriveOtherwiseIsNotSent(t *testing.T) {
	w := newWorld(t)
	p := serve(t, w.tls(), answering(ok))
	b := w.backend(t, backendConfig(p.addr), Options{})
	for what, u := range map[string]*url.URL{
		"raw form of another path":   {Path: "/a", RawPath: "/b"},
		"raw form with a space":      {Path: "/a b", RawPath: "/a b"},
		"raw form with a bracket":    {Path: "/a<b", RawPath: "/a<b"},
		"raw form with broken code":  {Path: "/a%z", RawPath: "/a%z"},
		"opaque with two slashes":    {Opaque: "//other/a"},
		"opaque without a slash":     {Opaque: "a/b"},
		"relative path":              {Path: "a"},
		"line break in the query":    {Path: "/a", RawQuery: "b\r\nX: y"},
		"line break in opaque":       {Opaque: "/a\r\nX: y"},
		"space in the query":         {Path: "/a", RawQuery: "b HTTP/1.1"},
		"space in opaque":            {Opaque: "/a HTTP/1.1"},
		"byte past ASCII in opaque":  {Opaque: "/\xff"},
		"fragment sign in the query": {Path: "/a", RawQuery: "b#c"},
	} {
		body := &stream{Reader: strings.NewReader("x")}
		req := (&http.Request{Method: "PUT", URL: u, Header: http.Header{}, Host: "ehr", Body: body, ContentLength: 1}).WithContext(t.Context())
		resp, err := b.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: sent", what)
		}
		if body.closed.Load() == 0 {
			t.Errorf("%s: its body is left open", what)
		}
	}
	if p.reqs.Load() > 0 {
		t.Error("a request arrived")
	}
	if h := b.Health()[0]; !h.Healthy {
		t.Error("the address was blamed")
	}
}

func TestNothingIsAddedToARequest(t *testing.T) {
	w := newWorld(t)
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	req := request(t, "POST", "/Observation", strings.NewReader("{}"))
	req.Header["User-Agent"] = nil
	req.Header.Set("Idempotency-Key", "k-1")
	head := captured(t, w, req)
	slices.Sort(head[1:])
	want := []string{"POST /Observation HTTP/1.1\r\n", "Content-Length: 2\r\n", "Host: gateway.hospital.test\r\n", "Idempotency-Key: k-1\r\n"}
	if !slices.Equal(head, want) {
		t.Errorf("arrived: %q", head)
	}
	if req.Header.Get("Idempotency-Key") != "k-1" || req.URL.Host != "placeholder" {
		t.Error("the caller's request was changed")
	}
}

func TestAnswersArePassedOnAsTheyAre(t *testing.T) {
	w := newWorld(t)
	const gzipped = "\x1f\x8b not really"
	for what, c := range map[string]struct{ answer, field, value, body string }{
		"redirect":   {"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", "Location", "/elsewhere", ""},
		"cookie":     {"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n", "Set-Cookie", "a=b", ""},
		"compressed": {"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 13\r\n\r\n" + gzipped, "Content-Encoding", "gzip", gzipped},
		"error":      {"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n", "Retry-After", "9", ""},
	} {
		p := serve(t, w.tls(), answering(c.answer))
		b := w.backend(t, backendConfig(p.addr), Options{})
		for range 2 {
			resp, err := b.RoundTrip(request(t, "GET", "/", nil))
			check(t, err)
			body, err := io.ReadAll(resp.Body)
			check(t, err)
			resp.Body.Close()
			if resp.Header.Get(c.field) != c.value || string(body) != c.body {
				t.Errorf("%s: %v %q", what, resp.Header, body)
			}
			if resp.Request.Header.Get("Cookie") != "" {
				t.Errorf("%s: a cookie went back", what)
			}
		}
		if p.reqs.Load() != 2 || p.conns.Load() != 1 {
			t.Errorf("%s: %d requests on %d connections", what, p.reqs.Load(), p.conns.Load())
		}
	}
}

// The secret in these stands for what is known of a patient.
func TestMalformedAnswersSayNothingOfTheirBytes(t *testing.T) {
	w := newWorld(t)
	for what, answer := range map[string]string{
		"no HTTP":             "SECRET\r\n\r\n",
		"status":              "HTTP/1.1 SECRET\r\n\r\n",
		"version":             "HTTP/SECRET 200 OK\r\n\r\n",
		"field":               "HTTP/1.1 200 OK\r\nSECRET\r\n\r\n",
		"space before colon":  "HTTP/1.1 200 OK\r\nSECRET : x\r\n\r\n",
		"folded first field":  "HTTP/1.1 200 OK\r\n SECRET: x\r\n\r\n",
		"length":              "HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\n",
		"negative length":     "HTTP/1.1 200 OK\r\nContent-Length: -1\r\nX: SECRET\r\n\r\n",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nSECRET",
		"unknown coding":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: SECRET\r\n\r\n",
		"two codings":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nSECRET",
		"coding named twice":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\nSECRET",
		"head without end":    "HTTP/1.1 200 OK\r\nX: SECRET\r\n",
		"head past the limit": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("SECRET", maxResponseHeader/6+1) + "\r\n\r\n",
		"another protocol":    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SECRET\r\nConnection: Upgrade\r\n\r\n",
		"nothing":             "",
	} {
		t.Run(what, func(t *testing.T) {
			p := serve(t, w.tls(), func(p *peer, _ int64, conn net.Conn, r *bufio.Reader) {
				if req, _ := p.read(r); req != nil {
					_, _ = io.WriteString(conn, answer)
				}
			})
			b := w.backend(t, backendConfig(p.addr), Options{})
			resp, err := b.RoundTrip(request(t, "POST", "/", strings.NewReader("DEVICE")))
			if err == nil {
				resp.Body.Close()
			}
			if !errors.Is(err, ErrAnswer) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrTimeout) {
				t.Fatalf("got %v", err)
			}
			if s := err.Error(); strings.Contains(s, "SECRET") || strings.Contains(s, "DEVICE") {
				t.Errorf("it quotes: %s", s)
			}
			if p.reqs.Load() != 1 {
				t.Errorf("sent %d times", p.reqs.Load())
			}
		})
	}
}

// What a backend sent too much must never be another request's answer. The
// connection is used again before the transport has looked at it, or after; for
// an order it is then unknown whether it was carried out, for a read it is not.
func TestWhatWasLeftOverIsNoAnswer(t *testing.T) {
	w := newWorld(t)
	const left = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET"
	for what, answer := range map[string]string{
		"after a body":   ok + left,
		"after none":     "HTTP/1.1 204 No Content\r\n\r\n" + left,
		"after chunks":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + left,
		"an empty one":   ok + "HTTP/1.1 204 No Content\r\nX: SECRET\r\n\r\n",
		"several of two": ok + left + left,
	} {
		for _, plain := range []bool{false, true} {
			c, cfg := w.tls(), backendConfig()
			if plain {
				c, cfg.ServerName, cfg.Insecure = nil, "", true
			}
			cfg.Addresses = []string{serve(t, c, answering(answer)).addr}
			cfg.Health.Failures = 1000
			b := w.backend(t, cfg, Options{})
			for i := range 100 {
				method := []string{"GET", "POST"}[i%2]
				resp, err := b.RoundTrip(request(t, method, "/", nil))
				if err != nil {
					if !errors.Is(err, ErrAnswer) || method == "GET" {
						t.Fatalf("%s, %s: %v", what, method, err)
					}
					continue
				}
				body, err := io.ReadAll(resp.Body)
				check(t, err)
				resp.Body.Close()
				if string(body) == "SECRET" || resp.Header.Get("X") != "" {
					t.Fatalf("%s, plain %v: request %d was given what was left over", what, plain, i)
				}
			}
		}
	}
}

// A length that is said twice is one that whoever reads on may take otherwise.
func TestAnAnswerHasOneLength(t *testing.T) {
	w := newWorld(t)
	for what, answer := range map[string]string{
		"both":               "HTTP/1.1 200 OK\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"both, short length": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"one length twice":   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"a list of one":      "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
		"a sign":             "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
		"a leading zero":     "HTTP/1.1 200 OK\r\nContent-Length: 02\r\n\r\nok",
		"old and chunked":    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"a line feed":        "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
		"a folded line":      "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
		"a control byte":     "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok",
		"to a HEAD":          "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
	} {
		method := "GET"
		if what == "to a HEAD" {
			method = "HEAD"
		}
		p := serve(t, w.tls(), answering(answer))
		resp, err := w.backend(t, backendConfig(p.addr), Options{}).RoundTrip(request(t, method, "/", nil))
		if err == nil {
			resp.Body.Close()
		}
		if !errors.Is(err, ErrAnswer) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A body where the status has none is one to some and none to others: over either
// client, but that net/http tells nobody of an interim answer's chunks.
func TestAnAnswerWithoutABodySpeaksOfNone(t *testing.T) {
	w := newWorld(t)
	for what, answer := range map[string]string{
		"a length":         "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
		"chunks":           "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"interim, length":  "HTTP/1.1 103 Early Hints\r\nContent-Length: 20\r\n\r\n" + ok,
		"interim, chunked": "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + ok,
		"":                 "HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
	} {
		for _, two := range []bool{false, true} {
			if two && what == "interim, chunked" {
				continue
			}
			cfg := backendConfig(serve(t, w.tls(), answering(answer)).addr)
			cfg.HTTP2, cfg.Retries = two, 0
			var resp Response
			err := w.backend(t, cfg, Options{}).Do(&Request{Method: "GET", Target: "/", Host: "a", Context: t.Context(), Inform: func(int, http1.Header) {}}, &resp)
			if err == nil {
				resp.Close()
			}
			if errors.Is(err, ErrAnswer) != (what != "") {
				t.Errorf("%s, HTTP/2 configured %v: %v", what, two, err)
			}
		}
	}
}

// What follows an answer is no part of it, and of no other.
func TestAnAnswerEndsWhereItSays(t *testing.T) {
	w := newWorld(t)
	const smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
	for what, c := range map[string]struct{ answer, body string }{
		"length":      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + smuggled, "ok"},
		"chunks":      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + smuggled, "ok"},
		"extensions":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0002 ;a=b\r\nok\r\n000\r\nX: y\r\n\r\n" + smuggled, "ok"},
		"no content":  {"HTTP/1.1 204 No Content\r\n\r\n" + smuggled, ""},
		"no reason":   {"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok" + smuggled, "ok"},
		"interim":     {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + smuggled, "ok"},
		"not changed": {"HTTP/1.1 304 Not Modified\r\nContent-Length: 60\r\n\r\n" + smuggled, ""},
	} {
		p := serve(t, w.tls(), answering(c.answer))
		b := w.backend(t, backendConfig(p.addr), Options{})
		for range 50 {
			resp, err := b.RoundTrip(request(t, "GET", "/", nil))
			check(t, err)
			body, err := io.ReadAll(resp.Body)
			check(t, err)
			resp.Body.Close()
			if string(body) != c.body {
				t.Errorf("%s: %q, length %d, %v", what, body, resp.ContentLength, resp.Header)
			}
		}
	}
}
