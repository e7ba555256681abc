package upstream

import (
	"net/http"
	"net/textproto"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// TestNothingIsPassedOnOnceNobodyWaits: net/http may hear of an interim response
// while its request ends.
func TestNothingIsPassedOnOnceNobodyWaits(t *testing.T) {
	var heard []int
	entered, leave, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	h := &hearing{inform: func(status int, fields http1.Header) {
		if v, _ := fields.Get("link"); v != "a" {
			t.Errorf("passed on with %q", fields)
		}
		close(entered)
		<-leave
		heard = append(heard, status)
	}}
	go h.hear(103, textproto.MIMEHeader{"Link": {"a"}})
	<-entered
	go func() {
		h.end()
		close(ended)
	}()
	close(leave)
	<-ended
	h.hear(104, nil)
	if len(heard) != 1 || heard[0] != 103 {
		t.Errorf("passed on: %v", heard)
	}
}

// TestInterimResponsesAreBounded: over either client.
func TestInterimResponsesAreBounded(t *testing.T) {
	w := newWorld(t)
	for _, h2 := range []bool{false, true} {
		for n, want := range map[int]bool{maxInterim: true, maxInterim + 1: false} {
			p := h2Server(t, w, h2, func(w http.ResponseWriter, _ *http.Request) {
				for range n {
					w.WriteHeader(http.StatusEarlyHints)
				}
			})
			cfg := backendConfig(p.addr)
			cfg.HTTP2, cfg.Retries = h2, 0
			heard := 0
			var resp Response
			err := w.backend(t, cfg, Options{}).Do(&Request{Method: "GET", Target: "/", Host: "a", Context: t.Context(), Inform: func(int, http1.Header) { heard++ }}, &resp)
			if err == nil {
				resp.Close()
			}
			if (err == nil) != want || heard != maxInterim {
				t.Errorf("HTTP/2 %v: %d of %d were passed on, %v", h2, heard, n, err)
			}
		}
	}
}
