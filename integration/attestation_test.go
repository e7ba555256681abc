package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/crypto/acme"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestADeviceComesWithAKeyThatItsHardwareAttests: Go's ACME client with a PIV
// token that is simulated enrols a device and renews it, the certificate opens the
// device's listener, and policies see that the key is in hardware. A token of
// another serial number brings nothing.
func TestADeviceComesWithAKeyThatItsHardwareAttests(t *testing.T) {
	t.Parallel()
	root, rootKey := attestationRoot(t)
	h := &enrolling{rig.New(t), t, rig.FreeAddr(t)}
	h.Write("maker.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})))
	h.Configure(simple(t) + fmt.Sprintf(
		"enrolment: {address: %q, hosts: [localhost], limits: {requests: 1200}, acme: {attestation: [{manufacturer: Example Devices, formats: [step], roots: maker.pem}]}}\n", h.addr))
	h.Start()
	h.Write("assets.csv", "id,class,manufacturer,serial\nmonitor-1,patient-monitor,Example Devices,88123\n")
	h.Must("device", "import", "assets.csv")
	// This hospital wants keys in hardware.
	h.Write("policies/hardware.rego", `package anteroom.authz

deny contains "the key is not in hardware" if input.device.cert.hardware_backed == false
`)
	a := h.account("monitor-1")
	mac, err := base64.RawURLEncoding.DecodeString(a.HMACKey)
	if err != nil {
		t.Fatal(err)
	}
	c := &acme.Client{Key: ecKey(t), DirectoryURL: a.Directory, HTTPClient: h.client()}
	if _, err := c.Register(t.Context(), &acme.Account{ExternalAccountBinding: &acme.ExternalAccountBinding{KID: a.KeyID, Key: mac}}, acme.AcceptTOS); err != nil {
		t.Fatal(err)
	}
	// obtain orders a certificate with a token of a serial number.
	obtain := func(serial int) (*rig.Device, error) {
		t.Helper()
		key := ecKey(t)
		o, err := c.AuthorizeOrder(t.Context(), []acme.AuthzID{{Type: "permanent-identifier", Value: "88123"}})
		if err != nil {
			return nil, err
		}
		z, err := c.GetAuthorization(t.Context(), o.AuthzURLs[0])
		if err != nil {
			return nil, err
		}
		ch := z.Challenges[0]
		thumb, err := acme.JWKThumbprint(c.Key.Public())
		if err != nil {
			return nil, err
		}
		ch.Payload = attestation(t, root, rootKey, key, serial, ch.Token+"."+thumb)
		if _, err := c.Accept(t.Context(), ch); err != nil {
			return nil, err
		}
		if _, err := c.WaitAuthorization(t.Context(), o.AuthzURLs[0]); err != nil {
			return nil, err
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "88123"}}, key)
		if err != nil {
			return nil, err
		}
		der, _, err := c.CreateOrderCert(t.Context(), o.FinalizeURL, csr, true)
		if err != nil {
			return nil, err
		}
		return &rig.Device{ID: "monitor-1", Pair: tls.Certificate{Certificate: der, PrivateKey: key}}, nil
	}
	if _, err := obtain(88124); err == nil || !strings.Contains(fmt.Sprint(err), "badAttestationStatement") && !strings.Contains(fmt.Sprint(err), "invalid") {
		t.Errorf("a token of another serial number: %v", err)
	}
	h.recorded("enrolment.refused", 1)
	for i := range 2 { // enrolled, and renewed with another key of the account
		if i == 1 {
			if err := c.AccountKeyRollover(t.Context(), ecKey(t)); err != nil {
				t.Fatal(err)
			}
		}
		d, err := obtain(88123)
		if err != nil {
			t.Fatal(err)
		}
		rig.Eventually(t, "an answer to the device", func() bool {
			return post(h.Client(d), h.URL("/fhir/Observation")) == http.StatusCreated
		})
	}
	other := h.Enroll("monitor-2", "patient-monitor")
	rig.Eventually(t, "the policy that wants hardware", func() bool {
		return post(h.Client(other), h.URL("/fhir/Observation")) == http.StatusForbidden
	})
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// attestationRoot is a maker's CA for attestations.
func attestationRoot(t *testing.T) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key := ecKey(t)
	in := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Devices Attestation"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, in, in, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// attestation is what a PIV token of a serial number says of a key in it, as
// smallstep's client sends it.
func attestation(t *testing.T, root *x509.Certificate, rootKey, key crypto.Signer, serial int, authorization string) json.RawMessage {
	t.Helper()
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	leaf := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "PIV Attestation 9a"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}, Value: must(asn1.Marshal(serial))},
		}}, root, key.Public(), rootKey))
	sum := sha256.Sum256([]byte(authorization))
	sig := must(key.Sign(rand.Reader, sum[:], crypto.SHA256))
	obj := must(cbor.Marshal(map[string]any{"fmt": "step", "attStmt": map[string]any{"alg": -7, "sig": must(cbor.Marshal(sig)), "x5c": [][]byte{leaf}}}))
	return must(json.Marshal(map[string]string{"attObj": base64.RawURLEncoding.EncodeToString(obj)}))
}
