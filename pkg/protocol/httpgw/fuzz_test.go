package httpgw

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
)

// maxSeed leaves the corpus's large cases out of fuzzing, which they slow down.
const maxSeed = 4 << 10

// seeds returns what the corpus sends.
func seeds(f *testing.F) (out [][]byte) {
	cases, err := corpus.Load(testHost, "8443")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		if len(c.Send) <= maxSeed {
			out = append(out, c.Send)
		}
	}
	return out
}

// memory is a connection that holds what the device sent and takes whatever is
// written.
type memory struct{ r *bytes.Reader }

func (m memory) Read(p []byte) (int, error)       { return m.r.Read(p) }
func (m memory) Write(p []byte) (int, error)      { return len(p), nil }
func (m memory) Close() error                     { return nil }
func (m memory) LocalAddr() net.Addr              { return nil }
func (m memory) RemoteAddr() net.Addr             { return nil }
func (m memory) SetDeadline(time.Time) error      { return nil }
func (m memory) SetReadDeadline(time.Time) error  { return nil }
func (m memory) SetWriteDeadline(time.Time) error { return nil }

// quiet returns a gateway for tests that need no backend.
func quiet(t testing.TB) *Gateway {
	g, err := New(Config{
		Listener: config.Listener{Name: "devices", Hosts: []string{testHost}, Limits: testLimits()},
		Judge:    &bench{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// readAll reads one request with our engine: its message, its body, and what is
// left behind it.
func readAll(g *Gateway, s *protocol.Session, data []byte) (m *message, h *head, body, rest []byte, err error) {
	r := bytes.NewReader(data)
	c := &conn1{g: g, s: s, conn: memory{r}}
	c.src = source{conn: c.conn, stall: time.Minute}
	c.src.obtain()
	c.equip()
	defer c.w.release()
	if f := c.readHead(time.Now()); f != nil {
		return nil, nil, nil, nil, f
	}
	if f := c.message(); f != nil {
		return nil, nil, nil, nil, f
	}
	m, h = &c.msg, &c.head
	if m.body != nil {
		if body, err = io.ReadAll(m.body); err != nil {
			return nil, nil, nil, nil, err
		}
		if !m.body.quiesce() {
			return nil, nil, nil, nil, errors.New("the body has an end but is not done")
		}
	}
	rest = append(rest, c.src.buf[c.src.r:c.src.w]...)
	tail, _ := io.ReadAll(r)
	return m, h, body, append(rest, tail...), nil
}

// FuzzDifferential holds the engine beside net/http: whatever the engine
// accepts, net/http accepts, and reads alike to the last byte.
func FuzzDifferential(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	g := quiet(f)
	session := protocol.NewSession(nil)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, h, body, rest, err := readAll(g, session, data)
		if err != nil {
			return
		}
		br := bufio.NewReader(bytes.NewReader(data))
		req, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("we accept what net/http does not: %v\n%q", err, data)
		}
		theirs, err := io.ReadAll(req.Body)
		if err != nil {
			t.Fatalf("we accept a body net/http does not: %v\n%q", err, data)
		}
		left, _ := io.ReadAll(br)
		switch {
		case m.method != req.Method:
			t.Errorf("method %q, net/http %q", m.method, req.Method)
		case h.target != req.RequestURI:
			t.Errorf("target %q, net/http %q", h.target, req.RequestURI)
		case h.minor != req.ProtoMinor:
			t.Errorf("minor %d, net/http %d", h.minor, req.ProtoMinor)
		case !bytes.Equal(body, theirs):
			t.Errorf("body %q, net/http %q", body, theirs)
		case !bytes.Equal(rest, left):
			t.Errorf("rest %q, net/http %q", rest, left)
		case req.URL.Path != "/"+strings.Join(m.target.Path, "/"):
			t.Errorf("path %q, net/http %q", m.target.Path, req.URL.Path)
		}
		if host, _ := h.Header.Get("host"); host != req.Host && !strings.EqualFold(host, req.Host) {
			t.Errorf("host %q, net/http %q", host, req.Host)
		}
		ours := fieldMap(h.Header)
		for _, name := range []string{"Host", "Transfer-Encoding", "Trailer"} {
			delete(ours, name) // net/http takes them out, or moves them
			delete(req.Header, name)
		}
		if slices.Contains(req.Header["Pragma"], "no-cache") {
			delete(ours, "Cache-Control") // net/http invents one
			delete(req.Header, "Cache-Control")
		}
		if !maps.EqualFunc(ours, req.Header, slices.Equal) {
			t.Errorf("fields %q, net/http %q", ours, req.Header)
		}
		if t.Failed() {
			t.Logf("%q", data)
		}
	})
}

func fieldMap(h http1.Header) http.Header {
	out := http.Header{}
	for _, f := range h {
		out.Add(f.Name, f.Value)
	}
	return out
}

// FuzzCanonical holds the canonical form to its promise: it is a fixed point, it
// has none of what servers read in two ways, and net/url reads it as we do.
func FuzzCanonical(f *testing.F) {
	for _, s := range seeds(f) {
		if _, rest, ok := strings.Cut(string(s), " "); ok {
			target, _, _ := strings.Cut(rest, " ")
			f.Add(target)
		}
	}
	f.Add("/" + strings.Repeat("[", maxTarget-1)) // three times as long as it is forwarded
	f.Add("/?a=" + strings.Repeat("+", maxTarget/2))
	f.Fuzz(func(t *testing.T, target string) {
		one, err := Canonical(target)
		if err != nil {
			return
		}
		text := one.String()
		two, err := Canonical(text)
		if err != nil {
			t.Fatalf("%q is canonical as %q, which is refused: %v", target, text, err)
		}
		if !slices.Equal(one.Path, two.Path) || !slices.Equal(one.Query, two.Query) || two.String() != text {
			t.Fatalf("%q is canonical as %q, and that as %q", target, text, two.String())
		}
		for i, seg := range one.Path {
			if seg == "." || seg == ".." || seg == "" && i < len(one.Path)-1 || strings.ContainsAny(seg, "/\\;\x00\r\n\x7f") {
				t.Errorf("%q has the segment %q", target, seg)
			}
		}
		u, err := url.ParseRequestURI(text)
		if err != nil {
			t.Fatalf("net/url refuses %q: %v", text, err)
		}
		if want := "/" + strings.Join(one.Path, "/"); u.Path != want {
			t.Errorf("net/url reads %q as %q, we as %q", text, u.Path, want)
		}
		if u.EscapedPath() != string(AppendPath(nil, one.Path)) {
			t.Errorf("net/url writes %q as %q", text, u.EscapedPath())
		}
		checkQuery(t, one.Query, u.RawQuery)
	})
}

// FuzzQuery looks closer at queries than FuzzCanonical gets to.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{"a=b", "a", "a=", "a=b&a=c", "a+b=%2B", "a%3Db=c%26d", "_id=1,2", "code=http://x|y", "a=%C3%A4", "&", "=", "a=%zz", "a;b"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, q string) {
		one, err := Canonical("/?" + q)
		if err != nil {
			return
		}
		text := string(AppendQuery(nil, one.Query))
		two, err := Canonical("/?" + text)
		if err != nil {
			t.Fatalf("%q is written as %q, which is refused: %v", q, text, err)
		}
		if !slices.Equal(one.Query, two.Query) {
			t.Fatalf("%q is read as %v, and written and read as %v", q, one.Query, two.Query)
		}
		checkQuery(t, one.Query, text)
	})
}

// checkQuery holds parameters against net/url's reading of their serialisation.
func checkQuery(t *testing.T, params []Param, text string) {
	values, err := url.ParseQuery(text)
	if err != nil {
		t.Fatalf("net/url refuses the query %q: %v", text, err)
	}
	ours := url.Values{}
	for _, p := range params {
		ours.Add(p.Name, p.Value)
	}
	if !maps.EqualFunc(ours, values, slices.Equal) {
		t.Errorf("net/url reads %q as %q, we as %q", text, values, ours)
	}
}

// FuzzHost: a canonical host is its own canonical form.
func FuzzHost(f *testing.F) {
	for _, h := range []string{testHost, "A.B:443", "[::1]:8443", "[::FFFF:1.2.3.4]", "a:b", "[::1%25x]", "a..b", "1.2.3.4"} {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, v string) {
		host, port, fault := canonicalHost(v)
		if fault != nil {
			return
		}
		authority := authorityOf(host, port)
		host2, port2, fault := canonicalHost(authority)
		if fault != nil || host2 != host || port2 != port {
			t.Errorf("%q is %q %q, and that again %q %q %v", v, host, port, host2, port2, fault)
		}
		if strings.ContainsAny(authority, " \t\r\n/\\@?#,") {
			t.Errorf("%q is forwarded as %q", v, authority)
		}
	})
}

// FuzzChunked: whatever our reader of chunks takes, net/http's takes, and hands
// out the same.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "A\r\n0123456789\r\n1\r\na\r\n0\r\nX: y\r\n\r\n", "5;a\r\nhello\r\n0\r\n\r\n", "05\r\nhello\r\n0\r\n\r\n"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		src := &source{conn: memory{bytes.NewReader(data)}, buf: make([]byte, 16+int(size)), stall: time.Minute}
		b := &body{src: src, chunked: true}
		ours, err := io.ReadAll(b)
		if err != nil {
			return
		}
		if !b.done() {
			t.Fatal("a body that was read is not done")
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(data)))
		if err != nil {
			t.Fatalf("we accept chunks net/http does not: %v\n%q", err, data)
		}
		if !bytes.Equal(ours, theirs) {
			t.Errorf("%q is %q, net/http's %q", data, ours, theirs)
		}
	})
}

// FuzzFrames: where frames end does not depend on how they were cut.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x81, 0x02, 'h', 'i', 0x88, 0x00}, uint8(1))
	f.Add([]byte{0x82, 0x7e, 0x00, 0x03, 1, 2, 3, 0x81, 0x81, 1, 2, 3, 4, 9}, uint8(3))
	f.Add([]byte{0x82, 0x7f, 0, 0, 0, 0, 0, 0, 0, 1, 1}, uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		var whole, parts frames
		whole.follow(data)
		for rest := data; len(rest) > 0; {
			n := min(int(cut)+1, len(rest))
			parts.follow(rest[:n])
			rest = rest[n:]
		}
		if whole.have != parts.have || whole.left != parts.left {
			t.Errorf("%x at once: %d %d; cut: %d %d", data, whole.have, whole.left, parts.have, parts.left)
		}
		if whole.left < 0 || whole.have < 0 || whole.have >= len(whole.head) {
			t.Errorf("%x: %d %d", data, whole.have, whole.left)
		}
	})
}
