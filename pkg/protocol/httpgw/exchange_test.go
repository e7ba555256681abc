package httpgw

import (
	"bufio"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// TestFacts: what a policy sees of a request, and what of it may name a patient
// (marked ~).
func TestFacts(t *testing.T) {
	r := newRig(t, serveBackend(t, http.NotFoundHandler()))
	for _, tt := range []struct{ send, want string }{
		{
			"GET /api/wards/7/beds?name=Anna+B&name=C&x HTTP/1.1\r\nHost: " + strings.ToUpper(testHost) + "\r\nUser-Agent: pump\r\nAuthorization: Bearer x\r\n\r\n",
			`GET /api/wards/{}/beds {http:{method:"GET",host:"gateway.example",path:["api","wards",~"7","beds"],query:{name:[~"Anna B",~"C"],x:[~""]},headers:{user-agent:["pump"]},content_type:""}}`,
		},
		{
			"POST /api HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Type: Application/JSON; charset=utf-8\r\nIf-None-Exist: identifier=1\r\nContent-Length: 0\r\n\r\n",
			`POST /api {http:{method:"POST",host:"gateway.example",path:["api"],query:{},headers:{if-none-exist:[~"identifier=1"]},content_type:"application/json"}}`,
		},
	} {
		r.ask(tt.send)
		judged, _, _ := r.judge.take()
		if len(judged) != 1 {
			t.Fatalf("judged %d times", len(judged))
		}
		if got := judged[0].action + " " + judged[0].resource + " " + judged[0].request; got != tt.want {
			t.Errorf("judged\n%s\nwant\n%s", got, tt.want)
		}
	}
}

func TestTheGatewaysOwnFields(t *testing.T) {
	var got http.Header
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { got = req.Header })))
	r.ask(get("/api/a"))
	for name, want := range map[string]string{
		"X-Anteroom-Device-Location": "Ward 3 %C3%A4%C3%B6%C3%BC",
		"X-Anteroom-Device-Serial":   "S/1",
		"X-Anteroom-Decision-Id":     "d1",
		"Forwarded":                  `for=192.0.2.7;host="gateway.example";proto=https`,
		"X-Forwarded-Proto":          "https",
		"Via":                        "1.1 anteroom",
	} {
		if v := got[textproto.CanonicalMIMEHeaderKey(name)]; len(v) != 1 || v[0] != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	if _, ok := got["User-Agent"]; ok {
		t.Error("the gateway invents a User-Agent")
	}
}

func TestRoutes(t *testing.T) {
	var routes []config.Route
	for _, c := range []struct{ name, listener, host, path string }{
		{"all", "", "", "/"}, {"a", "", "", "/a"}, {"a-b", "", "", "/a/b/"}, {"a-host", "", "One.Example", "/a"},
		{"a-listener", "other", "", "/a"}, {"both", "other", "one.example", "/a"}, {"spaced", "", "", "/a%20b"},
	} {
		routes = append(routes, config.Route{Name: c.name, Listener: c.listener, Host: c.host, Path: c.path, Backend: "b"})
	}
	table, err := NewTable(routes, []config.Backend{{Name: "b", BasePath: "/base/x"}}, map[string]Backend{"b": failing{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ listener, host, path, want string }{
		{"l", "h", "/", "all"}, {"l", "h", "/a", "a"}, {"l", "h", "/a/", "a"}, {"l", "h", "/ab", "all"}, {"l", "h", "/a/b", "a-b"},
		{"l", "h", "/a/b/c", "a-b"}, {"l", "h", "/a/bc", "a"}, {"l", "one.example", "/a/x", "a-host"}, {"l", "one.example", "/a/b", "a-b"},
		{"other", "h", "/a", "a-listener"}, {"other", "one.example", "/a", "both"}, {"l", "h", "/a%20b/c", "spaced"}, {"l", "h", "/A", "all"},
	} {
		target, err := Canonical(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		r := table.match(tt.listener, tt.host, target.Path)
		if r == nil || r.Name != tt.want {
			t.Errorf("%s %s %s leads to %v, want %s", tt.listener, tt.host, tt.path, r, tt.want)
		}
		if got := target.rewritten(r.strips(), r.base); !strings.HasPrefix(got, "/base/x") {
			t.Errorf("%s is sent as %s", tt.path, got)
		}
	}
	for _, c := range []config.Route{{Name: "x", Path: "/a/../b", Backend: "b"}, {Name: "x", Path: "/a?b", Backend: "b"}, {Name: "x", Path: "a", Backend: "b"}, {Name: "x", Path: "/", Backend: "c"}} {
		if _, err := NewTable([]config.Route{c}, []config.Backend{{Name: "b"}}, map[string]Backend{"b": failing{}}); err == nil {
			t.Errorf("accepted %+v", c)
		}
	}
}

// TestANewTableIsUsedAtOnce: by the next request on a connection that is open.
func TestANewTableIsUsedAtOnce(t *testing.T) {
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	conn, _ := r.connect()
	br := bufio.NewReader(conn)
	fmt.Fprint(conn, get("/api/a"))
	if resp, _ := r.read(br, "GET"); resp.StatusCode != 200 {
		t.Fatalf("answered %s", resp.Status)
	}
	r.g.SetTable(&Table{})
	fmt.Fprint(conn, get("/api/a"))
	if resp, _ := r.read(br, "GET"); resp.StatusCode != 404 {
		t.Errorf("answered %s without a route", resp.Status)
	}
}
