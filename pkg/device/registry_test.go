package device

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

func fingerprint(n int) string { return fmt.Sprintf("%064x", n) }

func open(t testing.TB, path string) (*Registry, func()) {
	t.Helper()
	st, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	g, err := Open(context.Background(), st, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return g, func() { st.Close() }
}

func registry(t testing.TB) *Registry {
	g, done := open(t, filepath.Join(t.TempDir(), "registry.db"))
	t.Cleanup(done)
	return g
}

func pump(id string, fps ...int) *Record {
	r := &Record{ID: id, Class: "infusion-pump", Status: Active}
	for _, n := range fps {
		r.Certificates = append(r.Certificates, Certificate{Fingerprint: fingerprint(n), NotAfter: time.Unix(2e9, 0)})
	}
	return r
}

func TestWhatWasWrittenIsThereAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	g, done := open(t, path)
	ctx := context.Background()
	in := pump("pump-1", 1, 2)
	in.Tags = map[string]string{"bed": "12"}
	if _, err := g.Create(ctx, in); err != nil {
		t.Fatal(err)
	}
	in.Tags["bed"] = "changed by the caller"
	rec, err := g.SetStatus(ctx, "pump-1", Quarantined, "odd traffic")
	if err != nil {
		t.Fatal(err)
	}
	done()
	g, done = open(t, path)
	defer done()
	got, ok := g.Get("pump-1")
	if !ok || got.Status != Quarantined || got.StatusReason != "odd traffic" || got.Tags["bed"] != "12" || got.Revision != rec.Revision {
		t.Fatalf("read back %+v", got)
	}
	for _, n := range []int{1, 2} {
		if r, ok := g.ByFingerprint(fingerprint(n)); !ok || r.ID != "pump-1" {
			t.Errorf("fingerprint %d finds %v", n, r)
		}
	}
	if _, ok := g.ByFingerprint(fingerprint(3)); ok {
		t.Error("found a certificate nobody has")
	}
	if next, err := g.Create(ctx, pump("pump-2")); err != nil || next.Revision != rec.Revision+1 {
		t.Errorf("revision after %d is %+v, %v", rec.Revision, next, err)
	}
}

func TestOneStatusFollowsAnother(t *testing.T) {
	all := []Status{Pending, Active, Quarantined, Revoked, Retired}
	allowed := map[string]bool{}
	for _, s := range strings.Fields("pending>active pending>quarantined pending>revoked pending>retired active>quarantined " +
		"active>revoked active>retired quarantined>active quarantined>revoked quarantined>retired revoked>retired") {
		allowed[s] = true
	}
	g, ctx := registry(t), context.Background()
	n := 0
	for _, from := range all {
		for _, to := range append(all, "banana") {
			n++
			r := pump(fmt.Sprintf("d%d", n), n)
			r.Status = from
			if _, err := g.Create(ctx, r); err != nil {
				t.Fatal(err)
			}
			rec, err := g.SetStatus(ctx, r.ID, to, "")
			if want := allowed[string(from)+">"+string(to)]; (err == nil) != want {
				t.Errorf("%s to %s: %v, want allowed %v", from, to, err, want)
			}
			if err == nil && (to == Revoked || to == Retired) && rec.Certificates[0].RevokedAt.IsZero() {
				t.Errorf("%s to %s leaves its certificate valid", from, to)
			}
			if err != nil && !errors.Is(err, ErrTransition) && !errors.Is(err, ErrInvalid) {
				t.Errorf("%s to %s: %v is neither", from, to, err)
			}
		}
	}
}

func TestACertificateBelongsToOneDevice(t *testing.T) {
	g, ctx := registry(t), context.Background()
	if _, err := g.Create(ctx, pump("pump-1", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Create(ctx, pump("pump-2", 1)); !errors.Is(err, ErrTaken) {
		t.Errorf("got %v", err)
	}
	if _, err := g.Create(ctx, pump("pump-1")); !errors.Is(err, ErrExists) {
		t.Errorf("got %v", err)
	}
}

func TestBadRecordsAreRefused(t *testing.T) {
	g := registry(t)
	for name, f := range map[string]func(*Record){
		"no id":             func(r *Record) { r.ID = "" },
		"long id":           func(r *Record) { r.ID = strings.Repeat("a", 65) },
		"upper case":        func(r *Record) { r.ID = "Pump" },
		"slash":             func(r *Record) { r.ID = "a/b" },
		"dots":              func(r *Record) { r.ID = "a..b" },
		"begins with a dot": func(r *Record) { r.ID = ".a" },
		"line break":        func(r *Record) { r.Location = "icu\nroot" },
		"escape":            func(r *Record) { r.Owner = "\x1b[31m" },
		"bad utf-8":         func(r *Record) { r.Model = "\xff" },
		"long text":         func(r *Record) { r.Model = strings.Repeat("a", 257) },
		"tag name":          func(r *Record) { r.Tags = map[string]string{"a b": "c"} },
		"cvss":              func(r *Record) { r.Posture.MaxCVSS = 11 },
		"status":            func(r *Record) { r.Status = "dead" },
		"serial": func(r *Record) {
			r.Certificates = []Certificate{{Fingerprint: fingerprint(1), Serial: "1\n2"}}
		},
		"one certificate twice": func(r *Record) {
			r.Certificates = []Certificate{{Fingerprint: fingerprint(1)}, {Fingerprint: fingerprint(1)}}
		},
		"fingerprint": func(r *Record) { r.Certificates = []Certificate{{Fingerprint: "AB"}} },
	} {
		r := pump("pump-1")
		f(r)
		if _, err := g.Create(context.Background(), r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(g.List(Filter{})) != 0 {
		t.Error("a bad record was kept")
	}
}

func TestUpdateCannotChangeWhatIsTheRegistrys(t *testing.T) {
	g, ctx := registry(t), context.Background()
	if _, err := g.Create(ctx, pump("pump-1")); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(*Record) error{
		"id":      func(r *Record) error { r.ID = "pump-2"; return nil },
		"status":  func(r *Record) error { r.Status = Revoked; return nil },
		"revoked": func(r *Record) error { r.RevokedAt = time.Now(); return nil },
		"error":   func(r *Record) error { r.Location = "icu"; return errors.New("no") },
	} {
		if _, err := g.Update(ctx, "pump-1", f); err == nil {
			t.Errorf("%s: allowed", name)
		}
	}
	if r, _ := g.Get("pump-1"); r.Location != "" || r.Revision != 1 {
		t.Errorf("changed to %+v", r)
	}
	if _, err := g.Update(ctx, "nobody", func(*Record) error { return nil }); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestSubscribersSeeEveryChangeInOrderBeforeItsCallerDoes(t *testing.T) {
	g, ctx := registry(t), context.Background()
	var seen []uint64 // changes are serialised, so this needs no lock of its own
	cancel := g.Subscribe(func(old, r *Record) {
		if old != nil && old.Revision >= r.Revision {
			t.Errorf("revision %d after %d", r.Revision, old.Revision)
		}
		if now, ok := g.Get(r.ID); !ok || now.Revision != r.Revision {
			t.Error("told before it is visible")
		}
		seen = append(seen, r.Revision)
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := fmt.Sprintf("pump-%d", i)
			if _, err := g.Create(ctx, pump(id)); err != nil {
				t.Error(err)
			}
			for range 5 {
				if _, err := g.Update(ctx, id, func(r *Record) error { r.Location += "x"; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(seen) != 48 {
		t.Fatalf("%d changes seen", len(seen))
	}
	for i, r := range seen {
		if r != uint64(i+1) {
			t.Fatalf("change %d has revision %d", i, r)
		}
	}
	cancel()
	if _, err := g.SetStatus(ctx, "pump-1", Revoked, ""); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 48 {
		t.Error("told after cancelling")
	}
}

func TestListFiltersAndSorts(t *testing.T) {
	g, ctx := registry(t), context.Background()
	for i, id := range []string{"c", "a", "b"} {
		r := pump(id, i+1)
		if id == "b" {
			r.Class, r.Location = "ventilator", "icu"
		}
		if _, err := g.Create(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.SetStatus(ctx, "c", Quarantined, ""); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]Filter{
		"a b c": {}, "a c": {Class: "infusion-pump"}, "c": {Status: Quarantined}, "a": {Class: "infusion-pump", Status: Active},
		"b": {Location: "icu"}, "a b": {ExpiresBefore: time.Unix(2e9+1, 0)},
	} {
		var ids []string
		for _, r := range g.List(f) {
			ids = append(ids, r.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%+v lists %q, want %q", f, got, want)
		}
	}
	if c := g.Counts(); c[Active] != 2 || c[Quarantined] != 1 {
		t.Errorf("counts %v", c)
	}
}
