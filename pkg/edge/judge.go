package edge

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Policy gives the policy sets that decide; [policy.Engine] is one.
type Policy interface {
	// For returns the set that decides for a device.
	For(*device.Record) *policy.Set
	// Reaches reports whether any of them can depend on a fact when it decides on a
	// device.
	Reaches(rec *device.Record, path ...string) bool
	// Tries reports whether a set is on trial; Decided is then told of its
	// decisions.
	Tries(*policy.Set) bool
	Decided(context.Context, *policy.Set, *policy.Question, *policy.Decision)
}

// JudgeConfig is what a [Judge] is made from. Every field but BreakGlass, Compare,
// Judged, Obliged and Passed is required.
type JudgeConfig struct {
	Policy Policy
	Audit  Recorder
	Clock  func() time.Time
	// BreakGlass returns the emergency grant that covers what a device asks for on a
	// route now, or nil. It is asked again before a verdict is given.
	BreakGlass func(rec *device.Record, route string) *breakglass.Grant
	// Compare is called with every decision of a policy set, for one that is only
	// tried. It must not wait, nor keep what the question points to.
	Compare func(id string, q *policy.Question, d *policy.Decision)
	// Judged is called with every decision, for metrics and for watchers.
	Judged func(Judged)
	// Obliged is called with the kind of each obligation that stood in the way of
	// something, for metrics.
	Obliged func(kind, result string)
	// Passed is called with what the audit log did not take on a route that passes
	// reports then, and whether it went on all the same, for metrics.
	Passed func(route string, passed bool)
}

// Judged is one decision, as it is shown while it happens. It and what it
// points to are valid during the call only.
type Judged struct {
	Session     *protocol.Session
	Route       *protocol.Route
	Transaction *protocol.Transaction
	Verdict     protocol.Verdict
	Decision    *policy.Decision // nil if it was refused without a question
	Code, Why   string           // of a refusal without a question
	// WouldDeny: the policy denied it, and it is allowed because its route only
	// observes.
	WouldDeny bool
	// BreakGlass is the emergency grant under which it was decided, or nil.
	BreakGlass *breakglass.Grant
}

// A Judge decides and records transactions; it is the one place through which
// every transaction of every protocol goes.
type Judge struct {
	cfg    JudgeConfig
	prefix [8]byte
	count  atomic.Uint64
	limits *limiter
}

var _ protocol.Judge = (*Judge)(nil)

// NewJudge returns a judge.
func NewJudge(cfg JudgeConfig) *Judge {
	j := &Judge{cfg: cfg, limits: newLimiter(cfg.Clock())}
	rand.Read(j.prefix[:])
	return j
}

// Why a transaction was refused by the gateway itself, as its record says.
const (
	faultRecord = "the audit log did not take the record"
	faultSwap   = "the policy set changed while the request was being read"
)

// idEncoding has no padding and no letters that are read wrongly on the phone.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID returns a decision id: a random prefix of this process and a count, so
// that it is unique without asking anyone.
func (j *Judge) newID() string {
	var b [16]byte
	copy(b[:8], j.prefix[:])
	binary.BigEndian.PutUint64(b[8:], j.count.Add(1))
	var out [26]byte
	idEncoding.Encode(out[:], b[:])
	return string(out[:])
}

// Reaches implements [protocol.Judge].
func (j *Judge) Reaches(s *protocol.Session, path ...string) bool {
	return j.cfg.Policy.Reaches(s.Device(), path...)
}

// Judge implements [protocol.Judge].
func (j *Judge) Judge(ctx context.Context, s *protocol.Session, r *protocol.Route, tx *protocol.Transaction) protocol.Verdict {
	v := protocol.Verdict{ID: j.newID()}
	var set *policy.Set
	var d policy.Decision
	var grant *breakglass.Grant
	var on *device.Record // what was decided on
	now := j.cfg.Clock()
	for {
		lane := s.InLane()
		rec := s.Device()
		on = rec
		grant = j.grant(rec, r)
		set = j.cfg.Policy.For(rec)
		d = j.decide(ctx, set, s, rec, lane, r, tx, grant, now, &v)
		// A change of the record during the evaluation must not be decided
		// under the old one: its session may be gone, or its posture another. Nor
		// must what ended an emergency.
		if s.Device() == rec && j.grant(rec, r) == grant {
			break
		}
		now = j.cfg.Clock()
	}
	cause := v.Cause
	if (cause == protocol.CauseNone || cause == protocol.CausePolicy) && j.cfg.Policy.Tries(set) {
		q, d := policy.Question{Device: s.Device(), Session: s, Route: r, Transaction: tx, BreakGlass: grant, Now: now}, d
		j.cfg.Policy.Decided(ctx, set, &q, &d)
	}
	if cause == protocol.CauseNone && d.Obligations != nil {
		cause = j.oblige(s, tx, &v, &d)
	}
	observed := (cause == protocol.CausePolicy || cause == protocol.CauseLimit || cause == protocol.CauseObligation) && observing(s, r)
	if observed {
		v.Cause = protocol.CauseNone
	}
	v.Allow = v.Cause == protocol.CauseNone
	kept := records.Get().(*record)
	defer records.Put(kept)
	rec := kept.of(s, on, r, tx, now, &v)
	if grant != nil {
		rec.BreakGlass = &audit.BreakGlass{ID: grant.ID, Reason: grant.Terms.Reason, Until: grant.Until}
	}
	rec.Decision.WouldDeny, rec.Decision.Cause = observed, causeNames[cause]
	rec.Decision.Reasons, rec.Decision.Denials = d.Reasons, d.Denials
	rec.Decision.Revision, rec.Decision.Fault, rec.Decision.Elapsed = d.Revision, d.Fault, d.Elapsed
	if d.Obligations != nil {
		rec.Decision.Obligations, rec.Decision.Tags = d.Obligations.Value(), d.Obligations.Tags
	}
	if err := j.cfg.Audit.Append(ctx, rec); err != nil && !j.pass(ctx, err, rec, s, on, grant, r, tx) {
		v.Allow, v.Cause = false, protocol.CauseFault
		d.Fault = faultRecord
	}
	if d.Obligations != nil {
		j.impose(s, r, &v, d.Obligations)
	}
	if j.cfg.Judged != nil {
		j.cfg.Judged(Judged{Session: s, Route: r, Transaction: tx, Verdict: v, Decision: &d, WouldDeny: observed && v.Allow, BreakGlass: grant})
	}
	return v
}

// grant returns the emergency grant that covers a transaction now, or nil.
func (j *Judge) grant(rec *device.Record, r *protocol.Route) *breakglass.Grant {
	if j.cfg.BreakGlass == nil || r == nil {
		return nil
	}
	return j.cfg.BreakGlass(rec, r.Name)
}

// observing reports whether what the policy denies is allowed here. Only an
// active device is let through undecided; one that is quarantined has no claim
// to a roll-out's patience.
func observing(s *protocol.Session, r *protocol.Route) bool {
	return r != nil && r.Observe && s.Device().Status == device.Active
}

// decide asks everything that can say no and sets v's cause.
func (j *Judge) decide(ctx context.Context, set *policy.Set, s *protocol.Session, rec *device.Record,
	lane bool, r *protocol.Route, tx *protocol.Transaction, grant *breakglass.Grant, now time.Time, v *protocol.Verdict) policy.Decision {
	v.Cause = protocol.CauseNone
	refuse := func(cause protocol.Cause, fault, denial string) policy.Decision {
		v.Cause = cause
		d := policy.Decision{Revision: set.Revision(), Fault: fault}
		if denial != "" {
			d.Denials = []string{denial}
		}
		return d
	}
	if err := admissible(rec, s.Fingerprint, s.NotAfter, now, lane); err != nil {
		s.End(err)
		return refuse(protocol.CauseDevice, "", err.Error())
	}
	if rec.Status != device.Active && (r == nil || !r.Lane) {
		return refuse(protocol.CauseDevice, "", fmt.Sprintf("device %s is %s, and this route is no lane for it", rec.ID, rec.Status))
	}
	if s.Context().Err() != nil {
		return refuse(protocol.CauseDevice, "", "the session has ended: "+context.Cause(s.Context()).Error())
	}
	q := policy.Question{Device: rec, Session: s, Route: r, Transaction: tx, BreakGlass: grant, Now: now}
	d, ok := recall(set, &q)
	if !ok {
		for _, path := range tx.Omitted {
			if set.ReachesFor(rec, path...) {
				return refuse(protocol.CauseFault, faultSwap, "")
			}
		}
		d = set.Decide(ctx, &q)
		keep(set, &q, &d)
	}
	if j.cfg.Compare != nil {
		j.cfg.Compare(v.ID, &q, &d)
	}
	switch {
	case d.Fault != "" || !d.Allow:
		// A rule that fails is a deny like any other to the device: asking again
		// would fail again. The record tells the two apart.
		v.Cause = protocol.CausePolicy
	case d.Revision == "":
		return refuse(protocol.CauseFault, "the decision names no policy revision", "")
	}
	return d
}

// An alike is what is known of transactions that are like each other (see
// protocol.Transaction.Like): how the last one was decided, and its record's part.
type alike struct {
	set     *policy.Set
	device  *device.Record
	answer  *policy.Answer // nil if it has to be asked for each time
	request audit.FixedRequest
}

// recall answers a question that was asked in the same words before.
func recall(set *policy.Set, q *policy.Question) (policy.Decision, bool) {
	if q.Transaction.Like == nil {
		return policy.Decision{}, false
	}
	a, _ := q.Transaction.Like.Get().(*alike)
	if a == nil || a.answer == nil {
		return policy.Decision{}, false
	}
	return set.Recall(a.answer, q)
}

// keep keeps an answer for recall.
func keep(set *policy.Set, q *policy.Question, d *policy.Decision) {
	like := q.Transaction.Like
	if like == nil || q.BreakGlass != nil || d.Fault != "" {
		return // what lies ahead is another case
	}
	a, _ := like.Get().(*alike)
	if a != nil && a.set == set && a.device == q.Device && a.answer == nil {
		return // it is asked for each time
	}
	next := &alike{set: set, device: q.Device, answer: set.Keep(q, d)}
	if a != nil {
		next.request = a.request
	} else {
		next.request = audit.FixRequest(q.Transaction)
	}
	like.Set(next)
}

// A record is one to be filled in again and again: the audit log keeps nothing of
// it.
type record struct {
	audit.Record
	decision audit.Decision
}

var records = sync.Pool{New: func() any { return new(record) }}

// of begins the record of a transaction that was decided on a device's record.
func (k *record) of(s *protocol.Session, rec *device.Record, r *protocol.Route, tx *protocol.Transaction, now time.Time, v *protocol.Verdict) *audit.Record {
	k.decision = audit.Decision{ID: v.ID, Allow: v.Allow, Cause: causeNames[v.Cause]}
	out := &k.Record
	*out = audit.Record{
		Kind: audit.KindTransaction, Event: "transaction.decided",
		Device: rec.ID, Class: rec.Class, DeviceStatus: string(rec.Status), DeviceRevision: rec.Revision, Fingerprint: s.Fingerprint,
		Session: s.ID, Listener: s.Listener, Remote: s.Remote, TLS: &s.TLS, Transaction: tx,
		Decision: &k.decision, Age: now.Sub(s.Started),
	}
	for i := range rec.Patients {
		if a := &rec.Patients[i]; a.Holds(now) {
			out.DevicePatients = append(out.DevicePatients, a.Patient.Fact())
		}
	}
	if r != nil {
		out.Route, out.Backend, out.Environment, out.RouteClass = r.Name, r.Backend, r.Environment, string(r.Class)
		out.Lane = r.Lane
	}
	// What the session's records on a route have in common is written once.
	m, _ := s.Memo().(*memo)
	if m == nil || m.device != rec || m.route != r {
		m = &memo{rec, r, audit.Fix(out)}
		s.SetMemo(m)
	}
	out.Fixed = m.fixed
	if tx.Like != nil {
		if a, _ := tx.Like.Get().(*alike); a != nil {
			out.FixedRequest = a.request
		}
	}
	return out
}

// A memo is what the records of a session's transactions on a route have in
// common, while the device's record and the route are the same.
type memo struct {
	device *device.Record
	route  *protocol.Route
	fixed  audit.Fixed
}

// causeNames are the causes as records write them.
var causeNames = [...]string{
	protocol.CauseNone: "", protocol.CausePolicy: "policy", protocol.CauseDevice: "device", protocol.CauseFault: "fault",
	protocol.CauseLimit: "limit", protocol.CauseObligation: "obligation",
}

// Refused implements [protocol.Judge].
func (j *Judge) Refused(ctx context.Context, s *protocol.Session, r *protocol.Route, tx *protocol.Transaction, code, why string) string {
	v := protocol.Verdict{ID: j.newID(), Cause: protocol.CausePolicy}
	rec := new(record).of(s, s.Device(), r, tx, j.cfg.Clock(), &v)
	rec.Event, rec.Error, rec.Decision.Cause = "transaction.refused", why, "malformed"
	rec.Detail = []protocol.Field{{Name: "code", Value: protocol.String(code)}}
	// A refusal needs no permission of the log: the device hears no either way.
	// The log itself says loudly when it takes nothing.
	_ = j.cfg.Audit.Append(ctx, rec)
	if j.cfg.Judged != nil {
		j.cfg.Judged(Judged{Session: s, Route: r, Transaction: tx, Verdict: v, Code: code, Why: why})
	}
	return v.ID
}

// Undelivered implements [protocol.Judge].
func (j *Judge) Undelivered(s *protocol.Session, id, why string) {
	rec := s.Device()
	err := j.cfg.Audit.Append(context.WithoutCancel(s.Context()), &audit.Record{
		Kind: audit.KindTransaction, Event: "transaction.undelivered", Device: rec.ID, Class: rec.Class,
		Session: s.ID, Listener: s.Listener, Remote: s.Remote, Error: why,
		Decision: &audit.Decision{ID: id, Allow: true}, FollowsUp: true,
	})
	if err != nil && j.cfg.Judged != nil && !errors.Is(err, context.Canceled) {
		j.cfg.Judged(Judged{Session: s, Verdict: protocol.Verdict{ID: id}, Code: "undelivered", Why: faultRecord})
	}
}
