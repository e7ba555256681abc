package workbench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

// An ExplainedDecision says why a question is decided as it is.
type ExplainedDecision struct {
	// Recorded is the decision of then; nil if the question is a made-up one.
	Recorded *RecordedDecision `json:"recorded,omitempty"`
	// NotAsked says why no policy was asked. What follows is then empty.
	NotAsked string `json:"not_asked,omitempty"`

	Set         SetName              `json:"set"` // what explains it
	Allow       bool                 `json:"allow"`
	Reasons     []string             `json:"reasons,omitempty"`
	Denials     []string             `json:"denials,omitempty"`
	Obligations []string             `json:"obligations,omitempty"`
	Fault       string               `json:"fault,omitempty"`
	Rules       []policy.RuleOutcome `json:"rules,omitempty"`
	// Caveats say in what the question may not be the one that was asked.
	Caveats []string `json:"caveats,omitempty"`

	explanation *policy.Explanation
}

// A RecordedDecision is what the audit log says.
type RecordedDecision struct {
	ID        string    `json:"id"`
	Time      time.Time `json:"time"`
	Device    string    `json:"device"`
	Class     string    `json:"class"`
	What      string    `json:"what"`
	Route     string    `json:"route,omitempty"`
	Allow     bool      `json:"allow"`
	WouldDeny bool      `json:"would_deny,omitempty"`
	Reasons   []string  `json:"reasons,omitempty"`
	Denials   []string  `json:"denials,omitempty"`
	Fault     string    `json:"fault,omitempty"`
	Revision  string    `json:"revision"`
	Of        string    `json:"of,omitempty"` // the decision this one is a part of

	allowed bool // by the policy set
}

// ErrNoRecord says that the audit log holds no such decision.
var ErrNoRecord = errors.New("the audit log holds no such decision")

// errFound ends a search.
var errFound = errors.New("found")

// Find returns the record of a decision. progress, which may be nil, is told how
// much of the log was read.
func Find(ctx context.Context, dir, id string, progress func(read, total int64)) (found *audit.Entry, err error) {
	f := audit.Filter{Decision: id}
	// A line that is no record is passed over; verify reports it.
	err = audit.Lines(ctx, dir, audit.LineOptions{Filter: f, Progress: progress}, func(line []byte) error {
		e, err := audit.Decode(bytes.Clone(line))
		if err != nil || !f.Match(e) || e.Event != decided && e.Event != "transaction.refused" {
			return nil
		}
		found = e
		return errFound
	})
	switch {
	case errors.Is(err, errFound):
		return found, nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("%s: %w", id, ErrNoRecord)
}

// ExplainRecord explains a recorded decision by what set makes of it.
func ExplainRecord(ctx context.Context, set *policy.Set, e *audit.Entry, devices Devices) (*ExplainedDecision, error) {
	d := e.Decision
	if d == nil || e.Request == nil {
		return nil, fmt.Errorf("record %d is of no transaction", e.Seq)
	}
	rec := &RecordedDecision{ID: d.ID, Time: e.Time, Device: e.Device, Class: e.Class, What: what(e), Route: e.Route,
		Allow: d.Allow, WouldDeny: d.WouldDeny, Reasons: d.Reasons, Denials: d.Denials, Fault: d.Fault, Revision: d.Revision, Of: e.Request.Of,
		allowed: allowed(d)}
	p, err := Reconstruct(e, devices)
	switch {
	case errors.Is(err, ErrNoQuestion):
		why := "the gateway refused it by itself"
		switch {
		case e.Event != decided:
			why = "the request could not be understood: " + e.Error
		case e.Omitted:
			why = "its record was too large and is kept without the facts"
		case d.Fault != "":
			why += ": " + d.Fault
		}
		return &ExplainedDecision{Recorded: rec, NotAsked: why, Set: SetName{set.Dir(), set.Revision()}}, nil
	case err != nil:
		return nil, err
	}
	out := Explain(ctx, set, &p.Question)
	out.Recorded, out.Caveats = rec, p.Caveats(set)
	return out, nil
}

// Explain explains how set decides a question.
func Explain(ctx context.Context, set *policy.Set, q *policy.Question) *ExplainedDecision {
	e := set.Explain(ctx, q)
	d := &e.Decision
	out := &ExplainedDecision{
		Set: SetName{set.Dir(), set.Revision()}, Allow: d.Allow, Reasons: d.Reasons, Denials: d.Denials, Fault: d.Fault, Rules: e.Rules, explanation: e,
	}
	d.Obligations.Each(func(kind, what string) { out.Obligations = append(out.Obligations, kind+" "+what) })
	return out
}

// Trace writes every step of the evaluation, as OPA prints it.
func (d *ExplainedDecision) Trace(w io.Writer) {
	if d.explanation != nil {
		d.explanation.Trace(w)
	}
}

// Same reports whether the outcome explained is the recorded one.
func (d *ExplainedDecision) Same() bool {
	return d.Recorded == nil || d.Allow == d.Recorded.allowed
}
