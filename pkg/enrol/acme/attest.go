package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/fxamacker/cbor/v2"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

const (
	// maxRoots bounds the file with a manufacturer's roots.
	maxRoots = 1 << 20
	// mostCertificates bounds the chain in a statement.
	mostCertificates = 8
)

// A statement is a WebAuthn attestation object (W3C WebAuthn §6.5) as
// draft-ietf-acme-device-attest §5 uses it.
type statement struct {
	Format    string `cbor:"fmt"`
	Statement struct {
		Algorithm int64    `cbor:"alg"`
		Signature []byte   `cbor:"sig"`
		Chain     [][]byte `cbor:"x5c"`
		// What a TPM says.
		Version  string `cbor:"ver"`
		CertInfo []byte `cbor:"certInfo"`
		PubArea  []byte `cbor:"pubArea"`
	} `cbor:"attStmt"`
	AuthData []byte `cbor:"authData"`
}

// Algorithms as COSE numbers them (RFC 9053, RFC 8812).
const (
	coseES256 = -7
	coseEdDSA = -8
	coseRS256 = -257
)

var errStatement = errors.New("it is not the CBOR of an attestation object, in its one plain form")

// readStatement reads a statement. Nothing of it is believed yet.
func readStatement(data []byte) (*statement, error) {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 16,
		UTF8: cbor.UTF8RejectInvalid, FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode()
	if err != nil {
		return nil, err
	}
	s := new(statement)
	if err := mode.Unmarshal(data, s); err != nil {
		return nil, errStatement
	}
	return s, nil
}

// attested finds out which key a statement attests, for hardware of the given
// name, of a device that the registry knows so, and for this very challenge, and returns
// the key's name. The authorization is the challenge's token and the account's key.
func (s *server) attested(trust *config.ACMEAttestation, rec *device.Record, raw json.RawMessage, hardware, token, authorization string) (string, *fault) {
	bad := func(err error) (string, *fault) {
		return "", challengeFault(badAttestationStatement, "the attestation: %v", err)
	}
	var encoded string
	if err := json.Unmarshal(raw, &encoded); err != nil {
		return bad(errors.New("there is none (attObj)"))
	}
	data, err := decode64(encoded)
	if err != nil {
		return bad(errors.New("it is not in base64url"))
	}
	st, err := readStatement(data)
	if err != nil {
		return bad(err)
	}
	if !slices.Contains(trust.Formats, st.Format) {
		return bad(errors.New("its format is not one that is taken for this manufacturer"))
	}
	roots, err := readRoots(trust.Roots)
	if err != nil {
		return "", ours(err)
	}
	chain, err := st.chain()
	if err != nil {
		return bad(err)
	}
	if st.Format == "tpm" {
		sansAreRead(chain[0])
	}
	if err := verifyAt(s.clock(), chain[0], chain[1:], roots); err != nil {
		return bad(errors.New("its certificate does not chain to a root that is trusted for this manufacturer, or is not in its validity"))
	}
	sum := sha256.Sum256([]byte(authorization))
	var key crypto.PublicKey
	var name, udid string
	switch st.Format {
	case "tpm":
		key, name, err = st.tpm(chain[0], sum)
	case "apple":
		if key, name, udid, err = st.apple(chain[0], token); err == nil && name != "" && rec.Serial != "" && name != rec.Serial {
			err = errors.New("its serial number is another than the registry's")
		}
		if udid == hardware {
			name = udid
		}
	default:
		key, name, err = st.step(chain[0], []byte(authorization))
	}
	if err != nil {
		return bad(err)
	}
	if name != hardware {
		return bad(errors.New("it is of other hardware than the order's"))
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return bad(errors.New("the key it is about is of an unknown kind"))
	}
	named := sha256.Sum256(spki)
	return hex.EncodeToString(named[:]), nil
}

// chain reads the certificates of a statement.
func (st *statement) chain() ([]*x509.Certificate, error) {
	list := st.Statement.Chain
	if len(list) == 0 || len(list) > mostCertificates {
		return nil, fmt.Errorf("it has no certificate, or more than %d", mostCertificates)
	}
	var out []*x509.Certificate
	for _, der := range list {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errors.New("a certificate in it is malformed")
		}
		// Verifying with an absurd key is itself an attack.
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && (k.N.BitLen() > ca.MaxRSA || k.N.BitLen() < ca.MinRSA || k.E > 1<<17) {
			return nil, fmt.Errorf("a certificate in it has an RSA key that is not of %d to %d bits", ca.MinRSA, ca.MaxRSA)
		}
		out = append(out, c)
	}
	return out, nil
}

// Where certificates about a key name the hardware that holds it.
var (
	// A YubiKey's serial number (developers.yubico.com/PIV/Introduction/PIV_attestation.html).
	oidYubicoSerial = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}
	// smallstep's managed device, with a serial number or another id.
	oidManagedDevice = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 4}
)

// step reads a statement as smallstep's step makes it of a PIV token's attestation:
// the certificate is about the key, and the key signs the key authorization.
func (st *statement) step(leaf *x509.Certificate, authorization []byte) (key crypto.PublicKey, hardware string, err error) {
	var sig []byte
	if rest, err := cbor.UnmarshalFirst(st.Statement.Signature, &sig); err != nil || len(rest) > 0 {
		return nil, "", errors.New("its signature is not CBOR")
	}
	if err := signatureHolds(leaf.PublicKey, st.Statement.Algorithm, authorization, sig); err != nil {
		return nil, "", err
	}
	var names []string
	for _, ext := range leaf.Extensions {
		var rest []byte
		var err error
		switch {
		case ext.Id.Equal(oidYubicoSerial):
			var n int64
			rest, err = asn1.Unmarshal(ext.Value, &n)
			names = append(names, strconv.FormatInt(n, 10))
		case ext.Id.Equal(oidManagedDevice):
			var d struct{ ID string }
			rest, err = asn1.Unmarshal(ext.Value, &d)
			names = append(names, d.ID)
		}
		if err != nil || len(rest) > 0 {
			return nil, "", errors.New("its certificate has a serial number that can not be read")
		}
	}
	if len(names) != 1 || names[0] == "" {
		return nil, "", errors.New("its certificate does not name the hardware, or does it twice")
	}
	return leaf.PublicKey, names[0], nil
}

var errSignature = errors.New("its signature does not hold for this challenge")

// signatureHolds verifies a signature over a text by the one algorithm that goes
// with the key.
func signatureHolds(pub crypto.PublicKey, algorithm int64, text, sig []byte) error {
	sum := sha256.Sum256(text)
	holds, want := false, int64(0)
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return errors.New("its certificate has an ECDSA key on another curve than P-256")
		}
		holds, want = ecdsa.VerifyASN1(k, sum[:], sig), coseES256
	case *rsa.PublicKey:
		holds, want = rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil, coseRS256
	case ed25519.PublicKey:
		holds, want = ed25519.Verify(k, text, sig), coseEdDSA
	}
	if !holds || algorithm != want {
		return errSignature
	}
	return nil
}

// CheckRoots reports which roots of attestations can not be read. They are read
// anew for each attestation.
func CheckRoots(list []config.ACMEAttestation) error {
	for _, a := range list {
		if _, err := readRoots(a.Roots); err != nil {
			return fmt.Errorf("%s: %w", a.Manufacturer, err)
		}
	}
	return nil
}

// readRoots reads a manufacturer's roots.
func readRoots(path string) (*x509.CertPool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("roots of attestations: %w", err)
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxRoots+1))
	pool := x509.NewCertPool()
	if err != nil || len(pem) > maxRoots || !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("roots of attestations: %s holds no certificate, or more than %d bytes", path, maxRoots)
	}
	return pool, nil
}
