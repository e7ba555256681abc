package gateway

import "github.com/anteroom-iomt/anteroom/pkg/config"

// lanes returns the names of the routes that are open to devices in quarantine,
// and of the listeners that therefore let such devices in.
func lanes(cfg *config.File) (routes []string, listeners map[string]bool) {
	listeners = map[string]bool{}
	for _, r := range cfg.Routes {
		if !r.Lane {
			continue
		}
		routes = append(routes, r.Name)
		for _, l := range cfg.Listeners {
			if r.Listener == "" || r.Listener == l.Name {
				listeners[l.Name] = true
			}
		}
	}
	return routes, listeners
}
