package protocol

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// A Transaction is the unit that is decided on: an HTTP request, an entry of a
// FHIR Bundle, and in other protocols a message, a command or a packet. The
// adapter fills it with facts taken from the canonical form of what the device
// sent (the very form that will be forwarded) and never judges them.
//
// A Transaction belongs to the adapter and is valid until the adapter's call of
// [Judge.Judge] returns; nobody keeps it.
type Transaction struct {
	// Protocol names the vocabulary the device speaks, such as "http" or "fhir".
	Protocol string
	// Action is what the device wants done, in the protocol's own word.
	Action string
	// Resource names the kind of thing it is done to. It never holds an
	// identifier: "Observation", not "Observation/42".
	Resource string
	// Bytes is the size of the payload as declared, or -1 if it was not.
	Bytes int64
	// Facts holds one object per vocabulary that describes this transaction.
	// A policy sees each as input.request.<name>.
	Facts []Field

	// Omitted lists the paths below input whose facts the adapter left out
	// because [Judge.Reaches] said they are not read. Should the policy set have
	// changed meanwhile to one that reads them, the judge refuses rather than
	// decide on less than the set asks for.
	Omitted [][]string

	// Of is the decision id of the transaction this one is a part of, or "".
	// Part is its position in there, from 0.
	Of   string
	Part int
	// Again: it was allowed before, lasts, and is only asked about anew, so that
	// no limit counts it a second time.
	Again bool
	// Report: by it the device only tells something new, such as an alarm or a
	// measurement, and neither asks for nor changes nor removes what is there. The
	// adapter has looked at all of it to say so, and says it only where it matters
	// (Route.PassOnFailure).
	Report bool
	// Obliged is asked whether the adapter can do what the policy obliges it to,
	// before the decision is recorded. Nil can do nothing that is the adapter's to
	// do (redact, mirror, limit_bytes), and then what obliges to that denies.
	Obliged Obliged
	// Like, if not nil, is the same for transactions of one session that differ in
	// nothing but Again and Obliged: a device says the same thing over and over, and
	// what was worked out for it once need not be again. Whoever works something out
	// keeps it there, and what it depended on besides.
	Like *Memo
}

// A Memo holds what somebody wants to find again. It is safe for concurrent use.
type Memo struct{ p atomic.Pointer[any] }

// Get returns what Set was given last, or nil.
func (m *Memo) Get() any {
	if p := m.p.Load(); p != nil {
		return *p
	}
	return nil
}

// Set keeps v, which must not change any more.
func (m *Memo) Set(v any) { m.p.Store(&v) }

// Obliged is what an adapter says of its own obligations.
type Obliged interface {
	// Unable says why the adapter can not do for tx what o asks of it, in words
	// without any byte the device sent; "" is a promise that it will, or that the
	// device gets no answer that is not as obliged. What the edge does by itself
	// (limit_rps, max_session_s, tag) is not asked about.
	Unable(tx *Transaction, o *Obligations) (why string)
}

// Clone returns a transaction that shares nothing with t, for whoever looks at
// it after the adapter has gone on.
func (t *Transaction) Clone() *Transaction {
	c := *t
	c.Protocol, c.Action, c.Resource = strings.Clone(t.Protocol), strings.Clone(t.Action), strings.Clone(t.Resource)
	c.Facts = cloneFields(t.Facts)
	c.Omitted = slices.Clone(t.Omitted)
	c.Obliged, c.Like = nil, nil
	return &c
}

// A Class says how much harm a wrong deny does on a route.
type Class string

// The classes of routes.
const (
	LifeSafety     Class = "life-safety"
	Clinical       Class = "clinical"
	Administrative Class = "administrative"
)

// A Route is what a listener's traffic was matched to.
type Route struct {
	Name        string
	Backend     string
	Environment string
	Class       Class
	// Observe: what the policy denies here is allowed all the same, and recorded
	// as what it would have been. An operator asks for it by route, for a first
	// roll-out.
	Observe bool
	// Lane: devices that are quarantined may ask for what is here, such as an
	// update, and for nothing elsewhere.
	Lane bool
	// PassOnFailure: a report of a life-critical device that the policy allows goes on
	// when the audit log has nearly no disk left. Only routes of class life-safety have
	// it, and an operator asks for it by route.
	PassOnFailure bool
}

// A Cause says why a transaction was not allowed.
type Cause uint8

// Causes of a refusal. A device learns which kind it was, never more.
const (
	// CauseNone: it was allowed.
	CauseNone Cause = iota
	// CausePolicy: the policy set denied it.
	CausePolicy
	// CauseDevice: the device's registry record no longer permits a session.
	CauseDevice
	// CauseFault: something of ours failed (evaluation, record); trying again
	// later may help.
	CauseFault
	// CauseLimit: the policy allows it, and the device has used up what it may
	// have in a second. The same will be allowed later.
	CauseLimit
	// CauseObligation: the policy allows it only if something else is done, and
	// that can not be done here.
	CauseObligation
)

// A Verdict is what became of a transaction's question.
type Verdict struct {
	// ID is the decision's id. It is safe to show to the device and finds the
	// decision's record.
	ID string
	// Allow reports whether the transaction may be forwarded. The decision has
	// then been accepted by the audit log.
	Allow bool
	Cause Cause
	// Obligations are what the adapter must do of what it allowed: redact, mirror,
	// and say with [Judge.Spend] what limit_bytes counts. Nil is nothing.
	Obligations *Obligations
	// RetryAfter says, with CauseLimit, how long the device should wait.
	RetryAfter time.Duration
}

// Judge decides and records transactions. There is one, in the edge; adapters
// are tested with another.
//
// Judge is safe for concurrent use. It never returns Allow without a decision
// of a named policy revision and a record of it. It may wait: for the audit
// log's back-pressure, up to ctx's end, which is a refusal.
type Judge interface {
	// Judge decides tx, sent in s and matched to r.
	Judge(ctx context.Context, s *Session, r *Route, tx *Transaction) Verdict

	// Refused records a transaction that could not be understood and was
	// therefore refused without a question: code is the refusal in the
	// protocol's own terms ("400"), why a sentence without any byte the device
	// sent. r may be nil where no route matched. It returns the id to show.
	Refused(ctx context.Context, s *Session, r *Route, tx *Transaction, code, why string) string

	// Undelivered records that what was allowed under the decision id did not
	// take its ordinary course: the backend failed, the device or the session
	// went away.
	Undelivered(s *Session, id, why string)

	// Spend counts n bytes of bodies that went either way under o beside those the
	// transaction declared, and returns how long whoever moves them should wait
	// before it moves more; whoever can not wait need not, the device will.
	Spend(s *Session, o *Obligations, n int64) time.Duration
	// Reaches reports whether the policy set in force can read the fact at
	// path below input (such as "request", "fhir", "patient") when it decides on
	// the device of s. An adapter asks before it goes to the cost of learning a
	// fact. A false answer is a promise: leaving the fact out changes no decision
	// on that device.
	Reaches(s *Session, path ...string) bool
}

// An Adapter speaks one protocol with devices.
type Adapter interface {
	// ALPN lists the application protocols to offer in the TLS handshake, in
	// order of preference; nil offers none.
	ALPN() []string

	// Serve speaks with the device until either side is done, the session ends
	// (s.Context, s.OnEnd) or it is asked to finish (s.IsDraining, s.OnDrain), and
	// returns when everything it started has stopped. The caller closes conn when
	// the session ends, which interrupts reads and writes, and after Serve returns.
	Serve(conn net.Conn, s *Session)
}
