package httpgw

//lint:file-ignore SA1019 the counterpart of serve2.go, over connections that are open already.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// client2 returns an HTTP/2 client of one connection to the gateway.
func (r *rig) client2() (*http.Client, *protocol.Session) {
	r.t.Helper()
	r.tls.ALPN = "h2"
	conn, s := r.connect()
	tr := &http2.Transport{
		AllowHTTP:          true,
		DisableCompression: true,
		DialTLSContext:     func(context.Context, string, string, *tls.Config) (net.Conn, error) { return conn, nil },
	}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, s
}

// A frames2 is a device that writes HTTP/2 frames by hand.
type frames2 struct {
	t    testing.TB
	fr   *http2.Framer
	enc  *hpack.Encoder
	buf  bytes.Buffer
	next uint32
}

func (r *rig) frames2() (*frames2, net.Conn, *protocol.Session) {
	r.t.Helper()
	r.tls.ALPN = "h2"
	conn, s := r.connect()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		r.t.Fatal(err)
	}
	f := &frames2{t: r.t, fr: http2.NewFramer(conn, conn), next: 1}
	f.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.enc = hpack.NewEncoder(&f.buf)
	if err := f.fr.WriteSettings(); err != nil {
		r.t.Fatal(err)
	}
	return f, conn, s
}

// send writes a HEADERS frame of name, value pairs and returns its stream.
func (f *frames2) send(end bool, pairs ...string) uint32 {
	f.t.Helper()
	f.buf.Reset()
	for i := 0; i < len(pairs); i += 2 {
		if err := f.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			f.t.Fatal(err)
		}
	}
	id := f.next
	f.next += 2
	if err := f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.buf.Bytes(), EndHeaders: true, EndStream: end}); err != nil {
		f.t.Fatal(err)
	}
	return id
}

// hear returns the status of a stream's answer, or its reset, or the end of the
// connection.
func (f *frames2) hear(id uint32) string {
	f.t.Helper()
	for {
		fr, err := f.fr.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			if fr.StreamID == id {
				return fr.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if fr.StreamID == id {
				return fr.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			if fr.LastStreamID < id {
				return "goaway " + fr.ErrCode.String()
			}
		case *http2.SettingsFrame:
			if !fr.IsAck() {
				if err := f.fr.WriteSettingsAck(); err != nil {
					return "closed"
				}
			}
		}
	}
}

func TestHTTP2PassesRequests(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	c, _ := r.client2()
	resp, err := c.Post("https://"+testHost+"/api/%50ost?b=%41+c", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), "Parameters") {
		t.Errorf("answered %s %q %v", resp.Status, body, err)
	}
	reqs, bodies := backend.Take()
	if len(reqs) != 1 || reqs[0].RequestURI != "/api/Post?b=A%20c" || bodies[0] != "hello" || reqs[0].Header.Get("X-Anteroom-Device-Id") != "pump-1" || reqs[0].ContentLength != 5 {
		t.Errorf("arrived: %+v %q", reqs, bodies)
	}
	judged, _, _ := r.judge.take()
	if len(judged) != 1 || !strings.Contains(judged[0].request, `path:["api","Post"]`) {
		t.Errorf("judged: %+v", judged)
	}
}

// TestHTTP2ReadsTargetsAsHTTP1Does runs the corpus's GETs of one header line over
// HTTP/2: what is refused there is refused here, and what arrives is the same.
func TestHTTP2ReadsTargetsAsHTTP1Does(t *testing.T) {
	cases, err := corpus.Load(testHost, "8443")
	if err != nil {
		t.Fatal(err)
	}
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	ran := 0
	for _, c := range cases {
		head, rest, ok := strings.Cut(string(c.Send), "\r\n")
		if !ok || rest != "Host: "+testHost+"\r\n\r\n" || !strings.HasSuffix(head, " HTTP/1.1") || !strings.HasPrefix(head, "GET ") {
			continue
		}
		target := strings.TrimSuffix(strings.TrimPrefix(head, "GET "), " HTTP/1.1")
		if len(target) > maxSeed || !strings.HasPrefix(target, "/") {
			continue
		}
		ran++
		f, conn, _ := r.frames2()
		got := f.hear(f.send(true, ":method", "GET", ":scheme", "https", ":authority", testHost, ":path", target))
		conn.Close()
		if want := fmt.Sprint(c.Statuses[0]); got != want && (want != "400" || got != "PROTOCOL_ERROR") {
			t.Errorf("%s: %q is answered %s, want %s", c.Name, target, got, want)
		}
		reqs, _ := backend.Take()
		if len(reqs) != len(c.Arrives) || len(reqs) == 1 && reqs[0].RequestURI != c.Arrives[0].Target {
			t.Errorf("%s: %q arrives %d times, want %d", c.Name, target, len(reqs), len(c.Arrives))
		}
	}
	if ran < 50 {
		t.Errorf("only %d cases ran", ran)
	}
}

func TestHTTP2RefusesWhatIsAmbiguous(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.secure = true // without TLS x/net tells nobody what the scheme was
	plain := []string{":method", "GET", ":scheme", "https", ":authority", testHost, ":path", "/api/a"}
	with := func(pairs ...string) []string { return append(append([]string{}, plain...), pairs...) }
	change := func(i int, v string) []string {
		p := with()
		p[i] = v
		return p
	}
	for name, tt := range map[string]struct {
		send []string
		want string
	}{
		"nothing":                        {plain, "200"},
		"another authority":              {change(5, "evil.example"), "421"},
		"an authority with a user":       {change(5, "evil@"+testHost), "PROTOCOL_ERROR 400"},
		"an authority with another Host": {with("host", "evil.example"), "PROTOCOL_ERROR 400"},
		"the same Host":                  {with("host", testHost), "200"},
		"no authority and another Host":  {[]string{":method", "GET", ":scheme", "https", ":path", "/api/a", "host", "evil.example"}, "421"},
		"no authority":                   {[]string{":method", "GET", ":scheme", "https", ":path", "/api/a"}, "400"},
		"another method":                 {change(1, "PROPFIND"), "501"},
		"a method in lower case":         {change(1, "get"), "501"},
		"TRACE":                          {change(1, "TRACE"), "501"},
		"CONNECT":                        {[]string{":method", "CONNECT", ":authority", testHost + ":443"}, "501"},
		"extended CONNECT":               {with(":protocol", "websocket"), "PROTOCOL_ERROR"},
		"the scheme http":                {change(3, "http"), "400"},
		"a transfer coding":              {with("transfer-encoding", "chunked"), "PROTOCOL_ERROR 400"},
		"a connection field":             {with("connection", "x-anteroom-device-id"), "PROTOCOL_ERROR 400"},
		"an upgrade":                     {with("upgrade", "websocket"), "PROTOCOL_ERROR 400"},
		"a field in upper case":          {with("X-One", "a"), "PROTOCOL_ERROR"},
		"a field with a line break":      {with("x-one", "a\r\nx-two: b"), "PROTOCOL_ERROR"},
		"a field with a NUL":             {with("x-one", "a\x00b"), "PROTOCOL_ERROR"},
		"a pseudo-field behind fields":   {append([]string{"x-one", "a"}, plain...), "PROTOCOL_ERROR"},
		"two paths":                      {with(":path", "/denied"), "PROTOCOL_ERROR"},
		"an asterisk":                    {change(7, "*"), "PROTOCOL_ERROR 400"},
		"a length without a body":        {with("content-length", "5"), "PROTOCOL_ERROR 400"},
		"a forged identity":              {with("x-anteroom-device-id", "forged", "client-cert", ":forged:"), "200"},
		"a method override":              {with("x-http-method-override", "DELETE"), "400"},
		"an unknown expectation":         {with("expect", "200-ok"), "417"},
	} {
		t.Run(name, func(t *testing.T) {
			f, _, _ := r.frames2()
			f.t = t
			if got := f.hear(f.send(true, tt.send...)); !strings.Contains(" "+tt.want+" ", " "+got+" ") {
				t.Errorf("answered %s, want %s", got, tt.want)
			}
			reqs, _ := backend.Take()
			if (len(reqs) > 0) != (tt.want == "200") {
				t.Errorf("%d requests arrived", len(reqs))
			}
			for _, q := range reqs {
				for _, vs := range q.Header {
					if strings.Contains(strings.Join(vs, ""), "forged") {
						t.Errorf("arrived: %v", q.Header)
					}
				}
			}
		})
	}
}

// TestHTTP2Bodies: what the decision needs whole is refused when it is not, with
// and without a declared length.
func TestHTTP2Bodies(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	for name, tt := range map[string]struct {
		path, body string
		fields     []string
		want       string
	}{
		"a good body":             {"/fhir/Observation", `{"resourceType":"Observation"}`, nil, "200"},
		"malformed JSON":          {"/fhir/Observation", `{"resourceType":"Observation",}`, nil, "400"},
		"a duplicate key":         {"/fhir/Observation", `{"resourceType":"Observation","resourceType":"Patient"}`, nil, "400"},
		"trailing data":           {"/fhir/Observation", `{"resourceType":"Observation"}{}`, nil, "400"},
		"a compressed body":       {"/fhir/Observation", "\x1f\x8b\x08\x00", []string{"content-encoding", "gzip"}, "415"},
		"a body that is too long": {"/fhir/Observation", strings.Repeat(" ", 5<<20), nil, "413"},
		"a denied body":           {"/denied", "hello", nil, "403"},
	} {
		for _, declared := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", declared ", declared), func(t *testing.T) {
				c, _ := r.client2()
				var body io.Reader = strings.NewReader(tt.body)
				if !declared {
					body = io.MultiReader(body) // hides its length
				}
				req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+testHost+tt.path, body)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/fhir+json")
				for i := 0; i < len(tt.fields); i += 2 {
					req.Header.Set(tt.fields[i], tt.fields[i+1])
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if got := fmt.Sprint(resp.StatusCode); got != tt.want {
					t.Errorf("answered %s, want %s", got, tt.want)
				}
				if reqs, _ := backend.Take(); (len(reqs) > 0) != (tt.want == "200") {
					t.Errorf("%d requests arrived", len(reqs))
				}
			})
		}
	}
}

// TestHTTP2BodiesThatEndEarlyDoNotArrive: a stream that is reset, or shorter than
// it said, is no request.
func TestHTTP2BodiesThatEndEarlyDoNotArrive(t *testing.T) {
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	for _, path := range []string{"/api/a", "/fhir/Observation"} {
		for _, how := range []string{"reset", "short", "closed"} {
			f, conn, _ := r.frames2()
			id := f.send(false, ":method", "POST", ":scheme", "https", ":authority", testHost, ":path", path,
				"content-type", "application/fhir+json", "content-length", "300")
			if err := f.fr.WriteData(id, how == "short", []byte(`{"resourceType":"Observation"}`)); err != nil {
				t.Fatal(err)
			}
			if how == "reset" {
				if err := f.fr.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
					t.Fatal(err)
				}
			}
			if how == "short" {
				f.hear(id)
			}
			conn.Close()
			r.served.Wait()
			if reqs, _ := backend.Take(); len(reqs) != 0 {
				t.Errorf("%s, %s: %d requests arrived", path, how, len(reqs))
			}
		}
	}
}

func TestHTTP2AResetEndsItsRequest(t *testing.T) {
	b, asked, ended := endless(t)
	r := newRig(t, b)
	c, s := r.client2()
	for _, path := range []string{"/api/waiting", "/api/begun"} {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", "https://"+testHost+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if resp, err := c.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}()
		<-asked
		cancel()
		wait(t, ended, "the backend's request ends")
		<-done
		eventually(t, "the transaction is over", func() bool { return s.Ongoing() == 0 })
	}
	if _, _, undelivered := r.judge.take(); len(undelivered) != 2 {
		t.Errorf("recorded as undelivered: %q", undelivered)
	}
}

func TestHTTP2ASessionsEndEndsItsRequests(t *testing.T) {
	b, asked, ended := endless(t)
	r := newRig(t, b)
	c, s := r.client2()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := c.Get("https://" + testHost + "/api/waiting"); err == nil {
			resp.Body.Close()
			t.Error("answered")
		}
	}()
	<-asked
	s.End(errors.New("revoked"))
	wait(t, ended, "the backend's request ends")
	<-done
	r.served.Wait()
}

func TestHTTP2DrainLetsARequestFinish(t *testing.T) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-goOn
		_, _ = io.WriteString(w, "whole")
	})))
	f, conn, s := r.frames2()
	id := f.send(true, ":method", "GET", ":scheme", "https", ":authority", testHost, ":path", "/api/a")
	<-asked
	s.Drain()
	var away bool
	for !away {
		fr, err := f.fr.ReadFrame()
		if err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		_, away = fr.(*http2.GoAwayFrame)
	}
	close(goOn)
	if got := f.hear(id); got != "200" {
		t.Errorf("answered %s", got)
	}
	// The gateway closes when the last stream is done.
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection goes on after a drain: %v", err)
	}
	r.served.Wait()
}

func TestHTTP2DrainEndsIdleConnections(t *testing.T) {
	r := newRig(t, serveBackend(t, http.NotFoundHandler()))
	c, s := r.client2()
	resp, err := c.Get("https://" + testHost + "/api/a")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.Drain()
	r.served.Wait()
}

func TestHTTP2AnAnswerCutShortIsSeenToBe(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		r := newRig(t, rawBackend(t, answer))
		c, s := r.client2()
		resp, err := c.Get("https://" + testHost + "/api/a")
		if err == nil {
			var b []byte
			b, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil {
				t.Errorf("%q was read as whole: %q", answer, b)
			}
		}
		eventually(t, "the transaction is over", func() bool { return s.Ongoing() == 0 })
		if _, _, undelivered := r.judge.take(); len(undelivered) != 1 {
			t.Errorf("recorded as undelivered: %q", undelivered)
		}
	}
}

func TestHTTP2Answers(t *testing.T) {
	r := newRig(t, rawBackend(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\nAlt-Svc: h3=\":443\"\r\nConnection: X-Hop\r\nX-Hop: a\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"))
	c, _ := r.client2()
	resp, err := c.Get("https://" + testHost + "/api/a")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "ok" || resp.Trailer.Get("X-T") != "1" || resp.Header.Get("Alt-Svc") != "" || resp.Header.Get("X-Hop") != "" {
		t.Errorf("answered %v %q %v %v", resp.Header, body, resp.Trailer, err)
	}
}

// TestHTTP2HeadersHaveLimits: 431, or where reading on would be the harm, the end.
func TestHTTP2HeadersHaveLimits(t *testing.T) {
	r := newRig(t, serveBackend(t, http.NotFoundHandler()))
	for name, n := range map[string]int{"many fields": 101, "large fields": 60} {
		f, _, _ := r.frames2()
		pairs := []string{":method", "GET", ":scheme", "https", ":authority", testHost, ":path", "/api/a"}
		for i := range n {
			v := "a"
			if name == "large fields" {
				v = strings.Repeat("a", 1000)
			}
			pairs = append(pairs, fmt.Sprintf("x-%d", i), v)
		}
		f.enc.SetMaxDynamicTableSize(0)
		f.buf.Reset()
		if name == "large fields" {
			// More than one frame holds.
			f.sendLarge(pairs)
			if got := f.hear(1); got != "431" && got != "closed" {
				t.Errorf("%s: answered %s", name, got)
			}
			continue
		}
		if got := f.hear(f.send(true, pairs...)); got != "431" {
			t.Errorf("%s: answered %s", name, got)
		}
	}
}

// sendLarge writes a head in a HEADERS frame and CONTINUATIONs.
func (f *frames2) sendLarge(pairs []string) {
	f.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if err := f.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			f.t.Fatal(err)
		}
	}
	block := f.buf.Bytes()
	const piece = 16 << 10
	for first := true; first || len(block) > 0; first = false {
		n := min(piece, len(block))
		var err error
		if first {
			err = f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.next, BlockFragment: block[:n], EndStream: true, EndHeaders: n == len(block)})
		} else {
			err = f.fr.WriteContinuation(f.next, n == len(block), block[:n])
		}
		if err != nil {
			f.t.Fatal(err)
		}
		block = block[n:]
	}
}

// overlong is a backend that answers at once and goes on reading the request's
// body, as a backend may until the response is closed, and a little longer.
type overlong struct {
	failing
	begin   chan struct{} // reading begins when it is closed
	readers sync.WaitGroup
	paniced atomic.Int32
}

func (o *overlong) Do(r *upstream.Request, resp *upstream.Response) error {
	body := r.Body
	if body == nil {
		body = bytes.NewReader(r.Held)
	}
	o.readers.Go(func() {
		defer func() {
			if recover() != nil {
				o.paniced.Add(1)
			}
		}()
		<-o.begin
		for {
			if _, err := body.Read(make([]byte, 1)); err != nil {
				return
			}
		}
	})
	resp.Answer(413, nil, 0, http.NoBody)
	return nil
}

// TestAnEarlyAnswerEndsItsUpload: whoever reads the body still, when the answer
// is over and the stream or the connection with it, comes to no harm and no
// device waits for it.
func TestAnEarlyAnswerEndsItsUpload(t *testing.T) {
	o := &overlong{begin: make(chan struct{})}
	close(o.begin)
	r := newRig(t, o)
	for range 200 {
		f, conn, s := r.frames2()
		id := f.send(false, ":method", "POST", ":scheme", "https", ":authority", testHost, ":path", "/api/a")
		if err := f.fr.WriteData(id, false, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if got := f.hear(id); got != "413" {
			t.Errorf("answered %s", got)
		}
		eventually(t, "the transaction is over", func() bool { return s.Ongoing() == 0 })
		conn.Close()
	}
	r.tls.ALPN = "http/1.1"
	for range 200 {
		conn, _ := r.connect()
		began := time.Now()
		fmt.Fprintf(conn, "POST /api/a HTTP/1.1\r\nHost: %s\r\nContent-Length: 100000\r\n\r\n%s", testHost, make([]byte, 1000))
		resp, _ := r.read(bufio.NewReader(conn), "POST")
		if resp.StatusCode != 413 {
			t.Errorf("answered %s", resp.Status)
		}
		conn.Close()
		r.served.Wait()
		if d := time.Since(began); d > patience/2 {
			t.Fatalf("took %v", d)
		}
	}
	o.readers.Wait()
	if n := o.paniced.Load(); n > 0 {
		t.Errorf("%d readers panicked", n)
	}
}

// TestAReadAfterTheEndIsHarmless: a reader that comes only when the stream or
// the connection is long gone.
func TestAReadAfterTheEndIsHarmless(t *testing.T) {
	for _, alpn := range []string{"h2", "http/1.1"} {
		o := &overlong{begin: make(chan struct{})}
		r := newRig(t, o)
		if alpn == "h2" {
			f, conn, _ := r.frames2()
			if got := f.hear(f.send(false, ":method", "POST", ":scheme", "https", ":authority", testHost, ":path", "/api/a")); got != "413" {
				t.Errorf("answered %s", got)
			}
			conn.Close()
		} else {
			r.ask("POST /api/a HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Length: 100000\r\n\r\n")
		}
		r.served.Wait()
		close(o.begin)
		o.readers.Wait()
		if o.paniced.Load() > 0 {
			t.Errorf("%s: the reader panicked", alpn)
		}
	}
}
