package acme

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
)

// The types of errors (RFC 8555 §6.7, draft-ietf-acme-device-attest §5.1), behind
// errorURN.
const (
	errorURN = "urn:ietf:params:acme:error:"

	accountDoesNotExist     = "accountDoesNotExist"
	alreadyRevoked          = "alreadyRevoked"
	badAttestationStatement = "badAttestationStatement"
	badCSR                  = "badCSR"
	badNonce                = "badNonce"
	badPublicKey            = "badPublicKey"
	badRevocationReason     = "badRevocationReason"
	badSignatureAlgorithm   = "badSignatureAlgorithm"
	connection              = "connection"
	dnsFailed               = "dns"
	externalAccountRequired = "externalAccountRequired"
	incorrectResponse       = "incorrectResponse"
	malformed               = "malformed"
	orderNotReady           = "orderNotReady"
	rateLimited             = "rateLimited"
	rejectedIdentifier      = "rejectedIdentifier"
	serverInternal          = "serverInternal"
	tlsFailed               = "tls"
	unauthorized            = "unauthorized"
	unsupportedIdentifier   = "unsupportedIdentifier"
)

// A problem is an error as clients are told (RFC 7807).
type problem struct {
	Type        string       `json:"type"`
	Detail      string       `json:"detail"`
	Status      int          `json:"status"`
	Algorithms  []string     `json:"algorithms,omitempty"`
	Subproblems []subproblem `json:"subproblems,omitempty"`
}

// A subproblem says which identifier an error is about (RFC 8555 §6.7.1).
type subproblem struct {
	Type       string     `json:"type"`
	Detail     string     `json:"detail"`
	Identifier identifier `json:"identifier"`
}

// A fault is why a request is refused.
type fault struct {
	kind   string // an error type
	status int
	code   enrol.Code // for the record
	why    string     // holds no byte of the client's
	about  *identifier
	// quiet is what every client runs into without having done anything wrong.
	quiet bool
	// refusal is there if the registrar has recorded it.
	refusal *enrol.Refusal
}

func (f *fault) Error() string { return f.why }

func faulty(kind string, status int, code enrol.Code, format string, args ...any) *fault {
	return &fault{kind: kind, status: status, code: code, why: fmt.Sprintf(format, args...)}
}

func notWellFormed(format string, args ...any) *fault {
	return faulty(malformed, http.StatusBadRequest, enrol.BadRequest, format, args...)
}

func notAllowed(format string, args ...any) *fault {
	return faulty(unauthorized, http.StatusForbidden, enrol.BadProof, format, args...)
}

// ours is a failure of the gateway's.
func ours(err error) *fault {
	return &fault{kind: serverInternal, status: http.StatusServiceUnavailable, code: enrol.Busy, why: err.Error()}
}

// ofRefusal says in ACME's words what the registrar refused.
func ofRefusal(why *enrol.Refusal) *fault {
	f := &fault{kind: unauthorized, status: http.StatusForbidden, code: why.Code, why: why.Told(), refusal: why}
	switch why.Code {
	case enrol.BadRequest, enrol.BadNames, enrol.BadKey:
		f.kind, f.status = badCSR, http.StatusBadRequest
	case enrol.Denied:
		f.kind = rejectedIdentifier
	case enrol.OverQuota:
		f.kind, f.status = rateLimited, http.StatusTooManyRequests
	case enrol.Busy:
		f.kind, f.status = serverInternal, http.StatusServiceUnavailable
	}
	return f
}

// problem is a fault as the client is told.
func (f *fault) problem(reference string) *problem {
	p := &problem{Type: errorURN + f.kind, Detail: f.why, Status: f.status}
	if f.kind == serverInternal {
		p.Detail = "the gateway can not do this now; try again later"
	}
	if f.kind == badSignatureAlgorithm {
		p.Algorithms = algorithms
	}
	if f.about != nil {
		p.Subproblems = []subproblem{{p.Type, p.Detail, *f.about}}
	}
	if reference != "" {
		p.Detail += " (reference " + reference + ")"
	}
	return p
}

// fail records a fault, unless that was done, and answers with it.
func (c *call) fail(f *fault) {
	c.answer(f.status, "application/problem+json", c.note(f))
}

// note records a fault and returns what the client is told.
func (c *call) note(f *fault) *problem {
	why := f.refusal
	if why == nil && !f.quiet {
		q := &enrol.Request{Way: enrol.ACME, ID: c.device, Proof: enrol.Account{}}
		if f.kind == badAttestationStatement {
			q.Proof = enrol.Account{Attested: "?"}
		}
		why = c.Refused(q, enrol.NewRefusal(f.code, f.kind+": "+f.why))
	}
	if why == nil {
		return f.problem("")
	}
	web.RetryAfter(c.w, why)
	return f.problem(why.Reference)
}

// refuse says what the rules of the listener say in ACME's form.
func refuse(w http.ResponseWriter, _ *web.Request, status int, text string) {
	f := faulty(malformed, status, enrol.BadRequest, "%s", text)
	if status == http.StatusTooManyRequests {
		f.kind = rateLimited
	}
	write(w, status, "application/problem+json", f.problem(""))
}

func write(w http.ResponseWriter, status int, contentType string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"type":"`+errorURN+serverInternal+`","detail":"the answer can not be written","status":500}`)
		contentType = "application/problem+json"
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}
