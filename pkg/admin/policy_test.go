package admin

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
)

// pushHouse is a house in which what is pushed is in force.
func pushHouse(t *testing.T) *house {
	t.Helper()
	from, err := template()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copyTree(t, from, dir)
	if err := os.WriteFile(filepath.Join(dir, "anteroom.yaml"), []byte(text+"policy: {source: pushed, history: 10}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return openHouse(t, dir)
}

// an author is an operator with the key at hand.
type author struct {
	name string
	key  crypto.Signer
	cert *x509.Certificate
}

func (h *house) author(name string, ttl time.Duration, roles ...Role) author {
	h.t.Helper()
	key, req, err := ca.NewKeyAndCSR(ca.P256, name)
	if err != nil {
		h.t.Fatal(err)
	}
	iss, err := h.api(AllRoles...).AddOperator(h.t.Context(), OperatorRequest{Name: name, Roles: roles, CSR: req.Raw, TTL: ttl})
	if err != nil {
		h.t.Fatal(err)
	}
	block, _ := pem.Decode(iss.ChainPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	return author{name, key, cert}
}

const decision = `package anteroom.authz

decision := {"allow": count(allow) > 0, "reasons": allow, "denials": [], "obligations": []}
`

// set returns a policy set that allows one class.
func set(t *testing.T, class string) *policy.Source {
	t.Helper()
	dir := t.TempDir()
	for name, body := range map[string]string{
		"decision.rego": decision, "data.json": `{"class": "` + class + `"}`,
		"a.rego": "package anteroom.authz\n\nallow contains \"known\" if input.device.class == data.class\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src, err := policy.Read(dir, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// request returns what an author pushes; change may spoil it before it is signed.
func (w author) request(t *testing.T, src *policy.Source, after int, change ...func(*PushNote, *bundle.Signer)) PushRequest {
	t.Helper()
	note := PushNote{Author: w.name, Message: "why", After: after}
	s := bundle.Signer{Key: w.key, Certificate: w.cert, Scope: PushScope, Issuer: ca.OperatorURI("hospital.example", w.name).String(), Now: time.Now()}
	for _, f := range change {
		f(&note, &s)
	}
	b, err := src.Bundle(map[string]any{"anteroom": note})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Sign(s); err != nil {
		t.Fatal(err)
	}
	return PushRequest{Bundle: packed(t, b)}
}

func packed(t *testing.T, b *bundle.Bundle) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := b.Write(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func unpacked(t *testing.T, data []byte) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Read(bytes.NewReader(data), bundle.Limits{Bytes: 1 << 20, Files: 100})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAPushIsKeptAndRecorded(t *testing.T) {
	h := pushHouse(t)
	jane := h.author("jane", 0, PolicyAuthor)
	out, err := h.api(PolicyAuthor).PushPolicy(t.Context(), jane.request(t, set(t, "pump"), 0))
	if err != nil {
		t.Fatal(err)
	}
	if out.Entry.Number != 1 || out.Entry.Author != "jane" || out.Entry.Message != "why" || out.Previous != nil || out.Canary != nil {
		t.Errorf("pushed %+v", out)
	}
	if got := h.events(audit.Filter{}); !slices.Contains(got, "operator.request") || !slices.Contains(got, "policy.pushed") {
		t.Errorf("recorded %v", got)
	}
	// What was acknowledged is there after kill -9.
	k := h.killed()
	e, ok := k.state.Policies.InForce()
	if !ok || e.Revision != set(t, "pump").Revision() {
		t.Errorf("in force after a crash: %+v, %t", e, ok)
	}
	src, err := k.state.PolicySource(1)
	if err != nil || src.Revision() != e.Revision {
		t.Errorf("its files: %v, %v", src, err)
	}
	rev, err := k.api(Viewer).PolicyRevision(t.Context(), "")
	if err != nil || rev.Entry.Number != 1 || unpacked(t, rev.Bundle).Manifest.Revision != e.Revision {
		t.Errorf("revision %+v, %v", rev, err)
	}
}

// Each thing that can be wrong with a push is tried, and none of them changes
// anything.
func TestAPushIsRefused(t *testing.T) {
	h := pushHouse(t)
	jane := h.author("jane", 0, PolicyAuthor, Viewer)
	vera := h.author("vera", 0, Viewer, Enroller, SecurityOfficer, Auditor)
	gone := h.author("gone", 0, PolicyAuthor)
	late := h.author("late", time.Hour, PolicyAuthor)
	if _, err := h.api(AllRoles...).RevokeOperator(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	first := jane.request(t, set(t, "pump"), 0)
	if _, err := h.api(PolicyAuthor).PushPolicy(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	good := func(t *testing.T, change ...func(*PushNote, *bundle.Signer)) PushRequest {
		return jane.request(t, set(t, "bed"), 1, change...)
	}
	// foreign signs with a certificate that says jane, of another CA.
	foreign := func(t *testing.T) PushRequest {
		dir := filepath.Join(t.TempDir(), "ca")
		pass := []byte("a passphrase for tests")
		if _, err := ca.Init(t.Context(), ca.InitConfig{Dir: dir, TrustDomain: "hospital.example", Organisation: "X", Passphrase: pass}); err != nil {
			t.Fatal(err)
		}
		other, err := ca.Open(t.Context(), ca.Config{Dir: dir, TrustDomain: "hospital.example", Passphrase: pass})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		key, req, err := ca.NewKeyAndCSR(ca.P256, "jane")
		if err != nil {
			t.Fatal(err)
		}
		iss, err := other.Issue(t.Context(), ca.Request{Profile: ca.Operator, ID: "jane", CSR: req, TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return author{"jane", key, iss.Leaf}.request(t, set(t, "bed"), 1)
	}
	// second is another certificate of the same CA for jane, who has one already.
	second := func(t *testing.T) PushRequest {
		key, req, err := ca.NewKeyAndCSR(ca.P256, "jane")
		if err != nil {
			t.Fatal(err)
		}
		iss, err := h.state.CA.Issue(t.Context(), ca.Request{Profile: ca.Operator, ID: "jane", CSR: req, TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return author{"jane", key, iss.Leaf}.request(t, set(t, "bed"), 1)
	}
	// pump signs with a device's certificate.
	pump := func(t *testing.T) PushRequest {
		key, req, err := ca.NewKeyAndCSR(ca.P256, "jane")
		if err != nil {
			t.Fatal(err)
		}
		iss, err := h.state.CA.Issue(t.Context(), ca.Request{Profile: ca.Device, ID: "jane", CSR: req, TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return author{"jane", key, iss.Leaf}.request(t, set(t, "bed"), 1)
	}
	tampered := func(f func(*bundle.Bundle)) func(*testing.T) PushRequest {
		return func(t *testing.T) PushRequest {
			b := unpacked(t, good(t).Bundle)
			f(b)
			return PushRequest{Bundle: packed(t, b)}
		}
	}
	// A value keeps its meaning when spaces are added; the revision does not.
	spaced := tampered(func(b *bundle.Bundle) {
		for i := range b.Files {
			if b.Files[i].Name == "data.json" {
				b.Files[i].Body = append([]byte("  "), b.Files[i].Body...)
			}
		}
	})
	src := func(name, body string) func(*testing.T) PushRequest {
		return func(t *testing.T) PushRequest {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := policy.Read(dir, policy.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return jane.request(t, s, 1)
		}
	}
	for name, c := range map[string]struct {
		req  func(*testing.T) PushRequest
		code string
		want string
	}{
		"a replay":             {func(*testing.T) PushRequest { return first }, CodeConflict, "is in force already"},
		"made before the last": {func(t *testing.T) PushRequest { return jane.request(t, set(t, "bed"), 0) }, CodeConflict, "revision 1 was pushed since"},
		"made for the future":  {func(t *testing.T) PushRequest { return jane.request(t, set(t, "bed"), 7) }, CodeConflict, "revision 1 was pushed since"},
		"a viewer":             {func(t *testing.T) PushRequest { return vera.request(t, set(t, "bed"), 1) }, CodeForbidden, "needs an author with the role policy-author"},
		"a revoked operator":   {func(t *testing.T) PushRequest { return gone.request(t, set(t, "bed"), 1) }, CodeInvalid, "operator gone is revoked"},
		"another CA":           {foreign, CodeInvalid, "verify operator certificate"},
		"a former certificate": {second, CodeInvalid, "former certificate of operator jane"},
		"a device":             {pump, CodeInvalid, "names no operator"},
		"an operator unknown": {func(t *testing.T) PushRequest {
			return good(t, func(n *PushNote, s *bundle.Signer) { s.Certificate = nil })
		}, CodeInvalid, "carries no certificate"},
		"another author named": {func(t *testing.T) PushRequest {
			return good(t, func(n *PushNote, _ *bundle.Signer) { n.Author = "joe" })
		}, CodeInvalid, "says another author"},
		"another trust domain": {func(t *testing.T) PushRequest {
			return good(t, func(_ *PushNote, s *bundle.Signer) { s.Issuer = "spiffe://else.example/operator/jane" })
		}, CodeInvalid, "issuer is not"},
		"signed for a server": {func(t *testing.T) PushRequest { return good(t, func(_ *PushNote, s *bundle.Signer) { s.Scope = "" }) }, CodeInvalid, "scope mismatch"},
		"no message": {func(t *testing.T) PushRequest {
			return good(t, func(n *PushNote, _ *bundle.Signer) { n.Message = " " })
		}, CodeInvalid, "message is empty"},
		"two lines": {func(t *testing.T) PushRequest {
			return good(t, func(n *PushNote, _ *bundle.Signer) { n.Message = "a\nb" })
		}, CodeInvalid, "one line"},
		"not signed": {func(t *testing.T) PushRequest {
			b, err := set(t, "bed").Bundle(nil)
			if err != nil {
				t.Fatal(err)
			}
			return PushRequest{Bundle: packed(t, b)}
		}, CodeInvalid, "there is none"},
		"spaces added":   {spaced, CodeInvalid, "the manifest says revision"},
		"a file changed": {tampered(func(b *bundle.Bundle) { b.Files[0].Body = append(b.Files[0].Body, '\n') }), CodeInvalid, "digest mismatch"},
		"a file more":    {tampered(func(b *bundle.Bundle) { b.Files = append(b.Files, bundle.File{Name: "z.json", Body: []byte("{}")}) }), CodeInvalid, "not included"},
		"no bundle":      {func(*testing.T) PushRequest { return PushRequest{Bundle: []byte("hello")} }, CodeInvalid, "not a gzipped archive"},
		"no set":         {src("a.rego", "package a\n"), CodeInvalid, "no rule defines"},
		"does not parse": {src("a.rego", "package a\n\nx if"), CodeInvalid, "a.rego:3"},
		"no canary":      {func(t *testing.T) PushRequest { r := good(t); r.Canary = &CanaryRequest{}; return r }, CodeInvalid, "no device and no class"},
		"unknown canary": {func(t *testing.T) PushRequest {
			r := good(t)
			r.Canary = &CanaryRequest{Devices: []string{"pump-9"}, Window: time.Minute}
			return r
		}, CodeNotFound, "pump-9"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.api(PolicyAuthor).PushPolicy(t.Context(), c.req(t))
			var e *Error
			if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.want) {
				t.Errorf("error %v (%+v), want %s with %q", err, e, c.code, c.want)
			}
		})
	}
	// Time passes: a certificate that has expired signs nothing.
	t.Run("an expired certificate", func(t *testing.T) {
		then := NewService(Config{State: h.state, Clock: func() time.Time { return time.Now().Add(2 * time.Hour) }, Logger: h.cfg.Logger})
		if _, err := Local(then, Actor{Name: "jane", Roles: AllRoles}).PushPolicy(t.Context(), late.request(t, set(t, "bed"), 1)); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("error %v", err)
		}
		if _, err := h.api(PolicyAuthor).PushPolicy(t.Context(), good(t)); err != nil {
			t.Errorf("the good one is refused too: %v", err)
		}
	})
	if e, _ := h.state.Policies.InForce(); e.Number != 2 || h.state.Policies.Last() != 2 {
		t.Errorf("in force is %+v", e)
	}
}

func TestWhoMayPushAndRollBack(t *testing.T) {
	h := pushHouse(t)
	for _, r := range AllRoles {
		_, push := h.api(r).PushPolicy(t.Context(), PushRequest{})
		_, back := h.api(r).RollBackPolicy(t.Context(), "")
		_, promote := h.api(r).PromotePolicy(t.Context())
		for _, err := range []error{push, back, promote} {
			var e *Error
			if !errors.As(err, &e) || (e.Code == CodeForbidden) != (r != PolicyAuthor) {
				t.Errorf("%s: %v", r, err)
			}
		}
		if _, err := h.api(r).PolicyHistory(t.Context()); err != nil {
			t.Errorf("%s: %v", r, err)
		}
		if _, err := h.api(r).PolicyState(t.Context()); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
}

// An engine follows what is pushed, tried, promoted and rolled back, and a new
// one begins with what the old one had.
func TestTheEngineFollows(t *testing.T) {
	h := pushHouse(t)
	engine := func() *policy.Engine {
		e, err := policy.NewEngine(t.Context(), config.Policy{Enforce: "../../policies"}, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		h.Service = NewService(Config{State: h.state, Clock: time.Now, Logger: h.cfg.Logger, Engine: e})
		if err := h.Enforce(t.Context()); err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := engine()
	h.enroll("pump-1", "pump")
	jane := h.author("jane", 0, PolicyAuthor)
	api := h.api(PolicyAuthor)
	rec, _ := h.state.Devices.Get("pump-1")
	check := func(what string, all, canary *policy.Source) {
		t.Helper()
		for range 2 { // and once more after a restart
			if got := e.Current().Revision(); got != all.Revision() {
				t.Errorf("%s: in force is %s, want %s", what, got, all.Revision())
			}
			if got := e.For(rec).Revision(); got != canary.Revision() {
				t.Errorf("%s: for the device %s, want %s", what, got, canary.Revision())
			}
			e = engine()
		}
		api = h.api(PolicyAuthor)
	}
	done := func(_ *Pushed, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	shipped, err := policy.Read("../../policies", policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	one, two, three := set(t, "one"), set(t, "two"), set(t, "three")
	trial := func(r PushRequest) PushRequest {
		r.Canary = &CanaryRequest{Devices: []string{"pump-1"}, MaxDenials: 1, Window: time.Minute}
		return r
	}
	check("at the start", shipped, shipped)
	done(api.PushPolicy(t.Context(), trial(jane.request(t, one, 0))))
	check("a trial beside the directory", shipped, one)
	done(api.PromotePolicy(t.Context()))
	check("promoted", one, one)
	done(api.PushPolicy(t.Context(), jane.request(t, two, 1)))
	check("pushed", two, two)
	done(api.PushPolicy(t.Context(), trial(jane.request(t, three, 2))))
	check("a trial", two, three)
	done(api.RollBackPolicy(t.Context(), ""))
	check("the trial ended", two, two)
	done(api.RollBackPolicy(t.Context(), ""))
	check("rolled back", one, one)
	done(api.PushPolicy(t.Context(), trial(jane.request(t, three, 3))))
	done(api.RollBackPolicy(t.Context(), "2"))
	check("rolled back by number in a trial", two, two)

	st, err := api.PolicyState(t.Context())
	if err != nil || st.Pushed == nil || st.Pushed.Number != 2 || st.Canary != nil || st.Last != 4 || st.Source != "pushed" {
		t.Errorf("status %+v, %v", st, err)
	}
}

// A set of the size that is allowed passes the socket, one that is larger does
// not.
func TestALargeSetPassesTheSocket(t *testing.T) {
	h := pushHouse(t)
	jane := h.author("jane", 0, PolicyAuthor)
	api := h.listen(filepath.Join(h.dir, "s"))
	large := func(n int) *policy.Source {
		dir := t.TempDir()
		noise := make([]byte, n/2)
		rand.Read(noise) // what gzip can not make smaller
		for name, body := range map[string]string{
			"decision.rego": decision, "a.rego": "package anteroom.authz\n\nallow contains \"known\" if input.device.class == \"x\"\n",
			"data.json": `{"noise": "` + hex.EncodeToString(noise) + `"}`,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		src, err := policy.Read(dir, policy.Options{MaxBytes: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	if _, err := api.PushPolicy(t.Context(), jane.request(t, large(8<<20), 0)); err != nil {
		t.Error(err)
	}
	var e *Error
	if _, err := api.PushPolicy(t.Context(), jane.request(t, large(20<<20), 1)); !errors.As(err, &e) || !strings.Contains(e.Message, "larger than allowed") {
		t.Errorf("error %v", err)
	}
}
