package revocation

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/asn1"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// A shape is a request that a test writes.
type shape struct {
	n        int // certificates
	hash     asn1.ObjectIdentifier
	serial   []byte
	nonce    []byte // in its OCTET STRING; nil for none
	bare     bool   // the nonce is not in an OCTET STRING of its own
	twice    bool
	critical asn1.ObjectIdentifier
	version  int64
}

func (s shape) der(t testing.TB) []byte {
	t.Helper()
	name := sha256.Sum256([]byte("name"))
	if s.hash == nil {
		s.hash = oidSHA256
	}
	if s.serial == nil {
		s.serial = []byte{7}
	}
	var b cryptobyte.Builder
	seq := func(c *cryptobyte.Builder, f func(*cryptobyte.Builder)) { c.AddASN1(casn1.SEQUENCE, f) }
	seq(&b, func(c *cryptobyte.Builder) {
		seq(c, func(c *cryptobyte.Builder) {
			if s.version != 0 {
				c.AddASN1(explicit(0), func(c *cryptobyte.Builder) { c.AddASN1Int64(s.version) })
			}
			seq(c, func(c *cryptobyte.Builder) {
				for range s.n {
					seq(c, func(c *cryptobyte.Builder) {
						seq(c, func(c *cryptobyte.Builder) {
							seq(c, func(c *cryptobyte.Builder) { c.AddASN1ObjectIdentifier(s.hash); c.AddASN1NULL() })
							c.AddASN1OctetString(name[:])
							c.AddASN1OctetString(name[:])
							c.AddASN1(casn1.INTEGER, func(c *cryptobyte.Builder) { c.AddBytes(s.serial) })
						})
					})
				}
			})
			if s.nonce == nil && s.critical == nil {
				return
			}
			c.AddASN1(explicit(2), func(c *cryptobyte.Builder) {
				seq(c, func(c *cryptobyte.Builder) {
					add := func() {
						seq(c, func(c *cryptobyte.Builder) {
							c.AddASN1ObjectIdentifier(oidNonce)
							c.AddASN1(casn1.OCTET_STRING, func(c *cryptobyte.Builder) {
								if s.bare {
									c.AddBytes(s.nonce)
								} else {
									c.AddASN1OctetString(s.nonce)
								}
							})
						})
					}
					if s.nonce != nil {
						add()
					}
					if s.twice {
						add()
					}
					if s.critical != nil {
						seq(c, func(c *cryptobyte.Builder) {
							c.AddASN1ObjectIdentifier(s.critical)
							c.AddASN1Boolean(true)
							c.AddASN1OctetString([]byte{4, 1, 1})
						})
					}
				})
			})
		})
	})
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWhatIsAnOCSPRequest(t *testing.T) {
	for name, c := range map[string]struct {
		shape
		good bool
	}{
		"one certificate":                {shape{n: 1}, true},
		"as many as may be":              {shape{n: maxAsked}, true},
		"one more":                       {shape{n: maxAsked + 1}, false},
		"none":                           {shape{}, false},
		"a hash that is not known":       {shape{n: 1, hash: asn1.ObjectIdentifier{1, 2, 3}}, true},
		"a nonce of one octet":           {shape{n: 1, nonce: []byte{1}}, true},
		"a nonce of 128":                 {shape{n: 1, nonce: make([]byte, 128)}, true},
		"a nonce of 129":                 {shape{n: 1, nonce: make([]byte, 129)}, false},
		"a nonce of nothing":             {shape{n: 1, nonce: []byte{}}, false},
		"a nonce without its tag":        {shape{n: 1, nonce: make([]byte, 16), bare: true}, false},
		"two nonces":                     {shape{n: 1, nonce: []byte{1}, twice: true}, false},
		"a critical extension, unknown":  {shape{n: 1, critical: asn1.ObjectIdentifier{1, 2, 3}}, false},
		"a critical nonce":               {shape{n: 1, critical: oidNonce}, true},
		"version 2":                      {shape{n: 1, version: 1}, false},
		"a serial number that is padded": {shape{n: 1, serial: []byte{0, 1}}, false},
	} {
		r, err := parseRequest(c.der(t))
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err == nil && (len(r.asked) != c.n || !bytes.Equal(r.nonce, c.nonce) && c.critical == nil) {
			t.Errorf("%s: %d certificates, nonce %x", name, len(r.asked), r.nonce)
		}
	}
	good := shape{n: 1}.der(t)
	for i := range good {
		if _, err := parseRequest(good[:i]); err == nil {
			t.Errorf("the first %d bytes are a request", i)
		}
	}
	if _, err := parseRequest(append(bytes.Clone(good), 0)); err == nil {
		t.Error("what is behind a request is passed over")
	}
}

func TestSerialNumbersThatNoCertificateHas(t *testing.T) {
	for _, serial := range [][]byte{{0}, {0xff}, append([]byte{1}, make([]byte, 20)...)} {
		r, err := parseRequest(shape{n: 1, serial: serial}.der(t))
		if err != nil || r.asked[0].serial != "" {
			t.Errorf("%x: %+v %v", serial, r, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, s := range []shape{{n: 1}, {n: 2, nonce: make([]byte, 32)}, {n: 1, critical: oidNonce}, {n: 1, hash: oidSHA1, serial: []byte{0x7f, 1}}} {
		f.Add(s.der(f))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		r, err := parseRequest(der)
		other, otherErr := ocsp.ParseRequest(der)
		if err != nil {
			return
		}
		if len(r.asked) == 0 || len(r.asked) > maxAsked || len(r.nonce) > maxNonce {
			t.Fatalf("%d certificates, a nonce of %d", len(r.asked), len(r.nonce))
		}
		// Who reads only the first reads the same.
		first := &r.asked[0]
		if otherErr != nil || first.hash == 0 || first.serial == "" {
			return
		}
		if other.HashAlgorithm != crypto.Hash(first.hash) || !bytes.Equal(other.IssuerNameHash, first.issuer.name) ||
			!bytes.Equal(other.IssuerKeyHash, first.issuer.key) || other.SerialNumber.String() != first.serial {
			t.Errorf("%x: another reads %+v, we %+v", der, other, first)
		}
	})
}
