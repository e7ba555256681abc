package httpgw

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
)

// unredactable says why the answer to a request can not be redacted, as far as
// that is known before it is asked for.
func (x *exchange) unredactable() string {
	accept, _ := x.m.header.Get("accept")
	switch {
	case !x.route.fhir:
		return "only answers of FHIR routes can be redacted"
	case x.m.header.Has("upgrade"):
		return "an upgraded connection can not be redacted"
	case !fhir.AnswersJSON(accept, x.format()):
		return "only JSON can be redacted, and the device asks for something else"
	}
	return ""
}

// redacts reports whether the answer has to be redacted.
func (x *exchange) redacts() bool {
	o := x.duties.Load()
	return o != nil && (len(o.Redact) > 0 || x.parts != nil)
}

// wholly has a backend asked for what can be redacted: the whole resource, in
// JSON, in no coding. That the device has a copy is not told: a copy of its own
// may be one that was not redacted, and one of the backend's would be compared
// with that.
func (x *exchange) wholly() {
	reads := x.m.method == http.MethodGet || x.m.method == http.MethodHead
	h := slices.DeleteFunc(x.req.Header, func(f http1.Field) bool {
		switch f.Name {
		case "accept", "accept-encoding", "accept-charset", "range", "if-range", "a-im":
			return true
		case "if-none-match", "if-modified-since":
			return reads
		}
		return false
	})
	x.req.Header = append(h, http1.Field{Name: "accept", Value: "application/fhir+json"})
}

// ofBytes reports whether a field of an answer is of its very bytes. The ETag goes
// although it may be weak: who has less than the whole resource must not replace
// it on the condition that it has not changed.
func ofBytes(f http1.Field) bool {
	switch f.Name {
	case "content-length", "content-md5", "digest", "content-digest", "repr-digest", "unencoded-digest", "etag", "accept-ranges":
		return true
	}
	return false
}

// Why an answer can not be redacted.
var (
	errPartial = errors.New("the answer is a part of something")
	errCoded   = errors.New("the answer is encoded")
	errMany    = errors.New("the answer has more than one type")
	errLarge   = errors.New("the answer is larger than one that is redacted may be")
)

// redact replaces the body of an answer by what is left of it. If it can not, the
// device hears nothing of it: it has answered, and reports false.
func (x *exchange) redact() bool {
	err := x.redactBody(x.duties.Load())
	if err == nil {
		return true
	}
	x.resp.Close()
	if x.s.Context().Err() != nil {
		x.failed(err)
		return false
	}
	x.g.obliged(protocol.KindRedact, "failed")
	x.g.cfg.Logger.Warn("an answer was not redacted, and not passed on", "route", x.route.Name, "backend", x.route.Backend, "decision", x.id, "error", err)
	x.g.cfg.Judge.Undelivered(x.s, x.id, "not redacted: "+err.Error())
	x.write(http.StatusBadGateway, "the backend's answer can not be shown as the policy wants it", false)
	return false
}

func (x *exchange) redactBody(o *protocol.Obligations) error {
	resp := &x.resp
	if resp.Status == http.StatusPartialContent || resp.Status == http.StatusIMUsed || resp.Header.Has("content-range") {
		return errPartial
	}
	var body []byte
	if !nobody(x.m.method, resp.Status) {
		var err error
		if body, err = x.whole(); err != nil {
			return err
		}
	}
	if len(body) > 0 {
		for _, v := range resp.Header.All("content-encoding") {
			if !strings.EqualFold(v, "identity") {
				return errCoded
			}
		}
		ct, n := resp.Header.Get("content-type")
		if n > 1 {
			return errMany
		}
		left, n, err := fhir.Redact(ct, body, fhir.Redaction{All: o.Redact, Entries: x.parts})
		if err != nil {
			return err
		}
		if n > 0 {
			x.g.obliged(protocol.KindRedact, "done")
		}
		body = left
	}
	resp.Close()
	h := slices.DeleteFunc(resp.Header, ofBytes)
	resp.Answer(resp.Status, h, int64(len(body)), io.NopCloser(bytes.NewReader(body)))
	return nil
}

// whole reads all of a backend's answer, within the limit for decisions: what is
// larger could only pass unseen.
func (x *exchange) whole() ([]byte, error) {
	limit, length := int64(x.g.cfg.Listener.Limits.DecisionBytes), x.resp.Length
	if length > limit {
		return nil, errLarge
	}
	var buf bytes.Buffer
	if length > 0 {
		buf.Grow(int(length) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(x.resp.Reader(), limit+1))
	switch {
	case n > limit:
		return nil, errLarge
	case err != nil, length >= 0 && n != length:
		return nil, errors.New("the answer ended early")
	}
	return buf.Bytes(), nil
}
