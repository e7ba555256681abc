// Package storetest is what every store must pass: the contract of package
// store as tests. A new kind of store calls [Run] from a test of its own.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// A Kind is a kind of store under test.
type Kind struct {
	// New returns how to open one store that is empty at first. What is opened
	// is the same store each time; a test closes it before it opens it again.
	New func(t *testing.T) (open func() store.Store)
}

// Run tests a kind of store against the contract.
func Run(t *testing.T, k Kind) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, func() store.Store)
	}{
		{"what was never written is not there", empty},
		{"what was written is read, now and after opening again", durable},
		{"any bytes are a value, and keys differ in every byte", bytes},
		{"keys come in order, below a prefix", ordered},
		{"the loop's error ends it", ended},
		{"tables are apart", apart},
		{"an update is seen by itself at once", own},
		{"an update that fails has not happened", undone},
		{"an update that panics has not happened", panicked},
		{"a context that ended changes nothing", cancelled},
		{"a reader sees one moment", snapshot},
		{"updates follow one another", serialised},
		{"close waits for who is reading", closing},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, k.New(t)) })
	}
}

var bg = context.Background()

// patience is how long a reader gives a writer to overtake it.
const patience = 200 * time.Millisecond

// with opens the store for f and closes it.
func with(t *testing.T, open func() store.Store, f func(s store.Store)) {
	t.Helper()
	s := open()
	defer func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	f(s)
}

func update(t *testing.T, s store.Store, f func(w store.Writer) error) {
	t.Helper()
	if err := s.Update(bg, f); err != nil {
		t.Fatalf("update: %v", err)
	}
}

func put(t *testing.T, s store.Store, table string, pairs ...string) {
	t.Helper()
	update(t, s, func(w store.Writer) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := w.Put(table, pairs[i], []byte(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
}

// all returns the pairs below a prefix, as "k=v k=v".
func all(t *testing.T, s store.Store, table, prefix string) string {
	t.Helper()
	var out []string
	if err := s.View(bg, func(r store.Reader) error {
		return r.Each(table, prefix, func(k string, v []byte) error {
			out = append(out, k+"="+string(v))
			return nil
		})
	}); err != nil {
		t.Fatalf("view: %v", err)
	}
	return strings.Join(out, " ")
}

func want(t *testing.T, s store.Store, table, prefix, want string) {
	t.Helper()
	if got := all(t, s, table, prefix); got != want {
		t.Errorf("table %s below %q holds %q, want %q", table, prefix, got, want)
	}
}

func empty(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		put(t, s, "other", "a", "1")
		for _, table := range []string{"nothing", "other"} {
			err := s.View(bg, func(r store.Reader) error {
				_, err := r.Get(table, "b")
				return err
			})
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("get from %s: %v", table, err)
			}
		}
		want(t, s, "nothing", "", "")
		update(t, s, func(w store.Writer) error {
			return errors.Join(w.Delete("nothing", "a"), w.Delete("other", "b"))
		})
	})
}

func durable(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		put(t, s, "t", "a", "1", "b", "2", "c", "3")
		put(t, s, "t", "a", "4")
		update(t, s, func(w store.Writer) error { return w.Delete("t", "b") })
		want(t, s, "t", "", "a=4 c=3")
	})
	with(t, open, func(s store.Store) { want(t, s, "t", "", "a=4 c=3") })
}

func bytes(t *testing.T, open func() store.Store) {
	values := map[string][]byte{
		"a": {}, "A": {0}, "a ": []byte("x\x00y"), "a/b": {0xff, 0xfe}, "ä": []byte(strings.Repeat("long ", 50_000)), "a.": []byte("'; --"),
	}
	with(t, open, func(s store.Store) {
		update(t, s, func(w store.Writer) error {
			for k, v := range values {
				if err := w.Put("t", k, v); err != nil {
					return err
				}
			}
			return w.Put("t", "nil", nil)
		})
	})
	with(t, open, func(s store.Store) {
		if err := s.View(bg, func(r store.Reader) error {
			for k, v := range values {
				if got, err := r.Get("t", k); err != nil || !slices.Equal(got, v) {
					t.Errorf("key %q: %d bytes, %v; want %d", k, len(got), err, len(v))
				}
			}
			if got, err := r.Get("t", "nil"); err != nil || len(got) != 0 {
				t.Errorf("nil came back as %q, %v", got, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

func ordered(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		put(t, s, "t", "pump-2", "b", "pump-10", "a", "pump", "p", "monitor-1", "m", "pumq", "q", "Pump-1", "P")
		want(t, s, "t", "", "Pump-1=P monitor-1=m pump=p pump-10=a pump-2=b pumq=q")
		want(t, s, "t", "pump", "pump=p pump-10=a pump-2=b")
		want(t, s, "t", "pump-", "pump-10=a pump-2=b")
		want(t, s, "t", "z", "")
	})
}

func ended(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		put(t, s, "t", "a", "1", "b", "2")
		enough, n := errors.New("enough"), 0
		err := s.View(bg, func(r store.Reader) error {
			return r.Each("t", "", func(string, []byte) error { n++; return enough })
		})
		if !errors.Is(err, enough) || n != 1 {
			t.Errorf("%d pairs, %v", n, err)
		}
	})
}

func apart(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		put(t, s, "t", "a", "1")
		put(t, s, "t-2", "a", "2")
		update(t, s, func(w store.Writer) error { return w.Delete("t", "a") })
		want(t, s, "t", "", "")
		want(t, s, "t-2", "", "a=2")
	})
}

func own(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		update(t, s, func(w store.Writer) error {
			if err := w.Put("t", "a", []byte("1")); err != nil {
				return err
			}
			v, err := w.Get("t", "a")
			if err != nil || string(v) != "1" {
				t.Errorf("read %q, %v in the same update", v, err)
			}
			n := 0
			if err := w.Each("t", "", func(string, []byte) error { n++; return nil }); err != nil || n != 1 {
				t.Errorf("%d pairs, %v in the same update", n, err)
			}
			if err := w.Delete("t", "a"); err != nil {
				return err
			}
			if _, err := w.Get("t", "a"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%v after it was deleted", err)
			}
			return nil
		})
	})
}

func undone(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		put(t, s, "t", "a", "1", "b", "2")
		no := errors.New("no")
		err := s.Update(bg, func(w store.Writer) error {
			return errors.Join(w.Put("t", "a", []byte("3")), w.Delete("t", "b"), w.Put("new", "a", nil), no)
		})
		if !errors.Is(err, no) {
			t.Errorf("got %v", err)
		}
		want(t, s, "t", "", "a=1 b=2")
		want(t, s, "new", "", "")
	})
	with(t, open, func(s store.Store) { want(t, s, "t", "", "a=1 b=2") })
}

func panicked(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = s.Update(bg, func(w store.Writer) error {
				_ = w.Put("t", "a", []byte("1"))
				panic("a bug")
			})
		}()
		want(t, s, "t", "", "")
		put(t, s, "t", "b", "2") // and nothing is locked for ever
		want(t, s, "t", "", "b=2")
	})
}

func cancelled(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		ctx, cancel := context.WithCancel(bg)
		err := s.Update(ctx, func(w store.Writer) error {
			defer cancel()
			return w.Put("t", "a", []byte("1"))
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while it ran: %v", err)
		}
		if err := s.Update(ctx, func(store.Writer) error { t.Error("called"); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %v", err)
		}
		if err := s.View(ctx, func(store.Reader) error { t.Error("called"); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("view: %v", err)
		}
		want(t, s, "t", "", "")
	})
}

func snapshot(t *testing.T, open func() store.Store) {
	with(t, open, func(s store.Store) {
		put(t, s, "t", "a", "1")
		written := make(chan error, 1)
		if err := s.View(bg, func(r store.Reader) error {
			go func() {
				written <- s.Update(bg, func(w store.Writer) error {
					return errors.Join(w.Put("t", "a", []byte("2")), w.Put("t", "b", []byte("2")))
				})
			}()
			// A store may let it wait for this reader; most do not.
			select {
			case err := <-written:
				written <- err
			case <-time.After(patience):
			}
			if v, err := r.Get("t", "a"); err != nil || string(v) != "1" {
				t.Errorf("a reader from before reads %q, %v", v, err)
			}
			if _, err := r.Get("t", "b"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a reader from before finds what came after: %v", err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		want(t, s, "t", "", "a=2 b=2")
	})
}

func serialised(t *testing.T, open func() store.Store) {
	const writers, each = 8, 10
	with(t, open, func(s store.Store) {
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range each {
					if err := s.Update(bg, func(w store.Writer) error {
						n := 0
						v, err := w.Get("t", "n")
						if err == nil {
							_, err = fmt.Sscan(string(v), &n)
						}
						if err != nil && !errors.Is(err, store.ErrNotFound) {
							return err
						}
						return w.Put("t", "n", fmt.Append(nil, n+1))
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		want(t, s, "t", "", fmt.Sprint("n=", writers*each))
	})
}

func closing(t *testing.T, open func() store.Store) {
	s := open()
	put(t, s, "t", "a", "1")
	reading, closed := make(chan struct{}), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.View(bg, func(r store.Reader) error {
			close(reading)
			for range 1000 {
				if v, err := r.Get("t", "a"); err != nil || string(v) != "1" {
					return fmt.Errorf("read %q while closing: %w", v, err)
				}
			}
			select {
			case <-closed:
				t.Error("closed under a reader")
			default:
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	<-reading
	closed <- s.Close()
	wg.Wait()
	if err := s.View(bg, func(store.Reader) error { return nil }); err == nil {
		t.Error("a closed store is read")
	}
	if err := s.Update(bg, func(store.Writer) error { return nil }); err == nil {
		t.Error("a closed store is written")
	}
}
