package revocation

import (
	"crypto"
	"encoding/asn1"
	"errors"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// maxRequest bounds an OCSP request in bytes: sixteen certificates by SHA-512
	// and a signature of their sender's fit.
	maxRequest = 8 << 10
	// maxAsked is how many certificates one request may ask for.
	maxAsked = 16
	// maxNonce is the longest nonce (RFC 9654 §2.1).
	maxNonce = 128
	// maxExtensions bounds each list of extensions.
	maxExtensions = 8
	// maxSerialBits is the longest serial number there is (RFC 5280 §4.1.2.2).
	maxSerialBits = 160
)

// errMalformed says that a request is not one, or has more than one may have.
var errMalformed = errors.New("malformed OCSP request")

var (
	oidSHA1   = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	oidSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidNonce  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}
)

// A certID names a certificate in a request (RFC 6960 §4.1.1).
type certID struct {
	raw    []byte // as it came, to be said again in the answer
	hash   crypto.Hash
	issuer struct{ name, key []byte }
	// serial is in decimal; it is empty if it can be no certificate's.
	serial string
}

// A request is an OCSP request.
type request struct {
	asked []certID
	nonce []byte // nil if there is none
}

// parseRequest reads an OCSP request. A signature is passed over: whoever asks may.
func parseRequest(der []byte) (*request, error) {
	if len(der) > maxRequest {
		return nil, errMalformed
	}
	in, all, tbs := cryptobyte.String(der), cryptobyte.String(nil), cryptobyte.String(nil)
	if !in.ReadASN1(&all, casn1.SEQUENCE) || !in.Empty() || !all.ReadASN1(&tbs, casn1.SEQUENCE) ||
		!all.SkipOptionalASN1(explicit(0)) || !all.Empty() {
		return nil, errMalformed
	}
	var version int
	if !tbs.ReadOptionalASN1Integer(&version, explicit(0), 0) || version != 0 || !tbs.SkipOptionalASN1(explicit(1)) {
		return nil, errMalformed
	}
	r, list := &request{}, cryptobyte.String(nil)
	if !tbs.ReadASN1(&list, casn1.SEQUENCE) || list.Empty() {
		return nil, errMalformed
	}
	for !list.Empty() {
		var one cryptobyte.String
		if len(r.asked) == maxAsked || !list.ReadASN1(&one, casn1.SEQUENCE) {
			return nil, errMalformed
		}
		id, ok := readCertID(&one)
		if !ok || !readExtensions(&one, 0, nil) || !one.Empty() {
			return nil, errMalformed
		}
		r.asked = append(r.asked, id)
	}
	if !readExtensions(&tbs, 2, r.extension) || !tbs.Empty() {
		return nil, errMalformed
	}
	return r, nil
}

func explicit(n uint8) casn1.Tag { return casn1.Tag(n).ContextSpecific().Constructed() }

func readCertID(in *cryptobyte.String) (id certID, ok bool) {
	var whole, alg, name, key cryptobyte.String
	if !in.ReadASN1Element(&whole, casn1.SEQUENCE) {
		return id, false
	}
	id.raw = whole
	var oid asn1.ObjectIdentifier
	serial := new(big.Int)
	body := whole
	if !body.ReadASN1(&body, casn1.SEQUENCE) || !body.ReadASN1(&alg, casn1.SEQUENCE) ||
		!body.ReadASN1(&name, casn1.OCTET_STRING) || !body.ReadASN1(&key, casn1.OCTET_STRING) ||
		!body.ReadASN1Integer(serial) || !body.Empty() {
		return id, false
	}
	// The parameters of a hash are NULL, or not there.
	var null cryptobyte.String
	if !alg.ReadASN1ObjectIdentifier(&oid) || !alg.ReadOptionalASN1(&null, nil, casn1.NULL) || !null.Empty() || !alg.Empty() {
		return id, false
	}
	switch {
	case oid.Equal(oidSHA1):
		id.hash = crypto.SHA1
	case oid.Equal(oidSHA256):
		id.hash = crypto.SHA256
	}
	id.issuer.name, id.issuer.key = name, key
	if serial.Sign() > 0 && serial.BitLen() <= maxSerialBits {
		id.serial = serial.String()
	}
	return id, true
}

// readExtensions reads a list of extensions that may not be there. take says
// whether an extension is as it may be; one that it does not know must not be
// critical, and none may be there twice.
func readExtensions(in *cryptobyte.String, tag uint8, take func(oid asn1.ObjectIdentifier, value cryptobyte.String) (known, ok bool)) bool {
	var outer, list cryptobyte.String
	var there bool
	if !in.ReadOptionalASN1(&outer, &there, explicit(tag)) {
		return false
	}
	if !there {
		return true
	}
	if !outer.ReadASN1(&list, casn1.SEQUENCE) || !outer.Empty() {
		return false
	}
	var seen []asn1.ObjectIdentifier
	for !list.Empty() {
		var ext, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var critical bool
		if len(seen) == maxExtensions || !list.ReadASN1(&ext, casn1.SEQUENCE) || !ext.ReadASN1ObjectIdentifier(&oid) ||
			ext.PeekASN1Tag(casn1.BOOLEAN) && !ext.ReadASN1Boolean(&critical) || !ext.ReadASN1(&value, casn1.OCTET_STRING) || !ext.Empty() {
			return false
		}
		for _, s := range seen {
			if s.Equal(oid) {
				return false
			}
		}
		seen = append(seen, oid)
		known, ok := false, true
		if take != nil {
			known, ok = take(oid, value)
		}
		if !ok || critical && !known {
			return false
		}
	}
	return true
}

// extension takes an extension of the whole request.
func (r *request) extension(oid asn1.ObjectIdentifier, value cryptobyte.String) (known, ok bool) {
	if !oid.Equal(oidNonce) {
		return false, true
	}
	var nonce cryptobyte.String
	if !value.ReadASN1(&nonce, casn1.OCTET_STRING) || !value.Empty() || len(nonce) == 0 || len(nonce) > maxNonce {
		return true, false
	}
	r.nonce = nonce
	return true, true
}
