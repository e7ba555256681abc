package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// A fixed clock that goes on by a second at each look.
func ticking() func() time.Time {
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	return func() time.Time { now = now.Add(time.Second); return now }
}

func openHistory(t *testing.T, dir string) *History {
	t.Helper()
	h, err := OpenHistory(dir, ticking())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// push adds revision rN, whose archive is its name.
func push(t *testing.T, h *History, keep int, c *Canary) Entry {
	t.Helper()
	n := h.Last() + 1
	e, err := h.Add(Entry{Revision: fmt.Sprintf("r%03d", n), Author: "jane"}, fmt.Appendf(nil, "archive %d", n), n-1, keep, c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func state(h *History) string {
	var b strings.Builder
	for _, e := range h.Entries() {
		fmt.Fprintf(&b, "%d", e.Number)
		if in, ok := h.InForce(); ok && in.Number == e.Number {
			b.WriteString("*")
		}
		if c, _, ok := h.Canary(); ok && c.Number == e.Number {
			b.WriteString("?")
		}
		if e.Ended != "" {
			b.WriteString("!")
		}
		b.WriteString(" ")
	}
	return strings.TrimSpace(b.String())
}

func TestAHistoryIsTheSameAfterARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	h := openHistory(t, dir)
	if _, ok := h.InForce(); ok || h.Last() != 0 || len(h.Entries()) != 0 {
		t.Error("an empty history has something")
	}
	check := func(want string) {
		t.Helper()
		if got := state(h); got != want {
			t.Errorf("history %q, want %q", got, want)
		}
		h = openHistory(t, dir)
		if got := state(h); got != want {
			t.Errorf("after a restart %q, want %q", got, want)
		}
	}
	try := &Canary{Devices: []string{"pump-1"}, MaxDenials: 2, Window: time.Minute}
	push(t, h, 9, try)
	check("1?")
	if err := h.EndCanary("bad"); err != nil {
		t.Fatal(err)
	}
	check("1!")
	push(t, h, 9, nil)
	check("1! 2*")
	push(t, h, 9, nil)
	push(t, h, 9, try)
	check("1! 2 3* 4?")
	if c, e, ok := h.Canary(); !ok || e.Number != 4 || c.Window != time.Minute || c.MaxDenials != 2 || c.Since.IsZero() {
		t.Errorf("canary %+v of %+v", c, e)
	}
	if err := h.Enforce(4, ""); err != nil { // promoted
		t.Fatal(err)
	}
	check("1! 2 3 4*")
	if b, err := h.Before(); err != nil || b.Number != 3 {
		t.Errorf("before is %+v, %v", b, err)
	}
	if err := h.Enforce(3, ""); err != nil {
		t.Fatal(err)
	}
	if b, err := h.Before(); err != nil || b.Number != 2 {
		t.Errorf("before is %+v, %v: rolling back twice goes back twice", b, err)
	}
	if err := h.Enforce(2, ""); err != nil {
		t.Fatal(err)
	}
	if b, err := h.Before(); !errors.Is(err, ErrNoRevision) {
		t.Errorf("before is %+v, %v: 1 was never in force", b, err)
	}
	check("1! 2* 3 4")
	// What was rolled back is not what was in force before.
	push(t, h, 9, nil)
	if b, err := h.Before(); err != nil || b.Number != 2 {
		t.Errorf("before is %+v, %v", b, err)
	}
	// A revision that never was in force is, and knows what was before.
	if err := h.Enforce(1, ""); err != nil {
		t.Fatal(err)
	}
	if b, err := h.Before(); err != nil || b.Number != 5 {
		t.Errorf("before is %+v, %v", b, err)
	}
	if a, err := h.Archive(3); err != nil || string(a) != "archive 3" {
		t.Errorf("archive %q, %v", a, err)
	}
}

func TestAHistoryIsBoundedButForNothingThatCounts(t *testing.T) {
	dir := t.TempDir()
	h := openHistory(t, dir)
	push(t, h, 3, nil)
	for range 4 {
		push(t, h, 3, nil)
	}
	if got := state(h); got != "3 4 5*" {
		t.Errorf("history %q", got)
	}
	if err := h.Enforce(3, ""); err != nil {
		t.Fatal(err)
	}
	push(t, h, 3, &Canary{})
	if got := state(h); got != "3* 5 6?" {
		t.Errorf("history %q", got)
	}
	if err := h.EndCanary("x"); err != nil {
		t.Fatal(err)
	}
	push(t, h, 1, &Canary{})
	if got := state(h); got != "3* 7?" {
		t.Errorf("history %q", got)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 3 {
		t.Errorf("files %v, %v: two archives and the history are needed", files, err)
	}
	if _, err := h.Find("5"); !errors.Is(err, ErrNoRevision) {
		t.Errorf("found what was forgotten: %v", err)
	}
}

func TestAPushIsTakenOnce(t *testing.T) {
	h := openHistory(t, t.TempDir())
	push(t, h, 9, nil)
	if _, err := h.Add(Entry{Revision: "r1"}, []byte("archive 1"), 0, 9, nil); !errors.As(err, new(Conflict)) {
		t.Errorf("a push that was made before the last is taken: %v", err)
	}
	push(t, h, 9, &Canary{})
	if _, err := h.Add(Entry{Revision: "r3"}, []byte("archive 3"), 2, 9, nil); !errors.As(err, new(Conflict)) {
		t.Errorf("a push during a trial is taken: %v", err)
	}
	if err := errors.Join(h.EndCanary("x"), h.Enforce(1, "")); err != nil {
		t.Fatal(err)
	}
	if err := h.EndCanary("x"); !errors.As(err, new(Conflict)) {
		t.Errorf("no trial was ended: %v", err)
	}
}

func TestRevisionsAreFoundByNumberAndHash(t *testing.T) {
	h := openHistory(t, t.TempDir())
	for i, rev := range []string{"aaaa1", "aaaa2", "bbbb1", "bbbb1"} {
		if _, err := h.Add(Entry{Revision: rev}, []byte(rev), i, 9, nil); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range map[string]int{"1": 1, "aaaa2": 2, "bbbb": 4, "aaaa": 0, "aaa": 0, "5": 0, "": 0, "-1": 0, "0": 0} {
		e, err := h.Find(ref)
		if e.Number != want || (err == nil) != (want != 0) || err != nil && !errors.Is(err, ErrNoRevision) {
			t.Errorf("%q: %d, %v; want %d", ref, e.Number, err, want)
		}
	}
}

// A process is killed between the archive and the history: the revision was not
// acknowledged, and is not there.
func TestKilledBeforeItIsInTheHistory(t *testing.T) {
	dir := t.TempDir()
	h := openHistory(t, dir)
	push(t, h, 9, nil)
	for _, name := range []string{"000002.tar.gz", durable.TempPrefix + "123"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h = openHistory(t, dir)
	if got := state(h); got != "1*" {
		t.Errorf("history %q", got)
	}
	push(t, h, 9, nil)
	if files, _ := os.ReadDir(dir); len(files) != 3 {
		t.Errorf("%d files are left, want 3", len(files))
	}
	if a, err := h.Archive(2); err != nil || string(a) != "archive 2" {
		t.Errorf("archive %q, %v", a, err)
	}
}

func TestADiskThatFailsChangesNothing(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root writes where it may not; a directory in the way stops it too.
		t.Log("with a directory in place of the history's file")
	}
	dir := t.TempDir()
	h := openHistory(t, dir)
	push(t, h, 9, nil)
	file := filepath.Join(dir, historyFile)
	if err := errors.Join(os.Rename(file, file+".away"), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Add(Entry{Revision: "r2"}, []byte("archive 2"), 1, 9, nil); err == nil {
		t.Error("what could not be written was acknowledged")
	}
	if err := h.Enforce(1, ""); err == nil {
		t.Error("what could not be written was acknowledged")
	}
	if got := state(h); got != "1*" {
		t.Errorf("history %q", got)
	}
	if err := errors.Join(os.Remove(file), os.Rename(file+".away", file)); err != nil {
		t.Fatal(err)
	}
	if got := state(openHistory(t, dir)); got != "1*" {
		t.Errorf("after a restart %q", got)
	}
}

func TestWhatIsDamagedIsNotEnforced(t *testing.T) {
	dir := t.TempDir()
	h := openHistory(t, dir)
	e := push(t, h, 9, nil)
	for _, body := range []string{"archive 2", "archive", "archive 1 and more"} {
		if err := os.WriteFile(h.path(e.Number), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Archive(e.Number); err == nil {
			t.Errorf("%q was taken for what was pushed", body)
		}
	}
	for _, body := range []string{"{", `{"version": 2}`} {
		if err := os.WriteFile(filepath.Join(dir, historyFile), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenHistory(dir, ticking()); err == nil || !strings.Contains(err.Error(), historyFile) {
			t.Errorf("%q: error %v", body, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, historyFile), bytes.Repeat([]byte(" "), maxHistory+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenHistory(dir, ticking()); err == nil {
		t.Error("a history larger than allowed was read")
	}
}
