package scep

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Values of pkiStatus (RFC 8894 §3.2.1.3).
const (
	success = "0"
	failure = "2"
	pending = "3"
)

// Values of failInfo (RFC 8894 §3.2.1.4).
const (
	badAlg          = "0"
	badMessageCheck = "1"
	badRequest      = "2"
	badCertID       = "4"
)

// nonceLen is the length of a nonce (RFC 8894 §3.2.1.5).
const nonceLen = 16

// A reply is a CertRep (RFC 8894 §3.3.2).
type reply struct {
	status   string
	failInfo string
	text     string // failInfoText
	content  []byte // the envelope of a success
}

// reply signs a reply to a message with the recipient's key. The hash function is
// the message's: an old device knows no other.
func (to *Recipient) reply(m *message, r *reply) ([]byte, error) {
	hash := m.hash
	if hash == 0 {
		hash = crypto.SHA256
	}
	digest, kind := oid(nil), oid(nil)
	for _, d := range digests {
		if d.hash == hash {
			digest, kind = d.id, oidRSA
		}
	}
	nonce := make([]byte, nonceLen)
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	h := hash.New()
	h.Write(r.content)
	sum := h.Sum(nil)
	text := func(s string) cryptobyte.BuilderContinuation {
		return func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
		}
	}
	octets := func(v []byte) cryptobyte.BuilderContinuation {
		return func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) }
	}
	list := [][]byte{
		attribute(oidContentType, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidData) }),
		attribute(oidMessageDigest, octets(sum)),
		attribute(oidMessageType, text(certRep)),
		attribute(oidPKIStatus, text(r.status)),
		attribute(oidTransactionID, text(m.transaction)),
		attribute(oidSenderNonce, octets(nonce)),
		attribute(oidRecipientNonce, octets(m.nonce)),
	}
	if r.failInfo != "" {
		list = append(list, attribute(oidFailInfo, text(r.failInfo)), attribute(oidFailInfoText, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(r.text)) })
		}))
	}
	slices.SortFunc(list, bytes.Compare) // DER's order of a SET OF
	attributes := bytes.Join(list, nil)

	var signed cryptobyte.Builder
	signed.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(attributes) })
	h = hash.New()
	h.Write(signed.BytesOrPanic())
	signature, err := rsa.SignPKCS1v15(rand.Reader, to.key, hash, h.Sum(nil))
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	info(&b, oidSignedData, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { addAlgorithm(b, digest, nil) })
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidData)
			if r.content != nil {
				b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddASN1OctetString(r.content) })
			}
		})
		b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddBytes(to.Certificate().Raw) })
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				addIdentifier(b, to.Certificate())
				addAlgorithm(b, digest, nil)
				b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddBytes(attributes) })
				addAlgorithm(b, kind, nil)
				b.AddASN1OctetString(signature)
			})
		})
	})
	return b.Bytes()
}

// attribute is an Attribute with one value.
func attribute(kind oid, value cryptobyte.BuilderContinuation) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(kind)
		b.AddASN1(asn1.SET, value)
	})
	return b.BytesOrPanic()
}
