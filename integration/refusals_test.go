package integration

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/smallstep/pkcs7"
	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestBadInputHasAnAnswerInEachProtocolsOwnForm, and a record that the answer names; and
// what is good still has its certificate after all of it.
func TestBadInputHasAnAnswerInEachProtocolsOwnForm(t *testing.T) {
	t.Parallel()
	// What smallstep's library has of itself is DES and SHA-1. Nothing else here uses these.
	pkcs7.ContentEncryptionAlgorithm = pkcs7.EncryptionAlgorithmAES256CBC
	if err := pkcs7.SetDefaultDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256); err != nil {
		t.Fatal(err)
	}
	h := newRefusing(t)
	ways := []wayIn{{"est", h.est}, {"token", h.plain}, {"step", h.step}, {"scep", h.scep}, {"acme", h.acme}, {"cli", h.cli}}
	identity, err := url.Parse("spiffe://" + rig.TrustDomain + "/device/used-1")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../pkg/ca/testdata/sha1.csr")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	sha1 := block.Bytes
	rows := []struct {
		what   string
		change func(a *asking, challenge string)
		// form is what each way says, in the order of ways; code what the record does;
		// empty where a way has no such thing: in JSON and SCEP the token says who it is,
		// and an operator shows none.
		form [6]string
		code string
		why  string // what the record says, whatever the device was told
	}{
		{"a weak key", func(a *asking, c string) { a.key, a.csr = h.weak, h.csr(h.weak, "", c) },
			[6]string{"400", "400 request", "400", "badAlg", "400 badCSR", "exit 1"}, "request|algorithm", "1024 bits|2048 bits or more"},
		{"SHA-1", func(a *asking, _ string) { a.csr = sha1 },
			[6]string{"400", "400 request", "400", "badMessageCheck", "400 badCSR", "exit 1"}, "request|proof", "signed with SHA1-RSA, which is not secure"},
		{"another's signature", func(a *asking, c string) { a.csr[len(a.csr)-1] ^= 1 },
			[6]string{"400", "400 request", "400", "badMessageCheck", "400 badCSR", "exit 1"}, "request|proof", "its signature does not verify"},
		{"too large", func(a *asking, c string) {
			a.csr = h.csr(a.key, "", c, func(r *x509.CertificateRequest) {
				r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 20<<10)}}
			})
		}, [6]string{"400", "400 request", "400", "badMessageCheck", "400 badCSR", "exit 1"}, "request|proof", "larger than 16384 bytes"},
		{"another's identity", func(a *asking, c string) {
			a.csr = h.csr(a.key, "", c, func(r *x509.CertificateRequest) { r.URIs = []*url.URL{identity}; r.DNSNames = []string{lis} })
		}, [6]string{"400", "400 names", "400", "badRequest", "400 badCSR", "exit 1"}, "names", "an identity that is not"},
		{"another's key", func(a *asking, c string) { a.key, a.csr = h.theirs, h.csr(h.theirs, "", c, names(a)) },
			[6]string{"400", "400 key", "400", "badRequest", "400 badCSR", "exit 1"}, "key", "the key is the one of used-1"},
		{"another's id", func(a *asking, c string) { a.id = "used-1" },
			[6]string{"401 Basic", "", "401", "", "403 rejectedIdentifier", "exit 1"}, "proof|policy|names|key|status|request", "not for the device that was named|not one of those that the configuration lists|exists already"},
		{"a token that is over", func(a *asking, _ string) { a.id, a.token, a.csr = h.lateID, h.late, h.csr(a.key, "", h.late) },
			[6]string{"401 Basic", "401 proof", "401", "badMessageCheck", "403 unauthorized", ""}, "proof", "expired at"},
		{"a token that was used", func(a *asking, _ string) { a.id, a.token, a.csr = h.usedID, h.used, h.csr(a.key, "", h.used) },
			[6]string{"401 Basic", "401 proof", "401", "badMessageCheck", "403 unauthorized", ""}, "proof", "good once"},
	}
	reference := regexp.MustCompile(`reference ([a-z2-7]{10})`)
	asked := func(way string) asking {
		a := asking{id: way + "-1", token: h.good[way+"-1"], key: h.own}
		a.csr = h.csr(h.own, "", a.token, names(&a))
		return a
	}
	expect := map[string]expected{} // by reference
	var ofCLI []expected
	for _, row := range rows {
		for i, way := range ways {
			if row.form[i] == "" {
				continue
			}
			a := asked(way.name)
			row.change(&a, a.token)
			what := way.name + ", " + row.what
			out := way.ask(a)
			if out.leaf != nil || out.form != row.form[i] {
				t.Errorf("%s: %q, want %q: %.300s", what, out.form, row.form[i], out.text)
				continue
			}
			e := expected{what, way.name, row.code, row.why}
			if way.name == "cli" {
				ofCLI = append(ofCLI, e)
			} else if m := reference.FindStringSubmatch(out.text); m == nil {
				t.Errorf("%s: it names no record: %.300s", what, out.text)
			} else {
				expect[m[1]] = e
			}
		}
	}
	h.check(expect, ofCLI)
	certs := map[string]*x509.Certificate{"SCEP's": h.ra[0], "intermediate": h.ra[1], "root": h.ra[2]}
	for _, way := range ways {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		a := asked(way.name)
		a.key, a.csr = key, h.csr(key, "", a.token, names(&a))
		out := way.ask(a)
		if out.leaf == nil {
			t.Errorf("%s: what is good is refused: %+v", way.name, out)
			continue
		}
		certs[way.name] = out.leaf
	}
	for name, addr := range map[string]string{"the gateway": h.Addr, "the gateway, enrolling": h.addr} {
		certs[name] = h.shown(addr)
	}
	passZLint(t, certs)
}

// names has a request say what the way needs: a server's name.
func names(a *asking) func(*x509.CertificateRequest) {
	return func(r *x509.CertificateRequest) {
		if a.id == "acme-1" {
			r.DNSNames = []string{lis}
		}
	}
}

// expected is what the record of a refusal says.
type expected struct{ what, way, code, why string }

// check finds the records that answers named. Those of the command line, which names
// none, are in the order that they were made in.
func (h *refusing) check(expect map[string]expected, ofCLI []expected) {
	h.t.Helper()
	type record struct {
		Error  string
		Detail struct{ Way, Code, Reference string }
	}
	var records []record
	rig.Eventually(h.t, "every refusal to be recorded", func() bool {
		records = nil
		dec := json.NewDecoder(strings.NewReader(h.Must("audit", "search", "--event", "enrolment.refused", "--json")))
		for dec.More() {
			var r record
			if err := dec.Decode(&r); err != nil {
				h.t.Fatal(err)
			}
			records = append(records, r)
		}
		return len(records) >= len(expect)+len(ofCLI)
	})
	for _, r := range records {
		want, ok := expect[r.Detail.Reference]
		if r.Detail.Way == "cli" && len(ofCLI) > 0 {
			want, ok, ofCLI = ofCLI[0], true, ofCLI[1:]
		}
		if !ok {
			h.t.Errorf("a record that no answer names: %+v", r)
		} else if r.Detail.Way != want.way || !regexp.MustCompile("^("+want.code+")$").MatchString(r.Detail.Code) || !regexp.MustCompile(want.why).MatchString(r.Error) {
			h.t.Errorf("%s is recorded as %+v, want %+v", want.what, r, want)
		}
		delete(expect, r.Detail.Reference)
	}
	for _, want := range expect {
		h.t.Errorf("%s is not recorded", want.what)
	}
	for _, want := range ofCLI {
		h.t.Errorf("%s is not recorded", want.what)
	}
}

// shown is the certificate that a listener shows, to whom it lets in or not.
func (h *refusing) shown(addr string) (leaf *x509.Certificate) {
	h.t.Helper()
	cfg := &tls.Config{RootCAs: h.Roots(), ServerName: "localhost", MinVersion: tls.VersionTLS13, VerifyConnection: func(cs tls.ConnectionState) error {
		leaf = cs.PeerCertificates[0]
		return nil
	}}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(h.t.Context(), "tcp", addr)
	if err != nil {
		h.t.Fatal(err)
	}
	conn.Close()
	return leaf
}

func passZLint(t *testing.T, certs map[string]*x509.Certificate) {
	t.Helper()
	reg, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range certs {
		z, err := zx509.ParseCertificate(c.Raw)
		if err != nil {
			t.Fatal(name, err)
		}
		for what, r := range zlint.LintCertificateEx(z, reg).Results {
			if r.Status >= lint.Warn {
				t.Errorf("%s: %s: %v %s", name, what, r.Status, r.Details)
			}
		}
	}
}
