package httpgw

// scratch is memory that the facts of one request after another are made in.
type scratch struct{}
