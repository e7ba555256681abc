package scep

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/town"
)

func TestADeviceEnrolsAndRenewsBySCEP(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "")
	token := d.token("pump-1", "infusion-pump")
	c := d.client(0)
	msg := c.message(pkcsReq, c.seal(c.csr("pump-1", token)))
	first := c.send(msg)
	if first.status != success || first.leaf == nil || !c.key.PublicKey.Equal(first.leaf.PublicKey) || len(first.leaf.URIs) != 1 || first.leaf.URIs[0].String() != "spiffe://"+domain+"/device/pump-1" {
		t.Fatalf("%+v", first)
	}
	// Sent again, by the device or by who has seen it, it brings the same.
	if again := c.send(msg); again.status != success || !again.leaf.Equal(first.leaf) {
		t.Errorf("the same message again: %+v", again)
	}
	// GET, with either alphabet of base64.
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		if status, body, head := d.get("operation=PKIOperation&message=" + url.QueryEscape(enc.EncodeToString(msg))); status != http.StatusOK || head.Get("Content-Type") != "application/x-pki-message" || len(body) < 1000 {
			t.Errorf("GET: %d %s", status, body)
		}
	}
	// Renewal with the same key and with another.
	c.cert = first.leaf
	renewal := c.message(renewalReq, c.seal(c.csr("pump-1", "")))
	second := c.send(renewal)
	if second.status != success || second.leaf.Equal(first.leaf) {
		t.Fatalf("renewal: %+v", second)
	}
	if again := c.send(renewal); again.status != success || !again.leaf.Equal(second.leaf) {
		t.Errorf("the renewal again: %+v", again)
	}
	next := d.client(1)
	rekey := c.send(c.message(renewalReq, c.seal(next.csr("pump-1", ""))))
	if rekey.status != success || !next.key.PublicKey.Equal(rekey.leaf.PublicKey) {
		t.Fatalf("renewal with another key: %+v", rekey)
	}
	if rec, _ := d.devices.Get("pump-1"); rec.Status != device.Active || len(rec.Certificates) != 3 || rec.Certificates[2].Way != "scep" {
		t.Errorf("%+v", rec)
	}
	// AES with longer keys, SHA-384 and SHA-512.
	for i, hash := range []crypto.Hash{crypto.SHA384, crypto.SHA512} {
		c := d.client(1)
		c.cert, c.hash, c.how = rekey.leaf, hash, sealings[i+1]
		if got := c.send(c.message(renewalReq, c.seal(c.csr("pump-1", "")))); got.status != success {
			t.Errorf("%v: %+v", hash, got)
		}
	}
	// A revoked one renews no more.
	_, err := d.devices.SetStatus(t.Context(), "pump-1", device.Revoked, "")
	must(t, err)
	if got := c.send(c.message(renewalReq, c.seal(c.csr("pump-1", "")))); got.status != failure || got.failInfo != badMessageCheck || !strings.Contains(got.text, "revoked") {
		t.Errorf("revoked: %+v", got)
	}
}

// TestWhatIsWrongWithAMessageHasOneAnswer: whoever alters what somebody else sent
// can not tell what it decrypts to.
func TestWhatIsWrongWithAMessageHasOneAnswer(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "")
	token := d.token("pump-1", "infusion-pump")
	victim, thief := d.client(0), d.client(1)
	sealed := victim.seal(victim.csr("pump-1", token))
	altered := func(at int) []byte {
		out := bytes.Clone(sealed)
		out[len(out)+at] ^= 1
		return out
	}
	e, err := readEnvelope(sealed, victim.to)
	must(t, err)
	keyAt := bytes.Index(sealed, e.key)
	badKey := bytes.Clone(sealed)
	badKey[keyAt+100] ^= 1
	short := func() []byte { // a ciphertext that is no whole block
		c := *victim
		out, err := seal([]byte("x"), c.to, c.how)
		must(t, err)
		return out
	}()
	elsewhere := *victim
	elsewhere.to = victim.cert
	unsigned := bytes.Clone(victim.message(pkcsReq, sealed))
	unsigned[len(unsigned)-1] ^= 1
	digest := victim.message(pkcsReq, sealed, func(l [][]byte) [][]byte {
		l[1] = attribute(oidMessageDigest, func(b *cryptobyte.Builder) { b.AddASN1OctetString(make([]byte, 32)) })
		return l
	})
	broken := victim.csr("pump-1", token)
	broken[len(broken)-1] ^= 1
	msgs := map[string][]byte{
		"another's envelope in one's own message": thief.message(pkcsReq, sealed),
		"the padding altered":                     thief.message(pkcsReq, altered(-17)),
		"the last block altered":                  thief.message(pkcsReq, altered(-1)),
		"the first block altered":                 thief.message(pkcsReq, altered(-800)),
		"the encrypted key altered":               thief.message(pkcsReq, badKey),
		"hardly any content":                      thief.message(pkcsReq, short),
		"encrypted to somebody else":              victim.message(pkcsReq, elsewhere.seal(victim.csr("pump-1", token))),
		"no envelope":                             victim.message(pkcsReq, []byte("hello")),
		"a request that is none":                  victim.message(pkcsReq, victim.seal([]byte("hello"))),
		"a request that does not hold":            victim.message(pkcsReq, victim.seal(broken)),
		"another key's request":                   victim.message(pkcsReq, victim.seal(thief.csr("pump-1", token))),
		"the signature altered":                   unsigned,
		"a digest of something else":              digest,
	}
	var texts []string
	for what, msg := range msgs {
		got := victim.send(msg)
		text, _, _ := strings.Cut(got.text, " (reference ")
		texts = append(texts, text)
		if got.status != failure || got.failInfo != badMessageCheck {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if slices.Sort(texts); len(slices.Compact(texts)) != 1 {
		t.Errorf("they are answered differently: %q", slices.Compact(texts))
	}
	codes := d.refusals()
	if len(codes) != len(msgs) || slices.ContainsFunc(codes, func(c string) bool { return c != "proof" }) {
		t.Errorf("records: %v", codes)
	}
	// None of it has used the token up.
	if got := victim.send(victim.message(pkcsReq, sealed)); got.status != success {
		t.Errorf("the message itself: %+v", got)
	}
	if rec, _ := d.devices.Get("pump-1"); len(rec.Certificates) != 1 {
		t.Errorf("%d certificates", len(rec.Certificates))
	}
}

func TestRefusalsInSCEPsOwnForm(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "")
	token := d.token("pump-1", "infusion-pump")
	d.token("pump-2", "infusion-pump")
	c := d.client(0)
	weakly := func(f func(c *client)) *client { w := *c; f(&w); return &w }
	sha1 := weakly(func(c *client) { c.hash = crypto.SHA1 })
	des3 := weakly(func(c *client) { c.how = sealings[3] })
	single := weakly(func(c *client) { c.how = sealings[4] })
	small := weakly(func(c *client) {
		k, err := rsa.GenerateKey(rand.Reader, 1024)
		must(t, err)
		c.key = k
		c.cert = c.self()
	})
	for what, tc := range map[string]struct {
		c        *client
		msg      []byte
		failInfo string
		text     string
	}{
		"SHA-1":                         {sha1, sha1.message(pkcsReq, c.seal(c.csr("pump-1", token))), badAlg, "SHA-1"},
		"triple DES":                    {c, c.message(pkcsReq, des3.seal(c.csr("pump-1", token))), badAlg, "AES"},
		"DES":                           {c, c.message(pkcsReq, single.seal(c.csr("pump-1", token))), badAlg, "AES"},
		"a key of 1024 bits":            {small, small.message(pkcsReq, c.seal(small.csr("pump-1", token))), badAlg, "2048 bits"},
		"a wrong token":                 {c, c.message(pkcsReq, c.seal(c.csr("pump-1", strings.Repeat("0", 35)))), badMessageCheck, "the token is not known"},
		"no token":                      {c, c.message(pkcsReq, c.seal(c.csr("pump-1", ""))), badMessageCheck, "not one of a device here"},
		"another device's name":         {c, c.message(pkcsReq, c.seal(c.csr("pump-2", token))), badRequest, "is made out to pump-2"},
		"renewal without a certificate": {c, c.message(renewalReq, c.seal(c.csr("pump-1", token))), badMessageCheck, "not one of a device here"},
		"a poll of nobody":              {c, c.message(certPoll, c.seal([]byte{0x30, 0})), badCertID, "nothing waits"},
		"GetCRL":                        {c, c.message("22", c.seal([]byte{0x30, 0})), badRequest, "none of"},
		"an answer":                     {c, c.message(certRep, c.seal([]byte{0x30, 0})), badRequest, "none of"},
	} {
		got := tc.c.send(tc.msg)
		if got.status != failure || got.failInfo != tc.failInfo || !strings.Contains(got.text, tc.text) || !strings.Contains(got.text, "(reference ") {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if n := len(d.refusals()); n != 11 {
		t.Errorf("%d refusals are recorded", n)
	}
	// What is no message has no answer but HTTP's, and is recorded too.
	good := c.message(pkcsReq, c.seal(c.csr("pump-1", token)))
	cut := func(i int) func(l [][]byte) [][]byte {
		return func(l [][]byte) [][]byte { return slices.Delete(slices.Clone(l), i, i+1) }
	}
	bad := map[string][]byte{
		"nothing":            nil,
		"text":               []byte("hello"),
		"half a message":     good[:len(good)/2],
		"more than one":      append(bytes.Clone(good), good...),
		"an attribute twice": c.message(pkcsReq, nil, func(l [][]byte) [][]byte { return append(l, l[4]) }),
		"without a nonce":    c.message(pkcsReq, nil, cut(4)),
		"without a type":     c.message(pkcsReq, nil, cut(2)),
		"a long transaction": c.message(pkcsReq, nil, func(l [][]byte) [][]byte {
			l[3] = attribute(oidTransactionID, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Repeat([]byte("a"), maxTransaction+1)) })
			})
			return l
		}),
		"an envelope alone": c.seal(nil),
	}
	for what, msg := range bad {
		if got := c.send(msg); got.http != http.StatusBadRequest || !strings.Contains(got.text, "reference") {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if got := c.send(make([]byte, 65<<10)); got.http != http.StatusRequestEntityTooLarge {
		t.Errorf("a large message: %+v", got)
	}
	for query, want := range map[string]int{"operation=PKIOperation&message=%25": 400, "operation=GetNextCACert": 400, "": 400, "operation=GetCACaps&operation=GetCACert": 400, "operation=PKIOperation&message=a&message=b": 400} {
		if status, body, _ := d.get(query); status != want {
			t.Errorf("%q: %d %s", query, status, body)
		}
	}
}

func TestOnlyNamedClassesMayBeWeak(t *testing.T) {
	t.Parallel()
	d := newDesk(t, ", legacy_classes: [glucose-meter]")
	old, modern := d.token("meter-1", "glucose-meter"), d.token("pump-1", "infusion-pump")
	for i, how := range []*sealing{sealings[3], sealings[4]} {
		c := d.client(i)
		c.hash, c.how = crypto.SHA1, how
		if got := c.send(c.message(pkcsReq, c.seal(c.csr("pump-1", modern)))); got.status != failure || got.failInfo != badAlg || !strings.Contains(got.text, "class infusion-pump may not use") {
			t.Errorf("a class that may not: %+v", got)
		}
	}
	c := d.client(0)
	c.hash, c.how = crypto.SHA1, sealings[3]
	got := c.send(c.message(pkcsReq, c.seal(c.csr("meter-1", old))))
	if got.status != success {
		t.Fatalf("a class that may: %+v", got)
	}
	c.cert = got.leaf
	if got := c.send(c.message(renewalReq, c.seal(c.csr("meter-1", "")))); got.status != success {
		t.Errorf("its renewal: %+v", got)
	}
	if seen := d.enrolled("meter-1"); !strings.Contains(seen, `"protection":"legacy"`) {
		t.Errorf("the record: %s", seen)
	}
	// The token of the other is as good as before.
	c = d.client(2)
	if got := c.send(c.message(pkcsReq, c.seal(c.csr("pump-1", modern)))); got.status != success {
		t.Errorf("with AES: %+v", got)
	}
}

func TestADeviceOfAManufacturerPollsUntilItIsApproved(t *testing.T) {
	t.Parallel()
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Acme"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, &root.PublicKey, root)
	must(t, err)
	path := filepath.Join(t.TempDir(), "acme.pem")
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	d := newDesk(t, "", config.Manufacturer{Name: "acme", Anchors: path})
	_, err = d.devices.Create(t.Context(), &device.Record{ID: "pump-1", Class: "infusion-pump", Manufacturer: "Acme", Serial: "S1"})
	must(t, err)
	c := d.client(0)
	in := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{SerialNumber: "S1"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err = x509.CreateCertificate(rand.Reader, in, authority, &c.key.PublicKey, root)
	must(t, err)
	c.cert, err = x509.ParseCertificate(der)
	must(t, err)

	ask := c.message(pkcsReq, c.seal(c.csr("", "")))
	poll := c.message(certPoll, c.seal([]byte{0x30, 0}))
	for _, msg := range [][]byte{ask, poll, poll} {
		if got := c.send(msg); got.status != pending || got.failInfo != "" {
			t.Fatalf("before the approval: %+v", got)
		}
	}
	rec, _ := d.devices.Get("pump-1")
	_, _, err = d.new.Approve(t.Context(), rec, "jane", false)
	must(t, err)
	got := c.send(poll)
	if got.status != success || !c.key.PublicKey.Equal(got.leaf.PublicKey) {
		t.Fatalf("approved: %+v", got)
	}
	if again := c.send(poll); again.status != success || !again.leaf.Equal(got.leaf) {
		t.Errorf("the answer was lost: %+v", again)
	}
	// Somebody else's request is not enrolled in its name.
	thief := d.client(1)
	for _, kind := range []string{pkcsReq, renewalReq} {
		if got := c.send(c.message(kind, c.seal(thief.csr("", "")))); got.status != failure || got.failInfo != badMessageCheck {
			t.Errorf("another's request in a message of type %s: %+v", kind, got)
		}
	}
	// And nothing is renewed with it.
	if got := c.send(c.message(renewalReq, c.seal(c.csr("", "")))); got.status != failure || got.failInfo != badMessageCheck {
		t.Errorf("renewal with the manufacturer's certificate: %+v", got)
	}
}

func TestWhatSCEPDistributes(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "")
	status, caps, head := d.get("operation=GetCACaps")
	if status != http.StatusOK || head.Get("Content-Type") != "text/plain" || !strings.Contains(caps, "\nSHA-256\nSHA-384\nSHA-512\n") || strings.Contains(caps, "DES3") || strings.Contains(caps, "SHA-1") {
		t.Errorf("%d %q", status, caps)
	}
	status, body, head := d.get("operation=GetCACert&message=anything")
	if status != http.StatusOK || head.Get("Content-Type") != "application/x-x509-ca-ra-cert" {
		t.Fatalf("%d %v", status, head)
	}
	certs := certificates(t, []byte(body))
	if len(certs) != 3 || !certs[0].Equal(d.to.Certificate()) || certs[0].CheckSignatureFrom(certs[1]) != nil || certs[1].CheckSignatureFrom(certs[2]) != nil {
		t.Fatalf("%d certificates", len(certs))
	}
	ra := certs[0]
	if ra.IsCA || ra.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment || len(ra.URIs)+len(ra.DNSNames)+len(ra.IPAddresses) > 0 {
		t.Errorf("it is good for more than SCEP: %+v", ra)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(certs[2])
	between.AddCert(certs[1])
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageOCSPSigning} {
		if _, err := ra.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{use}}); err == nil {
			t.Errorf("it is good for use %v", use)
		}
	}
}

func TestTheRecipientOutlivesTheGateway(t *testing.T) {
	t.Parallel()
	authority, path := town.Share(t).CA, filepath.Join(t.TempDir(), "scep.pem")
	now := time.Now()
	clock := func() time.Time { return now }
	first, err := OpenRecipient(t.Context(), authority, path, clock)
	must(t, err)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	second, err := OpenRecipient(t.Context(), authority, path, clock)
	must(t, err)
	if !second.Certificate().Equal(first.Certificate()) || !second.key.Equal(first.key) {
		t.Error("it is another after a restart")
	}
	now = first.Certificate().NotAfter.Add(-recipientLeft / 2)
	must(t, second.renew(t.Context()))
	if second.Certificate().Equal(first.Certificate()) {
		t.Error("it was not renewed before its end")
	}
	for name, text := range map[string]string{"nothing": "", "a certificate alone": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: first.Certificate().Raw}))} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := OpenRecipient(t.Context(), authority, path, clock); err == nil {
			t.Errorf("%s is opened", name)
		}
	}
}
