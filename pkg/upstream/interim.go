package upstream

import (
	"context"
	"net/textproto"
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
