package audit

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Errors of [Log.Append] and [Log.Flush].
var (
	// ErrClosed: the log is closed or closing.
	ErrClosed = errors.New("audit log is closed")
	// ErrUnavailable: the disk is full or failing. What was accepted before is
	// kept and will be written; nothing new is taken until it is.
	ErrUnavailable = errors.New("audit log is unavailable")
	// ErrTooLarge: the record of something allowed is larger than MaxRecord.
	// What was not allowed is recorded without its facts instead.
	ErrTooLarge = errors.New("audit record is too large")
)

// MaxRecord is the largest record in bytes, as it lies in the buffer: far more
// than any request within the gateway's header limits makes, and small enough
// that a few of them do not fill the buffer.
const MaxRecord = 1 << 20

// Kind says what sort of thing a record tells of.
type Kind string

// The kinds of records.
const (
	KindTransaction Kind = "transaction"
	KindSession     Kind = "session"
	KindTLS         Kind = "tls"
	KindDevice      Kind = "device"
	KindPolicy      Kind = "policy"
	KindConfig      Kind = "config"
	KindOperator    Kind = "operator"
	KindSystem      Kind = "system"
)

// Kinds returns all kinds of records.
func Kinds() []Kind {
	return []Kind{KindTransaction, KindSession, KindTLS, KindDevice, KindPolicy, KindConfig, KindOperator, KindSystem}
}

// Events of the log itself, all of KindSystem.
const (
	eventOpened    = "audit.opened"    // a run begins; the one before closed the log
	eventRecovered = "audit.recovered" // a run begins; the one before did not
	eventDamaged   = "audit.damaged"   // a run begins; what is on disk is no crash's doing
	eventClosed    = "audit.closed"    // a run ends
	eventRestored  = "audit.restored"  // an outage is over
	eventMalformed = "audit.malformed" // stands for a record that could not be written
)

// A Record is what happened. Empty fields are left out of the JSON line.
//
// [Log.Append] copies what it needs; the caller keeps the record and everything
// it points to.
type Record struct {
	Kind  Kind
	Event string // what happened, such as "transaction.decided" or "device.enrolled"

	Decision *Decision // of a transaction

	// Reserve: where the disk is nearly full, the record may go into what is kept free
	// of it (see [Log.Append]).
	Reserve bool
	// FollowsUp: so it may if it tells more of a decision whose record went there.
	FollowsUp bool

	// Fixed is the fields from here to Lane, Age left out, if Fix was called on a
	// record in which they were the same. The log then looks at no other of them.
	Fixed Fixed

	Device       string // the device's id
	Class        string // the device's class
	Fingerprint  string // of the certificate shown
	DeviceStatus string // the device's status at that moment
	// DeviceRevision is that of the registry record that was decided on: while
	// the registry has the same, its facts are those of that moment.
	DeviceRevision uint64
	// DevicePatients are those that the device was associated with, as policies
	// see them. They are recorded as the pseudonyms that facts about patients are.
	DevicePatients []string

	Session  string
	Age      time.Duration // of the session, in whole seconds; less is left out
	Listener string
	Remote   netip.AddrPort // a zero port is left out
	TLS      *protocol.TLS

	Route       string
	Backend     string
	Environment string
	RouteClass  string
	Lane        bool // the route is open to devices in quarantine
	BreakGlass  *BreakGlass
	Operator    string

	Transaction *protocol.Transaction
	// FixedRequest is Transaction, if FixRequest was called on one like it.
	FixedRequest FixedRequest
	Detail       []protocol.Field // facts of this event that have no field of their own
	Error        string           // what went wrong, without any byte a device sent
}

// BreakGlass is the emergency grant under which a transaction was decided.
type BreakGlass struct {
	ID     string
	Reason string
	Until  time.Time // in whole seconds
}

// Fixed are fields of records that were written as JSON once, for many records:
// what is known of a session and its route is half of what a transaction's record
// holds. The zero value is none.
type Fixed struct{ json []byte }

// Fix returns the fixed fields of r.
func Fix(r *Record) Fixed {
	// What is fixed holds no patient's identifier, so that no key is needed.
	b, err := newEncoder("", nil).members([]byte{'{'}, appendFixed(nil, r))
	if err != nil || len(b) == 1 {
		return Fixed{}
	}
	return Fixed{b[1:]}
}

// A FixedRequest is a transaction that was written once for many records. The zero
// value is none.
type FixedRequest struct{ tokens []byte }

// FixRequest returns tx for records. Identifiers of patients are still to be made
// pseudonyms in there, by the log.
func FixRequest(tx *protocol.Transaction) FixedRequest {
	t := appendRequest(nil, tx, true)
	e := newEncoder("", nil)
	line, done := []byte{'{'}, 1
	var out []byte
	flush := func() {
		if done < len(line) {
			o := opRaw
			if out == nil {
				o = opFixed // which begins with a comma, where one is due
			}
			out = append(binary.AppendUvarint(append(out, byte(o)), uint64(len(line)-done)), line[done:]...)
		}
	}
	for len(t) > 0 {
		n := tokenLen(t)
		if n <= 0 {
			return FixedRequest{}
		}
		if op(t[0]) == opSecret {
			flush()
			out = append(out, t[:n]...)
			line = append(comma(line), '"', '"') // stands for it
			done = len(line)
		} else {
			var err error
			if line, err = e.members(line, t[:n]); err != nil {
				return FixedRequest{}
			}
		}
		t = t[n:]
	}
	flush()
	return FixedRequest{out}
}

// A Decision is what was decided about a transaction.
type Decision struct {
	ID    string
	Allow bool
	// WouldDeny: it was allowed because its route only observes; Cause, Denials
	// and Fault say why it would have been denied.
	WouldDeny bool
	// OnFailure: the log had nearly no disk left, and it was allowed because its route
	// passes reports then.
	OnFailure   bool
	Cause       string         // why it was not allowed, or would not have been, in one word
	Reasons     []string       // of the policy set, to allow
	Denials     []string       // of the policy set, to deny
	Obligations protocol.Value // what must also be done; null if nothing
	Tags        []string       // of the policy set, to find the record by
	Revision    string         // of the policy set
	Fault       string         // what failed, if something of ours did
	Elapsed     time.Duration  // how long deciding took
}
