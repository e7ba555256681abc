package device

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// counting is a store that counts how often it was written to.
type counting struct {
	store.Store
	updates atomic.Int64
}

func (c *counting) Update(ctx context.Context, f func(store.Writer) error) error {
	c.updates.Add(1)
	return c.Store.Update(ctx, f)
}

// atOnce has changes asked for while another is being written, in their order, and
// returns their errors and how often the store was written to for them.
func atOnce(t *testing.T, changes ...func(*Registry) error) (g *Registry, errs []error, updates int64) {
	t.Helper()
	st, err := bolt.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	c := &counting{Store: st}
	if g, err = Open(t.Context(), c, Options{}); err != nil {
		t.Fatal(err)
	}
	begun, goOn, first := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := g.Grant(t.Context(), Grant{ID: "first", New: &Record{Class: "pump"}, Certificate: certificateOf("first"), Also: func(store.Writer) error {
			close(begun)
			<-goOn
			return nil
		}})
		first <- err
	}()
	<-begun
	before := c.updates.Load()
	done := make([]chan error, len(changes))
	for i, f := range changes {
		done[i] = make(chan error, 1)
		go func() {
			defer func() {
				if v := recover(); v != nil {
					err, _ := v.(error)
					done[i] <- fmt.Errorf("panic: %w", err)
				}
			}()
			done[i] <- f(g)
		}()
		for {
			g.queueing.Lock()
			n := len(g.queue)
			g.queueing.Unlock()
			if n == i+1 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	close(goOn)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	for _, d := range done {
		errs = append(errs, <-d)
	}
	return g, errs, c.updates.Load() - before
}

func certificateOf(name string) Certificate {
	return Certificate{Serial: "1", Fingerprint: fmt.Sprintf("%064x", name), Key: fmt.Sprintf("%064x", "key of "+name), NotAfter: time.Now().Add(time.Hour).UTC()}
}

// granting grants a new device a certificate.
func granting(id string, c Certificate, also func(store.Writer) error) func(*Registry) error {
	return func(g *Registry) error {
		_, err := g.Grant(context.Background(), Grant{ID: id, New: &Record{Class: "pump"}, Certificate: c, Also: also})
		return err
	}
}

func wrote(key string) func(store.Writer) error {
	return func(w store.Writer) error { return w.Put("test", key, []byte(key)) }
}

func TestChangesAskedForMeanwhileShareOneWrite(t *testing.T) {
	var changes []func(*Registry) error
	for i := range 8 {
		id := fmt.Sprintf("pump-%d", i)
		changes = append(changes, granting(id, certificateOf(id), wrote(id)))
	}
	g, errs, updates := atOnce(t, changes...)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if updates != 1 {
		t.Errorf("the store was written to %d times for %d changes", updates, len(changes))
	}
	again, err := Open(t.Context(), g.st, Options{})
	if err != nil {
		t.Fatal(err)
	}
	revisions := map[uint64]bool{}
	for i := range 8 {
		id := fmt.Sprintf("pump-%d", i)
		r, ok := again.Get(id)
		if !ok || r.Status != Active || len(r.Certificates) != 1 || revisions[r.Revision] {
			t.Errorf("%s is kept as %+v", id, r)
			continue
		}
		revisions[r.Revision] = true
		if err := g.st.View(t.Context(), func(v store.Reader) error { _, err := v.Get("test", id); return err }); err != nil {
			t.Errorf("what %s wrote besides: %v", id, err)
		}
	}
	if again.revision != 9 {
		t.Errorf("revision %d after 9 changes", again.revision)
	}
}

// TestAChangeThatIsRefusedTakesNoOtherWithIt: what it wrote before it was refused is
// undone, and what others wrote is not.
func TestAChangeThatIsRefusedTakesNoOtherWithIt(t *testing.T) {
	spent := errors.New("the token was used")
	g, errs, _ := atOnce(t,
		granting("pump-1", certificateOf("pump-1"), wrote("pump-1")),
		granting("pump-2", certificateOf("pump-2"), func(w store.Writer) error { return errors.Join(wrote("pump-2")(w), spent) }),
		granting("pump-3", certificateOf("pump-3"), wrote("pump-3")))
	if errs[0] != nil || !errors.Is(errs[1], spent) || errs[2] != nil {
		t.Fatal(errs)
	}
	if _, ok := g.Get("pump-2"); ok {
		t.Error("the one that was refused is in the registry")
	}
	for id, want := range map[string]bool{"pump-1": true, "pump-2": false, "pump-3": true} {
		err := g.st.View(t.Context(), func(v store.Reader) error { _, err := v.Get("test", id); return err })
		if (err == nil) != want {
			t.Errorf("what %s wrote besides: %v", id, err)
		}
	}
}

func TestOfTwoAtOnceWithOneKeyOneIsRefused(t *testing.T) {
	shared := certificateOf("pump-2")
	shared.Key = certificateOf("pump-1").Key
	g, errs, _ := atOnce(t, granting("pump-1", certificateOf("pump-1"), nil), granting("pump-2", shared, nil))
	if errs[0] != nil || !errors.Is(errs[1], ErrKeyTaken) {
		t.Error(errs)
	}
	if r, ok := g.ByKey(shared.Key); !ok || r.ID != "pump-1" {
		t.Errorf("the key is %+v's", r)
	}
}

// TestTheSecondChangeOfADeviceFindsTheFirst: of both one is a write of its own.
func TestTheSecondChangeOfADeviceFindsTheFirst(t *testing.T) {
	renew := func(g *Registry) error {
		_, err := g.Grant(context.Background(), Grant{ID: "pump-1", Certificate: certificateOf("another"), Check: func(r *Record) error {
			if r.Status != Active || len(r.Certificates) != 1 {
				return fmt.Errorf("found %s with %d certificates", r.Status, len(r.Certificates))
			}
			return nil
		}})
		return err
	}
	revoke := func(g *Registry) error {
		_, err := g.SetStatus(context.Background(), "pump-1", Revoked, "test")
		return err
	}
	g, errs, updates := atOnce(t, granting("pump-1", certificateOf("pump-1"), nil), renew, revoke, renew)
	if errs[0] != nil || errs[1] != nil || errs[2] != nil || !errors.Is(errs[3], ErrStatus) {
		t.Error(errs)
	}
	if r, _ := g.Get("pump-1"); r == nil || r.Status != Revoked || len(r.Certificates) != 2 || r.Certificates[1].RevokedAt.IsZero() {
		t.Errorf("%+v", r)
	}
	if updates != 3 {
		t.Errorf("the store was written to %d times", updates)
	}
}

// TestAPanicIsItsOwnersAndHarmsNoOther, wherever in a change it comes, and though
// another makes the changes of all.
func TestAPanicIsItsOwnersAndHarmsNoOther(t *testing.T) {
	mistake := errors.New("a mistake")
	careless := func(g *Registry) error {
		_, err := g.Update(context.Background(), "first", func(*Record) error { panic(mistake) })
		return err
	}
	for name, second := range map[string]func(*Registry) error{
		"while it is made":    careless,
		"while it is written": granting("pump-2", certificateOf("pump-2"), func(store.Writer) error { panic(mistake) }),
	} {
		for place := range 3 {
			changes := []func(*Registry) error{granting("pump-1", certificateOf("pump-1"), wrote("pump-1")), granting("pump-3", certificateOf("pump-3"), wrote("pump-3"))}
			changes = slices.Insert(changes, place, second)
			g, errs, _ := atOnce(t, changes...)
			for i, err := range errs {
				switch {
				case i != place && err != nil:
					t.Errorf("%s, in place %d: change %d was harmed: %v", name, place, i, err)
				case i == place && (!errors.Is(err, mistake) || !strings.Contains(err.Error(), "panic: a mistake") || !strings.Contains(err.Error(), "commit_test.go")):
					t.Errorf("%s, in place %d: who made the mistake hears %v", name, place, err)
				}
			}
			if _, ok := g.Get("pump-2"); ok {
				t.Errorf("%s, in place %d: what has panicked is in the registry", name, place)
			}
		}
	}
}

// TestAPanicOfWhoIsToldKeepsNothingFromOthers: what is changed is changed by then,
// everybody hears of all of it, and what is counted stays right.
func TestAPanicOfWhoIsToldKeepsNothingFromOthers(t *testing.T) {
	g := registry(t)
	g.Subscribe(func(_, r *Record) {
		if r.ID == "pump-1" {
			panic("a mistake")
		}
	})
	var told []string
	g.Subscribe(func(_, r *Record) { told = append(told, r.ID) })
	func() {
		defer func() {
			if v := recover(); !strings.Contains(fmt.Sprint(v), "a mistake") {
				t.Errorf("who made the change hears %v", v)
			}
		}()
		_, err := g.Register(t.Context(), []*Record{{ID: "pump-1", Class: "pump"}, {ID: "pump-2", Class: "pump"}})
		t.Error("no panic, and", err)
	}()
	if fmt.Sprint(told) != "[pump-1 pump-2]" {
		t.Errorf("the other was told of %v", told)
	}
	if _, err := g.Grant(t.Context(), Grant{ID: "pump-2", Certificate: certificateOf("pump-2")}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.SetStatus(t.Context(), "pump-2", Quarantined, "test"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(g.Counts(), g.Ending(time.Unix(9e9, 0))); got != "map[pending:1 quarantined:1] [0]" {
		t.Errorf("counted %s", got)
	}
}

func TestWhoHasGoneAwayChangesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	gone := func(g *Registry) error {
		cancel()
		_, err := g.Create(ctx, &Record{ID: "pump-1", Class: "pump"})
		return err
	}
	g, errs, _ := atOnce(t, gone, granting("pump-2", certificateOf("pump-2"), nil))
	if !errors.Is(errs[0], context.Canceled) || errs[1] != nil {
		t.Error(errs)
	}
	if _, ok := g.Get("pump-1"); ok {
		t.Error("it is in the registry")
	}
}
