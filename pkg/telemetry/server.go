package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	scrapeTimeout = 10 * time.Second
	headTimeout   = 5 * time.Second
)

// A Server answers /metrics, /healthz (the process is alive) and /readyz (it
// serves devices; otherwise 503 and why not).
type Server struct {
	http *http.Server
	ln   net.Listener
	wg   sync.WaitGroup
}

// Serve begins to serve on an address. ready returns nil when the gateway serves
// devices as configured.
func Serve(addr string, m *Metrics, ready func() error) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{Timeout: scrapeTimeout}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	s := &Server{ln: ln, http: &http.Server{Handler: mux, ReadHeaderTimeout: headTimeout, ReadTimeout: headTimeout, WriteTimeout: 2 * scrapeTimeout}}
	s.wg.Go(func() { _ = s.http.Serve(ln) })
	return s, nil
}

// Addr returns the address as bound.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Close stops serving and waits.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), headTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	s.wg.Wait()
	return err
}
