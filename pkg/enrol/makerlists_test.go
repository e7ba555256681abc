package enrol

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// listing makes a factory that may sign revocation lists.
func listing(name string, pathLen int) *x509.Certificate {
	c := authority(name, pathLen)
	c.KeyUsage |= x509.KeyUsageCRLSign
	return c
}

// revokes has a factory sign a list; change makes it another than a usual one.
func (by *factory) revokes(from, until time.Time, change func(*x509.RevocationList), list ...*factory) []byte {
	by.t.Helper()
	in := &x509.RevocationList{Number: big.NewInt(serials.Add(1)), ThisUpdate: from, NextUpdate: until}
	for _, f := range list {
		in.RevokedCertificateEntries = append(in.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: f.cert.SerialNumber, RevocationTime: from})
	}
	if change != nil {
		change(in)
	}
	issuer := *by.cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign // whether it may is for who reads it
	der, err := x509.CreateRevocationList(rand.Reader, in, &issuer, by.key)
	if err != nil {
		by.t.Fatal(err)
	}
	return der
}

func asPEM(ders ...[]byte) (out []byte) {
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
	}
	return out
}

// replace puts a file in another's place, as whoever keeps lists current does.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// TestADeviceThatItsManufacturerRevokedDoesNotEnrol: nor one whose CA it revoked, nor,
// unless that is configured, one of whose CA there is no list that still counts. A new
// list counts at once.
func TestADeviceThatItsManufacturerRevokedDoesNotEnrol(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	now := time.Now()
	from, until := now.Add(-time.Hour), now.Add(24*time.Hour)
	root := (*factory)(nil).makes(t, listing("Acme", 1))
	issuing, other := root.makes(t, listing("Acme issuing", 0)), root.makes(t, authority("Acme other", 0))
	good, bad, unlisted := issuing.makes(t, idevid("1")), issuing.makes(t, idevid("2")), other.makes(t, idevid("3"))
	for i, id := range []string{"pump-1", "pump-2", "pump-3"} {
		d.made(id, "Acme", "P1", string(rune('1'+i)))
	}
	path := filepath.Join(t.TempDir(), "acme.crl")
	replace(t, path, asPEM(issuing.revokes(from, until, nil, bad)))
	cfg := config.Manufacturer{Name: "Acme", Anchors: anchors(t, root, issuing), CRL: path, StaleCRL: "refuse"}
	strict := d.makers(cfg)
	cfg.StaleCRL = "pass"
	lenient := d.makers(cfg)
	csr := request(t, newKey(t, ca.P256), "")
	ask := func(m *Makers, dev *factory) error {
		chain := issuing
		if dev == unlisted {
			chain = other
		}
		_, err := d.with(m, dev, csr, chain)
		return err
	}
	no := func(what string, err error, text string) {
		t.Helper()
		if r := refused(t, what, err, BadProof); !strings.Contains(r.Why, text) {
			t.Errorf("%s: %s", what, r.Why)
		}
	}
	waits(t, "one that is not listed", ask(strict, good))
	no("one that is", ask(strict, bad), "its manufacturer has revoked it")
	no("one that is, where old lists may pass", ask(lenient, bad), "its manufacturer has revoked it")
	no("one of a CA without a list", ask(strict, unlisted), "no revocation list of the CA that signed it")
	waits(t, "the same, where that may pass", ask(lenient, unlisted))
	if d.count("enrolment.refused") != 3 {
		t.Error("what was refused is not recorded")
	}

	// In DER, and of the CA above: what it revoked vouches for nobody.
	replace(t, path, asPEM(issuing.revokes(from, until, nil), root.revokes(from, until, nil, issuing)))
	no("one whose CA was revoked", ask(lenient, issuing.makes(t, idevid("1"))), "revoked")
	_, err := d.with(lenient, good, csr) // which shows its own certificate only
	no("one whose CA was revoked, and is an anchor", err, "revoked")
	replace(t, path, issuing.revokes(from, until, nil, good))
	no("one that was listed later", ask(strict, good), "its manufacturer has revoked it")
	waits(t, "one that is listed no more", ask(strict, bad))

	// An end, and a beginning that has not come.
	replace(t, path, asPEM(issuing.revokes(from, now.Add(-time.Minute), nil, bad)))
	no("with an old list", ask(strict, good), "was good from")
	waits(t, "with an old list that may pass", ask(lenient, good))
	no("on an old list", ask(lenient, bad), "revoked it")
	if got := strict.StaleLists(now); len(got) != 1 || got[0] != "Acme" {
		t.Errorf("stale: %v", got)
	}
	replace(t, path, asPEM(issuing.revokes(now.Add(time.Hour), until, nil)))
	no("with a list of the future", ask(strict, good), "was good from")

	// What can not be read takes no good one's place, and is said when that one ends.
	replace(t, path, asPEM(issuing.revokes(from, until, nil, bad)))
	waits(t, "a good one", ask(strict, good))
	replace(t, path, []byte("a download that failed"))
	waits(t, "a bad one in its place", ask(strict, good))
	no("by the one before", ask(strict, bad), "revoked it")
	if len(strict.StaleLists(now)) != 1 {
		t.Error("that it can not be read is not said")
	}
	d.ahead = 25 * time.Hour
	no("when it has ended", ask(strict, good), "what is there now can not be read")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	no("when there is none", ask(strict, good), "can not be read")
}

func TestWhatIsNoWholeListOfAnAnchorIsRefused(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	now := time.Now()
	from, until := now.Add(-time.Hour), now.Add(time.Hour)
	root, silent, stranger := (*factory)(nil).makes(t, listing("Acme", 1)), newFactory(t, "Silent"), (*factory)(nil).makes(t, listing("Acme", 1))
	file := anchors(t, root, silent)
	list := root.revokes(from, until, nil)
	with := func(id ...int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier(id), Critical: true, Value: []byte{5, 0}}}
		}
	}
	indirect := func(l *x509.RevocationList) {
		l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(1), RevocationTime: from,
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{48, 0}}}}}
	}
	broken := append([]byte(nil), list...)
	broken[len(broken)-1] ^= 1
	for what, c := range map[string]struct {
		data []byte
		why  string
	}{
		"nothing":                {nil, "no revocation list"},
		"something else":         {[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "no revocation list in PEM form"},
		"more behind it":         {append(asPEM(list), "more"...), "no revocation list in PEM form"},
		"a stranger's":           {stranger.revokes(from, until, nil), "none of the anchors signed"},
		"one who may not":        {silent.revokes(from, until, nil), "may sign"},
		"a broken signature":     {broken, "none of the anchors signed"},
		"a part (a partition)":   {root.revokes(from, until, with(2, 5, 29, 28)), "whole one"},
		"a change (a delta)":     {root.revokes(from, until, with(2, 5, 29, 27)), "whole one"},
		"another's certificates": {root.revokes(from, until, indirect), "critical extension"},
		"two of one CA":          {asPEM(list, root.revokes(from, until, nil)), "two lists"},
	} {
		path := filepath.Join(t.TempDir(), "list")
		replace(t, path, c.data)
		_, err := LoadMakers([]config.Manufacturer{{Name: "Acme", Anchors: file, CRL: path}}, d.Authorities)
		if err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := LoadMakers([]config.Manufacturer{{Name: "Acme", Anchors: file, CRL: filepath.Join(t.TempDir(), "gone")}}, d.Authorities); err == nil {
		t.Error("a list that is not there")
	}
}
