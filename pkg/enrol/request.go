package enrol

import (
	"context"
	"crypto/x509"
	"net/netip"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// A Way is how a device comes to its certificate: the name policies and records
// use.
type Way string

// The ways in.
const (
	CLI       Way = "cli"   // an operator, on the command line
	ByToken   Way = "token" // a one-time token and JSON over HTTP
	EST       Way = "est"   // RFC 7030
	SCEP      Way = "scep"  // RFC 8894
	Smallstep Way = "step"  // smallstep's own API, for its step command
	ACME      Way = "acme"  // RFC 8555
)

// A Request asks for a device's certificate.
type Request struct {
	Way Way
	// ID is the device's, where the way names it. If it is empty the proof does;
	// if both do, they have to agree.
	ID string
	// CSR is the signing request, in PEM or DER form. Only its key counts.
	CSR []byte
	// SameKey asks in place of CSR for the key of the certificate that is the
	// proof, for protocols that renew without a signing request: the handshake
	// that showed the certificate, or the signature of the message, proved that the
	// device has the key.
	SameKey bool
	Proof   Proof
	// Weak says that the request came protected by algorithms that are not secure any
	// more: only devices of some classes may come so (enrolment.scep.legacy_classes).
	Weak bool
	// Remote is where the request came from, Listener what it came in by; empty
	// for an operator's.
	Remote   netip.AddrPort
	Listener string

	// What follows is an operator's to say; a device's request has none of it.

	// TTL is the lifetime to ask for; zero means that of the device's class.
	TTL time.Duration
	// New is what is known of a device that is to be enrolled: id, class and
	// descriptive fields. Nil means that the device has a certificate already.
	New *device.Record
	// Again enrols a revoked device anew.
	Again bool
}

// A Proof is what shows that a request is the device's to make.
type Proof interface {
	// Name is what policies and records call it.
	Name() string
	// stand returns whom the proof stands for, or a [*Refusal], then with whom it
	// would stand for if that is sure.
	stand(ctx context.Context, g *Registrar, q *Request) (*standing, error)
}

// A standing is what a proof that was found good is good for.
type standing struct {
	id       string
	renewal  bool   // the device has a certificate, and this is about the next
	again    bool   // it brings a revoked device back
	operator string // who asks, if a person does
	// names are those of a server, whose certificate says them and no identity.
	names    []string
	hardware bool   // the key is held by hardware, which attested it
	maker    string // the manufacturer that vouches for the device, if one does
	// unapproved says that an operator has to approve the device, unless the policy
	// set has it approved; wait notes that it waits, and says so.
	unapproved bool
	wait       func(ctx context.Context, q *Request, rec *device.Record) error
	// request looks at the signing request, if the proof has a word on it.
	request func(csr *signingRequest) error
	// check looks at the device's record (nil for a new device): when the request
	// is looked at, and again in the step that grants. It may fill in what is
	// known of the device.
	check func(rec *device.Record) error
	// spend uses the proof up, in the step that grants.
	spend func(w store.Writer, csr *signingRequest, leaf *x509.Certificate) error
	// issued is the certificate that this very proof and key were granted before;
	// request may find it.
	issued *x509.Certificate
	// detail is what the record of what was granted says besides.
	detail []protocol.Field
}

// An Operator proves by being one: whoever calls has checked the roles.
type Operator struct{ Person string }

// Name implements [Proof].
func (Operator) Name() string { return "operator" }

// Issued is a certificate that was granted.
type Issued struct {
	Device   *device.Record
	Chain    []*x509.Certificate // leaf, intermediate
	ChainPEM []byte
	// CutShort says that the CA's own end came before the asked one.
	CutShort bool
	// Repeated says that it was granted before and is handed out once more.
	Repeated bool
}
