package finding

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// TestAFindingIsNewsOnce, over restarts, until it is over; and what a person has
// accepted is not.
func TestAFindingIsNewsOnce(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "registry.db")
	var b *Book
	open := func() {
		t.Helper()
		st, err := bolt.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = Open(t.Context(), st, func() time.Time { return now }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
	}
	open()
	see := func(news bool, k Kind, places ...string) {
		t.Helper()
		now = now.Add(time.Minute)
		f, got, err := b.See(t.Context(), "pump-1", k, "something", places...)
		if err != nil || got != news {
			t.Errorf("%+v is news: %v, %v", f, got, err)
		}
	}
	end := func(want bool, k Kind) {
		t.Helper()
		if got, err := b.End(t.Context(), "pump-1", k); err != nil || got != want {
			t.Errorf("it ends: %v, %v", got, err)
		}
	}
	end(false, Clock)
	see(true, Clock)
	see(false, Clock)
	see(true, Clone, "a", "b")
	see(false, Clone, "b", "a")
	see(true, Clone, "a", "c") // a third
	if err := b.st.Close(); err != nil {
		t.Fatal(err)
	}
	open()
	see(false, Clock)
	see(false, Clone, "a", "b", "c")
	if fs := b.Standing(); len(fs) != 2 || fs[0].Kind != Clock || fs[1].Places[2] != "c" {
		t.Errorf("%+v", fs)
	}
	end(true, Clock)
	end(false, Clock)
	see(true, Clock)
	if _, err := b.Accept(t.Context(), "pump-1", Clone, "jane"); err != nil {
		t.Error(err)
	}
	if _, err := b.Accept(t.Context(), "pump-1", Clone, "jane"); !errors.Is(err, ErrNotFound) {
		t.Errorf("accepted twice: %v", err)
	}
	see(false, Clone, "a", "b")
	if fs := b.Of("pump-1"); len(fs) != 2 || fs[0].Open() || fs[0].By != "jane" {
		t.Errorf("%+v", fs)
	}
	see(true, Clone, "a", "d")
	if fs := b.Standing(); len(fs) != 2 {
		t.Errorf("%+v", fs)
	}
	// What is about no place is news again once it was over.
	if _, err := b.Accept(t.Context(), "pump-1", Clock, "jane"); err != nil {
		t.Error(err)
	}
	see(true, Clock)
}

func TestEachKindSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for _, k := range Kinds() {
		if len(k.Advice("pump-1")) < 40 {
			t.Errorf("%s: %q", k, k.Advice("pump-1"))
		}
	}
}
