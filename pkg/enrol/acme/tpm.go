package acme

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"go.step.sm/crypto/x509util"
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	// tcg-kp-AIKCertificate (W3C WebAuthn §8.3.1).
	oidAKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
)

// sansAreRead says that a critical subjectAltName with names that Go does not
// know, as the certificate of a TPM's attestation key has it, is read here.
func sansAreRead(c *x509.Certificate) {
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool { return id.Equal(oidSubjectAltName) })
}

// tpm reads a statement of a TPM 2.0 (W3C WebAuthn §8.3): its attestation key,
// which the certificate is about, certifies that another key is in the same TPM
// and was made there.
func (st *statement) tpm(ak *x509.Certificate, challenge [sha256.Size]byte) (key crypto.PublicKey, hardware string, err error) {
	s := &st.Statement
	if s.Version != "2.0" {
		return nil, "", errors.New("it is not of a TPM 2.0")
	}
	if hardware, err = akHardware(ak); err != nil {
		return nil, "", err
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](s.PubArea)
	if err != nil || !bytes.Equal(tpm2.Marshal(pub), s.PubArea) {
		return nil, "", errors.New("the key in it can not be read")
	}
	info, err := tpm2.Unmarshal[tpm2.TPMSAttest](s.CertInfo)
	if err != nil || !bytes.Equal(tpm2.Marshal(info), s.CertInfo) {
		return nil, "", errors.New("what the TPM certifies can not be read")
	}
	if err := akSigned(ak.PublicKey, s.Algorithm, s.CertInfo, s.Signature); err != nil {
		return nil, "", err
	}
	if info.Magic != tpm2.TPMGeneratedValue || info.Type != tpm2.TPMSTAttestCertify {
		return nil, "", errors.New("what is signed is not a TPM's certification of a key")
	}
	if subtle.ConstantTimeCompare(info.ExtraData.Buffer, challenge[:]) != 1 {
		return nil, "", errors.New("it was made for another challenge")
	}
	certified, err := info.Attested.Certify()
	if err != nil {
		return nil, "", errors.New("what is signed is not a TPM's certification of a key")
	}
	name, err := tpm2.ObjectName(pub)
	if err != nil || pub.NameAlg != tpm2.TPMAlgSHA256 || !bytes.Equal(name.Buffer, certified.Name.Buffer) {
		return nil, "", errors.New("the TPM certifies another key than the one in it")
	}
	if a := pub.ObjectAttributes; !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || a.Restricted || !a.SignEncrypt {
		return nil, "", errors.New("the key can leave the TPM, was not made in it, or is not one to sign with")
	}
	if key, err = tpm2.Pub(*pub); err != nil {
		return nil, "", errors.New("the key in it is of an unknown kind")
	}
	return key, hardware, nil
}

// akHardware holds the certificate of an attestation key to W3C WebAuthn §8.3.1,
// and returns the one permanent identifier (RFC 4043) in it. That there is one is
// stricter than others are: without it the statement would be about any TPM.
func akHardware(c *x509.Certificate) (string, error) {
	sans, err := x509util.ParseSubjectAlternativeNames(c)
	switch {
	case err != nil:
		return "", errors.New("its certificate has names that can not be read")
	case c.Version != 3 || len(c.Subject.Names) > 0 || c.IsCA:
		return "", errors.New("its certificate is not one of a TPM's attestation key")
	case len(c.UnknownExtKeyUsage) != 1 || !c.UnknownExtKeyUsage[0].Equal(oidAKCertificate) || len(c.ExtKeyUsage) > 0:
		return "", errors.New("its certificate is not one of a TPM's attestation key (extended key usage 2.23.133.8.3)")
	case sans.TPMHardwareDetails.Manufacturer == "" || sans.TPMHardwareDetails.Model == "" || sans.TPMHardwareDetails.Version == "":
		return "", errors.New("its certificate does not say what TPM it is of")
	case len(sans.PermanentIdentifiers) != 1 || sans.PermanentIdentifiers[0].Identifier == "":
		return "", errors.New("its certificate has no permanent identifier, or several")
	}
	return sans.PermanentIdentifiers[0].Identifier, nil
}

// akSigned verifies the signature of an attestation key, a TPMT_SIGNATURE.
func akSigned(pub crypto.PublicKey, algorithm int64, text, signature []byte) error {
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil || !bytes.Equal(tpm2.Marshal(sig), signature) {
		return errSignature
	}
	sum := sha256.Sum256(text)
	switch k := pub.(type) {
	case *rsa.PublicKey:
		s, err := sig.Signature.RSASSA()
		if err == nil && algorithm == coseRS256 && s.Hash == tpm2.TPMAlgSHA256 && rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], s.Sig.Buffer) == nil {
			return nil
		}
	case *ecdsa.PublicKey:
		s, err := sig.Signature.ECDSA()
		if err == nil && algorithm == coseES256 && s.Hash == tpm2.TPMAlgSHA256 &&
			ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(s.SignatureR.Buffer), new(big.Int).SetBytes(s.SignatureS.Buffer)) {
			return nil
		}
	}
	return errSignature
}
