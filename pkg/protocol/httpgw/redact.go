package httpgw

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
)

// unredactable says why the answer to a request can not be redacted, as far as
// that is known before it is asked for.
func (x *exchange) unredactable() string {
	accept, _ := x.m.header.get("accept")
	switch {
	case !x.route.fhir:
		return "only answers of FHIR routes can be redacted"
	case x.m.header.has("upgrade"):
		return "an upgraded connection can not be redacted"
	case !fhir.AnswersJSON(accept, x.format()):
		return "only JSON can be redacted, and the device asks for something else"
	}
	return ""
}

// redacts reports whether the answer has to be redacted.
func (x *exchange) redacts(o *protocol.Obligations) bool { return len(o.Redact) > 0 || x.parts != nil }

// plainly are the fields of a request by which an answer could be something else
// than the whole resource as it is.
var plainly = [...]string{"Accept-Encoding", "Accept-Charset", "Range", "If-Range", "A-Im"}

// wholly has a backend asked for what can be redacted: the whole resource, in
// JSON, in no coding. That the device has a copy is not told: a copy of its own
// may be one that was not redacted, and one of the backend's would be compared
// with that.
func (x *exchange) wholly(req *http.Request) {
	req.Header["Accept"] = []string{"application/fhir+json"}
	for _, name := range plainly {
		delete(req.Header, name)
	}
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		delete(req.Header, "If-None-Match")
		delete(req.Header, "If-Modified-Since")
	}
}

// unmade are the fields of an answer that are of its very bytes. The ETag goes
// although it may be weak: who has less than the whole resource must not replace
// it on the condition that it has not changed.
var unmade = [...]string{
	"Content-Length", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest", "Unencoded-Digest", "Etag", "Accept-Ranges",
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
func (x *exchange) redact(resp *http.Response, o *protocol.Obligations) bool {
	err := x.redactBody(resp, o)
	if err == nil {
		return true
	}
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

func (x *exchange) redactBody(resp *http.Response, o *protocol.Obligations) error {
	if resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusIMUsed || len(resp.Header["Content-Range"]) > 0 {
		return errPartial
	}
	var body []byte
	if !nobody(x.m.method, resp.StatusCode) {
		var err error
		if body, err = x.whole(resp.Body, resp.ContentLength); err != nil {
			return err
		}
	}
	if len(body) > 0 {
		for _, v := range resp.Header["Content-Encoding"] {
			if !strings.EqualFold(v, "identity") {
				return errCoded
			}
		}
		ct := resp.Header["Content-Type"]
		if len(ct) > 1 {
			return errMany
		}
		left, n, err := fhir.Redact(strings.Join(ct, ""), body, fhir.Redaction{All: o.Redact, Entries: x.parts})
		if err != nil {
			return err
		}
		if n > 0 {
			x.g.obliged(protocol.KindRedact, "done")
		}
		body = left
	}
	for _, name := range unmade {
		delete(resp.Header, name)
	}
	resp.Trailer = nil
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return nil
}

// whole reads all of a backend's answer, within the limit for decisions: what is
// larger could only pass unseen.
func (x *exchange) whole(from io.Reader, length int64) ([]byte, error) {
	limit := int64(x.g.cfg.Listener.Limits.DecisionBytes)
	if length > limit {
		return nil, errLarge
	}
	stall := x.g.cfg.Listener.Limits.Stall.D()
	stuck := time.AfterFunc(stall, x.cancel)
	defer stuck.Stop()
	var buf bytes.Buffer
	if length > 0 {
		buf.Grow(int(length) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(&steadyReader{io.LimitReader(from, limit+1), stuck, stall})
	switch {
	case n > limit:
		return nil, errLarge
	case err != nil, length >= 0 && n != length:
		return nil, errors.New("the answer ended early")
	}
	return buf.Bytes(), nil
}

// A steadyReader puts off a timer with every read.
type steadyReader struct {
	io.Reader
	stuck *time.Timer
	stall time.Duration
}

func (r *steadyReader) Read(p []byte) (int, error) {
	r.stuck.Reset(r.stall)
	return r.Reader.Read(p)
}
