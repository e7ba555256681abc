package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

var nameKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

type san struct {
	tag   int
	value string
}

// withSANs returns a certificate with exactly these subject alternative names,
// or nil if crypto/x509 refuses to read it back, as it then would in a
// handshake.
func withSANs(t testing.TB, names ...san) *x509.Certificate {
	t.Helper()
	var raw []asn1.RawValue
	for _, n := range names {
		raw = append(raw, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: n.tag, IsCompound: n.tag == 0 || n.tag == 4, Bytes: []byte(n.value)})
	}
	value, err := asn1.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<31, 0),
		ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Value: value}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, nameKey().Public(), nameKey())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	return cert
}

const tagURIName = 6

func TestDeviceID(t *testing.T) {
	for _, id := range []string{"a", "7", "pump-0042", "a.b_c-d", strings.Repeat("x", 64), "a."} {
		cert := withSANs(t, san{tagURIName, DeviceURI(testDomain, id).String()})
		if got, err := DeviceID(cert, testDomain); err != nil || got != id {
			t.Errorf("%s: got %q, %v", id, got, err)
		}
		if got, err := OperatorName(cert, testDomain); err == nil {
			t.Errorf("device %s passes for operator %q", id, got)
		}
	}
	cert := withSANs(t, san{tagURIName, OperatorURI(testDomain, "ada").String()})
	if got, err := OperatorName(cert, testDomain); err != nil || got != "ada" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestDeviceIDRefusesOtherSpellings(t *testing.T) {
	for _, uri := range []string{
		"", "spiffe:", "spiffe://", "spiffe://hospital.example", "spiffe://hospital.example/",
		"spiffe://hospital.example/device", "spiffe://hospital.example/device/",
		"spiffe://hospital.example/operator/pump-1",
		"spiffe://hospital.example/devices/pump-1",
		"SPIFFE://hospital.example/device/pump-1", "Spiffe://hospital.example/device/pump-1",
		"https://hospital.example/device/pump-1",
		"spiffe://Hospital.example/device/pump-1", "spiffe://HOSPITAL.EXAMPLE/device/pump-1",
		"spiffe://hospital.example./device/pump-1",
		"spiffe://hospital.example:443/device/pump-1", "spiffe://hospital.example:/device/pump-1",
		"spiffe://user@hospital.example/device/pump-1", "spiffe://user:pw@hospital.example/device/pump-1",
		"spiffe://x.hospital.example/device/pump-1", "spiffe://hospital.example.evil/device/pump-1",
		"spiffe://hospital.exampl/device/pump-1", "spiffe://other.example/device/pump-1",
		"spiffe://hospital.example/Device/pump-1", "spiffe://hospital.example/device/Pump-1",
		"spiffe://hospital.example//device/pump-1", "spiffe://hospital.example/device//pump-1",
		"spiffe://hospital.example/./device/pump-1", "spiffe://hospital.example/x/../device/pump-1",
		"spiffe://hospital.example/device/pump-1/", "spiffe://hospital.example/device/pump-1/x",
		"spiffe://hospital.example/device/..", "spiffe://hospital.example/device/a..b",
		"spiffe://hospital.example/device/.a", "spiffe://hospital.example/device/-a", "spiffe://hospital.example/device/_a",
		"spiffe://hospital.example/device/pump-1?", "spiffe://hospital.example/device/pump-1?x=y",
		"spiffe://hospital.example/device/pump-1#", "spiffe://hospital.example/device/pump-1#x",
		"spiffe://hospital.example/device/pump%2d1", "spiffe://hospital.example/device/pump-1%00",
		"spiffe://hospital.example/device/pump-1\x00", "spiffe://hospital.example/device/pump-1 ",
		" spiffe://hospital.example/device/pump-1", "spiffe://hospital.example/device/pümp",
		"spiffe://hospital.example/device/" + strings.Repeat("x", 65),
		"spiffe:hospital.example/device/pump-1", "spiffe:///device/pump-1",
	} {
		cert := withSANs(t, san{tagURIName, uri})
		if cert == nil {
			continue
		}
		if id, err := DeviceID(cert, testDomain); err == nil {
			t.Errorf("%q passes for device %q", uri, id)
		}
	}
}

func TestDeviceIDRefusesOtherNames(t *testing.T) {
	uri := san{tagURIName, DeviceURI(testDomain, "pump-1").String()}
	for name, names := range map[string][]san{
		"none":          {},
		"two":           {uri, uri},
		"second device": {uri, {tagURIName, DeviceURI(testDomain, "pump-2").String()}},
		"DNS beside":    {uri, {2, "pump.hospital.example"}},
		"DNS before":    {{2, "pump.hospital.example"}, uri},
		"DNS instead":   {{2, uri.value}},
		"mail instead":  {{1, uri.value}},
		"IP beside":     {uri, {7, "\x0a\x00\x00\x01"}},
		"mail beside":   {uri, {1, "a@hospital.example"}},
		// Types crypto/x509 passes over in silence.
		"otherName beside":     {uri, {0, "\x06\x03\x2a\x03\x04\xa0\x03\x0c\x01x"}},
		"directoryName beside": {uri, {4, "\x30\x00"}},
		"registeredID beside":  {uri, {8, "\x2a\x03\x04"}},
	} {
		cert := withSANs(t, names...)
		if cert == nil {
			continue
		}
		if id, err := DeviceID(cert, testDomain); err == nil {
			t.Errorf("%s: passes for %q", name, id)
		}
	}
	good := withSANs(t, uri)
	for i, ext := range good.Extensions {
		if ext.Id.Equal(oidSubjectAltName) {
			value := append(ext.Value[:len(ext.Value):len(ext.Value)], 0)
			for name, list := range map[string][]pkix.Extension{
				"trailing byte":  {{Id: oidSubjectAltName, Value: value}},
				"two extensions": {good.Extensions[i], good.Extensions[i]},
			} {
				if id, err := DeviceID(&x509.Certificate{Extensions: list}, testDomain); err == nil {
					t.Errorf("%s: passes for %q", name, id)
				}
			}
		}
	}
	if _, err := DeviceID(&x509.Certificate{}, testDomain); err == nil {
		t.Error("a certificate without extensions passes")
	}
	if _, err := DeviceID(withSANs(t, san{tagURIName, "spiffe:///device/pump-1"}), ""); err == nil {
		t.Error("an empty trust domain matches")
	}
}

func FuzzDeviceID(f *testing.F) {
	marshal := func(names ...san) []byte { return withSANs(f, names...).Extensions[0].Value }
	f.Add(marshal(san{tagURIName, "spiffe://hospital.example/device/pump-1"}))
	f.Add(marshal(san{tagURIName, "spiffe://hospital.example/operator/ada"}, san{2, "a.example"}))
	f.Add([]byte{0x30, 0x80, 0x86, 0x00, 0x00, 0x00})
	f.Fuzz(func(t *testing.T, ext []byte) {
		cert := &x509.Certificate{Extensions: []pkix.Extension{{Id: oidSubjectAltName, Value: ext}}}
		id, err := DeviceID(cert, testDomain)
		if err != nil {
			return
		}
		// What is accepted is, byte for byte, what Issue writes for that id.
		want, err := asn1.Marshal([]asn1.RawValue{{
			Class: asn1.ClassContextSpecific, Tag: tagURIName, Bytes: []byte(DeviceURI(testDomain, id).String()),
		}})
		if err != nil {
			t.Fatal(err)
		}
		if string(want) != string(ext) {
			t.Fatalf("%x passes for %q, whose one spelling is %x", ext, id, want)
		}
		if device.ValidID(id) != nil {
			t.Fatalf("id %q", id)
		}
	})
}

func TestValidTrustDomain(t *testing.T) {
	for _, s := range []string{"hospital.example", "a", "a-b.c1", strings.Repeat("a", 63) + ".x", "xn--e1afmkfd.example"} {
		if err := ValidTrustDomain(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{
		"", ".", "a.", ".a", "a..b", "Hospital.example", "a_b", "-a", "a-", "10.0.0.1", "a.1", "a/b", "a:1", "a b",
		"a@b", "spiffe://a", strings.Repeat("a", 64), strings.Repeat("a.", 130) + "a", "hôpital.example",
	} {
		if err := ValidTrustDomain(s); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}
