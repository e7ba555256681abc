package httpgw

import "net/http"

// A fault is a request that was refused before it could be judged. why is a
// sentence for the device's maker and the record; it holds no byte the device
// sent.
type fault struct {
	status int
	why    string
	// fatal says that the connection can not be used any further, because it is
	// no longer certain where the next request begins.
	fatal bool
}

func (f *fault) Error() string { return f.why }

// bad is the fault of a request whose framing or form is in doubt.
func bad(why string) *fault { return &fault{http.StatusBadRequest, why, true} }

// unfit is the fault of a request that is clear but can not be served.
func unfit(status int, why string) *fault { return &fault{status, why, false} }
