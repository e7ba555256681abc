package fleet

import (
	"io"
	"net/http"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/bench/origin"
)

func TestATransferIsCountedWholeOrNotAtAll(t *testing.T) {
	const size = 3<<20 + 7
	for _, c := range []struct {
		name, method, path string
		handler            http.Handler
		fails              bool
	}{
		{"upload", "POST", "/dicom-web/studies", origin.Handler(), false},
		{"download", "GET", "/dicom-web/studies/" + Size + "/series", origin.Handler(), false},
		{"an upload that is answered early", "POST", "/x", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 10)
			_, _ = io.WriteString(w, `{"Bytes":10}`)
			_, _ = io.Copy(io.Discard, r.Body)
		}), true},
	} {
		p := serve(t, c.handler)
		p.Mode, p.Method, p.Path, p.Bytes, p.Connections = Transfer, c.method, c.path, size, 2
		f := start(t, p)
		if c.fails {
			f.await("error")
			continue
		}
		f.await("ready")
		f.say(Go)
		rep := f.await("done").Report
		if rep.Requests != 2 || rep.Bytes != size || rep.FirstByte <= 0 || len(rep.Failed) > 0 {
			t.Errorf("%s: %+v", c.name, rep)
		}
	}
}
