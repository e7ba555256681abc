package device

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

func TestOneCertificateIsWithdrawnAndTheDeviceStaysWhatItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	g, done := open(t, path)
	ctx := context.Background()
	if _, err := g.Grant(ctx, Grant{ID: "pump-1", New: &Record{Class: "pump"}, Certificate: certificateOf("one")}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Grant(ctx, Grant{ID: "pump-1", Certificate: certificateOf("two")}); err != nil {
		t.Fatal(err)
	}
	one := certificateOf("one").Fingerprint
	no := errors.New("no")
	if _, err := g.Withdraw(ctx, "pump-1", one, "", func(r *Record, c *Certificate) error {
		if r.ID != "pump-1" || c.Fingerprint != one {
			t.Errorf("asked about %s of %s", c.Fingerprint, r.ID)
		}
		return no
	}); !errors.Is(err, no) {
		t.Errorf("refused by check: %v", err)
	}
	told := 0
	cancel := g.Subscribe(func(old, new *Record) {
		if old.Certificate(one).RevokedAt.IsZero() && !new.Certificate(one).RevokedAt.IsZero() {
			told++
		}
	})
	defer cancel()
	r, err := g.Withdraw(ctx, "pump-1", one, "superseded", nil)
	if err != nil || r.Status != Active || !r.RevokedAt.IsZero() || told != 1 {
		t.Fatalf("%+v, %v, told %d times", r, err, told)
	}
	at := r.Certificate(one).RevokedAt
	if _, err := g.Withdraw(ctx, "pump-1", one, "key compromise", nil); !errors.Is(err, ErrWithdrawn) {
		t.Errorf("once more: %v", err)
	}
	for what, err := range map[string]error{
		"nobody's":  func() error { _, err := g.Withdraw(ctx, "pump-2", one, "", nil); return err }(),
		"another's": func() error { _, err := g.Withdraw(ctx, "pump-1", certificateOf("x").Fingerprint, "", nil); return err }(),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := g.Withdraw(ctx, "pump-1", certificateOf("two").Fingerprint, "not\nprintable", nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("a reason that can not be printed: %v", err)
	}
	// Nothing gives it back, and it is so after a restart.
	if _, err := g.Update(ctx, "pump-1", func(r *Record) error { r.Certificates[0].RevokedAt = r.CreatedAt; return nil }); err == nil {
		t.Error("it was given back")
	}
	done()
	g, done = open(t, path)
	defer done()
	r, _ = g.Get("pump-1")
	if c := r.Certificate(one); !c.RevokedAt.Equal(at) || c.RevokedFor != "superseded" || !r.Certificates[1].RevokedAt.IsZero() || r.Status != Active {
		t.Errorf("after a restart: %+v", r)
	}
}
