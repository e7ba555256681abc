package enrol

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math/big"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TestRefusalsQuoteNothingThatADeviceSent: what parsers and verifiers say of a
// request may hold its bytes, and is not repeated. Whoever chooses them would write
// into the log; and they may be a patient's name.
func TestRefusalsQuoteNothingThatADeviceSent(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	a := newFactory(t, "Acme")
	m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a)})
	const text = "Jane Roe"

	key := newKey(t, ca.P256)
	names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte("spiffe://%zz/" + text)}})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Value: names}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: strings.ToUpper(text), Bytes: csr})

	between := authority("Acme", 0)
	between.Subject.CommonName = text
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rogue := (*factory)(nil).makes(t, between, weak)
	limited := authority("Acme", 0)
	limited.PermittedDNSDomains, limited.PermittedDNSDomainsCritical = []string{"jane-roe.example"}, true
	mid := a.makes(t, limited)
	named := idevid("1")
	named.DNSNames = []string{"jane-roe.test"}

	for what, ask := range map[string]func() (*Issued, error){
		"a name that can not be read": func() (*Issued, error) { return d.by(d.token("pump-1"), csr) },
		"the kind of a PEM block":     func() (*Issued, error) { return d.by(d.token("pump-1"), block) },
		"a CA nobody knows":           func() (*Issued, error) { return d.with(m, rogue.makes(t, idevid("1")), csr, rogue) },
		"a name that is not allowed":  func() (*Issued, error) { return d.with(m, mid.makes(t, named), csr, mid) },
	} {
		_, err := ask()
		why := ""
		if r, ok := err.(*Refusal); ok {
			why = strings.ToLower(r.Why + " " + r.Told())
		}
		if why == "" || strings.Contains(why, "jane") || strings.Contains(why, "roe") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// absurd is a key that nobody has, and that takes seconds to verify with.
type absurd struct{ key *rsa.PublicKey }

func (k absurd) Public() crypto.PublicKey { return k.key }

func (absurd) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, io.EOF }

// TestAnAbsurdKeyIsNotVerifiedWith: a stranger's certificate may name a CA beside
// it whose key has a hundred thousand bits, and each try with that would keep a
// core busy for seconds.
func TestAnAbsurdKeyIsNotVerifiedWith(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	a := newFactory(t, "Acme")
	m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a)})
	d.made("pump-1", "Acme", "P1", "1")
	huge := &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int).SetBit(new(big.Int), 100_000, 1), 0, 1), E: 65537}
	mid := a.makes(t, authority("Acme absurd", 0), absurd{huge})
	_, err := d.with(m, a.makes(t, idevid("1")), request(t, newKey(t, ca.P256), ""), mid)
	if r := refused(t, "a CA's key of 100,000 bits", err, BadProof); !strings.Contains(r.Why, "100001 bits") {
		t.Error(r.Why)
	}
}
