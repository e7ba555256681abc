package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A watched is an engine on a directory, whose events a test waits for.
type watched struct {
	*Engine
	dir    string
	events chan LoadEvent
	log    *bytes.Buffer
}

// says returns a rule file that allows everything with the given reason.
func says(reason string) string {
	return rules(fmt.Sprintf("allow contains %q if input.request", reason))
}

func newWatched(t *testing.T, dir string, watch bool) *watched {
	t.Helper()
	w := &watched{dir: dir, events: make(chan LoadEvent, 100), log: &bytes.Buffer{}}
	e, err := NewEngine(context.Background(), config.Policy{Enforce: dir}, Options{
		OnLoad: func(ev LoadEvent) { w.events <- ev },
		Logger: slog.New(slog.NewTextHandler(&lockedWriter{w: w.log}, nil)),
		Settle: 5 * time.Millisecond,
		Poll:   50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Engine = e
	if ev := <-w.events; ev.Err != nil || ev.Previous != "" || ev.Revision != e.Current().Revision() {
		t.Fatalf("first event %+v", ev)
	}
	if watch {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- e.Watch(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	return w
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// reason asks the engine and returns why it allows.
func (w *watched) reason() string {
	d := w.Decide(context.Background(), ask("x", &protocol.Transaction{Protocol: "p"}))
	return strings.Join(append(d.Reasons, d.Fault), "")
}

// until waits for an event that fits.
func (w *watched) until(t *testing.T, what string, fits func(LoadEvent) bool) LoadEvent {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case ev := <-w.events:
			if fits(ev) {
				return ev
			}
		case <-deadline:
			t.Fatalf("no event: %s", what)
		}
	}
}

// now waits until the set in force gives the reason.
func (w *watched) now(t *testing.T, reason string) {
	t.Helper()
	w.until(t, reason, func(ev LoadEvent) bool { return ev.Err == nil && w.reason() == reason })
}

func TestEngineNeedsAGoodSetToBegin(t *testing.T) {
	_, err := NewEngine(context.Background(), config.Policy{Enforce: setDir(t, map[string]string{"a.rego": "package"})}, Options{})
	problemsOf(t, err)
	_, err = NewEngine(context.Background(), config.Policy{Enforce: setDir(t, map[string]string{"a.rego": says("a")}), MaxSize: 10}, Options{})
	problemsOf(t, err)
}

func TestReload(t *testing.T) {
	ctx := context.Background()
	w := newWatched(t, setDir(t, map[string]string{"a.rego": says("one")}), false)
	first := w.Current()
	var changes []string
	cancel := w.OnChange(func(s *Set) { changes = append(changes, s.Revision()) })

	if err := w.Reload(ctx); err != nil || w.Current() != first {
		t.Fatalf("nothing changed, and: %v", err)
	}
	writeFile(t, w.dir, "a.rego", rules("allow contains \"two\" if {\n\tinput.devcie\n}"))
	for range 2 { // each time it is asked for
		err := w.Reload(ctx)
		if got := problemsOf(t, err); !strings.Contains(got, "a.rego:4:") {
			t.Errorf("got %s", got)
		}
		ev := <-w.events
		if ev.Err == nil || ev.Previous != first.Revision() || ev.Revision == "" || ev.Revision == ev.Previous || len(ev.Problems) != 1 {
			t.Errorf("event %+v", ev)
		}
	}
	if w.Current() != first || w.reason() != "one" {
		t.Fatal("a bad set replaced a good one")
	}
	if ev, refused := w.Refused(); !refused || len(ev.Problems) != 1 {
		t.Errorf("Refused says %+v, %v", ev, refused)
	}
	if !strings.Contains(w.log.String(), "a.rego:4:") {
		t.Errorf("the log does not say where: %s", w.log)
	}

	writeFile(t, w.dir, "a.rego", says("two"))
	if err := w.Reload(ctx); err != nil || w.reason() != "two" {
		t.Fatalf("the next good set: %v, %s", err, w.reason())
	}
	if _, refused := w.Refused(); refused {
		t.Error("still refused")
	}
	if len(changes) != 1 || changes[0] != w.Current().Revision() {
		t.Errorf("changes %v", changes)
	}
	cancel()
	writeFile(t, w.dir, "a.rego", says("three"))
	if err := w.Reload(ctx); err != nil || len(changes) != 1 {
		t.Errorf("after cancel: %v, %v", err, changes)
	}

	// Broken, and back to what is in force: nothing is loaded, nothing refused.
	writeFile(t, w.dir, "a.rego", "package")
	if err := w.Reload(ctx); err == nil {
		t.Error("a broken file is loaded")
	}
	writeFile(t, w.dir, "a.rego", says("three"))
	if err := w.Reload(ctx); err != nil {
		t.Error(err)
	}
	if _, refused := w.Refused(); refused {
		t.Error("still refused")
	}

	ended, end := context.WithCancel(ctx)
	end()
	writeFile(t, w.dir, "a.rego", says("four"))
	if err := w.Reload(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, refused := w.Refused(); refused {
		t.Error("an ended context refused a good set")
	}
}

func TestConfigure(t *testing.T) {
	ctx := context.Background()
	w := newWatched(t, setDir(t, map[string]string{"a.rego": says("one")}), true)
	bad := setDir(t, map[string]string{"a.rego": "package"})
	if err := w.Configure(ctx, config.Policy{Enforce: bad}); err == nil || w.reason() != "one" {
		t.Fatalf("a bad directory: %v", err)
	}
	writeFile(t, w.dir, "a.rego", says("two")) // still watched
	w.now(t, "two")
	other := setDir(t, map[string]string{"a.rego": says("three")})
	if err := w.Configure(ctx, config.Policy{Enforce: other, Timeout: config.Duration(time.Second)}); err != nil {
		t.Fatal(err)
	}
	if w.reason() != "three" || w.Current().opt.Timeout != time.Second {
		t.Errorf("got %s, %v", w.reason(), w.Current().opt.Timeout)
	}
	writeFile(t, other, "a.rego", says("four")) // watched now
	w.now(t, "four")
}

// TestWatch changes a directory in the ways people and programs do.
func TestWatch(t *testing.T) {
	w := newWatched(t, setDir(t, map[string]string{"a.rego": says("one"), "d/x.yaml": "a: 1\n"}), true)

	writeFile(t, w.dir, "a.rego", says("in place"))
	w.now(t, "in place")

	// As editors save: beside, then renamed.
	writeFile(t, w.dir, ".a.rego.tmp", says("renamed"))
	rename(t, filepath.Join(w.dir, ".a.rego.tmp"), filepath.Join(w.dir, "a.rego"))
	w.now(t, "renamed")

	// As other editors save: the old one moved away, a new one written.
	rename(t, filepath.Join(w.dir, "a.rego"), filepath.Join(w.dir, "a.rego~"))
	writeFile(t, w.dir, "a.rego", says("moved away"))
	w.now(t, "moved away")

	// A new directory.
	writeFile(t, w.dir, "new/deep/b.rego", rules(`allow contains " and more" if input.request`))
	w.now(t, " and moremoved away")
	// And a change within it.
	writeFile(t, w.dir, "new/deep/b.rego", rules(`allow contains " and else" if input.request`))
	w.now(t, " and elsemoved away")
	// And gone again.
	if err := os.RemoveAll(filepath.Join(w.dir, "new")); err != nil {
		t.Fatal(err)
	}
	w.now(t, "moved away")

	// Broken, then good.
	before := w.Current()
	writeFile(t, w.dir, "a.rego", rules("allow contains \"broken\" if {\n\tinput.devcie\n}"))
	ev := w.until(t, "refusal", func(ev LoadEvent) bool { return ev.Err != nil })
	if !strings.Contains(ev.Err.Error(), "a.rego:4:") || ev.Previous != before.Revision() || w.Current() != before {
		t.Errorf("event %+v", ev)
	}
	writeFile(t, w.dir, "a.rego", says("good again"))
	w.now(t, "good again")

	// The only rule removed: refused, because nothing would be allowed.
	if err := os.Remove(filepath.Join(w.dir, "a.rego")); err != nil {
		t.Fatal(err)
	}
	ev = w.until(t, "refusal", func(ev LoadEvent) bool { return ev.Err != nil })
	if !strings.Contains(ev.Err.Error(), "rego_unsafe_var_error") || w.reason() != "good again" {
		t.Errorf("event %v, %s", ev.Err, w.reason())
	}
	writeFile(t, w.dir, "a.rego", says("back"))
	w.now(t, "back")

	// The directory replaced by another.
	next := setDir(t, map[string]string{"a.rego": says("another directory")})
	rename(t, w.dir, w.dir+".old")
	ev = w.until(t, "refusal", func(ev LoadEvent) bool { return ev.Err != nil })
	if ev.Revision != "" || w.reason() != "back" {
		t.Errorf("event %+v", ev)
	}
	rename(t, next, w.dir)
	w.now(t, "another directory")
	writeFile(t, w.dir, "a.rego", says("and a change in it"))
	w.now(t, "and a change in it")
}

// TestWatchLinks replaces a directory as Kubernetes and release scripts do: by
// renaming a symbolic link over another.
func TestWatchLinks(t *testing.T) {
	parent := t.TempDir()
	one := setDir(t, map[string]string{"a.rego": says("one")})
	two := setDir(t, map[string]string{"a.rego": says("two")})
	swap := func(to, name string) {
		t.Helper()
		tmp := filepath.Join(parent, "..tmp")
		if err := os.Symlink(to, tmp); err != nil {
			t.Fatal(err)
		}
		rename(t, tmp, filepath.Join(parent, name))
	}
	swap(one, "..data")
	swap("..data", "policies")
	w := newWatched(t, filepath.Join(parent, "policies"), true)
	swap(two, "..data")
	w.now(t, "two")
	writeFile(t, two, "a.rego", says("two, changed"))
	w.now(t, "two, changed")
	swap(one, "..data")
	w.now(t, "one")
	swap(two, "policies")
	w.now(t, "two, changed")
}

// TestABadSaveIsReportedOnce: polling does not repeat it.
func TestABadSaveIsReportedOnce(t *testing.T) {
	w := newWatched(t, setDir(t, map[string]string{"a.rego": says("one")}), true)
	writeFile(t, w.dir, "a.rego", "package")
	w.until(t, "refusal", func(ev LoadEvent) bool { return ev.Err != nil && strings.Contains(ev.Err.Error(), "a.rego:1") })
	// A good save elsewhere does not make it good; it is another bad content.
	writeFile(t, w.dir, "x.yaml", "a: 1\n")
	w.until(t, "second refusal", func(ev LoadEvent) bool { return ev.Err != nil })
	writeFile(t, w.dir, "a.rego", says("two"))
	refusals := 0
	w.until(t, "two", func(ev LoadEvent) bool {
		if ev.Err != nil {
			refusals++
		}
		return ev.Err == nil
	})
	// One more is possible, when a look fell between truncating and writing.
	if refusals > 1 {
		t.Errorf("%d more refusals of the same content", refusals)
	}
}

// TestPollingAloneIsEnough: with no report of any change.
func TestPollingAloneIsEnough(t *testing.T) {
	w := newWatched(t, setDir(t, map[string]string{"a.rego": says("one")}), false)
	writeFile(t, w.dir, "a.rego", says("two"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for ctx.Err() == nil && w.reason() != "two" {
			w.look(ctx, w.dir)
			w.await(ctx, &watcher{})
		}
	}()
	w.now(t, "two")
}

// TestNoWrongAnswerWhileSetsChange asks at full load while two sets take turns.
// Each has a rule and a datum that must agree, so that an answer that mixed two
// sets would show.
func TestNoWrongAnswerWhileSetsChange(t *testing.T) {
	set := func(n int) map[string]string {
		return map[string]string{
			"a.rego":   rules(fmt.Sprintf("allow contains sprintf(\"%d %%d\", [data.n.num]) if input.device.class == \"a\"\n\ndeny contains sprintf(\"%d %%d\", [data.n.num]) if input.device.class == \"b\"", n, n)),
			"n/x.yaml": fmt.Sprintf("num: %d\n", n),
		}
	}
	dir := setDir(t, set(0))
	w := newWatched(t, dir, false)
	go func() {
		for range w.events { //nolint:revive // drained, so that OnLoad never waits
		}
	}()
	defer close(w.events)

	ctx, cancel := context.WithCancel(context.Background())
	var asked, wrong atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			yes, no := ask("a", &protocol.Transaction{Protocol: "p"}), ask("b", &protocol.Transaction{Protocol: "p"})
			for ctx.Err() == nil {
				q, want := yes, true
				if i%2 == 1 {
					q, want = no, false
				}
				d := w.Decide(context.Background(), q)
				said := append(d.Reasons, d.Denials...)
				if d.Fault != "" || d.Allow != want || len(said) != 1 || said[0] != "0 0" && said[0] != "1 1" {
					if wrong.Add(1) < 5 {
						t.Errorf("wrong answer: %+v", d)
					}
				}
				asked.Add(1)
			}
		})
	}
	swaps := 100
	if testing.Short() {
		swaps = 10
	}
	for i := range swaps {
		for name, body := range set((i + 1) % 2) {
			writeFile(t, dir, name, body)
		}
		if err := w.Reload(context.Background()); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d decisions over %d swaps, %d wrong", asked.Load(), swaps, wrong.Load())
	if wrong.Load() != 0 || asked.Load() < int64(swaps) {
		t.Errorf("%d of %d decisions were wrong", wrong.Load(), asked.Load())
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
