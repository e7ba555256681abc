package scep

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	_ "crypto/sha1" // for classes of devices that know nothing else
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	encasn1 "encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
)

type oid = encasn1.ObjectIdentifier

var (
	oidData          = oid{1, 2, 840, 113549, 1, 7, 1} // RFC 5652 §4
	oidSignedData    = oid{1, 2, 840, 113549, 1, 7, 2}
	oidEnvelopedData = oid{1, 2, 840, 113549, 1, 7, 3}

	oidContentType   = oid{1, 2, 840, 113549, 1, 9, 3} // RFC 5652 §11
	oidMessageDigest = oid{1, 2, 840, 113549, 1, 9, 4}

	oidMessageType    = oid{2, 16, 840, 1, 113733, 1, 9, 2} // RFC 8894 §3.2.1
	oidPKIStatus      = oid{2, 16, 840, 1, 113733, 1, 9, 3}
	oidFailInfo       = oid{2, 16, 840, 1, 113733, 1, 9, 4}
	oidSenderNonce    = oid{2, 16, 840, 1, 113733, 1, 9, 5}
	oidRecipientNonce = oid{2, 16, 840, 1, 113733, 1, 9, 6}
	oidTransactionID  = oid{2, 16, 840, 1, 113733, 1, 9, 7}
	oidFailInfoText   = oid{1, 3, 6, 1, 5, 5, 7, 24, 1}

	oidRSA = oid{1, 2, 840, 113549, 1, 1, 1}
)

// digests are the hash functions of signatures, each with the signature algorithm
// that names it too (RFC 5754).
var digests = []struct {
	hash      crypto.Hash
	id, withK oid
}{
	{crypto.SHA256, oid{2, 16, 840, 1, 101, 3, 4, 2, 1}, oid{1, 2, 840, 113549, 1, 1, 11}},
	{crypto.SHA384, oid{2, 16, 840, 1, 101, 3, 4, 2, 2}, oid{1, 2, 840, 113549, 1, 1, 12}},
	{crypto.SHA512, oid{2, 16, 840, 1, 101, 3, 4, 2, 3}, oid{1, 2, 840, 113549, 1, 1, 13}},
	{crypto.SHA1, oid{1, 3, 14, 3, 2, 26}, oid{1, 2, 840, 113549, 1, 1, 5}},
}

// Message types (RFC 8894 §3.2.1.2).
const (
	certRep    = "3"
	renewalReq = "17"
	pkcsReq    = "19"
	certPoll   = "20"
)

const (
	// maxCerts bounds the certificates beside a signature, maxRecipients those a
	// message is encrypted to.
	maxCerts      = 8
	maxRecipients = 8
	// maxTransaction and maxNonce bound what is sent back as it came: a transaction
	// is named by a hash in hex, a nonce has 16 octets.
	maxTransaction = 128
	maxNonce       = 64
)

// A message is a pkiMessage (RFC 8894 §3.2) whose signature verifies, or of which
// that is not known yet: see verify.
type message struct {
	kind        string
	transaction string
	nonce       []byte // the sender's
	signer      *x509.Certificate
	others      []*x509.Certificate // that came with the signer's
	content     []byte              // the pkcsPKIEnvelope
	hash        crypto.Hash

	attributes []byte // as they are signed
	digest     []byte
	signature  []byte
}

// weak reports whether the signature is of a kind that is taken from old devices
// only.
func (m *message) weak() bool { return m.hash == crypto.SHA1 }

// errors of messages that can be answered, because it is known what they are an
// answer to.
var (
	errAlgorithm = errors.New("the message uses an algorithm that is not taken here")
	errCheck     = errors.New("the message's signature or envelope does not hold")
)

// malformed is what is no message at all, and has no answer but HTTP's.
func malformed(what string) error { return fmt.Errorf("not a SCEP message: %s", what) }

// parse reads a message. With errAlgorithm it returns what of it is known.
func parse(in []byte) (*message, error) {
	der, err := toDER(in)
	if err != nil {
		return nil, err
	}
	signed, err := contentOf(der, oidSignedData)
	if err != nil {
		return nil, err
	}
	var inner, infos, info cryptobyte.String
	var certs, content cryptobyte.String
	var version int64
	if !signed.ReadASN1Integer(&version) || !signed.SkipASN1(asn1.SET) || !signed.ReadASN1(&inner, asn1.SEQUENCE) {
		return nil, malformed("signed data")
	}
	var kind oid
	var has bool
	if !inner.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidData) || !inner.ReadOptionalASN1(&content, &has, tag(0)) || !inner.Empty() {
		return nil, malformed("content")
	}
	m := &message{}
	if has {
		var octets cryptobyte.String
		if !content.ReadASN1(&octets, asn1.OCTET_STRING) || !content.Empty() {
			return nil, malformed("content")
		}
		m.content = octets
	}
	if !signed.ReadOptionalASN1(&certs, &has, tag(0)) || !signed.SkipOptionalASN1(tag(1)) ||
		!signed.ReadASN1(&infos, asn1.SET) || !signed.Empty() || !infos.ReadASN1(&info, asn1.SEQUENCE) || !infos.Empty() {
		return nil, malformed("it needs exactly one signature")
	}
	for !certs.Empty() {
		var raw cryptobyte.String
		if len(m.others) == maxCerts || !certs.ReadASN1Element(&raw, asn1.SEQUENCE) {
			return nil, malformed("certificates")
		}
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, malformed("a certificate that can not be read")
		}
		m.others = append(m.others, c)
	}
	return m, m.signerInfo(info)
}

// tag is a context-specific constructed tag.
func tag(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }

// contentOf returns what is in a ContentInfo of a type (RFC 5652 §3).
func contentOf(der []byte, want oid) (cryptobyte.String, error) {
	in, info, explicit, content := cryptobyte.String(der), cryptobyte.String(nil), cryptobyte.String(nil), cryptobyte.String(nil)
	var kind oid
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() || !info.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(want) ||
		!info.ReadASN1(&explicit, tag(0)) || !info.Empty() || !explicit.ReadASN1(&content, asn1.SEQUENCE) || !explicit.Empty() {
		return nil, malformed("content info")
	}
	return content, nil
}

// identifier reads an IssuerAndSerialNumber.
func identifier(in *cryptobyte.String) (issuer []byte, serial *big.Int, ok bool) {
	var id, name cryptobyte.String
	serial = new(big.Int)
	ok = in.ReadASN1(&id, asn1.SEQUENCE) && id.ReadASN1Element(&name, asn1.SEQUENCE) && id.ReadASN1Integer(serial) && id.Empty()
	return name, serial, ok
}

// algorithm reads an AlgorithmIdentifier.
func algorithm(in *cryptobyte.String) (id oid, parameters cryptobyte.String, ok bool) {
	var alg cryptobyte.String
	ok = in.ReadASN1(&alg, asn1.SEQUENCE) && alg.ReadASN1ObjectIdentifier(&id)
	return id, alg, ok
}

// signerInfo reads the one signature (RFC 5652 §5.3).
func (m *message) signerInfo(in cryptobyte.String) error {
	var version int64
	var attributes, signature cryptobyte.String
	if !in.ReadASN1Integer(&version) || version != 1 {
		return malformed("the signer is not named by issuer and serial number")
	}
	issuer, serial, ok := identifier(&in)
	digest, _, ok2 := algorithm(&in)
	if !ok || !ok2 || !in.ReadASN1(&attributes, tag(0)) {
		return malformed("the signature has no attributes")
	}
	kind, _, ok := algorithm(&in)
	if !ok || !in.ReadASN1(&signature, asn1.OCTET_STRING) || !in.SkipOptionalASN1(tag(1)) || !in.Empty() {
		return malformed("signature")
	}
	m.signature = signature
	if err := m.readAttributes(attributes); err != nil {
		return err
	}
	for i, c := range m.others {
		if bytes.Equal(c.RawIssuer, issuer) && c.SerialNumber.Cmp(serial) == 0 {
			m.signer = c
			m.others = append(m.others[:i:i], m.others[i+1:]...)
			break
		}
	}
	if m.signer == nil {
		return malformed("the signer's certificate is not in it")
	}
	for _, d := range digests {
		if d.id.Equal(digest) && (kind.Equal(oidRSA) || kind.Equal(d.withK)) {
			m.hash = d.hash
		}
	}
	if key, ok := m.signer.PublicKey.(*rsa.PublicKey); m.hash == 0 || !ok || key.N.BitLen() < ca.MinRSA || key.N.BitLen() > ca.MaxRSA {
		return errAlgorithm
	}
	return nil
}

// readAttributes reads the signed attributes: each that counts exactly once, with
// one value.
func (m *message) readAttributes(in cryptobyte.String) error {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(in) }) // RFC 5652 §5.4
	m.attributes = b.BytesOrPanic()
	seen := map[string]bool{}
	for !in.Empty() {
		var attribute, values cryptobyte.String
		var kind oid
		if !in.ReadASN1(&attribute, asn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&kind) || !attribute.ReadASN1(&values, asn1.SET) || !attribute.Empty() {
			return malformed("an attribute")
		}
		name := kind.String()
		if seen[name] {
			return malformed("an attribute that is there twice")
		}
		seen[name] = true
		ok := true
		switch {
		case kind.Equal(oidContentType):
			var what oid
			ok = values.ReadASN1ObjectIdentifier(&what) && what.Equal(oidData) && values.Empty()
		case kind.Equal(oidMessageDigest):
			m.digest, ok = octetsOf(values, maxNonce)
		case kind.Equal(oidSenderNonce):
			m.nonce, ok = octetsOf(values, maxNonce)
		case kind.Equal(oidMessageType):
			m.kind, ok = printable(values, 3)
		case kind.Equal(oidTransactionID):
			m.transaction, ok = printable(values, maxTransaction)
		}
		if !ok {
			return malformed("an attribute")
		}
	}
	for _, need := range []oid{oidContentType, oidMessageDigest, oidSenderNonce, oidMessageType, oidTransactionID} {
		if !seen[need.String()] {
			return malformed("an attribute is missing")
		}
	}
	return nil
}

func octetsOf(in cryptobyte.String, most int) ([]byte, bool) {
	var v cryptobyte.String
	ok := in.ReadASN1(&v, asn1.OCTET_STRING) && in.Empty() && len(v) > 0 && len(v) <= most
	return v, ok
}

// printable reads a PrintableString of letters, digits and what base64 and hex have
// besides: it is sent back, and in no record.
func printable(in cryptobyte.String, most int) (string, bool) {
	var v cryptobyte.String
	if !in.ReadASN1(&v, asn1.PrintableString) || !in.Empty() || len(v) == 0 || len(v) > most {
		return "", false
	}
	for _, c := range v {
		if c < ' ' || c > '~' {
			return "", false
		}
	}
	return string(v), true
}

// verify checks the signature: that who has the key of the signer's certificate
// signed the content and the attributes. Whose the certificate is, is another
// question.
func (m *message) verify() error {
	h := m.hash.New()
	h.Write(m.content)
	if subtle.ConstantTimeCompare(h.Sum(nil), m.digest) != 1 {
		return errCheck
	}
	key, ok := m.signer.PublicKey.(*rsa.PublicKey)
	if !ok {
		return errAlgorithm
	}
	h = m.hash.New()
	h.Write(m.attributes)
	if rsa.VerifyPKCS1v15(key, m.hash, h.Sum(nil), m.signature) != nil {
		return errCheck
	}
	return nil
}
