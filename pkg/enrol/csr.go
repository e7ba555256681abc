package enrol

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A signingRequest is one that was read and whose proof of possession holds.
type signingRequest struct {
	*x509.CertificateRequest
	key string // as device.Certificate names it
}

// readCSR reads a signing request within limits; see [ca.ParseCSR].
func readCSR(data []byte) (*signingRequest, error) {
	csr, err := ca.ParseCSR(data)
	if err != nil {
		err = fmt.Errorf("%w signing request: %w", device.ErrInvalid, err)
		return nil, &Refusal{Code: BadRequest, Why: err.Error(), err: err}
	}
	return &signingRequest{csr, keyOf(csr.RawSubjectPublicKeyInfo)}, nil
}

// signingRequest returns what a request asks for.
func (q *Request) signingRequest() (*signingRequest, error) {
	if !q.SameKey {
		return readCSR(q.CSR)
	}
	var leaf *x509.Certificate
	switch c := q.Proof.(type) {
	case Certificate:
		leaf = c.Leaf
	case expired:
		leaf = c.Leaf
	case Signature:
		leaf = c.Leaf
	case Factory:
		leaf = c.Leaf
	}
	if leaf == nil || q.CSR != nil {
		return nil, refuse(BadRequest, "only the key of a certificate that is shown needs no signing request")
	}
	return &signingRequest{&x509.CertificateRequest{PublicKey: leaf.PublicKey}, keyOf(leaf.RawSubjectPublicKeyInfo)}, nil
}

// subject says to the CA whose key it is. It was proved when the request was read, or
// in the handshake, and is not proved again.
func (csr *signingRequest) subject(r ca.Request) ca.Request {
	r.Key = csr.PublicKey
	return r
}

// keyOf names a public key.
func keyOf(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// fingerprint names a certificate as the registry does.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// names refuses a request that asks to be somebody else. What a certificate says
// comes from its profile and never from here; but a request with another device's
// name is one that went astray, or is meant to.
func (csr *signingRequest) names(trustDomain, id string) error {
	own := ca.DeviceURI(trustDomain, id).String()
	for _, u := range csr.URIs {
		if strings.EqualFold(u.Scheme, "spiffe") && u.String() != own {
			return refuse(BadNames, "the signing request asks for an identity that is not %s's", id)
		}
	}
	return nil
}

// strictNames is names for a request that a device makes itself: it may be made
// out to the device, or to nobody.
func (csr *signingRequest) strictNames(devices *device.Registry, id string) error {
	cn := csr.Subject.CommonName
	if cn == "" || cn == id {
		return nil
	}
	if other, ok := devices.Get(cn); ok {
		return refuse(BadNames, "the signing request is made out to %s, and the proof is %s's", other.ID, id)
	}
	return nil
}

// renewedNames is RFC 7030 §4.2.2: who renews asks for the names there are. None
// at all is taken for the same.
func (csr *signingRequest) renewedNames(id string) error {
	if cn := csr.Subject.CommonName; cn != "" && cn != id ||
		len(csr.URIs) > 1 || len(csr.DNSNames)+len(csr.IPAddresses)+len(csr.EmailAddresses) > 0 {
		return refuse(BadNames, "the signing request asks for other names than the certificate of %s has", id)
	}
	return nil
}

// madeOutTo is for a signing request in a message that was signed by a device. One of
// no name could be anybody's, put into a message by somebody who has seen it. Where
// there is none, the key is the one that signed.
func (csr *signingRequest) madeOutTo(id string) error {
	if csr.Raw != nil && csr.Subject.CommonName != id {
		return refuse(BadNames, "the signing request is not made out to %s, who signed the message", id)
	}
	return nil
}

// keyFacts are what policies see of a key.
func (csr *signingRequest) keyFacts() (kind string, bits int) {
	switch key := csr.PublicKey.(type) {
	case *rsa.PublicKey:
		return "rsa", key.N.BitLen()
	case *ecdsa.PublicKey:
		return "ecdsa", key.Curve.Params().BitSize
	case ed25519.PublicKey:
		return "ed25519", 256
	}
	return "unknown", 0 // ca.ParseCSR takes no other
}

// signature names the algorithm of the signing request's signature; it is empty if
// there is no signing request.
func (csr *signingRequest) signature() string {
	if csr.Raw == nil {
		return ""
	}
	return csr.SignatureAlgorithm.String()
}

// facts are input.enrolment.csr. again says that the device had the key before.
func (csr *signingRequest) facts(again bool) protocol.Value {
	var ips, uris []string
	for _, ip := range csr.IPAddresses {
		ips = append(ips, ip.String())
	}
	for _, u := range csr.URIs {
		uris = append(uris, u.String())
	}
	kind, bits := csr.keyFacts()
	return protocol.Object(
		protocol.Field{Name: "key", Value: protocol.Object(
			field("type", kind),
			protocol.Field{Name: "bits", Value: protocol.Int(int64(bits))},
			protocol.Field{Name: "again", Value: protocol.Bool(again)},
		)},
		field("signature", csr.signature()),
		field("common_name", csr.Subject.CommonName),
		protocol.Field{Name: "sans", Value: protocol.Object(
			protocol.Field{Name: "dns", Value: protocol.Strings(csr.DNSNames...)},
			protocol.Field{Name: "ip", Value: protocol.Strings(ips...)},
			protocol.Field{Name: "email", Value: protocol.Strings(csr.EmailAddresses...)},
			protocol.Field{Name: "uri", Value: protocol.Strings(uris...)},
		)},
	)
}

func field(name, value string) protocol.Field {
	return protocol.Field{Name: name, Value: protocol.String(value)}
}
