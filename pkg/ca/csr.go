package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxCSR is the largest certificate signing request that is looked at, in
	// bytes of DER. One with an 8192-bit RSA key takes 2.3 KiB; the rest is
	// room for attestations in attributes.
	MaxCSR = 16 << 10

	// MinRSA and MaxRSA bound RSA keys, in bits: below is broken, above costs
	// the gateway more in every handshake than it protects.
	MinRSA = 2048
	MaxRSA = 8192
)

// ErrCSR is wrapped by every error that says a signing request is not
// acceptable.
var ErrCSR = errors.New("signing request refused")

func refuseCSR(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCSR, fmt.Sprintf(format, args...))
}

// ParseCSR reads a signing request in DER or PEM form, of at most [MaxCSR]
// bytes of DER, and checks it as [Authority.Issue] will. Data after the
// request, other than white space, is refused. Errors wrap [ErrCSR].
func ParseCSR(data []byte) (*x509.CertificateRequest, error) {
	// PEM takes 4 bytes for 3 and a line break after 64, and has two lines
	// around it.
	if len(data) > 2*MaxCSR {
		return nil, refuseCSR("larger than %d bytes", MaxCSR)
	}
	if trimmed := bytes.TrimSpace(data); bytes.HasPrefix(trimmed, []byte("-----BEGIN ")) {
		block, rest := pem.Decode(trimmed)
		switch {
		case block == nil:
			return nil, refuseCSR("damaged PEM")
		case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
			return nil, refuseCSR("the PEM block is %s, not a CERTIFICATE REQUEST", blockKind(block.Type))
		case len(bytes.TrimSpace(rest)) != 0:
			return nil, refuseCSR("more data after the PEM block")
		}
		data = block.Bytes
	}
	if len(data) > MaxCSR {
		return nil, refuseCSR("larger than %d bytes", MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(data)
	if err != nil {
		return nil, malformedCSR(err)
	}
	if err := checkCSR(csr); err != nil {
		return nil, err
	}
	return csr, nil
}

// malformedCSR says what the parser found, up to where it begins to quote. What
// refusals say is recorded, and a device's bytes are not.
func malformedCSR(err error) error {
	why, _, _ := strings.Cut(err.Error(), `"`)
	return refuseCSR("malformed: %s", strings.TrimSpace(why))
}

// blockKind names what somebody took for a signing request.
func blockKind(kind string) string {
	switch kind {
	case "CERTIFICATE", "PUBLIC KEY", "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
		return `a "` + kind + `"`
	}
	return "something else"
}

// ownCSR reads a signing request again from its signed bytes, and checks it: the
// fields of a struct can say something else.
func ownCSR(csr *x509.CertificateRequest) (*x509.CertificateRequest, error) {
	if csr == nil || len(csr.Raw) == 0 {
		return nil, refuseCSR("it was not parsed from DER")
	}
	return ParseCSR(csr.Raw)
}

// checkCSR checks key and signature. Cheap checks come first: verifying with
// an absurd key is itself an attack.
func checkCSR(csr *x509.CertificateRequest) error {
	if err := checkKey(csr.PublicKey); err != nil {
		return err
	}
	return checkSignature(csr)
}

func checkKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < MinRSA || n > MaxRSA {
			return refuseCSR("an RSA key of %d bits; %d to %d are accepted", n, MinRSA, MaxRSA)
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return refuseCSR("an ECDSA key on %s; P-256 and P-384 are accepted", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return refuseCSR("a key that is none of RSA, ECDSA and Ed25519")
	}
	return nil
}

func checkSignature(csr *x509.CertificateRequest) error {
	switch csr.SignatureAlgorithm {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512,
		x509.PureEd25519:
	case x509.UnknownSignatureAlgorithm:
		return refuseCSR("signed with an unknown algorithm")
	default:
		return refuseCSR("signed with %v, which is not secure", csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return refuseCSR("its signature does not verify")
	}
	return nil
}
