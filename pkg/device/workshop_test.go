package device

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// workshop is a registry on a disk, with a clock that is set.
func workshop(t *testing.T, path string, now *time.Time) *Registry {
	t.Helper()
	st, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	g, err := Open(t.Context(), st, Options{Clock: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func active(t *testing.T, g *Registry, rec *Record) {
	t.Helper()
	if _, err := g.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if _, err := g.SetStatus(t.Context(), rec.ID, Active, ""); err != nil {
		t.Fatal(err)
	}
}

func TestALoanEndsAndWhatWasComesBack(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "registry.db")
	g := workshop(t, path, &now)
	active(t, g, &Record{ID: "pump-1", Class: "pump", Location: "icu", Owner: "biomed"})
	lend := func(l Loan, location, owner string) error {
		_, err := g.Lend(t.Context(), "pump-1", location, owner, l)
		return err
	}
	for what, l := range map[string]Loan{
		"to nobody":          {Until: now.Add(time.Hour)},
		"without an end":     {To: "ward 5"},
		"that has ended":     {To: "ward 5", Until: now},
		"for ever":           {To: "ward 5", Until: now.Add(2 * maxLoan)},
		"to what is no name": {To: "ward\n5", Until: now.Add(time.Hour)},
	} {
		if err := lend(l, "", ""); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := lend(Loan{To: "ward 5", Until: now.Add(time.Hour)}, "ward-5", ""); err != nil {
		t.Fatal(err)
	}
	// Lent on, its home is what it was.
	if err := lend(Loan{To: "ward 6", Until: now.Add(2 * time.Hour)}, "ward-6", "dr x"); err != nil {
		t.Fatal(err)
	}
	rec, _ := g.Get("pump-1")
	if rec.Location != "ward-6" || rec.Owner != "dr x" || rec.Loan.HomeLocation != "icu" || rec.Loan.HomeOwner != "biomed" || rec.CutOff(now.Add(3*time.Hour)) {
		t.Errorf("%+v %+v", rec, rec.Loan)
	}
	rec, err := g.Return(t.Context(), "pump-1")
	if err != nil || rec.Location != "icu" || rec.Owner != "biomed" || rec.Loan != nil || rec.Status != Active {
		t.Errorf("%+v, %v", rec, err)
	}
	if _, err := g.Return(t.Context(), "pump-1"); !errors.Is(err, ErrTransition) {
		t.Errorf("back twice: %v", err)
	}
	// One that is cut off at its end, and one that came back before it.
	strict := Loan{To: "elsewhere", Until: now.Add(time.Hour), ThenQuarantine: true}
	if err := lend(strict, "", ""); err != nil {
		t.Fatal(err)
	}
	if rec, err = g.Return(t.Context(), "pump-1"); err != nil || rec.Status != Active {
		t.Errorf("back in time: %+v, %v", rec, err)
	}
	if err := lend(strict, "outside", ""); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	if rec, _ = g.Get("pump-1"); !rec.CutOff(now) || rec.CutOff(now.Add(-1)) {
		t.Error("it is not cut off at its time")
	}
	// The end can not be put off once it is there: that is a release.
	if err := lend(Loan{To: "elsewhere", Until: now.Add(time.Hour)}, "", ""); !errors.Is(err, ErrTransition) {
		t.Errorf("lent on after its end: %v", err)
	}
	if rec, err = g.Return(t.Context(), "pump-1"); err != nil || rec.Status != Quarantined || rec.StatusReason != OverdueReason || rec.Location != "icu" {
		t.Errorf("%+v, %v", rec, err)
	}
	if err := lend(Loan{To: "ward 5", Until: now.Add(time.Hour)}, "", ""); !errors.Is(err, ErrTransition) {
		t.Errorf("lent in quarantine: %v", err)
	}
	// What is revoked is on loan no more.
	if _, err := g.SetStatus(t.Context(), "pump-1", Active, ""); err != nil {
		t.Fatal(err)
	}
	if err := lend(Loan{To: "ward 5", Until: now.Add(time.Hour)}, "ward-5", ""); err != nil {
		t.Fatal(err)
	}
	if rec, err = g.SetStatus(t.Context(), "pump-1", Revoked, ""); err != nil || rec.Loan != nil || rec.Location != "icu" {
		t.Errorf("%+v, %v", rec, err)
	}
}

func TestADeviceTakesAnothersPlace(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "registry.db")
	g := workshop(t, path, &now)
	active(t, g, &Record{ID: "pump-1", Class: "pump", Manufacturer: "ACME", Model: "P1", Serial: "88", UDI: "(01)9", Location: "icu", Owner: "biomed",
		Tags: map[string]string{"ward": "3b"}, LifeCritical: true, Posture: Posture{Firmware: "1.0"}})
	if _, err := g.Lend(t.Context(), "pump-1", "ward-5", "", Loan{To: "ward 5", Until: now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Grant(t.Context(), Grant{ID: "pump-1", Certificate: member(1).Certificates[0]}); err != nil {
		t.Fatal(err)
	}
	active(t, g, &Record{ID: "pump-3", Class: "pump"})
	if _, err := g.Create(t.Context(), &Record{ID: "ct-1", Class: "ct"}); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		old, by string
		want    error
	}{
		"one that is not there":  {"pump-9", "pump-2", ErrNotFound},
		"itself":                 {"pump-1", "pump-1", ErrInvalid},
		"one in service":         {"pump-1", "pump-3", ErrExists},
		"another kind of device": {"pump-1", "ct-1", ErrInvalid},
		"no id":                  {"pump-1", "PUMP", ErrInvalid},
	} {
		before, _ := g.Get("pump-1")
		if _, _, err := g.Replace(t.Context(), c.old, &Record{ID: c.by}, ""); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		if after, _ := g.Get("pump-1"); after != before {
			t.Errorf("%s: it changed something", what)
		}
	}
	old, by, err := g.Replace(t.Context(), "pump-1", &Record{ID: "pump-2", Serial: "99"}, "board burnt")
	if err != nil {
		t.Fatal(err)
	}
	if old.Status != Revoked || old.StatusReason != "replaced by pump-2: board burnt" || old.Certificates[0].RevokedAt.IsZero() || old.Loan != nil {
		t.Errorf("the old one: %+v", old)
	}
	want := &Record{ID: "pump-2", Class: "pump", Manufacturer: "ACME", Model: "P1", Serial: "99", UDI: "(01)9", Location: "icu", Owner: "biomed",
		Tags: map[string]string{"ward": "3b"}, LifeCritical: true, Status: Pending, StatusReason: "replaces pump-1",
		StatusAt: now, CreatedAt: now, UpdatedAt: now, Revision: old.Revision + 1}
	if !reflect.DeepEqual(by, want) {
		t.Errorf("the new one: %+v, want %+v", by, want)
	}
	// Again, which completes what was cut off, and into a place that was registered.
	if _, _, err := g.Replace(t.Context(), "pump-1", &Record{ID: "pump-2"}, ""); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, err := g.SetStatus(t.Context(), "pump-1", Retired, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.Replace(t.Context(), "pump-1", &Record{ID: "pump-4"}, ""); !errors.Is(err, ErrTransition) {
		t.Errorf("a retired one: %v", err)
	}
	// Both are what they were for who opens the registry next.
	if err := g.st.Close(); err != nil {
		t.Fatal(err)
	}
	next := workshop(t, path, &now)
	if r, _ := next.Get("pump-2"); r == nil || r.Serial != "99" || r.Location != "icu" || r.Status != Pending {
		t.Errorf("after a restart: %+v", r)
	}
}
