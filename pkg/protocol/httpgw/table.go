package httpgw

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

// A Backend is where allowed requests go: the upstream pool, or a test's.
type Backend interface {
	// Do sends a request and fills in its response, as [upstream.Backend.Do].
	Do(*upstream.Request, *upstream.Response) error
	// Dial returns a connection of its own for an upgraded protocol.
	Dial(ctx context.Context) (net.Conn, error)
}

// A Table holds the routes of one configuration and finds the one for a request.
// It does not change once made.
type Table struct {
	routes  []*route
	mirrors map[string]*mirror // every backend, by name
}

// A route is a configured route with its backend.
type route struct {
	protocol.Route
	listener  string
	host      string
	prefix    []string
	strip     bool
	fhir      bool
	websocket bool
	backend   Backend
	hostSent  string   // Host the backend is sent; "" means the device's
	base      []string // put before every path
}

// NewTable returns the table of the given routes. backends holds every backend
// they name, cfgs its configuration.
func NewTable(routes []config.Route, cfgs []config.Backend, backends map[string]Backend) (*Table, error) {
	t := &Table{mirrors: map[string]*mirror{}}
	for _, c := range cfgs {
		base, err := prefixSegments(c.BasePath)
		if err != nil {
			return nil, fmt.Errorf("backend %s: base_path: %w", c.Name, err)
		}
		if b := backends[c.Name]; b != nil {
			t.mirrors[c.Name] = &mirror{c.Name, b, c.Host, base}
		}
	}
	for _, c := range routes {
		b := backends[c.Backend]
		i := slices.IndexFunc(cfgs, func(b config.Backend) bool { return b.Name == c.Backend })
		if b == nil || i < 0 {
			return nil, fmt.Errorf("route %s: no backend %q", c.Name, c.Backend)
		}
		prefix, err := prefixSegments(c.Path)
		if err != nil {
			return nil, fmt.Errorf("route %s: path: %w", c.Name, err)
		}
		t.routes = append(t.routes, &route{
			Route: protocol.Route{Name: c.Name, Backend: c.Backend, Environment: c.Environment, Class: protocol.Class(c.Class),
				Observe: c.Mode == "observe", Lane: c.Lane, PassOnFailure: c.OnFailure == "pass"},
			listener: c.Listener, host: strings.ToLower(c.Host), prefix: prefix, strip: c.StripPrefix, fhir: c.Kind == "fhir",
			websocket: c.WebSocket, backend: b, hostSent: cfgs[i].Host, base: t.mirrors[c.Backend].base,
		})
	}
	// The most specific first: by length of the prefix, then host, then listener.
	slices.SortStableFunc(t.routes, func(a, b *route) int {
		if d := len(b.prefix) - len(a.prefix); d != 0 {
			return d
		}
		return b.specific() - a.specific()
	})
	return t, nil
}

func (r *route) specific() (n int) {
	if r.host != "" {
		n += 2
	}
	if r.listener != "" {
		n++
	}
	return n
}

// prefixSegments reads a configured path prefix; a slash at its end means the
// same as none.
func prefixSegments(p string) ([]string, error) {
	p = strings.TrimRight(p, "/")
	if p == "" {
		return nil, nil
	}
	t, err := Canonical(p)
	if err != nil {
		return nil, err
	}
	if len(t.Query) > 0 {
		return nil, fmt.Errorf("%q holds a query", p)
	}
	return t.Path, nil
}

// match returns the route of a request, or nil.
func (t *Table) match(listener, host string, path []string) *route {
	for _, r := range t.routes {
		if r.listener != "" && r.listener != listener || r.host != "" && r.host != host || len(path) < len(r.prefix) {
			continue
		}
		if slices.Equal(r.prefix, path[:len(r.prefix)]) {
			return r
		}
	}
	return nil
}

// strips returns how many segments of a path the backend is not sent.
func (r *route) strips() int {
	if r.strip {
		return len(r.prefix)
	}
	return 0
}
