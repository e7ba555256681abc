package httpgw

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// arrival is a request as a backend saw it.
type arrival struct {
	method, uri, host, body string
	header                  http.Header
}

// A recording backend keeps what arrives, and answers when it is let.
type recording struct {
	mu   sync.Mutex
	seen []arrival
	hold chan struct{} // answers wait for its end, if there is one
	code int
}

func (b *recording) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	b.seen = append(b.seen, arrival{r.Method, r.RequestURI, r.Host, string(body), r.Header})
	hold, code := b.hold, b.code
	b.mu.Unlock()
	if hold != nil {
		<-hold
	}
	w.Header().Set("Content-Type", "application/fhir+json")
	if code != 0 {
		w.WriteHeader(code)
	}
	io.WriteString(w, `{"resourceType":"Observation"}`)
}

func (b *recording) all() []arrival {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen)
}

// A mirrorRig is a gateway that mirrors everything to a second backend.
type mirrorRig struct {
	*rig
	own, copy recording
	mu        sync.Mutex
	counted   map[string]int
}

func newMirrorRig(t *testing.T) *mirrorRig {
	mr := &mirrorRig{counted: map[string]int{}}
	own := serveBackend(t, &mr.own)
	mr.rig = newRig(t, own)
	mr.use(own, serveBackend(t, &mr.copy))
	m := NewMirrors(slog.New(slog.DiscardHandler))
	t.Cleanup(m.Close)
	mr.g.cfg.Mirrors = m
	mr.g.cfg.Obliged = func(kind, result string) {
		mr.mu.Lock()
		defer mr.mu.Unlock()
		mr.counted[kind+" "+result]++
	}
	mr.obliges(duty("mirror", protocol.String("copy")))
	return mr
}

// use sets the routes anew, with the backends given.
func (mr *mirrorRig) use(own, other *upstream.Backend) {
	var routes []config.Route
	for _, c := range corpus.Routes() {
		kind := "http"
		if c.FHIR {
			kind = "fhir"
		}
		routes = append(routes, config.Route{Name: c.Name, Path: c.Path, StripPrefix: c.StripPrefix, WebSocket: c.WebSocket, Kind: kind, Backend: "b", Class: "clinical"})
	}
	table, err := NewTable(routes, []config.Backend{{Name: "b", BasePath: "/own"}, {Name: "copy", BasePath: "/second", Host: "copy.example"}},
		map[string]Backend{"b": own, "copy": other})
	if err != nil {
		mr.t.Fatal(err)
	}
	mr.g.SetTable(table)
}

// await waits until something was counted n times.
func (mr *mirrorRig) await(what string, n int) {
	mr.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		mr.mu.Lock()
		got := mr.counted[what]
		mr.mu.Unlock()
		if got >= n {
			return
		}
		if time.Now().After(deadline) {
			mr.t.Fatalf("%q was counted %d times, want %d: %v", what, got, n, mr.counted)
		}
	}
}

// TestACopyIsTheRequestThatWasDecided: with its decision's id, the same canonical
// form and the same body, whichever way that came, and without what is only its
// backend's to know.
func TestACopyIsTheRequestThatWasDecided(t *testing.T) {
	head := " HTTP/1.1\r\nHost: " + testHost + "\r\nAuthorization: Bearer secret\r\nCookie: secret\r\nX-Mine: 1\r\n"
	observation := `{"resourceType":"Observation","status":"final"}`
	for name, tt := range map[string]struct{ send, path, body string }{
		"nothing in it":      {"GET /api/a%20b?x=1" + head + "\r\n", "/api/a%20b?x=1", ""},
		"a declared length":  {"POST /api/a" + head + "Content-Length: 5\r\n\r\nhello", "/api/a", "hello"},
		"chunks":             {"POST /api/a" + head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "/api/a", "hello world"},
		"read before":        {"POST /fhir/Observation" + head + fmt.Sprintf("Content-Type: application/fhir+json\r\nContent-Length: %d\r\n\r\n%s", len(observation), observation), "/fhir/Observation", observation},
		"a stripped prefix":  {"GET /strip/this/x" + head + "\r\n", "/x", ""},
		"nothing, and a PUT": {"PUT /api/a" + head + "Content-Length: 0\r\n\r\n", "/api/a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			mr := newMirrorRig(t)
			if resp, body := mr.ask(tt.send); resp.StatusCode != 200 {
				t.Fatalf("answered %s %s", resp.Status, body)
			}
			mr.await("mirror sent", 1)
			own, copies := mr.own.all(), mr.copy.all()
			if len(own) != 1 || len(copies) != 1 {
				t.Fatalf("%d arrived, and %d copies", len(own), len(copies))
			}
			o, c := own[0], copies[0]
			if o.uri != "/own"+tt.path || c.uri != "/second"+tt.path || c.host != "copy.example" || c.method != o.method || c.body != tt.body || o.body != tt.body {
				t.Errorf("arrived\n%+v\n%+v", o, c)
			}
			if id := c.header.Get("X-Anteroom-Decision-Id"); id != "d1" || id != o.header.Get("X-Anteroom-Decision-Id") {
				t.Errorf("the copy is of decision %q", id)
			}
			if c.header.Get("X-Anteroom-Mirror") != "1" || o.header.Get("X-Anteroom-Mirror") != "" {
				t.Error("the copy does not say that it is one")
			}
			if c.header.Get("Authorization") != "" || c.header.Get("Cookie") != "" || o.header.Get("Authorization") == "" {
				t.Error("the copy has what its own backend was told in confidence")
			}
			if c.header.Get("X-Mine") != "1" || c.header.Get("X-Anteroom-Device-Id") != o.header.Get("X-Anteroom-Device-Id") {
				t.Errorf("the copy's fields are %v", c.header)
			}
		})
	}
}

// TestACopyNeitherDelaysNorFailsItsRequest: whatever becomes of it.
func TestACopyNeitherDelaysNorFailsItsRequest(t *testing.T) {
	mr := newMirrorRig(t)
	mr.copy.hold = make(chan struct{})
	for i := range mirrorsAtOnce + 3 {
		if resp, _ := mr.ask(get("/api/a")); resp.StatusCode != 200 {
			t.Fatalf("%d: answered %s", i, resp.Status)
		}
	}
	mr.await("mirror skipped", 3)
	if _, _, u := mr.judge.take(); len(u) != 3 || u[0] != "not mirrored to copy: "+errBusy {
		t.Errorf("undelivered: %q", u)
	}
	mr.copy.mu.Lock()
	close(mr.copy.hold)
	mr.copy.hold = nil
	mr.copy.mu.Unlock()
	mr.await("mirror sent", mirrorsAtOnce)

	mr.copy.mu.Lock()
	mr.copy.code = 500
	mr.copy.mu.Unlock()
	if resp, _ := mr.ask(get("/api/a")); resp.StatusCode != 200 {
		t.Errorf("answered %s", resp.Status)
	}
	mr.await("mirror failed", 1)
	mr.use(serveBackend(t, &mr.own), newBackend(t, "127.0.0.1:1"))
	if resp, _ := mr.ask(get("/api/a")); resp.StatusCode != 200 {
		t.Errorf("answered %s", resp.Status)
	}
	mr.await("mirror failed", 2)
	if _, _, u := mr.judge.take(); len(u) != 2 || u[0] != "not mirrored to copy: it did not take it" {
		t.Errorf("undelivered: %q", u)
	}
}

// TestBodiesForCopiesTakeBoundedMemory: each, and all together.
func TestBodiesForCopiesTakeBoundedMemory(t *testing.T) {
	mr := newMirrorRig(t)
	mr.g.cfg.Listener.Limits.DecisionBytes = 100
	big := strings.Repeat("x", 101)
	chunked := fmt.Sprintf("POST /api/a HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", testHost, len(big), big)
	if resp, _ := mr.ask(chunked); resp.StatusCode != 200 || mr.own.all()[0].body != big {
		t.Errorf("answered %s", resp.Status)
	}
	mr.await("mirror skipped", 1)
	declared := fmt.Sprintf("POST /api/a HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", testHost, len(big), big)
	if resp, _ := mr.ask(declared); resp.StatusCode != http.StatusForbidden {
		t.Errorf("what is known to be too large is answered %s", resp.Status)
	}
	if !mr.g.cfg.Mirrors.reserve(mirrorBytes - 10) {
		t.Fatal("nothing of it was given back")
	}
	if resp, _ := mr.ask(strings.Replace(chunked, big, big[:0x65], 1)); resp.StatusCode != 200 {
		t.Errorf("answered %s", resp.Status)
	}
	mr.await("mirror skipped", 2)
	if n := len(mr.copy.all()); n != 0 {
		t.Errorf("%d copies arrived", n)
	}
	mr.g.cfg.Mirrors.release(mirrorBytes - 10)
	if mr.g.cfg.Mirrors.bytes != 0 {
		t.Errorf("%d bytes are never given back", mr.g.cfg.Mirrors.bytes)
	}
}

// TestWhatCanNotBeMirroredIsDenied.
func TestWhatCanNotBeMirroredIsDenied(t *testing.T) {
	mr := newMirrorRig(t)
	for name, to := range map[string]string{"no such backend": "nowhere", "its own backend": "b"} {
		mr.obliges(duty("mirror", protocol.Strings(to, "copy")))
		if resp, _ := mr.ask(get("/api/a")); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: answered %s", name, resp.Status)
		}
	}
	mr.obliges(duty("mirror", protocol.String("copy")))
	if resp, _ := mr.ask(shake + "\r\n"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("an upgrade is answered %s", resp.Status)
	}
	mr.g.cfg.Mirrors = nil
	if resp, _ := mr.ask(get("/api/a")); resp.StatusCode != http.StatusForbidden {
		t.Errorf("without mirrors: %s", resp.Status)
	}
	if n := len(mr.own.all()) + len(mr.copy.all()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// TestABundleIsMirroredAsItIsSent: whole, without its denied entries; what an
// entry alone is obliged to can not be done.
func TestABundleIsMirroredAsItIsSent(t *testing.T) {
	mr := newMirrorRig(t)
	mr.judge.deny = denyType("Patient")
	mr.ask(post("/fhir", fmt.Sprintf(bundle, "batch"))) // the answer is none of a batch, which does not matter here
	mr.await("mirror sent", 1)
	if own, c := mr.own.all()[0], mr.copy.all()[0]; own.body != c.body || strings.Contains(c.body, "Patient") || !strings.Contains(c.body, "Observation") {
		t.Errorf("arrived\n%s\n%s", own.body, c.body)
	}
	mr = newMirrorRig(t)
	mr.judge.oblige = func(_ *protocol.Route, tx *protocol.Transaction) []protocol.Obligation {
		if tx.Of == "" {
			return nil
		}
		return []protocol.Obligation{duty("mirror", protocol.String("copy"))}
	}
	if resp, _ := mr.ask(post("/fhir", fmt.Sprintf(bundle, "transaction"))); resp.StatusCode != http.StatusForbidden || len(mr.own.all()) != 0 {
		t.Errorf("answered %s, %d arrived", resp.Status, len(mr.own.all()))
	}
}

// TestMirrorsEndWithTheGateway: a copy that hangs does not keep it.
func TestMirrorsEndWithTheGateway(t *testing.T) {
	mr := newMirrorRig(t)
	mr.copy.hold = make(chan struct{})
	defer close(mr.copy.hold)
	mr.ask(get("/api/a"))
	for len(mr.copy.all()) == 0 {
		time.Sleep(time.Millisecond)
	}
	mr.g.cfg.Mirrors.Close()
	mr.await("mirror failed", 1)
	mr.ask(get("/api/a"))
	mr.await("mirror skipped", 1)
}
