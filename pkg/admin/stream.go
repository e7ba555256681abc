package admin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// An outpour is an operation that writes more than fits into memory.
type outpour struct {
	roles []Role
	do    func(ctx context.Context, s *Service, a Actor, name string, arg []byte, w io.Writer) (any, error)
}

// pour makes one of a method. As with every change, who asked for it is recorded
// before anything is done: what it hands out can not be taken back.
func pour[Req, Resp any](f func(*Service, context.Context, Actor, *Req, io.Writer) (Resp, error), roles ...Role) outpour {
	return outpour{roles, func(ctx context.Context, s *Service, a Actor, name string, arg []byte, w io.Writer) (any, error) {
		req, err := decode[Req](arg)
		if err != nil {
			return nil, err
		}
		if err := s.announce(ctx, a, name, req); err != nil {
			return nil, err
		}
		out, err := f(s, ctx, a, req, w)
		if err != nil {
			s.failed(context.WithoutCancel(ctx), a, name, req, err)
			return nil, err
		}
		return out, nil
	}}
}

func outpours() map[string]outpour {
	return map[string]outpour{"backup": pour((*Service).Backup, SecurityOfficer)}
}

// Stream does an operation that writes to w, for an actor.
func (s *Service) Stream(ctx context.Context, a Actor, name string, arg []byte, w io.Writer) (any, error) {
	o, ok := outpours()[name]
	if !ok {
		return nil, fmt.Errorf("%w operation %q", device.ErrInvalid, name)
	}
	if !a.may(o.roles...) {
		return nil, fmt.Errorf("%w: %s needs one of the roles %v, and %s has %v", errForbidden, name, o.roles, a.Name, a.Roles)
	}
	return o.do(ctx, s, a, name, arg, w)
}

// How a stream's result follows it (RFC 9110 §6.5): only what has a result has
// come whole.
const (
	resultTrailer = "Anteroom-Result"
	errorTrailer  = "Anteroom-Error"
	streamType    = "application/octet-stream"
)

// pourOut answers a call with a stream.
func pourOut(w http.ResponseWriter, r *http.Request, s *Service, a Actor, name string, arg []byte) error {
	out := &begun{w: w}
	result, err := s.Stream(r.Context(), a, name, arg, out)
	if err != nil && !out.yes {
		return err
	}
	trailer, v := resultTrailer, result
	if err != nil {
		trailer, v = errorTrailer, any(&Error{codeOf(err), err.Error()})
	}
	out.begin()
	if b, err := json.Marshal(v); err == nil {
		w.Header().Set(trailer, base64.StdEncoding.EncodeToString(b))
	}
	return nil
}

// begun is a stream that says whether anything was written: until then an error
// can be answered as any other.
type begun struct {
	w   http.ResponseWriter
	yes bool
}

func (b *begun) begin() {
	if b.yes {
		return
	}
	b.yes = true
	b.w.Header().Set("Trailer", resultTrailer+", "+errorTrailer)
	b.w.Header().Set("Content-Type", streamType)
	b.w.WriteHeader(http.StatusOK)
}

func (b *begun) Write(p []byte) (int, error) {
	b.begin()
	return b.w.Write(p)
}

// trailed reads what follows a stream.
func trailed(h http.Header, result any) error {
	for _, name := range []string{errorTrailer, resultTrailer} {
		text := h.Get(name)
		if text == "" {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return errors.New("the gateway went away: what it said at the end can not be read")
		}
		if name == resultTrailer {
			return json.Unmarshal(b, result)
		}
		e := &Error{}
		if err := json.Unmarshal(b, e); err != nil {
			return err
		}
		return e
	}
	return errors.New("the gateway went away before the end")
}
