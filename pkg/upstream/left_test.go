package upstream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/textproto"
	"testing"
)

// TestAConnectionGoesOnOnlyIfNothingIsLeftOnIt: what is left of one device's request
// or answer would be a part of another's. The backend keeps each connection open and
// sends no more, so that nothing but what is known of the answer can tell.
func TestAConnectionGoesOnOnlyIfNothingIsLeftOnIt(t *testing.T) {
	w := newWorld(t)
	for what, c := range map[string]struct {
		answer string
		pieces int  // of the answer's body that are read; -1 for all
		upload bool // the request has a body that does not come
		conns  int64
	}{
		"all of a length":      {ok, -1, false, 1},
		"all of chunks":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", -1, false, 1},
		"no body":              {"HTTP/1.1 204 No Content\r\n\r\n", 0, false, 1},
		"a part of a length":   {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nok", 1, false, 2},
		"a part of chunks":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", 1, false, 2},
		"nothing of a length":  {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", 0, false, 2},
		"something behind":     {"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 2", 0, false, 2},
		"a request's body":     {ok, -1, true, 2},
		"unread, and a body":   {"HTTP/1.1 204 No Content\r\n\r\n", 0, true, 2},
		"a connection to end":  {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", -1, false, 2},
		"an old connection":    {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", -1, false, 2},
		"old, and to be kept":  {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", -1, false, 1},
		"a trailer to be read": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n", 1, false, 2},
	} {
		p := serve(t, w.tls(), func(_ *peer, n int64, conn net.Conn, r *bufio.Reader) {
			for i := 0; ; i++ {
				tp := textproto.NewReader(r)
				if _, err := tp.ReadLine(); err != nil {
					return
				}
				if _, err := tp.ReadMIMEHeader(); err != nil {
					return
				}
				answer := ok
				if n == 1 && i == 0 {
					answer = c.answer
				}
				_, _ = io.WriteString(conn, answer)
			}
		})
		b := w.backend(t, backendConfig(p.addr), Options{})
		r := &Request{Method: "POST", Target: "/", Host: "a", Context: t.Context()}
		body, device := io.Pipe()
		if c.upload {
			r.Body, r.Length = body, 10
		}
		for i := range 2 {
			var resp Response
			check(t, b.Do(r, &resp))
			for n := 0; i > 0 || n != c.pieces; n++ {
				if _, err := resp.Next(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			resp.Close()
			r = &Request{Method: "POST", Target: "/", Host: "a", Context: t.Context()}
		}
		device.Close()
		if n := p.conns.Load(); n != c.conns {
			t.Errorf("%s: %d connections, want %d", what, n, c.conns)
		}
	}
}
