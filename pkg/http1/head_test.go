package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestWhereAHeadEnds(t *testing.T) {
	for s, want := range map[string]int{
		"":                               0,
		"GET / HTTP/1.1":                 0,
		"GET / HTTP/1.1\r":               0,
		"GET / HTTP/1.1\r\n":             0,
		"GET / HTTP/1.1\r\n\r":           0,
		"GET / HTTP/1.1\r\n\r\n":         18,
		"GET / HTTP/1.1\r\n\r\nrest\n\n": 18,
		"a\r\nb: c\r\n\r\n\r\n":          11,
		"a\r\rb\r\n\r\n":                 8, // what is in a line is not looked at here
	} {
		// In one piece, and in any two and three.
		for i := range len(s) + 1 {
			for j := i; j <= len(s); j++ {
				n, seen := 0, 0
				for _, upTo := range []int{i, j, len(s)} {
					var err *SyntaxError
					if n, err = HeadEnd([]byte(s[:upTo]), seen); err != nil {
						t.Fatalf("%q, cut at %d and %d: %v", s, i, j, err)
					}
					if n > 0 {
						break
					}
					seen = upTo
				}
				if n != want {
					t.Fatalf("%q, cut at %d and %d: %d, want %d", s, i, j, n, want)
				}
			}
		}
	}
	for _, s := range []string{"\n", "\r\n", "\r\nGET", "a\n", "a\r\n\n", "a\r\nb\n\r\n", "\r\r\n\n", "a\n\n", "a\r\n\r\r\n\n"} {
		for i := range len(s) + 1 {
			n, err := HeadEnd([]byte(s[:i]), 0)
			if err == nil && n == 0 {
				n, err = HeadEnd([]byte(s), i)
			}
			if err == nil {
				t.Errorf("%q, cut at %d: %d and no error", s, i, n)
			}
		}
	}
}

func TestAHeadIsReadIntoWhatIsThere(t *testing.T) {
	var h Head
	b := []byte("GET /A HTTP/1.1\r\nHost: A.example\r\nX-A:\r\nx-a: B: C\r\n\r\n")
	if err := h.Parse(b, 3, true); err != nil {
		t.Fatal(err)
	}
	line, first := h.Line, slices.Clone(h.Header)
	want := Header{{"host", "A.example"}, {"x-a", ""}, {"x-a", "B: C"}}
	if line != "GET /A HTTP/1.1" || !slices.Equal(first, want) {
		t.Errorf("read as %q %q", line, first)
	}
	clear(b) // the buffer is used for what comes next
	if line != "GET /A HTTP/1.1" || !slices.Equal(first, want) {
		t.Error("what was read changes with the buffer")
	}
	at := &h.Header[0]
	if err := h.Parse([]byte("a\r\nb: c\r\n\r\n"), 3, true); err != nil || h.Line != "a" || !slices.Equal(h.Header, Header{{"b", "c"}}) || &h.Header[0] != at {
		t.Errorf("the next is read as %q %q, %v", h.Line, h.Header, err)
	}
	if err := h.Parse([]byte("a\r\n\r\n"), 0, true); err != nil || h.Line != "a" || len(h.Header) != 0 {
		t.Errorf("one without fields is read as %q %q, %v", h.Line, h.Header, err)
	}
}

func TestHeadsThatAreRefused(t *testing.T) {
	var h Head
	if err := h.Parse([]byte("a\r\nb: c\r\nd: e\r\n\r\n"), 1, true); !errors.Is(err, ErrFields) {
		t.Errorf("more fields than may be: %v", err)
	}
	for _, s := range []string{
		"a\r\nb\r\n\r\n", "a\r\n b: c\r\n\r\n", "a\r\nb: c\r\n d\r\n\r\n", "a\r\nb : c\r\n\r\n", "a\r\n: c\r\n\r\n", "a\r\nb: \x00\r\n\r\n",
		"a\r\nb: c\rd: e\r\n\r\n", "a\r\nb: \xff\r\n\r\n",
	} {
		var syntax *SyntaxError
		if err := h.Parse([]byte(s), 10, true); !errors.As(err, &syntax) || errors.Is(err, ErrFields) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestStatusLines(t *testing.T) {
	for line, want := range map[string]Status{
		"HTTP/1.1 200 OK":              {1, 200},
		"HTTP/1.0 404 Not Found":       {0, 404},
		"HTTP/1.1 204":                 {1, 204},
		"HTTP/1.1 204 ":                {1, 204},
		"HTTP/1.1 101  two\tblanks":    {1, 101},
		"HTTP/1.1 599 \xe4":            {1, 599},
		"HTTP/1.1 100 HTTP/1.1 200 OK": {1, 100},
	} {
		if got, err := ParseStatus(line); err != nil || got != want {
			t.Errorf("%q is read as %+v, %v", line, got, err)
		}
	}
	for _, line := range []string{
		"", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 20", "HTTP/1.1 2000", "HTTP/1.1 200OK", "HTTP/1.1  200", "HTTP/1.1\t200 OK", "HTTP/1.1 099 x",
		"HTTP/1.1 600 x", "HTTP/1.1 +20 x", "HTTP/1.1 2x0 x", "HTTP/1.2 200 OK", "HTTP/2 200 OK", "HTTP/2.0 200 OK", "http/1.1 200 OK", "ICY 200 OK",
		" HTTP/1.1 200 OK", "HTTP/1.1 200 a\x00", "HTTP/1.1 200 a\rb", "HTTP/1.1 200\tOK", "HTTP/01.1 200 OK", "HTTP/1.1 \u0662\u0660\u0660 OK",
	} {
		if got, err := ParseStatus(line); err == nil {
			t.Errorf("%q is read as %+v", line, got)
		}
	}
}

// FuzzResponse: what is taken for the head of an answer, net/http takes too, and
// reads as the same. That matters more than that all it takes is taken: two who
// read one answer differently can be made to see two.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\nx-a: c\r\n\r\n0\r\n\r\n",
		"HTTP/1.0 404 \r\n\r\n", "HTTP/1.1 204\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n", "HTTP/1.1 200 OK\r\nX:\xff\r\n\r\n", "HTTP/1.1 304 x\r\nContent-Length: 7\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTrailer: A\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, syntax := HeadEnd(b, 0)
		if syntax != nil || n == 0 {
			return
		}
		in := bytes.Clone(b)
		var h Head
		if h.Parse(in[:n], 256, false) != nil {
			return
		}
		st, syntax := ParseStatus(h.Line)
		if syntax != nil {
			return
		}
		fr, syntax := h.Header.Framing(st.Minor)
		if syntax != nil {
			return
		}
		br := bufio.NewReader(bytes.NewReader(b))
		resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodHead})
		if err != nil {
			// Of a Trailer that announces what can not be in one it is stricter; that
			// field is not passed on.
			if h.Header.Has("trailer") {
				return
			}
			t.Fatalf("%q: read as %+v %q, net/http says %v", b[:n], st, h.Header, err)
		}
		if resp.StatusCode != st.Code || resp.ProtoMajor != 1 || resp.ProtoMinor != st.Minor {
			t.Fatalf("%q: read as %+v, by net/http as %s %d", b[:n], st, resp.Proto, resp.StatusCode)
		}
		if chunked := len(resp.TransferEncoding) > 0; chunked != fr.Chunked || !chunked && resp.ContentLength != fr.Length && fr.Length >= 0 {
			t.Fatalf("%q: framed %+v, by net/http %q, %d", b[:n], fr, resp.TransferEncoding, resp.ContentLength)
		}
		for name := range resp.Header {
			lower := LowerASCII(name)
			if got := h.Header.All(lower); !slices.Equal(got, resp.Header[name]) {
				t.Fatalf("%q: %s is read as %q, by net/http as %q", b[:n], name, got, resp.Header[name])
			}
		}
		for _, fd := range h.Header {
			switch fd.Name {
			case "transfer-encoding", "trailer", "connection": // net/http takes these out
				continue
			}
			if len(resp.Header[http.CanonicalHeaderKey(fd.Name)]) == 0 {
				t.Fatalf("%q: net/http has no %s", b[:n], fd.Name)
			}
		}
		rest, _ := io.ReadAll(br)
		if !bytes.Equal(rest, b[n:]) {
			t.Fatalf("%q: net/http ends the head elsewhere", b)
		}
		// Written again it is the same.
		var again Head
		out := append(h.Header.Append([]byte(h.Line+"\r\n")), "\r\n"...)
		if err := again.Parse(out, 256, false); err != nil || again.Line != h.Line || !slices.Equal(again.Header, h.Header) {
			t.Fatalf("%q: read as %q, and after writing as %q, %v", b[:n], h.Header, again.Header, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	head := "GET /fhir/Observation?patient=1 HTTP/1.1\r\nHost: gateway.example\r\n" + strings.Repeat("X-Header-Of-A-Device: some value\r\n", 8) + "\r\n"
	in := []byte(head)
	var h Head
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if n, err := HeadEnd(in, 0); err != nil || n != len(in) {
			b.Fatal(n, err)
		}
		if err := h.Parse(in, 100, true); err != nil {
			b.Fatal(err)
		}
	}
}
