package device

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

func granted(n int) Certificate {
	return Certificate{Fingerprint: fingerprint(n), Key: fingerprint(1000 + n), Way: "est", NotAfter: time.Unix(2e9, 0)}
}

func TestAGrantIsTheOnlyWayBack(t *testing.T) {
	g, ctx := registry(t), context.Background()
	if _, err := g.Create(ctx, pump("pump-1", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.SetStatus(ctx, "pump-1", Revoked, "stolen"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: granted(2)}); !errors.Is(err, ErrStatus) {
		t.Errorf("a revoked device was given a certificate: %v", err)
	}
	r, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: granted(2), Again: true})
	if err != nil || r.Status != Active {
		t.Fatalf("%+v, %v", r, err)
	}
	if r.Certificates[0].RevokedAt.IsZero() || !r.Certificates[1].RevokedAt.IsZero() {
		t.Error("the old certificate came back, or the new one is withdrawn")
	}
	// When it was revoked is not forgotten with its next life, nor for Check to change.
	was := r.RevokedAt
	forget := func(r *Record) error { r.RevokedAt = time.Time{}; return nil }
	r, err = g.Grant(ctx, Grant{ID: "pump-1", Certificate: granted(3), Check: forget})
	if err != nil || was.IsZero() || !r.RevokedAt.Equal(was) {
		t.Errorf("revoked at %v, then %v, %v", was, r, err)
	}
}

func TestWhoMayBeGrantedACertificate(t *testing.T) {
	g, ctx := registry(t), context.Background()
	if _, err := g.Grant(ctx, Grant{ID: "pump-0", Certificate: granted(1)}); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	r, err := g.Grant(ctx, Grant{ID: "pump-0", Certificate: granted(1), New: &Record{Class: "infusion-pump", Status: Retired}})
	if err != nil || r.Status != Active || r.ID != "pump-0" || r.CreatedAt.IsZero() {
		t.Errorf("a new device: %+v, %v", r, err)
	}
	n := 1
	for status, may := range map[Status]bool{Pending: true, Active: true, Quarantined: false, Retired: false} {
		n++
		id := string(status)
		if _, err := g.Create(ctx, &Record{ID: id, Class: "infusion-pump", Status: status}); err != nil {
			t.Fatal(err)
		}
		r, err := g.Grant(ctx, Grant{ID: id, Certificate: granted(n), Again: true})
		if may && (err != nil || r.Status != Active) || !may && !errors.Is(err, ErrStatus) {
			t.Errorf("%s: %+v, %v", status, r, err)
		}
	}
}

// TestWhatAGrantAlsoWritesIsWrittenWithItOrNotAtAll, and what Check changes of
// what is not its own to change does not count.
func TestWhatAGrantAlsoWritesIsWrittenWithItOrNotAtAll(t *testing.T) {
	g, ctx := registry(t), context.Background()
	if _, err := g.Create(ctx, &Record{ID: "pump-1", Class: "infusion-pump"}); err != nil {
		t.Fatal(err)
	}
	before, _ := g.Get("pump-1")
	also := func(fail error) func(store.Writer) error {
		return func(w store.Writer) error {
			if err := w.Put("tokens", "t", []byte("used")); err != nil {
				return err
			}
			return fail
		}
	}
	spent := func() bool {
		err := g.st.View(ctx, func(r store.Reader) error { _, err := r.Get("tokens", "t"); return err })
		return err == nil
	}
	no := errors.New("no")
	if _, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: granted(1), Also: also(no)}); !errors.Is(err, no) {
		t.Errorf("what it also writes fails: %v", err)
	}
	if _, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: granted(1), Also: also(nil), Check: func(*Record) error { return no }}); !errors.Is(err, no) {
		t.Errorf("the check fails: %v", err)
	}
	bad := granted(1)
	bad.Key = "short"
	if _, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: bad, Also: also(nil)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("an invalid certificate: %v", err)
	}
	if now, _ := g.Get("pump-1"); now != before || spent() {
		t.Errorf("a refused grant left %+v, written: %v", now, spent())
	}
	r, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: granted(1), Also: also(nil), Check: func(r *Record) error {
		r.ID, r.Status, r.Location, r.Certificates = "pump-2", Retired, "icu", nil
		return nil
	}})
	if err != nil || r.ID != "pump-1" || r.Status != Active || r.Location != "icu" || len(r.Certificates) != 1 || !spent() {
		t.Errorf("%+v, %v, written: %v", r, err, spent())
	}
}

func TestAKeyBelongsToOneDevice(t *testing.T) {
	g, ctx := registry(t), context.Background()
	a, b := granted(1), granted(2)
	b.Key = a.Key
	class := &Record{Class: "infusion-pump"}
	if _, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: a, New: class}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Grant(ctx, Grant{ID: "pump-2", Certificate: b, New: class}); !errors.Is(err, ErrKeyTaken) {
		t.Errorf("another device with the same key: %v", err)
	}
	if _, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: b}); err != nil {
		t.Errorf("the same device with the same key: %v", err)
	}
	if r, ok := g.ByKey(a.Key); !ok || r.ID != "pump-1" || len(r.Certificates) != 2 {
		t.Errorf("by key: %+v", r)
	}
	if _, ok := g.ByKey(""); ok {
		t.Error("the absent key finds a device")
	}
	old := pump("pump-3", 7)
	if _, err := g.Create(ctx, old); err != nil {
		t.Errorf("a certificate from before keys were recorded: %v", err)
	}
	if _, err := g.Create(ctx, pump("pump-4", 8)); err != nil {
		t.Errorf("two of them: %v", err)
	}
}

func TestCertificatesThatEndedAreForgotten(t *testing.T) {
	g, ctx := registry(t), context.Background()
	for n := range mostCertificates {
		c := granted(n)
		c.NotAfter = time.Unix(1, 0)
		if n == 3 {
			c.NotAfter = time.Now().Add(time.Hour)
		}
		if _, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: c, New: &Record{Class: "infusion-pump"}}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: granted(99)})
	if err != nil || len(r.Certificates) != 2 || !slices.ContainsFunc(r.Certificates, func(c Certificate) bool { return c.Fingerprint == fingerprint(3) }) {
		t.Errorf("%+v, %v", r, err)
	}
}
