package upstream

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"
)

// BenchmarkRoundTrip is a small GET over a kept connection; its twin says what of
// it is the transport's.
func BenchmarkRoundTrip(b *testing.B) {
	w := newWorld(b)
	p := serve(b, w.tls(), answering(ok))
	up := w.backend(b, backendConfig(p.addr), Options{})
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.ca.pool(), ServerName: name}}
	b.Cleanup(transport.CloseIdleConnections)
	for name, rt := range map[string]http.RoundTripper{"backend": up, "transport": transport} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			req := request(b, "GET", "/Patient/1?a=b", nil)
			req.URL.Scheme, req.URL.Host = "https", p.addr
			for b.Loop() {
				resp, err := rt.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}
