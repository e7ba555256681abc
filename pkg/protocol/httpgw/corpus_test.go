package httpgw

import (
	"encoding/base64"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol/httpgw/corpus"
)

// TestCorpus runs every case of the corpus: what is answered, what arrives, and
// whether the connection goes on. Whatever did not arrive was recorded.
func TestCorpus(t *testing.T) { runCorpus(t, false) }

// TestCorpusOverTLS does so over TLS, whose ends and half-closes are others than
// TCP's.
func TestCorpusOverTLS(t *testing.T) { runCorpus(t, true) }

func runCorpus(t *testing.T, secure bool) {
	cases, err := corpus.Load(testHost, "8443")
	if err != nil {
		t.Fatal(err)
	}
	backend := &corpus.Backend{}
	r := newRig(t, serveBackend(t, backend))
	r.secure = secure
	own := map[string]string{
		"Client-Cert": ":" + base64.StdEncoding.EncodeToString(deviceCert(t).Raw) + ":",
		"Forwarded":   "", "X-Forwarded-For": "192.0.2.7", "X-Forwarded-Host": "", "X-Forwarded-Proto": "https", "Via": "",
		"X-Anteroom-Device-Id": "pump-1", "X-Anteroom-Device-Class": "infusion-pump", "X-Anteroom-Device-Serial": "",
		"X-Anteroom-Device-Location": "", "X-Anteroom-Decision-Id": "",
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			conn, _ := r.connect()
			if err := c.Run(conn, testHost, patience); err != nil {
				t.Errorf("%s:%d: %v", c.File, c.Line, err)
			}
			reqs, bodies := backend.Take()
			if err := c.Check(reqs, bodies, own); err != nil {
				t.Errorf("%s:%d: %v", c.File, c.Line, err)
			}
			judged, refused, _ := r.judge.take()
			final := 0
			for _, s := range c.Statuses {
				if s >= 200 {
					final++
				}
			}
			if c.Kept && !c.HalfClose {
				final++
			}
			// A batch is one record and one for each entry.
			if n := len(judged) + len(refused); n < final {
				t.Errorf("%s:%d: %d records of %d requests", c.File, c.Line, n, final)
			}
		})
	}
}
