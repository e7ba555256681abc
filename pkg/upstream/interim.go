package upstream

import (
	"context"
	"net/textproto"
	"sync"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

type interimKey struct{}

// WithInterim returns a context for a request whose interim responses (1xx other
// than 101) are to be passed on: f is called with each of them before RoundTrip
// returns. A trace of the request's own would do the same, and cost every
// request the joining of two.
func WithInterim(ctx context.Context, f func(status int, h textproto.MIMEHeader)) context.Context {
	return context.WithValue(ctx, interimKey{}, f)
}

// Interim returns what is to be called with a request's interim responses, or
// nil. Whatever stands in for a [Backend] does as it does.
func Interim(ctx context.Context) func(status int, h textproto.MIMEHeader) {
	f, _ := ctx.Value(interimKey{}).(func(int, textproto.MIMEHeader))
	return f
}

// A hearing passes interim responses on while its request waits. net/http calls
// from another goroutine, and so may do it when nobody waits any more: what it says
// then would be taken for an answer to the next request.
type hearing struct {
	mu     sync.Mutex
	inform func(int, http1.Header) // nil once it is over
}

func (h *hearing) hear(status int, fields textproto.MIMEHeader) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inform != nil {
		h.inform(status, headerOf(fields))
	}
}

// end waits for what is being passed on; nothing is after it.
func (h *hearing) end() {
	h.mu.Lock()
	h.inform = nil
	h.mu.Unlock()
}
