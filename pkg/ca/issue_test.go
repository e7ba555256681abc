package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func csrFrom(t testing.TB, kind KeyKind, template *x509.CertificateRequest) *x509.CertificateRequest {
	t.Helper()
	key, err := GenerateKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func extension(t testing.TB, id asn1.ObjectIdentifier, value any) pkix.Extension {
	t.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: id, Critical: true, Value: der}
}

var (
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidServerAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
)

// greedyRequests ask for what a device must not have.
func greedyRequests(t testing.TB) map[string]*x509.CertificateRequest {
	type basicConstraints struct {
		IsCA bool `asn1:"optional"`
	}
	return map[string]*x509.CertificateRequest{
		"nothing": {},
		"other names": {
			DNSNames:       []string{"gateway.hospital.example", "*.hospital.example"},
			EmailAddresses: []string{"root@hospital.example"},
			IPAddresses:    []net.IP{net.IPv4(10, 0, 0, 1)},
			URIs: []*url.URL{
				mustURL(t, "spiffe://hospital.example/device/pump-2"), mustURL(t, "spiffe://hospital.example/operator/root"),
			},
		},
		"another device's subject": {Subject: pkix.Name{CommonName: "pump-2", Organization: []string{"Evil"}}},
		"huge subject":             {Subject: pkix.Name{CommonName: strings.Repeat("x", 8000)}},
		"template in subject":      {Subject: pkix.Name{CommonName: `", "isCA": true, {{ fail "x" }} \u0000`}},
		"CA": {ExtraExtensions: []pkix.Extension{
			extension(t, oidBasicConstraints, basicConstraints{IsCA: true}),
			extension(t, oidKeyUsage, asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}),
		}},
		"server authentication": {ExtraExtensions: []pkix.Extension{
			extension(t, oidExtKeyUsage, []asn1.ObjectIdentifier{oidServerAuth}),
		}},
		"unknown critical extension": {ExtraExtensions: []pkix.Extension{
			extension(t, asn1.ObjectIdentifier{1, 2, 3, 4, 5}, "hello"),
		}},
	}
}

func TestDeviceProfileIsForced(t *testing.T) {
	a := openCA(t, newCA(t))
	for name, template := range greedyRequests(t) {
		for _, kind := range []KeyKind{P256, RSA2048} {
			t.Run(name+"/"+string(kind), func(t *testing.T) {
				issued, err := a.Issue(t.Context(), Request{
					Profile: Device, ID: "pump-1", CSR: csrFrom(t, kind, template), TTL: time.Hour,
				})
				if err != nil {
					t.Fatal(err)
				}
				checkDevice(t, a, issued)
			})
		}
	}
}

func checkDevice(t *testing.T, a *Authority, issued *Issued) {
	t.Helper()
	leaf := issued.Leaf
	switch {
	case len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://hospital.example/device/pump-1":
		t.Errorf("URIs %v", leaf.URIs)
	case len(leaf.DNSNames)+len(leaf.EmailAddresses)+len(leaf.IPAddresses) != 0:
		t.Errorf("other names: %v %v %v", leaf.DNSNames, leaf.EmailAddresses, leaf.IPAddresses)
	case leaf.Subject.String() != "CN=pump-1,O=Example Hospital":
		t.Errorf("subject %s", leaf.Subject)
	case leaf.IsCA || !leaf.BasicConstraintsValid:
		t.Error("basic constraints")
	case leaf.KeyUsage != x509.KeyUsageDigitalSignature:
		t.Errorf("key usage %b", leaf.KeyUsage)
	case len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(leaf.UnknownExtKeyUsage) != 0:
		t.Errorf("extended key usage %v", leaf.ExtKeyUsage)
	case len(leaf.Extensions) != 6: // KU, EKU, BC, SKI, AKI, SAN
		t.Errorf("%d extensions", len(leaf.Extensions))
	case leaf.SerialNumber.BitLen() < 64:
		t.Errorf("serial %v", leaf.SerialNumber)
	}
	if id, err := a.VerifyDevice(leaf, time.Now()); err != nil || id != "pump-1" {
		t.Errorf("VerifyDevice: %q, %v", id, err)
	}
	if _, err := OperatorName(leaf, testDomain); err == nil {
		t.Error("a device passes for an operator")
	}
	text, err := openssl(t, "x509", "-noout", "-text", "-in", writeFile(t, "leaf.crt", issued.ChainPEM))
	if err != nil {
		t.Fatal(err, text)
	}
	for _, want := range []string{
		"X509v3 Subject Alternative Name: \n                URI:spiffe://hospital.example/device/pump-1\n",
		"X509v3 Extended Key Usage: \n                TLS Web Client Authentication\n",
		"X509v3 Basic Constraints: critical\n                CA:FALSE\n",
		"X509v3 Key Usage: critical\n                Digital Signature\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl does not print %q but:\n%s", want, text)
		}
	}
	roots := writeFile(t, "root.crt", a.RootsPEM())
	chain := writeFile(t, "chain.crt", issued.ChainPEM)
	if out, err := openssl(t, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", roots, "-untrusted", chain, chain); err != nil {
		t.Errorf("openssl verify: %v %s", err, out)
	}
	if _, err := openssl(t, "verify", "-purpose", "sslserver", "-CAfile", roots, "-untrusted", chain, chain); err == nil {
		t.Error("openssl takes a device for a server")
	}
}

func TestKeyIdentifiers(t *testing.T) {
	a := openCA(t, newCA(t))
	r := device1(t, P256)
	issued, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	// The key of the BIT STRING: an uncompressed point, without its header.
	point := r.CSR.RawSubjectPublicKeyInfo[len(r.CSR.RawSubjectPublicKeyInfo)-65:]
	if sum := sha256.Sum256(point); !bytes.Equal(issued.Leaf.SubjectKeyId, sum[:20]) {
		t.Errorf("subject key identifier %x, want %x", issued.Leaf.SubjectKeyId, sum[:20])
	}
	for child, parent := range map[*x509.Certificate]*x509.Certificate{
		issued.Leaf: a.Intermediates()[0], a.Intermediates()[0]: a.Roots()[0],
	} {
		if len(parent.SubjectKeyId) != 20 || !bytes.Equal(child.AuthorityKeyId, parent.SubjectKeyId) {
			t.Errorf("%s names key %x, its issuer %x", child.Subject, child.AuthorityKeyId, parent.SubjectKeyId)
		}
	}
}

func TestIssueOperator(t *testing.T) {
	a := openCA(t, newCA(t))
	_, csr, err := NewKeyAndCSR(P256, "ada")
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.Issue(t.Context(), Request{Profile: Operator, ID: "ada", CSR: csr, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if name, err := a.VerifyOperator(issued.Leaf, time.Now()); err != nil || name != "ada" {
		t.Errorf("%q, %v", name, err)
	}
	if id, err := a.VerifyDevice(issued.Leaf, time.Now()); err == nil {
		t.Errorf("an operator passes for device %q", id)
	}
}

func TestIssueServer(t *testing.T) {
	a := openCA(t, newCA(t))
	_, csr, err := NewKeyAndCSR(P256, "")
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.Issue(t.Context(), Request{
		Profile: Server, CSR: csr, TTL: 30 * 24 * time.Hour,
		Names: []string{"Gateway.hospital.example", "10.0.0.1", "2001:DB8::1", "gateway.hospital.example", "::ffff:10.0.0.1", "gw_1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	leaf := issued.Leaf
	roots, inter := a.Pool()
	for _, name := range []string{"gateway.hospital.example", "10.0.0.1", "2001:db8::1", "gw_1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, DNSName: name}); err != nil {
			t.Error(err)
		}
	}
	if len(leaf.DNSNames) != 2 || len(leaf.IPAddresses) != 2 || len(leaf.URIs) != 0 {
		t.Errorf("names %v %v %v", leaf.DNSNames, leaf.IPAddresses, leaf.URIs)
	}
	if leaf.Subject.CommonName != "gateway.hospital.example" {
		t.Errorf("subject %s", leaf.Subject)
	}
	if _, err := a.VerifyDevice(leaf, time.Now()); err == nil {
		t.Error("the gateway passes for a device")
	}
	if len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("extended key usage %v", leaf.ExtKeyUsage)
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("key usage %b", leaf.KeyUsage)
	}
	_, csrRSA, err := NewKeyAndCSR(RSA2048, "")
	if err != nil {
		t.Fatal(err)
	}
	if issued, err = a.Issue(t.Context(), Request{Profile: Server, CSR: csrRSA, TTL: time.Hour, Names: []string{"gateway"}}); err != nil {
		t.Fatal(err)
	} else if issued.Leaf.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment {
		t.Errorf("key usage %b", issued.Leaf.KeyUsage)
	}
	long := strings.Repeat("a", 60) + ".hospital.example"
	if issued, err = a.Issue(t.Context(), Request{Profile: Server, CSR: csr, TTL: time.Hour, Names: []string{long}}); err != nil {
		t.Fatal(err)
	} else if issued.Leaf.Subject.CommonName != "" {
		t.Errorf("subject %s", issued.Leaf.Subject)
	}
}

func TestIssueRefusesRequests(t *testing.T) {
	a := openCA(t, newCA(t))
	good := device1(t, P256).CSR
	changed := func(f func(*Request)) Request {
		r := Request{Profile: Device, ID: "pump-1", CSR: good, TTL: time.Hour}
		f(&r)
		return r
	}
	server := func(names ...string) Request {
		return changed(func(r *Request) { r.Profile, r.ID, r.Names = Server, "", names })
	}
	for want, r := range map[string]Request{
		"no such profile":                changed(func(r *Request) { r.Profile = 0 }),
		"needs 1 to 64":                  changed(func(r *Request) { r.ID = "" }),
		"after the first character":      changed(func(r *Request) { r.ID = "../pump" }),
		"only a-z, 0-9":                  changed(func(r *Request) { r.ID = "pump/1" }),
		"follows the rule of device ids": changed(func(r *Request) { r.Profile, r.ID = Operator, "Ada" }),
		"has no names but its":           changed(func(r *Request) { r.Names = []string{"x"} }),
		"shorter than":                   changed(func(r *Request) { r.TTL = 0 }),
		"shorter than 1s":                changed(func(r *Request) { r.TTL = -time.Hour }),
		"not parsed":                     changed(func(r *Request) { r.CSR = &x509.CertificateRequest{} }),
		"refused: it was":                changed(func(r *Request) { r.CSR = nil }),
		"needs a name":                   server(),
		"and no id":                      changed(func(r *Request) { r.Profile, r.Names = Server, []string{"x"} }),
		`"*": only`:                      server("*.hospital.example"),
		"empty label":                    server("a..b"),
		"neither an IP address":          server("10.0.0.300"),
		"has no zone":                    server("fe80::1%eth0"),
		"at most 100":                    server(strings.Split(strings.Repeat("x,", 100)+"x", ",")...),
		`server certificate for ["a b"]`: server("a b"),
	} {
		issued, err := a.Issue(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), want) || issued != nil {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestFieldsOfARequestDoNotOverrideItsBytes(t *testing.T) {
	a := openCA(t, newCA(t))
	forged := *device1(t, P256).CSR
	stranger, err := GenerateKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	forged.PublicKey = stranger.Public()
	issued, err := a.Issue(t.Context(), Request{Profile: Device, ID: "pump-1", CSR: &forged, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if issued.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(stranger.Public()) {
		t.Error("issued for a key that signed nothing")
	}
}

func TestCSRChecks(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := func(key any) []byte {
		out, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	good := device1(t, P256).CSR.Raw
	broken := append([]byte(nil), good...)
	broken[len(broken)-1] ^= 1
	big := csrFrom(t, P256, &x509.CertificateRequest{Subject: pkix.Name{CommonName: strings.Repeat("x", MaxCSR)}}).Raw
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"weak RSA":          {der(weak), "RSA key of 1024 bits"},
		"P-521":             {der(p521), "ECDSA key on P-521"},
		"broken signature":  {broken, "does not verify"},
		"SHA-1":             {readPEM(t, sha1CSR), "SHA1-RSA, which is not secure"},
		"MD5":               {readPEM(t, md5CSR), "MD5-RSA, which is not secure"},
		"too big":           {big, "larger than 16384"},
		"much too big":      {make([]byte, 1<<20), "larger than 16384"},
		"not DER":           {[]byte("hello"), "malformed"},
		"trailing data":     {append(good[:len(good):len(good)], 0), "malformed"},
		"damaged PEM":       {[]byte("-----BEGIN CERTIFICATE REQUEST-----\nxx"), "damaged PEM"},
		"a certificate":     {[]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"), `is a "CERTIFICATE"`},
		"PEM and more data": {append(csrPEM(good), "more"...), "more data"},
		"empty":             {nil, "malformed"},
	} {
		csr, err := ParseCSR(test.data)
		if !errors.Is(err, ErrCSR) || !strings.Contains(err.Error(), test.want) || csr != nil {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
	for _, kind := range []KeyKind{P256, P384, Ed25519, RSA2048, RSA3072} {
		raw := device1(t, kind).CSR.Raw
		for _, form := range [][]byte{raw, csrPEM(raw), append([]byte("\n  "), csrPEM(raw)...)} {
			if _, err := ParseCSR(form); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}

func TestValidity(t *testing.T) {
	dir := newCA(t)
	now := time.Now().Add(time.Hour).Truncate(time.Second).Add(123456789 * time.Nanosecond)
	a := openCA(t, dir, func(c *Config) { c.Clock = func() time.Time { return now } })
	r := device1(t, P256)
	r.TTL = 36*time.Hour + 700*time.Millisecond
	issued, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	second := now.UTC().Truncate(time.Second)
	if got, want := issued.Leaf.NotBefore, second.Add(-24*time.Hour); !got.Equal(want) {
		t.Errorf("not before %v, want %v", got, want)
	}
	if got, want := issued.Leaf.NotAfter, second.Add(36*time.Hour); !got.Equal(want) {
		t.Errorf("not after %v, want %v", got, want)
	}
	if issued.CutShort {
		t.Error("said to be cut short")
	}

	end := a.Intermediates()[0].NotAfter
	r.TTL = 10 * 365 * 24 * time.Hour
	if issued, err = a.Issue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if !issued.Leaf.NotAfter.Equal(end) || !issued.CutShort {
		t.Errorf("not after %v, want the intermediate's %v; cut short: %v", issued.Leaf.NotAfter, end, issued.CutShort)
	}
	for _, now = range []time.Time{end, end.AddDate(1, 0, 0), end.AddDate(-10, 0, 0)} {
		if _, err = a.Issue(t.Context(), r); !errors.Is(err, ErrIntermediateEnded) {
			t.Errorf("at %v: %v", now, err)
		}
	}
	// Back-dated past the CA's own beginning, which a strict verifier dislikes.
	now = a.Intermediates()[0].NotBefore.Add(time.Minute)
	if issued, err = a.Issue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if issued.Leaf.NotBefore.Before(a.Intermediates()[0].NotBefore) {
		t.Error("older than its CA")
	}
}

func TestIssueRespectsContextAndClose(t *testing.T) {
	a := openCA(t, newCA(t))
	r := device1(t, P256)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Issue(ctx, r); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(t.Context(), r); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := a.Revoke(t.Context(), "1", ""); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := a.IsRevoked("1"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
