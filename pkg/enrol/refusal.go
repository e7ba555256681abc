package enrol

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
)

// A Code is why a request was refused, in one word, for records and for answers
// in a protocol's own form.
type Code string

// The reasons.
const (
	BadRequest Code = "request"   // the signing request is none, or not a sound one
	BadProof   Code = "proof"     // nothing shows that the request is the device's to make
	NoRecord   Code = "record"    // the registry does not know the device
	BadStatus  Code = "status"    // the device's status lets it have no certificate
	BadNames   Code = "names"     // it asks for the name of another device
	BadKey     Code = "key"       // the key is another device's, or was withdrawn
	WeakCrypto Code = "algorithm" // the request is protected by what is not secure any more
	OverQuota  Code = "quota"     // the device was given enough already
	Denied     Code = "policy"    // the policy set says no
	Waiting    Code = "waiting"   // the device waits for an operator's approval
	Busy       Code = "busy"      // something of ours failed, or waits
)

// A Refusal is why a request was refused.
type Refusal struct {
	Code Code
	// Why is the whole truth, for records and operators. It holds no byte that a
	// device sent.
	Why string
	// Public is what the device is told; empty means Why.
	Public string
	// Reference names this refusal in the audit log, for who is told it.
	Reference string

	err error // what it comes from
}

func (r *Refusal) Error() string { return r.Why }

// Unwrap returns what the refusal comes from, which callers decide on.
func (r *Refusal) Unwrap() error { return r.err }

// Told is what the device is told.
func (r *Refusal) Told() string {
	if r.Public != "" {
		return r.Public
	}
	return r.Why
}

func refuse(code Code, format string, args ...any) *Refusal {
	err := fmt.Errorf(format, args...)
	return &Refusal{Code: code, Why: err.Error(), err: errors.Unwrap(err)}
}

// asRefusal makes a refusal of any error. One that is none is a failure of ours,
// which is nobody's business outside.
func asRefusal(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	if errors.Is(err, ca.ErrCSR) {
		return &Refusal{Code: BadRequest, Why: err.Error(), err: err}
	}
	return &Refusal{Code: Busy, Why: err.Error(), Public: "the gateway can not issue a certificate now; try again later", err: err}
}

// newReference makes a short name that is not given twice: 50 bits.
func newReference() string {
	var b [7]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))[:10]
}
