package httpgw

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
)

// maxBatchAnswer bounds a backend's answer to a batch that has to be put
// together again with our own answers for entries it was not sent.
const maxBatchAnswer = 64 << 20

// serveFHIR is the way of a request on a FHIR route: understood as an
// interaction, judged as one, and for a Bundle once more for each entry.
func (x *exchange) serveFHIR() {
	if x.recall() {
		if x.judge(&x.tx) {
			x.forward(x.m.target)
		}
		return
	}
	base := len(x.route.prefix)
	t := x.m.target
	if n := len(t.Path); n > base && t.Path[n-1] == "" {
		// A slash at the end means nothing to FHIR; what is judged and sent has
		// none.
		t.Path = t.Path[:n-1]
		x.m.target, x.trimmed = t, true
	}
	x.tx = protocol.Transaction{Protocol: "fhir", Action: x.m.method, Bytes: x.m.length, Facts: []protocol.Field{x.m.facts(base)}}
	it, err := fhir.Parse(&fhir.Request{
		Method: x.m.method, Path: t.Path[base:], Query: fhirParams(t.Query),
		Header: func(name string) []string { return x.m.header.All(http1.LowerASCII(name)) },
	}, fhir.Limits{Entries: x.g.cfg.Listener.Limits.BundleEntries})
	if err != nil {
		x.refuseFHIR(err)
		return
	}
	whole := x.wanted(it)
	if whole {
		if f := x.hold(); f != nil {
			x.refuse(f)
			return
		}
		ct, _ := x.m.header.Get("content-type")
		if err := it.ReadBody(ct, x.held); err != nil {
			x.refuseFHIR(err)
			return
		}
		// What goes to the backend is what was understood, written anew.
		if x.isHeld {
			x.held = it.AppendBody(nil)
		}
	}
	it.Transaction(&x.tx)
	x.tx.Report = x.report(it)
	if !whole {
		x.remember(it)
	}
	if !x.judge(&x.tx) {
		return
	}
	entries := it.Entries()
	if len(entries) == 0 {
		x.forward(t)
		return
	}
	denied, any := x.judgeEntries(entries)
	switch {
	case !any:
		x.forward(t)
	case it.Code() == "batch":
		x.forwardBatch(t, it, denied)
	}
}

// wanted reports whether the body has to be read before the decision.
func (x *exchange) wanted(it *fhir.Interaction) bool {
	switch it.Body() {
	case fhir.BodyRequired:
		return true
	case fhir.BodyNone:
		// One that is there all the same is read to be refused: it would be
		// forwarded without anyone having judged it.
		return x.m.length != 0
	}
	for _, path := range it.BodyFacts() {
		if x.g.cfg.Judge.Reaches(x.s, path...) {
			return true
		}
	}
	return x.reports(it)
}

// reports reports whether the body is to be read for what it tells of a report, on a
// route where that may matter. One that can not be read is passed on as ever, and is
// none.
func (x *exchange) reports(it *fhir.Interaction) bool {
	if !x.route.PassOnFailure || x.m.length <= 0 || x.m.length > int64(x.g.cfg.Listener.Limits.DecisionBytes) || x.encoded() {
		return false
	}
	ct, _ := x.m.header.Get("content-type")
	return it.Tells(ct)
}

// report reports whether an interaction is a report, where that matters.
func (x *exchange) report(it *fhir.Interaction) bool {
	return x.route.PassOnFailure && it.Report() && !x.m.more()
}

func fhirParams(q []Param) []fhir.Param {
	if len(q) == 0 {
		return nil
	}
	out := make([]fhir.Param, len(q))
	for i, p := range q {
		out[i] = fhir.Param{Name: p.Name, Value: p.Value}
	}
	return out
}

// refuseFHIR refuses what fhir did not understand. The body, if there is one,
// was framed well, so the connection stays.
func (x *exchange) refuseFHIR(err error) {
	var r *fhir.Refusal
	if !errors.As(err, &r) {
		x.refuse(unfit(http.StatusBadRequest, "the request is not understood as FHIR"))
		return
	}
	x.refuse(unfit(r.Status, r.Why))
}

// judgeEntries judges every entry of a Bundle that was itself allowed. A
// transaction is answered as soon as one entry is denied: it is all or nothing.
// For a batch it returns an issue for each denied entry.
func (x *exchange) judgeEntries(entries []*fhir.Interaction) (denied []*fhir.Issue, any bool) {
	envelope := x.id
	batch := x.tx.Action == "batch"
	denied = make([]*fhir.Issue, len(entries))
	http := x.tx.Facts[0]
	for i, e := range entries {
		tx := protocol.Transaction{Bytes: -1, Of: envelope, Part: i, Facts: []protocol.Field{http}, Obliged: x}
		e.Transaction(&tx)
		tx.Report = x.report(e)
		v := x.g.cfg.Judge.Judge(x.ctx, x.s, &x.route.Route, &tx)
		switch {
		case v.Allow:
			if v.Obligations != nil {
				x.takePart(i, len(entries), v.Obligations)
			}
			continue
		case v.Cause != protocol.CausePolicy && v.Cause != protocol.CauseObligation || !batch:
			x.deny(v)
			return denied, true
		}
		any = true
		issue := fhir.IssueOf(403, "not allowed", v.ID)
		denied[i] = &issue
	}
	x.id = envelope
	return denied, any
}

// forwardBatch sends what is left of a batch and puts the answer together.
func (x *exchange) forwardBatch(t Target, it *fhir.Interaction, denied []*fhir.Issue) {
	if x.status != 0 {
		return // answered already: an entry could not be judged
	}
	rest, n := it.Split(denied)
	var answer []byte
	if n > 0 {
		x.held, x.isHeld = rest, true
		// The answer has to be read here, whatever form the device wants.
		t.Query = slices.DeleteFunc(slices.Clone(t.Query), func(p Param) bool { return p.Name == "_format" })
		defer x.unwatch()
		if x.ask(t, jsonOnly) != nil {
			return
		}
		if x.resp.Status != http.StatusOK {
			if x.fulfil() {
				x.answer()
			}
			return
		}
		var err error
		body := x.resp.Reader()
		answer, err = io.ReadAll(io.LimitReader(body, maxBatchAnswer+1))
		body.Close()
		if err != nil || len(answer) > maxBatchAnswer {
			x.failed(errors.New("the answer to a batch is too large, or not whole"))
			return
		}
		x.count(len(answer))
	}
	joined, err := it.Join(denied, answer)
	if err != nil {
		x.failed(err)
		return
	}
	h := http1.Header{{Name: "content-type", Value: "application/fhir+json; charset=utf-8"}, {Name: "x-anteroom-decision-id", Value: x.id}}
	if x.redacts() {
		// Its entries are those that were asked for again, each in its place.
		x.resp.Answer(http.StatusOK, h, int64(len(joined)), io.NopCloser(bytes.NewReader(joined)))
		if !x.fulfil() {
			return
		}
		if joined, err = io.ReadAll(x.resp.Reader()); err != nil {
			x.failed(err)
			return
		}
		h = x.resp.Header
	}
	x.status = http.StatusOK
	if err := x.w.start(http.StatusOK, h, int64(len(joined))); err != nil {
		x.broken("the device went away before its answer")
		return
	}
	if _, err := io.Copy(x.w, bytes.NewReader(joined)); err != nil || x.w.finish(nil) != nil {
		x.broken("the device went away before the end of its answer")
	}
}

// jsonOnly has a backend answer with plain JSON, whatever the device asked for.
func jsonOnly(h http1.Header) http1.Header {
	h = slices.DeleteFunc(h, func(f http1.Field) bool { return f.Name == "accept" || f.Name == "accept-encoding" })
	return append(h, http1.Field{Name: "accept", Value: "application/fhir+json"})
}
