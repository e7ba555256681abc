package revocation

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"time"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
)

// What an answer says of itself (RFC 6960 §4.2.1, OCSPResponseStatus).
const (
	successful       = 0
	malformedRequest = 1
	tryLater         = 3
	unauthorized     = 6
)

var (
	oidBasic           = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
)

// refusal is the answer that there is none; it is not signed.
func refusal(status uint8) Answer {
	return Answer{DER: []byte{0x30, 0x03, 0x0a, 0x01, status}}
}

// A basic is an answer that is signed (RFC 6960 §4.2.1, BasicOCSPResponse).
type basic struct {
	who            *ca.Responder
	chain          *x509.Certificate // the responder's issuer
	produced, next time.Time
	singles        []single
	nonce          []byte
}

// A single is what is said of one certificate.
type single struct {
	id     []byte // as it was asked for
	status *ca.CertificateStatus
}

// sign returns the answer in DER form.
func (b *basic) sign() ([]byte, error) {
	data, err := b.data()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	sig, err := b.who.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var inner cryptobyte.Builder
	inner.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
		c.AddBytes(data)
		c.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) { c.AddASN1ObjectIdentifier(oidECDSAWithSHA256) })
		c.AddASN1BitString(sig)
		c.AddASN1(explicit(0), func(c *cryptobyte.Builder) {
			c.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
				c.AddBytes(b.who.Certificate.Raw)
				c.AddBytes(b.chain.Raw)
			})
		})
	})
	body, err := inner.Bytes()
	if err != nil {
		return nil, err
	}
	var out cryptobyte.Builder
	out.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
		c.AddASN1Enum(successful)
		c.AddASN1(explicit(0), func(c *cryptobyte.Builder) {
			c.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
				c.AddASN1ObjectIdentifier(oidBasic)
				c.AddASN1OctetString(body)
			})
		})
	})
	return out.Bytes()
}

// data returns what is signed (ResponseData).
func (b *basic) data() ([]byte, error) {
	var out cryptobyte.Builder
	out.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
		// By name, because the other form is a SHA-1 of the key.
		c.AddASN1(explicit(1), func(c *cryptobyte.Builder) { c.AddBytes(b.who.Certificate.RawSubject) })
		c.AddASN1GeneralizedTime(b.produced)
		c.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
			for i := range b.singles {
				b.singles[i].add(c, b.produced, b.next)
			}
		})
		if b.nonce == nil {
			return
		}
		c.AddASN1(explicit(1), func(c *cryptobyte.Builder) {
			c.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
				c.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
					c.AddASN1ObjectIdentifier(oidNonce)
					c.AddASN1(casn1.OCTET_STRING, func(c *cryptobyte.Builder) { c.AddASN1OctetString(b.nonce) })
				})
			})
		})
	})
	return out.Bytes()
}

// add writes a SingleResponse.
func (s *single) add(c *cryptobyte.Builder, this, next time.Time) {
	c.AddASN1(casn1.SEQUENCE, func(c *cryptobyte.Builder) {
		c.AddBytes(s.id)
		switch {
		case s.status.Revoked:
			c.AddASN1(explicit(1), func(c *cryptobyte.Builder) {
				c.AddASN1GeneralizedTime(s.status.RevokedAt)
				if s.status.Reason == 0 { // unspecified is better not said (RFC 5280 §5.3.1)
					return
				}
				c.AddASN1(explicit(0), func(c *cryptobyte.Builder) { c.AddASN1Enum(int64(s.status.Reason)) })
			})
		case s.status.Certificate != nil:
			c.AddASN1(casn1.Tag(0).ContextSpecific(), func(*cryptobyte.Builder) {})
		default:
			c.AddASN1(casn1.Tag(2).ContextSpecific(), func(*cryptobyte.Builder) {})
		}
		c.AddASN1GeneralizedTime(this)
		c.AddASN1(explicit(0), func(c *cryptobyte.Builder) { c.AddASN1GeneralizedTime(next) })
	})
}
