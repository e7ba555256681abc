package revocation

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// openssl runs openssl and returns what it printed. Without openssl the test
// is skipped, or fails if peers are required.
func openssl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("ANTEROOM_REQUIRE_PEERS") == "1" {
			t.Fatal("the peer program openssl is not installed")
		}
		t.Skip("the peer program openssl is not installed")
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	return string(out), err
}

// ask makes a request and returns its answer and body.
func ask(t *testing.T, method, url string, body []byte, head ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, out
}

// TestOpenSSLAsksAboutRevocations as everybody else does: by OCSP with and
// without a nonce, with either hash, several certificates at once, and by the list.
func TestOpenSSLAsksAboutRevocations(t *testing.T) {
	o := newOffice(t)
	good, lost := o.enrol("pump-1"), o.enrol("pump-2")
	s := o.serve()
	base := "http://" + s.Addr().String()
	roots, inter := o.file(o.ca.Roots()...), o.file(o.ca.Intermediates()...)
	goodFile, lostFile := o.file(good), o.file(lost)
	say := func(args ...string) string {
		t.Helper()
		out, err := openssl(t, append([]string{"ocsp", "-url", base + ocspPath, "-CAfile", roots, "-issuer", inter}, args...)...)
		if err != nil || !strings.Contains(out, "Response verify OK") || strings.Contains(out, "WARNING") {
			t.Errorf("openssl ocsp %v: %v %s", args, err, out)
		}
		return out
	}
	both := []string{"-cert", goodFile, "-cert", lostFile}
	if out := say(both...); strings.Count(out, ": good") != 2 {
		t.Errorf("of two good ones: %s", out)
	}
	o.revoke("pump-2", "Key Compromise")
	for _, args := range [][]string{both, append([]string{"-no_nonce"}, both...), append([]string{"-sha256"}, both...)} {
		out := say(args...)
		if !strings.Contains(out, goodFile+": good") || !strings.Contains(out, lostFile+": revoked") || !strings.Contains(out, "Reason: keyCompromise") {
			t.Errorf("%v: %s", args[0], out)
		}
	}
	if out := say("-serial", "12345"); !strings.Contains(out, "12345: unknown") {
		t.Errorf("of a certificate that was never issued: %s", out)
	}
	// A certificate of another CA's.
	other := newForeignOffice(t)
	out, err := openssl(t, "ocsp", "-url", base+ocspPath, "-CAfile", roots, "-issuer", other.file(other.ca.Intermediates()...), "-cert", other.file(other.enrol("pump-1")), "-noverify")
	if err != nil || !strings.Contains(out, ": unknown") {
		t.Errorf("of another CA's: %v %s", err, out)
	}

	crl := filepath.Join(t.TempDir(), "ca.crl")
	var resp *http.Response
	within(t, func() bool {
		var body []byte
		resp, body = ask(t, http.MethodGet, base+listPath, nil)
		l, err := x509.ParseRevocationList(body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status, err)
		}
		if err := os.WriteFile(crl, body, 0o600); err != nil {
			t.Fatal(err)
		}
		return len(l.RevokedCertificateEntries) == 1
	})
	if out, err := openssl(t, "crl", "-inform", "DER", "-in", crl, "-noout", "-CAfile", inter, "-verify"); err != nil || !strings.Contains(out, "verify OK") {
		t.Errorf("openssl crl: %v %s", err, out)
	}
	for file, revoked := range map[string]bool{goodFile: false, lostFile: true} {
		out, err := openssl(t, "verify", "-crl_check", "-CAfile", roots, "-untrusted", inter, "-CRLfile", crl, file)
		if (err != nil) != revoked || strings.Contains(out, "certificate revoked") != revoked {
			t.Errorf("openssl verify: %v %s", err, out)
		}
	}
}

// within waits for a condition.
func within(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to it")
		}
	}
}

func TestTheListIsFetchedOnceWhileItIsTheSame(t *testing.T) {
	o := newSharedOffice(t)
	o.enrol("pump-1")
	base := "http://" + o.serve().Addr().String()
	resp, body := ask(t, http.MethodGet, base+listPath, nil)
	tag := resp.Header.Get("Etag")
	if resp.StatusCode != http.StatusOK || tag == "" || resp.Header.Get("Content-Type") != "application/pkix-crl" ||
		!strings.HasPrefix(resp.Header.Get("Cache-Control"), "max-age=60,") {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	if resp, _ := ask(t, http.MethodGet, base+listPath, nil, "If-None-Match", tag); resp.StatusCode != http.StatusNotModified {
		t.Errorf("the same list: %s", resp.Status)
	}
	if resp, none := ask(t, http.MethodHead, base+listPath, nil); resp.StatusCode != http.StatusOK || len(none) != 0 || resp.ContentLength != int64(len(body)) {
		t.Errorf("HEAD: %s, %d bytes", resp.Status, len(none))
	}
	o.revoke("pump-1", "lost")
	within(t, func() bool {
		resp, _ := ask(t, http.MethodGet, base+listPath, nil, "If-None-Match", tag)
		return resp.StatusCode == http.StatusOK && resp.Header.Get("Etag") != tag
	})
}

// TestARequestInThePath is answered like one in a body, and the answer may be kept
// for as long as it says; one with a nonce may not.
func TestARequestInThePath(t *testing.T) {
	o := newSharedOffice(t)
	leaf := o.enrol("pump-1")
	base := "http://" + o.serve().Addr().String() + ocspPath
	issuer := o.ca.Intermediates()[0]
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		req, err := ocsp.CreateRequest(leaf, issuer, &ocsp.RequestOptions{Hash: hash})
		if err != nil {
			t.Fatal(err)
		}
		plain := base64.StdEncoding.EncodeToString(req)
		for form, path := range map[string]string{"escaped": url.QueryEscape(plain), "as it is": plain} {
			resp, body := ask(t, http.MethodGet, base+"/"+path, nil)
			got, err := ocsp.ParseResponseForCert(body, leaf, issuer)
			if err != nil || resp.StatusCode != http.StatusOK || got.Status != ocsp.Good {
				t.Fatalf("%s: %s %+v %v", form, resp.Status, got, err)
			}
			if got.NextUpdate.Sub(got.ThisUpdate) != time.Hour || got.Certificate == nil || len(got.Certificate.ExtKeyUsage) != 1 {
				t.Errorf("%s: from %v to %v, by %v", form, got.ThisUpdate, got.NextUpdate, got.Certificate)
			}
			if h := resp.Header; !strings.HasPrefix(h.Get("Cache-Control"), "max-age=60, public") || h.Get("Expires") == "" || h.Get("Last-Modified") == "" || h.Get("Etag") == "" {
				t.Errorf("%s: %v", form, resp.Header)
			}
		}
		resp, body := ask(t, http.MethodPost, base, req, "Content-Type", "application/ocsp-request")
		if got, err := ocsp.ParseResponseForCert(body, leaf, issuer); err != nil || got.Status != ocsp.Good || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("in the body: %v %v", err, resp.Header)
		}
	}
	for _, n := range []int{1, 16, 32, maxNonce} {
		nonce := bytes.Repeat([]byte{0xa5}, n)
		resp, body := ask(t, http.MethodGet, base+"/"+url.QueryEscape(base64.StdEncoding.EncodeToString(shape{n: 1, nonce: nonce}.der(t))), nil)
		if !bytes.Contains(body, nonce) || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("a nonce of %d: %v", n, resp.Header)
		}
	}
}

// TestWhatIsNoRequestHasItsAnswer, and what is not there is not reached.
func TestWhatIsNoRequestHasItsAnswer(t *testing.T) {
	o := newSharedOffice(t)
	base := "http://" + o.serve().Addr().String()
	for _, c := range []struct {
		method, path, kind string
		body               []byte
		status             int
		says               uint8 // of an OCSP answer
	}{
		{"POST", "/ocsp", "application/ocsp-request", nil, 200, malformedRequest},
		{"POST", "/ocsp", "application/ocsp-request", []byte("hello"), 200, malformedRequest},
		{"POST", "/ocsp", "application/ocsp-request", shape{n: maxAsked + 1}.der(t), 200, malformedRequest},
		{"POST", "/ocsp", "application/ocsp-request", shape{n: 1, nonce: make([]byte, maxNonce+1)}.der(t), 200, malformedRequest},
		{"POST", "/ocsp", "application/ocsp-request", make([]byte, maxRequest+1), 413, 0},
		{"POST", "/ocsp", "text/plain", shape{n: 1}.der(t), 415, 0},
		{"GET", "/ocsp", "", nil, 405, 0},
		{"GET", "/ocsp/", "", nil, 200, malformedRequest},
		{"GET", "/ocsp/MA%0A==", "", nil, 200, malformedRequest},
		{"GET", "/ocsp/!!", "", nil, 200, malformedRequest},
		{"POST", "/ocsp/MAA=", "", nil, 405, 0},
		{"GET", "/ca.crl?x=1", "", nil, 404, 0},
		{"GET", "/%63a.crl", "", nil, 404, 0},
		{"GET", "//ca.crl", "", nil, 404, 0},
		{"POST", "/ca.crl", "", nil, 405, 0},
		{"GET", "/", "", nil, 404, 0},
		{"GET", "/metrics", "", nil, 404, 0},
		{"POST", "/enrol", "application/json", []byte("{}"), 404, 0},
		{"GET", "/ocsp/" + strings.Repeat("A", 4000), "", nil, 200, malformedRequest},
	} {
		resp, body := ask(t, c.method, base+c.path, c.body, "Content-Type", c.kind)
		name := fmt.Sprintf("%s %.40s %s", c.method, c.path, c.kind)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s", name, resp.Status)
		}
		if c.says != 0 && (!bytes.Equal(body, refusal(c.says).DER) || resp.Header.Get("Content-Type") != "application/ocsp-response" || resp.Header.Get("Cache-Control") != "no-store") {
			t.Errorf("%s: %x %v", name, body, resp.Header)
		}
	}
}

// TestWhatTheResponderSaysWhenItCanNot: try later, or that it has no authority
// any more.
func TestWhatTheResponderSaysWhenItCanNot(t *testing.T) {
	o := newOffice(t)
	leaf := o.enrol("pump-1")
	r, err := NewResponder(o.book, func() time.Duration { return time.Hour })
	if err != nil {
		t.Fatal(err)
	}
	req, err := ocsp.CreateRequest(leaf, o.ca.Intermediates()[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	first := r.Answer(t.Context(), req)
	who := r.seen[0].who
	if first.Produced.IsZero() || who == nil {
		t.Fatalf("%+v", first)
	}
	o.wait(responderTTL/2 - time.Hour)
	if r.Answer(t.Context(), req); r.seen[0].who != who {
		t.Error("the responder's certificate was changed early")
	}
	o.wait(2 * time.Hour)
	if r.Answer(t.Context(), req); r.seen[0].who == who {
		t.Error("the responder's certificate was not changed after half of its life")
	}
	end := o.ca.Intermediates()[0].NotAfter
	o.wait(end.Sub(o.clock()) - 10*time.Minute)
	if a := r.Answer(t.Context(), req); a.Produced.IsZero() || a.NextUpdate.After(end) {
		t.Errorf("just before the intermediate's end: %+v", a)
	}
	o.wait(time.Hour)
	if a := r.Answer(t.Context(), req); !bytes.Equal(a.DER, refusal(unauthorized).DER) {
		t.Errorf("after the intermediate's end: %x", a.DER)
	}
	o.wait(-2 * time.Hour)
	if err := o.ca.Close(); err != nil {
		t.Fatal(err)
	}
	if a := r.Answer(t.Context(), req); !bytes.Equal(a.DER, refusal(tryLater).DER) {
		t.Errorf("with the CA closed: %x", a.DER)
	}
}

func TestAnAddressMayAskForSoMuch(t *testing.T) {
	o := newSharedOffice(t)
	s := o.serve(func(r *config.Revocation) { r.Limits.Requests, r.Limits.PerAddress = 4, 2 })
	base := "http://" + s.Addr().String()
	statuses := map[int]int{}
	for range 4 {
		resp, _ := ask(t, http.MethodGet, base+listPath, nil)
		statuses[resp.StatusCode]++
		if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
			t.Error("it is not said when to come again")
		}
	}
	if statuses[http.StatusOK] < 2 || statuses[http.StatusTooManyRequests] == 0 {
		t.Errorf("four requests at once: %v", statuses)
	}
	// Two connections, and the third is closed.
	within(t, func() bool { return s.Connections() == 0 })
	for i := range 3 {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i < 2 {
			within(t, func() bool { return s.Connections() == int64(i+1) })
			continue
		}
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("the third connection: %v", err)
		}
	}
}
