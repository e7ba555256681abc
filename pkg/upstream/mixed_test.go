package upstream

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// TestNoConnectionIsLostFromTheCount: whatever becomes of requests, of their
// bodies and of their answers, a pool knows how many connections there are.
func TestNoConnectionIsLostFromTheCount(t *testing.T) {
	w := newWorld(t)
	p := serve(t, w.tls(), answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
	cfg := backendConfig(p.addr)
	cfg.MaxConnections = 3
	b := w.backend(t, cfg, Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var resp Response
			for range 40 {
				ctx, cancel := context.WithCancel(context.Background())
				s := new(Stopper)
				r := &Request{Method: "POST", Target: "/", Host: "a", Context: ctx, Stopper: s}
				switch rand.IntN(6) {
				case 0:
					r.Held, r.Length = []byte("abc"), 3
				case 1:
					r.Body, r.Length = strings.NewReader("abc"), -1
				case 2:
					r.Body, r.Length = io.MultiReader(strings.NewReader("abc"), failing{errors.New("broken")}), -1
				case 3:
					go s.Stop()
				case 4:
					go cancel()
				}
				if err := b.Do(r, &resp); err == nil {
					if rand.IntN(3) > 0 {
						for err == nil {
							_, err = resp.Next()
						}
					}
					resp.Close()
					resp.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	eventually(t, "the connections there are, are those that are idle", func() bool {
		open, dialing, idle := account(&b.addrs[0].pool)
		return open == idle && dialing == 0
	})
	if open, _, _ := account(&b.addrs[0].pool); open > cfg.MaxConnections {
		t.Errorf("%d connections", open)
	}
}
