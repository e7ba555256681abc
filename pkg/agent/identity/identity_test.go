package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

// hospital is a CA and an enrolment listener that does as the test says.
type hospital struct {
	t     *testing.T
	root  *x509.Certificate
	key   crypto.Signer
	serve func(w http.ResponseWriter, path string, body map[string]string, leaf *x509.Certificate)
	srv   *httptest.Server
	life  time.Duration
	asked int
}

func newHospital(t *testing.T) *hospital {
	t.Helper()
	h := &hospital{t: t, life: 24 * time.Hour}
	h.key = newKey(t)
	h.root = h.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, h.key.Public(), nil)
	own := newKey(t)
	leaf := h.sign(&x509.Certificate{DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, own.Public(), h.root)
	leaf.IPAddresses = nil
	h.srv = httptest.NewUnstartedServer(http.HandlerFunc(h.answer))
	h.srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: own}}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	h.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	h.srv.StartTLS()
	t.Cleanup(h.srv.Close)
	h.serve = func(w http.ResponseWriter, _ string, body map[string]string, _ *x509.Certificate) {
		h.grant(w, h.device("pump-1", csrKey(t, body)))
	}
	return h
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (h *hospital) sign(c *x509.Certificate, pub crypto.PublicKey, parent *x509.Certificate) *x509.Certificate {
	h.t.Helper()
	var err error
	if c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		h.t.Fatal(err)
	}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(h.life)
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, h.key)
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *hospital) device(id string, pub crypto.PublicKey) *x509.Certificate {
	uri := &url.URL{Scheme: "spiffe", Host: "hospital.example", Path: "/device/" + id}
	return h.sign(&x509.Certificate{URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, pub, h.root)
}

func text(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func csrKey(t *testing.T, body map[string]string) crypto.PublicKey {
	t.Helper()
	block, _ := pem.Decode([]byte(body["csr"]))
	if block == nil {
		t.Fatal("no signing request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatal(err)
	}
	return csr.PublicKey
}

func (h *hospital) grant(w http.ResponseWriter, leaf *x509.Certificate) {
	_ = json.NewEncoder(w).Encode(map[string]string{"device": "pump-1", "certificate": text(leaf), "roots": text(h.root)})
}

func (h *hospital) answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/roots.pem" {
		_, _ = io.WriteString(w, text(h.root))
		return
	}
	h.asked++
	var body map[string]string
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, "no JSON", http.StatusBadRequest)
		return
	}
	var leaf *x509.Certificate
	if len(r.TLS.PeerCertificates) > 0 {
		leaf = r.TLS.PeerCertificates[0]
	}
	h.serve(w, r.URL.Path, body, leaf)
}

// client returns a client that knows the hospital by its root's fingerprint.
func (h *hospital) client() (*Client, *Store) {
	h.t.Helper()
	store, err := OpenStore(filepath.Join(h.t.TempDir(), "state"), "")
	if err != nil {
		h.t.Fatal(err)
	}
	sum := sha256.Sum256(h.root.Raw)
	_, port, _ := strings.Cut(strings.TrimPrefix(h.srv.URL, "https://"), ":")
	return &Client{Settings: settings.Enrolment{URL: "https://localhost:" + port, Root: hex.EncodeToString(sum[:])}, Store: store, Clock: time.Now}, store
}

func TestEnrolAndRenew(t *testing.T) {
	h := newHospital(t)
	c, store := h.client()
	if _, err := store.Load(); !errors.Is(err, ErrNone) {
		t.Errorf("before: %v", err)
	}
	first, err := c.Enrol(t.Context(), "TOKEN")
	if err != nil {
		t.Fatal(err)
	}
	holder, err := store.Hold(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	peer := &Peer{Name: "gateway"}
	before, err := holder.Config(peer)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := holder.Config(peer); again != before {
		t.Error("sessions are not kept from one connection to the next")
	}
	var shown *x509.Certificate
	was := h.serve
	h.serve = func(w http.ResponseWriter, path string, body map[string]string, leaf *x509.Certificate) {
		shown = leaf
		if path != "/enrol/renew" {
			t.Errorf("asked for %s", path)
		}
		was(w, path, body, leaf)
	}
	second, err := c.Renew(t.Context(), holder.Current())
	if err != nil {
		t.Fatal(err)
	}
	if shown == nil || !shown.Equal(first.Leaf()) {
		t.Error("it renews without the certificate it has")
	}
	if second.Leaf().PublicKey.(*ecdsa.PublicKey).Equal(first.Leaf().PublicKey) {
		t.Error("the key is the former one")
	}
	if !holder.Current().Leaf().Equal(second.Leaf()) {
		t.Error("the new certificate is not in force")
	}
	if after, _ := holder.Config(peer); after == before {
		t.Error("sessions of the former certificate can be resumed")
	}
	entries, err := os.ReadDir(store.dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	for _, e := range entries {
		if st, err := e.Info(); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", e.Name(), st.Mode())
		}
	}
}

// TestTheTokenGoesToNobodyElse: who has another root does not get to see the token.
// TestKeysMoveIntoATPMWithTheNextCertificate, and out of it by enrolling anew only.
func TestKeysMoveIntoATPMWithTheNextCertificate(t *testing.T) {
	peers.Need(t, "swtpm")
	chip := peers.StartTPM(t)
	h := newHospital(t)
	c, store := h.client()
	id, err := c.Enrol(t.Context(), "TOKEN")
	if err != nil || id.InTPM() {
		t.Fatal(err, id)
	}
	// What was asked for with a key in a file is not asked for again with that.
	if _, err := store.newKey(renewKey); err != nil {
		t.Fatal(err)
	}
	inside, err := OpenStore(store.dir, chip.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if id, err = inside.Load(); err != nil || id.InTPM() {
		t.Fatalf("the key there is does not go on: %v", err)
	}
	moved := &Client{Settings: c.Settings, Store: inside, Clock: time.Now}
	for range 2 {
		if id, err = moved.Renew(t.Context(), id); err != nil || !id.InTPM() {
			t.Fatalf("the next key is not in the TPM: %v", err)
		}
	}
	data, err := os.ReadFile(store.path(identityFile))
	if err != nil || strings.Contains(string(data), "BEGIN "+plainKey) {
		t.Errorf("the key is in the file: %v", err)
	}
	if _, err := store.Load(); err == nil || !strings.Contains(err.Error(), "write key: tpm:") {
		t.Errorf("without a TPM: %v", err)
	}
	if id, err = c.Enrol(t.Context(), "TOKEN"); err != nil || id.InTPM() {
		t.Errorf("enrolled anew: %v", err)
	}
}

func TestTheTokenGoesToNobodyElse(t *testing.T) {
	h, other := newHospital(t), newHospital(t)
	c, _ := h.client()
	sum := sha256.Sum256(other.root.Raw)
	c.Settings.Root = hex.EncodeToString(sum[:])
	if _, err := c.Enrol(t.Context(), "TOKEN"); err == nil || !strings.Contains(err.Error(), "another root") {
		t.Errorf("another root: %v", err)
	}
	// The right root, which is no secret, shown by somebody whose certificate is
	// not below it.
	other.root = h.root
	_, port, _ := strings.Cut(strings.TrimPrefix(other.srv.URL, "https://"), ":")
	c, _ = h.client()
	c.Settings.URL = "https://localhost:" + port
	if _, err := c.Enrol(t.Context(), "TOKEN"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a copied root: %v", err)
	}
	c.Settings.Root = ""
	if _, err := c.Enrol(t.Context(), "TOKEN"); err == nil || !strings.Contains(err.Error(), "how to know the gateway") {
		t.Errorf("no root: %v", err)
	}
	if h.asked+other.asked != 0 {
		t.Error("the token was sent")
	}
}

// TestALostAnswerIsAskedForWithTheSameKey: for that the gateway gives the same
// certificate again, and for another key none.
func TestALostAnswerIsAskedForWithTheSameKey(t *testing.T) {
	h := newHospital(t)
	c, store := h.client()
	was := h.serve
	var lost crypto.PublicKey
	h.serve = func(w http.ResponseWriter, _ string, body map[string]string, _ *x509.Certificate) {
		lost = csrKey(t, body)
		panic(http.ErrAbortHandler)
	}
	if _, err := c.Enrol(t.Context(), "TOKEN"); err == nil {
		t.Fatal("enrolled without an answer")
	}
	h.serve = func(w http.ResponseWriter, path string, body map[string]string, leaf *x509.Certificate) {
		if !lost.(*ecdsa.PublicKey).Equal(csrKey(t, body)) {
			t.Error("asked with another key")
		}
		was(w, path, body, leaf)
	}
	again := &Client{Settings: c.Settings, Store: &Store{dir: store.dir}, Clock: time.Now} // after a crash
	if _, err := again.Enrol(t.Context(), "TOKEN"); err != nil {
		t.Fatal(err)
	}
}

func TestACertificateThatIsNotOursIsNotTaken(t *testing.T) {
	h := newHospital(t)
	c, store := h.client()
	if _, err := c.Enrol(t.Context(), "TOKEN"); err != nil {
		t.Fatal(err)
	}
	id, err := store.Load()
	if err != nil {
		t.Fatal(err)
	}
	other := newHospital(t)
	for what, make := range map[string]func(pub crypto.PublicKey) *x509.Certificate{
		"for another key": func(crypto.PublicKey) *x509.Certificate { return h.device("pump-1", newKey(t).Public()) },
		"from another CA": func(pub crypto.PublicKey) *x509.Certificate { return other.device("pump-1", pub) },
		"for a server": func(pub crypto.PublicKey) *x509.Certificate {
			return h.sign(&x509.Certificate{DNSNames: []string{"h"}}, pub, h.root)
		},
		"for two devices": func(pub crypto.PublicKey) *x509.Certificate { return h.device("a/b", pub) },
		"without client use": func(pub crypto.PublicKey) *x509.Certificate {
			uri := &url.URL{Scheme: "spiffe", Host: "h", Path: "/device/a"}
			return h.sign(&x509.Certificate{URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, pub, h.root)
		},
	} {
		h.serve = func(w http.ResponseWriter, _ string, body map[string]string, _ *x509.Certificate) {
			h.grant(w, make(csrKey(t, body)))
		}
		if _, err := c.Renew(t.Context(), id); err == nil {
			t.Errorf("a certificate %s is taken", what)
		}
		if now, err := store.Load(); err != nil || !now.Leaf().Equal(id.Leaf()) {
			t.Errorf("%s: the former certificate is gone: %v", what, err)
		}
	}
}

func TestARefusalSaysWhy(t *testing.T) {
	h := newHospital(t)
	c, store := h.client()
	h.serve = func(w http.ResponseWriter, _ string, _ map[string]string, _ *x509.Certificate) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"error":"enough\u001b[31m","code":"quota","reference":"abc"}`)
	}
	_, err := c.Enrol(t.Context(), "TOKEN")
	why, ok := errors.AsType[*Refusal](err)
	if !ok || why.RetryAfter != time.Hour || why.Code != "quota" || why.Error() != "the gateway refused: enough [31m (reference abc)" {
		t.Errorf("%#v", err)
	}
	h.serve = func(w http.ResponseWriter, _ string, _ map[string]string, _ *x509.Certificate) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"another device has it","code":"key"}`)
	}
	if _, err := c.Enrol(t.Context(), "TOKEN"); err == nil {
		t.Error("enrolled")
	}
	if _, err := os.Stat(store.path(enrolKey)); !errors.Is(err, os.ErrNotExist) {
		t.Error("a key that is refused is asked with again")
	}
}

func TestAKeyThatOthersCanReadIsNone(t *testing.T) {
	h := newHospital(t)
	c, store := h.client()
	if _, err := c.Enrol(t.Context(), "TOKEN"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(store.path(identityFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load(); err == nil || !strings.Contains(err.Error(), "0640") {
		t.Errorf("%v", err)
	}
}

// TestItRenewsAfterTwoThirdsAndGoesOnAfterTheEnd: with a gateway that is away for
// long, and in time that passes as fast as it can.
func TestItRenewsAfterTwoThirdsAndGoesOnAfterTheEnd(t *testing.T) {
	h := newHospital(t)
	synctest.Test(t, func(t *testing.T) {
		h.life = 90 * time.Hour
		start := time.Now()
		key := newKey(t)
		current := &Identity{Device: "pump-1", Pair: tls.Certificate{Leaf: h.device("pump-1", key.Public())}}
		due := current.Due()
		life := current.Leaf().NotAfter.Sub(current.Leaf().NotBefore)
		if from := current.Leaf().NotBefore.Add(life * 2 / 3); due.Before(from) || due.After(from.Add(life/20)) {
			t.Errorf("due %v after the beginning of %v", due.Sub(current.Leaf().NotBefore), life)
		}
		var tries []time.Time
		ctx, cancel := context.WithCancel(t.Context())
		r := &Renewer{Current: func() *Identity { return current }, Log: slog.New(slog.DiscardHandler), Clock: time.Now}
		r.Ask = func(context.Context, *Identity) (*Identity, error) {
			tries = append(tries, time.Now())
			if time.Since(start) < 120*time.Hour {
				return nil, errors.New("away")
			}
			current = &Identity{Device: "pump-1", Pair: tls.Certificate{Leaf: h.device("pump-1", key.Public())}}
			return current, nil
		}
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()
		time.Sleep(119 * time.Hour)
		if r.Failed() == nil {
			t.Error("nothing is said of what failed")
		}
		time.Sleep(6 * time.Hour)
		if r.Failed() != nil {
			t.Error("it is still said to fail")
		}
		cancel()
		<-done
		if first := tries[0]; first.Before(due) || first.After(due.Add(2*look)) {
			t.Errorf("the first try at %v, due %v", first, due)
		}
		for i, try := range tries[1:] {
			if wait := try.Sub(tries[i]); wait > lastRetry || wait < firstRetry/20 {
				t.Errorf("try %d after %v", i+1, wait)
			}
		}
		if n := len(tries); n < 55 || n > 300 {
			t.Errorf("%d tries in 60 hours", n)
		}
	})
}

func TestCertificatesAreNotAllDueAtOnce(t *testing.T) {
	h := newHospital(t)
	key := newKey(t)
	seen := map[time.Time]bool{}
	for range 20 {
		id := &Identity{Pair: tls.Certificate{Leaf: h.device("pump-1", key.Public())}}
		seen[id.Due().Truncate(10*time.Second)] = true
		if again := (&Identity{Pair: id.Pair}).Due(); !again.Equal(id.Due()) {
			t.Error("another time after a restart")
		}
	}
	if len(seen) < 15 {
		t.Errorf("20 certificates are due at %d times", len(seen))
	}
}

// TestAShortLifeIsNotOverWhenItBegins: the beginning of a certificate lies before it
// was issued, and one that is good for an hour would be renewed without end.
func TestAShortLifeIsNotOverWhenItBegins(t *testing.T) {
	h := newHospital(t) // which says that its certificates began an hour ago
	h.life = 15 * time.Minute
	c, store := h.client()
	before := time.Now()
	if _, err := c.Enrol(t.Context(), "TOKEN"); err != nil {
		t.Fatal(err)
	}
	id, err := store.Load()
	if err != nil {
		t.Fatal(err)
	}
	if due := id.Due(); due.Before(before.Add(9 * time.Minute)) {
		t.Errorf("due after %v", due.Sub(before))
	}
	wrong := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(store.path(identityFile), wrong, wrong); err != nil {
		t.Fatal(err)
	}
	if id, err = store.Load(); err != nil || id.Due().After(id.Leaf().NotAfter) {
		t.Errorf("with a wrong clock it is due after its end (%v)", err)
	}
}

func TestOnlyAPinnedKeyIsLetIn(t *testing.T) {
	h := newHospital(t)
	a, b := newKey(t), newKey(t)
	device := h.device("pump-1", b.Public())
	own := h.sign(&x509.Certificate{DNSNames: []string{"gw"}}, a.Public(), nil)
	if !pinned(own, [][sha256.Size]byte{sha256.Sum256(device.RawSubjectPublicKeyInfo), sha256.Sum256(own.RawSubjectPublicKeyInfo)}) {
		t.Error("the gateway's key is not known")
	}
	if pinned(device, [][sha256.Size]byte{sha256.Sum256(own.RawSubjectPublicKeyInfo)}) || pinned(own, nil) {
		t.Error("another key is let in")
	}
}
