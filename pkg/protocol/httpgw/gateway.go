package httpgw

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Config is what a [Gateway] is made from. Every field but Mirrors, Observe and
// Obliged is required.
type Config struct {
	Listener config.Listener
	Judge    protocol.Judge
	Logger   *slog.Logger
	// Mirrors sends copies of requests; without it what obliges to one is denied.
	Mirrors *Mirrors
	// Observe is called after every request, for metrics.
	Observe func(Observation)
	// Dated is called with the Date field of each request that has one: what time
	// the device believes it is.
	Dated func(s *protocol.Session, date string)
	// Obliged is called with the kind of each obligation that was met, or was not,
	// and the result in a word, for metrics.
	Obliged func(kind, result string)
}

// An Observation is what there is to count about one request.
type Observation struct {
	Listener string
	Route    string // "" if none matched
	Status   int    // as the device was answered; 0 if it was not
	Duration time.Duration
}

// A Gateway is the HTTP adapter of one listener.
type Gateway struct {
	cfg   Config
	hosts map[string]bool
	table atomic.Pointer[Table]
	hot   time.Duration // hotTime, but for tests
}

var _ protocol.Adapter = (*Gateway)(nil)

// New returns an adapter without routes; [Gateway.SetTable] gives it some.
func New(cfg Config) (*Gateway, error) {
	if cfg.Judge == nil || cfg.Logger == nil {
		return nil, errors.New("httpgw: a judge and a logger are needed")
	}
	if len(cfg.Listener.Hosts) == 0 {
		return nil, errors.New("httpgw: the listener has no hosts")
	}
	g := &Gateway{cfg: cfg, hosts: map[string]bool{}, hot: hotTime}
	for _, h := range cfg.Listener.Hosts {
		g.hosts[strings.ToLower(h)] = true
	}
	g.table.Store(&Table{})
	return g, nil
}

// SetTable swaps the routes. Requests under way go on as they began.
func (g *Gateway) SetTable(t *Table) { g.table.Store(t) }

// ALPN implements [protocol.Adapter].
func (g *Gateway) ALPN() []string { return []string{"h2", "http/1.1"} }

// Serve implements [protocol.Adapter].
func (g *Gateway) Serve(conn net.Conn, s *protocol.Session) {
	if s.TLS.ALPN == "h2" {
		g.serve2(conn, s)
		return
	}
	g.serve1(conn, s)
}

// A message is a request as an engine read it: its framing is undone and its
// target canonical. What it means is the exchange's to find out.
type message struct {
	version string // "1.0", "1.1" or "2"
	method  string
	target  Target
	host    string // without port
	port    string
	// authority is the host with its port, if there is one.
	authority string
	header    http1.Header
	conn      connection
	body      bodyReader // nil if there is none
	length    int64      // of the body: as declared, 0 for none, -1 if unknown
}

// authorityOf returns a canonical host with its port, "" for none.
func authorityOf(host, port string) string {
	if strings.IndexByte(host, ':') >= 0 {
		host = "[" + host + "]"
	}
	if port == "" {
		return host
	}
	return host + ":" + port
}

// A bodyReader is a request's body. quiesce makes sure that nobody reads it any
// more, and reports whether it was read to its end.
type bodyReader interface {
	Read([]byte) (int, error)
	quiesce() (whole bool)
}

// An answerer writes one response to the device. There is one for each engine.
type answerer interface {
	// inform sends an interim response (1xx other than 100 and 101).
	inform(status int, h http1.Header)
	// start sends the head. length is the body's, or -1 if unknown. Nothing
	// follows where the method or the status has no body.
	start(status int, h http1.Header, length int64) error
	Write([]byte) (int, error)
	// flush hands everything written so far to the network.
	flush() error
	// finish ends the body, with a trailer section if h is not empty.
	finish(trailer http1.Header) error
	// abort ends a body that can not be completed, in a way that the device can
	// tell from an end.
	abort()
	// watch stops the request at its backend if the device goes away while it
	// waits for its answer, until unwatch is called.
	watch()
	unwatch()
	// hijack hands the connection over after a 101, with what was read past the
	// head. It is nil where there is none to hand over.
	hijack() (net.Conn, []byte)
}

// check finds what is wrong with a message whichever engine read it, and
// completes it.
func (g *Gateway) check(s *protocol.Session, m *message, host string) *fault {
	var f *fault
	if m.host, m.port, f = canonicalHost(host); f != nil {
		return f
	}
	m.authority = authorityOf(m.host, m.port)
	if !g.hosts[m.host] {
		return unfit(http.StatusMisdirectedRequest, "the host is not one of this listener's")
	}
	if s.TLS.SNI != "" && s.TLS.SNI != m.host {
		return unfit(http.StatusMisdirectedRequest, "the host is not the one the TLS connection was made for")
	}
	if f := checkHeader(m.header); f != nil {
		return f
	}
	if (m.method == http.MethodGet || m.method == http.MethodHead) && m.length != 0 {
		return bad("a GET or HEAD request has a body")
	}
	for _, p := range m.target.Query {
		if p.Name == "_method" {
			return bad("the request asks for another method than its own")
		}
	}
	return nil
}
