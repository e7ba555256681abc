package gateway

import (
	"fmt"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// passes counts what the audit log did not take on routes with on_failure: pass, since
// the gateway started.
type passes struct {
	mu      sync.Mutex
	byRoute map[string]admin.PassingRoute
}

// passed counts one transaction.
func (g *Gateway) passed(route string, passed bool) {
	result := "refused"
	p := &g.passes
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byRoute == nil {
		p.byRoute = map[string]admin.PassingRoute{}
	}
	c := p.byRoute[route]
	if passed {
		result = "passed"
		c.Passed++
	} else {
		c.Refused++
	}
	c.Last = g.clock().UTC().Truncate(time.Second)
	p.byRoute[route] = c
	g.metrics.OnFailure(route, result)
}

// passing returns the names of the routes that pass reports when something of ours
// fails.
func passing(cfg *config.File) []string {
	return routes(cfg, func(r *config.Route) bool { return r.OnFailure == "pass" })
}

// describePassing says which routes pass reports on failure, and how often they did.
// The caller holds mu.
func (g *Gateway) describePassing(st *admin.Status) {
	g.passes.mu.Lock()
	defer g.passes.mu.Unlock()
	for _, name := range passing(g.cfg) {
		c := g.passes.byRoute[name]
		c.Route = name
		st.Passing = append(st.Passing, c)
		text := "route " + name + " PASSES ON FAILURE: with little disk left for the audit log, reports of life-critical devices go on"
		if !c.Last.IsZero() {
			text += fmt.Sprintf(" (%d did and %d were refused, last %s)", c.Passed, c.Refused, c.Last.Format(time.RFC3339))
		}
		st.Warnings = append(st.Warnings, text)
	}
}
