package edge

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"reflect"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// Registry is what the edge needs to know of devices. The embedded registry
// and, in clusters, a replica of it provide this.
type Registry interface {
	Get(id string) (*device.Record, bool)
	Subscribe(f func(old, new *device.Record)) (cancel func())
}

// A Refusal says why a certificate does not make a session. Code is a short
// word for metrics and searching, Why a sentence for people; neither holds
// anything secret.
type Refusal struct {
	Code string
	Why  string
	// Device is the identity the certificate claims, if it chains to our CA.
	Device string
}

func (r *Refusal) Error() string { return r.Why }

// The reasons a certificate is refused after its chain was found good.
const (
	refusedNoIdentity  = "no-device-identity"
	refusedUnknown     = "unknown-device"
	refusedCertificate = "certificate-not-in-registry"
	refusedRevoked     = "certificate-revoked"
	refusedExpired     = "certificate-expired"
	refusedLoan        = "loan-over"
	refusedStatus      = "device-"
)

// identity is who a connection is from.
type identity struct {
	record      *device.Record
	leaf        *x509.Certificate
	fingerprint string
}

// nobody is what stands in for a certificate that is forgotten.
var nobody = &x509.Certificate{}

// identify says who is behind a TLS connection. It is asked in every handshake,
// full or resumed, and relies on nothing an earlier handshake found out: the
// chain was verified by crypto/tls (against the pool of now, on resumption
// too), everything else is looked up here (invariants 2 and 3). lane says whether
// a device in quarantine may come in.
func identify(state *tls.ConnectionState, trustDomain string, reg Registry, now time.Time, lane bool) (*identity, error) {
	if len(state.PeerCertificates) == 0 || len(state.VerifiedChains) == 0 {
		return nil, &Refusal{Code: "no-certificate", Why: "the device showed no certificate that was verified"}
	}
	leaf := state.PeerCertificates[0]
	id, err := ca.DeviceID(leaf, trustDomain)
	if err != nil {
		return nil, &Refusal{Code: refusedNoIdentity, Why: "the certificate is ours but is no device's: " + err.Error()}
	}
	sum := sha256.Sum256(leaf.Raw)
	who := &identity{leaf: leaf, fingerprint: hex.EncodeToString(sum[:])}
	rec, ok := reg.Get(id)
	if !ok {
		return nil, &Refusal{Code: refusedUnknown, Device: id, Why: "no device " + id + " is in the registry"}
	}
	who.record = rec
	if err := admissible(rec, who.fingerprint, leaf.NotAfter, now, lane); err != nil {
		return nil, err
	}
	if now.Before(leaf.NotBefore) {
		return nil, &Refusal{Code: refusedExpired, Device: id, Why: "the certificate of " + id + " is not valid yet"}
	}
	return who, nil
}

// forget has a connection keep nothing of the certificates that its device showed.
// crypto/tls holds them parsed for as long as the connection lasts, a third of what
// an idle one takes, and nobody asks it for them again: a session has what is needed.
// The lists in state are the connection's own (docs/adr/0023-forget.md); what takes
// a certificate's place is one of nobody, that ended long ago and chains to nothing.
func forget(state *tls.ConnectionState) {
	for i := range state.PeerCertificates {
		state.PeerCertificates[i] = nobody
	}
	for _, chain := range state.VerifiedChains {
		for i := range chain {
			chain[i] = nobody
		}
	}
}

// admissible reports whether a device with this record and this certificate may
// have a session now. It is the one place that knows, asked by handshakes, by
// the session table when the registry changes, and before every decision. lane
// says whether this is about a session that a device began in quarantine, or is
// about to; it makes up for the quarantine and for nothing else.
func admissible(rec *device.Record, fingerprint string, notAfter, now time.Time, lane bool) error {
	if rec.Status != device.Active && !(lane && rec.Status == device.Quarantined) {
		return &Refusal{
			Code: refusedStatus + string(rec.Status), Device: rec.ID,
			Why: fmt.Sprintf("device %s is %s", rec.ID, rec.Status),
		}
	}
	if rec.CutOff(now) {
		return &Refusal{Code: refusedLoan, Device: rec.ID, Why: fmt.Sprintf("device %s was lent until %s, and is let in no more", rec.ID, rec.Loan.Until.Format(time.RFC3339))}
	}
	cert := rec.Certificate(fingerprint)
	if cert == nil {
		return &Refusal{Code: refusedCertificate, Device: rec.ID, Why: "the registry does not know this certificate of " + rec.ID}
	}
	if !cert.RevokedAt.IsZero() {
		return &Refusal{Code: refusedRevoked, Device: rec.ID, Why: "this certificate of " + rec.ID + " was revoked"}
	}
	if !now.Before(notAfter) {
		return &Refusal{Code: refusedExpired, Device: rec.ID, Why: "the certificate of " + rec.ID + " expired at " + notAfter.UTC().Format(time.RFC3339)}
	}
	return nil
}

// refusalOf turns the error of a failed handshake into the Refusal that is
// recorded. Errors of crypto/tls are told apart by type where it gives one.
func refusalOf(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		if inv, ok := errors.AsType[x509.CertificateInvalidError](e.Err); ok && inv.Reason == x509.Expired {
			return &Refusal{Code: refusedExpired, Why: "the certificate is outside its validity"}
		}
		if _, ok := errors.AsType[x509.UnknownAuthorityError](e.Err); ok {
			return &Refusal{Code: "foreign-certificate", Why: "the certificate is not from our CA"}
		}
		return &Refusal{Code: "bad-certificate", Why: "the certificate does not verify"}
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return alerted(op.Err)
	}
	switch msg := err.Error(); {
	case msg == "tls: client didn't provide a certificate":
		return &Refusal{Code: "no-certificate", Why: "the device showed no certificate"}
	case len(msg) > 5 && msg[:5] == "tls: ":
		return &Refusal{Code: "tls-handshake", Why: msg[5:]}
	default:
		return &Refusal{Code: "handshake-broken", Why: "the connection ended during the handshake"}
	}
}

// Alerts with which a device says why it breaks off (RFC 8446 section 6.2).
const (
	alertBadCertificate     = 42
	alertCertificateExpired = 45
	alertCertificateUnknown = 46
	alertUnknownCA          = 48
)

// Codes of what devices say of our certificate.
const (
	refusedClock    = "device-clock"
	refusedByDevice = "device-refuses-us"
)

// alerted says what a device meant that broke the handshake off. crypto/tls gives the
// alert's number in a type that it does not show.
func alerted(alert error) *Refusal {
	n := uint64(0)
	if v := reflect.ValueOf(alert); v.IsValid() && v.CanUint() {
		n = v.Uint()
	}
	switch n {
	case alertCertificateExpired:
		return &Refusal{Code: refusedClock, Why: "the device says that the gateway's certificate is not in its validity: if it is (anteroom status shows it), the device clock is wrong. " +
			"Set the device's clock or its time server; a device without a clock can ask the enrolment listener"}
	case alertBadCertificate, alertCertificateUnknown:
		return &Refusal{Code: refusedByDevice, Why: "the device does not accept the gateway's certificate: its device clock is wrong (many say no more when a certificate is not valid yet), " +
			"it trusts another root, or it expects another name"}
	case alertUnknownCA:
		return &Refusal{Code: refusedByDevice, Why: "the device does not know the CA of the gateway's certificate: give it the root (anteroom ca export)"}
	}
	return &Refusal{Code: "device-alert", Why: "the device broke the handshake off: " + alert.Error()}
}
