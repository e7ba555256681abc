package acme

import (
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
)

// What Apple's certificates about a key say (Apple Platform Deployment, Managed Device
// Attestation). The values are the bytes themselves, in no ASN.1.
var (
	oidAppleSerial = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 9, 1}
	oidAppleUDID   = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 9, 2}
	oidAppleNonce  = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 11, 1}
)

// maxAppleID bounds a serial number and a UDID.
const maxAppleID = 64

// apple reads a statement of an Apple device: its certificate is about the key, and was
// made for a challenge, whose token's SHA-256 it has. There is no signature with the key;
// that of the signing request, which is held to this key, comes later. A device of a
// person's own says neither serial number nor UDID, and is nobody's here.
func (st *statement) apple(leaf *x509.Certificate, token string) (key crypto.PublicKey, serial, udid string, err error) {
	fail := func(text string) (crypto.PublicKey, string, string, error) { return nil, "", "", errors.New(text) }
	if s := &st.Statement; s.Algorithm != 0 || s.Signature != nil || s.Version != "" || s.CertInfo != nil || s.PubArea != nil {
		return fail("it says what Apple's do not")
	}
	var nonce []byte
	for _, ext := range leaf.Extensions { // none of which is there twice: crypto/x509 refuses that
		switch {
		case ext.Id.Equal(oidAppleNonce):
			nonce = ext.Value
		case ext.Id.Equal(oidAppleSerial):
			serial = string(ext.Value)
		case ext.Id.Equal(oidAppleUDID):
			udid = string(ext.Value)
		}
	}
	if sum := sha256.Sum256([]byte(token)); subtle.ConstantTimeCompare(nonce, sum[:]) != 1 {
		return fail("it was made for another challenge, or for none")
	}
	if serial == "" && udid == "" {
		return fail("its certificate does not name the hardware")
	}
	if len(serial) > maxAppleID || len(udid) > maxAppleID {
		return fail("its certificate has a serial number or UDID that is too long")
	}
	return leaf.PublicKey, serial, udid, nil
}
