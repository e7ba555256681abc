package relay

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestEveryRequestHasTheGatewaysHost(t *testing.T) {
	in := "GET /a HTTP/1.1\r\nHost: 192.168.50.1:8080\r\nX-A: b\r\n\r\n" +
		"POST /b HTTP/1.1\r\nhost: agent\r\ncontent-length: 31\r\n\r\nGET / HTTP/1.1\r\nHost: inner\r\n\r\n" +
		"POST /c HTTP/1.1\r\nHost: agent\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHost:\r\n0\r\n\r\n" +
		"GET /d HTTP/1.0\r\nAccept: */*\r\n\r\n"
	want := "GET /a HTTP/1.1\r\nHost: gateway.example:8443\r\nX-A: b\r\n\r\n" +
		"POST /b HTTP/1.1\r\nHost: gateway.example:8443\r\nContent-Length: 31\r\n\r\nGET / HTTP/1.1\r\nHost: inner\r\n\r\n" +
		"POST /c HTTP/1.1\r\nHost: gateway.example:8443\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHost:\r\n0\r\n\r\n" +
		"GET /d HTTP/1.0\r\nHost: gateway.example:8443\r\nAccept: */*\r\n\r\n"
	h := &rehost{"gateway.example", "8443"}
	for what, src := range map[string]io.Reader{"at once": strings.NewReader(in), "by bytes": iotest.OneByteReader(strings.NewReader(in))} {
		var out bytes.Buffer
		if err := h.copy(&out, src); err != nil || out.String() != want {
			t.Errorf("%s: %v\n%s", what, err, out.String())
		}
	}
}

func TestAfterAnUpgradeBytesAreBytes(t *testing.T) {
	in := "GET /s HTTP/1.1\r\nHost: agent\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05\r\n\r\n"
	var out bytes.Buffer
	if err := (&rehost{"fd00::1", "8443"}).copy(&out, strings.NewReader(in)); err != nil || !strings.HasSuffix(out.String(), "\r\n\r\n\x81\x05\r\n\r\n") || !strings.Contains(out.String(), "Host: [fd00::1]:8443\r\n") {
		t.Errorf("%v\n%q", err, out.String())
	}
}

// TestWhatHasNoClearEndIsNotCarried: a request whose body ends in two places would
// hide another one, with another Host, from the agent or from the gateway.
func TestWhatHasNoClearEndIsNotCarried(t *testing.T) {
	for what, in := range map[string]string{
		"two lengths":        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"length and chunked": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"another coding":     "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"bare LF":            "GET / HTTP/1.1\nHost: a\n\n",
		"a folded line":      "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
		"HTTP/2":             "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"broken chunks":      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
		"a long head":        "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n",
		"half a head":        "GET / HTTP/1.1\r\nHost: a",
		"half a body":        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
	} {
		if err := (&rehost{"g", "1"}).copy(io.Discard, strings.NewReader(in)); err == nil {
			t.Errorf("%s is carried", what)
		}
	}
}

func FuzzRehost(f *testing.F) {
	f.Add([]byte("GET /a HTTP/1.1\r\nHost: b\r\n\r\n"))
	f.Add([]byte("POST /a HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var once, twice bytes.Buffer
		h := &rehost{"gateway.example", "8443"}
		if h.copy(&once, iotest.OneByteReader(bytes.NewReader(in))) != nil {
			return
		}
		// What was carried is carried again as it is: there is no second reading of it.
		if err := h.copy(&twice, bytes.NewReader(once.Bytes())); err != nil || !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Errorf("%q became %q and then %q: %v", in, once.Bytes(), twice.Bytes(), err)
		}
	})
}
