package enrol

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

func TestATokenEnrolsItsDeviceOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	token, key := d.token("pump-1"), newKey(t, ca.P256)
	iss, err := d.by(token, request(t, key, "pump-1"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := ca.DeviceID(iss.Chain[0], domain)
	if err != nil || id != "pump-1" {
		t.Errorf("the certificate is %s's: %v", id, err)
	}
	if rec := d.record("pump-1"); rec.Status != device.Active || rec.Certificate(fingerprint(iss.Chain[0])) == nil || rec.Certificates[0].Way != "token" {
		t.Errorf("the record: %+v", rec)
	}
	r := refused(t, "a second use with another key", second(d.by(token, request(t, newKey(t, ca.P256), "pump-1"))), BadProof)
	if !strings.Contains(r.Why, "was used at") {
		t.Errorf("it is told %q", r.Why)
	}
	if n := len(d.record("pump-1").Certificates); n != 1 {
		t.Errorf("%d certificates", n)
	}
	if got := d.events("pump-1"); !slices.Equal(got, []string{"enrolment.request", "device.enrolled", "enrolment.refused"}) {
		t.Errorf("records: %v", got)
	}
}

func second[T any](_ T, err error) error { return err }

// TestAnAnswerThatWasLostIsGivenAgain: the same token with the same key brings the
// same certificate and no other, over a restart too, and only while it is in
// force and the token's time is not over.
func TestAnAnswerThatWasLostIsGivenAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	token, key := d.token("pump-1"), newKey(t, ca.P256)
	first, err := d.by(token, request(t, key, "pump-1"))
	if err != nil {
		t.Fatal(err)
	}
	after := d.killed()
	again, err := after.by(strings.ToLower(token), request(t, key, ""))
	if err != nil || !again.Repeated || !again.Chain[0].Equal(first.Chain[0]) || string(again.ChainPEM) != string(first.ChainPEM) {
		t.Fatalf("%+v, %v", again, err)
	}
	if n := len(after.record("pump-1").Certificates); n != 1 {
		t.Errorf("%d certificates", n)
	}
	refused(t, "with another key", second(after.by(token, request(t, newKey(t, ca.P256), ""))), BadProof)
	d.ahead = 2 * time.Hour
	refused(t, "after its time", second(d.by(token, request(t, key, ""))), BadProof)
	d.ahead = 0
	if _, err := d.Registrar.cfg.Devices.SetStatus(t.Context(), "pump-1", device.Revoked, "stolen"); err != nil {
		t.Fatal(err)
	}
	refused(t, "after the device was revoked", second(d.by(token, request(t, key, ""))), BadStatus)
}

// TestCutOffBeforeTheGrantTheTokenIsAsGoodAsBefore: what is cut off between the
// CA and the registry leaves a certificate nobody accepts, and the token.
func TestCutOffBeforeTheGrantTheTokenIsAsGoodAsBefore(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	token, key := d.token("pump-1"), newKey(t, ca.P256)
	csr, err := readCSR(request(t, key, "pump-1"))
	if err != nil {
		t.Fatal(err)
	}
	// The steps of Enrol up to the one that grants; then the process is killed.
	orphan, err := d.Registrar.cfg.CA.Issue(t.Context(), ca.Request{Profile: ca.Device, ID: "pump-1", CSR: csr.CertificateRequest, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	after := d.killed()
	if _, ok := after.Registrar.cfg.Devices.ByFingerprint(fingerprint(orphan.Leaf)); ok {
		t.Error("the registry knows a certificate that was not granted")
	}
	iss, err := after.by(token, request(t, key, "pump-1"))
	if err != nil || iss.Repeated || iss.Chain[0].Equal(orphan.Leaf) {
		t.Fatalf("%+v, %v", iss, err)
	}
	_, err = after.identify(orphan.Leaf)
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != BadProof {
		t.Errorf("the orphan opens something: %v", err)
	}
}

// failing is a store whose writes fail from a moment on.
type failing struct {
	store.Store
	fail error
}

func (f *failing) Update(ctx context.Context, do func(store.Writer) error) error {
	return f.Store.Update(ctx, func(w store.Writer) error {
		if err := do(w); err != nil {
			return err
		}
		return f.fail // after everything was written, and before it is durable
	})
}

func TestAFullDiskNeitherBurnsATokenNorEnrols(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	st := &failing{Store: d.store}
	devices, err := device.Open(t.Context(), st, device.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.Registrar.cfg.Devices, d.Registrar.cfg.Tokens.st = devices, st
	token, csr := d.token("pump-1"), request(t, newKey(t, ca.P256), "pump-1")
	st.fail = errors.New("the disk is full")
	refused(t, "a full disk", second(d.by(token, csr)), Busy)
	if rec := d.record("pump-1"); rec.Status != device.Pending || len(rec.Certificates) != 0 {
		t.Errorf("it is enrolled: %+v", rec)
	}
	st.fail = nil
	if _, err := d.by(token, csr); err != nil {
		t.Errorf("the token is burnt: %v", err)
	}
}

func TestOfManyAtOnceOneGetsTheCertificate(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	token := d.token("pump-1")
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 8 {
		csr := request(t, newKey(t, ca.P256), "pump-1")
		wg.Go(func() {
			_, err := d.by(token, csr)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != BadProof {
				t.Errorf("a loser hears %v", err)
			}
		})
	}
	wg.Wait()
	if n := len(d.record("pump-1").Certificates); won != 1 || n != 1 {
		t.Errorf("%d won, %d certificates", won, n)
	}
}

func TestWhatMakesATokenWorthless(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ctx, tokens, devices := t.Context(), d.Registrar.cfg.Tokens, d.Registrar.cfg.Devices
	n := 0
	for what, spoil := range map[string]func(id, token string) string{
		"its time is over": func(_, token string) string { d.ahead = 61 * time.Minute; return token },
		"another was made": func(id, token string) string { d.token(id); return token },
		"it was revoked": func(_, token string) string {
			if _, err := tokens.Revoke(ctx, token[:groupLen]); err != nil {
				t.Error(err)
			}
			return token
		},
		"the device's tokens were withdrawn": func(id, token string) string {
			if err := tokens.Withdraw(ctx, id); err != nil {
				t.Error(err)
			}
			return token
		},
		"it has a wrong letter": func(_, token string) string {
			last := byte('A')
			if token[len(token)-1] == 'A' {
				last = 'B'
			}
			return token[:len(token)-1] + string(last)
		},
		"it has another's name":   func(_, token string) string { return "0000000" + token[groupLen:] },
		"it is cut off":           func(_, token string) string { return token[:len(token)-1] },
		"it is too long":          func(_, token string) string { return token + "A" },
		"it has a letter of none": func(_, token string) string { return token[:len(token)-1] + "U" },
		"it is empty":             func(_, _ string) string { return "" },
		"it is very long":         func(_, token string) string { return strings.Repeat(token, 1000) },
	} {
		n++
		id := "pump-" + string(rune('a'+n))
		d.register(id, device.Pending)
		token := spoil(id, d.token(id))
		refused(t, what, second(d.by(token, request(t, newKey(t, ca.P256), ""))), BadProof)
		d.ahead = 0
		if rec := d.record(id); rec.Status != device.Pending || len(rec.Certificates) != 0 {
			t.Errorf("%s: %+v", what, rec)
		}
	}
	// A token is for its device, whoever the request says it is.
	d.register("pump-1", device.Pending)
	d.register("pump-2", device.Pending)
	_, err := d.Enrol(ctx, &Request{Way: EST, ID: "pump-2", CSR: request(t, newKey(t, ca.P256), "pump-2"), Proof: Secret{d.token("pump-1")}})
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != BadNames && r.Code != BadProof {
		t.Errorf("another's token: %v", err)
	}
	// What is withdrawn is not brought back by a token from before.
	for _, to := range []device.Status{device.Quarantined, device.Retired, device.Revoked} {
		id := "withdrawn-" + string(to)
		d.register(id, device.Active)
		token := d.token(id)
		if _, err := devices.SetStatus(ctx, id, to, "test"); err != nil {
			t.Fatal(err)
		}
		refused(t, string(to), second(d.by(token, request(t, newKey(t, ca.P256), ""))), BadStatus)
	}
}

// TestATokenFromBeforeARevocation is worth nothing, even if the device came back
// by another way, and even if it was made to bring it back.
func TestATokenFromBeforeARevocation(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ctx, devices := t.Context(), d.Registrar.cfg.Devices
	if _, err := d.operator("pump-1", request(t, newKey(t, ca.P256), "pump-1")); err != nil {
		t.Fatal(err)
	}
	revoke := func() {
		t.Helper()
		if _, err := devices.SetStatus(ctx, "pump-1", device.Revoked, "stolen"); err != nil {
			t.Fatal(err)
		}
	}
	early, _, err := d.Registrar.cfg.Tokens.Create(ctx, "pump-1", "jane", time.Hour, true)
	if err != nil {
		t.Fatal(err)
	}
	revoke()
	refused(t, "made before the revocation", second(d.by(early, request(t, newKey(t, ca.P256), ""))), BadProof)
	back, _, err := d.Registrar.cfg.Tokens.Create(ctx, "pump-1", "jane", time.Hour, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.by(back, request(t, newKey(t, ca.P256), "")); err != nil {
		t.Fatalf("made to bring it back: %v", err)
	}
	if rec := d.record("pump-1"); rec.Status != device.Active || rec.Certificates[0].RevokedAt.IsZero() {
		t.Errorf("%+v", rec)
	}
}

func TestTokensAreKeptWithoutTheirSecrets(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	text := d.token("pump-1")
	handle, secret, ok := parseToken(text)
	if !ok || len(secret)*5 < 128 {
		t.Fatalf("%q is no token of 128 bits", text)
	}
	tokens := d.Registrar.cfg.Tokens
	err := d.store.View(t.Context(), func(r store.Reader) error {
		return r.Each(tokenTable, "", func(_ string, v []byte) error {
			if strings.Contains(string(v), secret) || strings.Contains(string(v), secret[groupLen:2*groupLen]) {
				t.Error("the secret rests in the store")
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	// Whoever can write to the store makes no token into another.
	tok, err := tokens.find(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Token){
		"another device": func(t *Token) { t.Device = "pump-2" }, "a later end": func(t *Token) { t.Expires = t.Expires.Add(time.Hour) },
		"a way back": func(t *Token) { t.Again = true }, "another name": func(t *Token) { t.Handle = "0000000" },
	} {
		forged := *tok
		change(&forged)
		if err := d.store.Update(t.Context(), func(w store.Writer) error { return put(w, &forged) }); err != nil {
			t.Fatal(err)
		}
		if _, err := tokens.find(t.Context(), written(forged.Handle, secret)); err == nil {
			t.Errorf("a token was changed to %s", what)
		}
	}
	if err := d.store.Update(t.Context(), func(w store.Writer) error { return put(w, tok) }); err != nil {
		t.Fatal(err)
	}
	other, err := OpenTokens(d.store, d.dir+"/another.key", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.find(t.Context(), text); err == nil {
		t.Error("the store alone is enough")
	}
	list, err := tokens.List(t.Context())
	if err != nil || !slices.ContainsFunc(list, func(k Token) bool { return k.Handle == handle && k.MAC == "" && k.By == "jane" }) {
		t.Errorf("%+v, %v", list, err)
	}
	d.ahead = 8 * 24 * time.Hour
	if list, err := tokens.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("a week later: %+v, %v", list, err)
	}
}

func FuzzParseToken(f *testing.F) {
	for range 3 {
		f.Add(written(newTokenText()))
	}
	f.Add("oooooo0-iiiiiii-lllllll-0000000-1111111")
	f.Fuzz(func(t *testing.T, text string) {
		handle, secret, ok := parseToken(text)
		if !ok {
			return
		}
		h, s, ok := parseToken(written(handle, secret))
		if !ok || h != handle || s != secret {
			t.Errorf("%q is read as %s %s and that as %s %s", text, handle, secret, h, s)
		}
	})
}
