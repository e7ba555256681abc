package device

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// Whoever has a name is found by it, whatever was added and taken in whatever
// order, and nothing is left of what nobody has.
func TestOwnersAreFoundAsLongAsTheyOwn(t *testing.T) {
	for seed := range uint64(20) {
		rnd, o, model := rand.New(rand.NewPCG(seed, 3)), newOwners(0), map[string][]string{}
		for range 400 {
			id := fmt.Sprint("pump-", rnd.IntN(5))
			var has []string
			for range rnd.IntN(4) {
				has = append(has, fmt.Sprint("name-", rnd.IntN(6))) // also one twice, and one of another's
			}
			o.add(id, has)
			o.leave(id, model[id], has)
			model[id] = has
			for n := range 6 {
				name, want := fmt.Sprint("name-", n), []string(nil)
				for id, names := range model {
					if slices.Contains(names, name) {
						want = append(want, id)
					}
				}
				one, more := o.of(name)
				got := slices.Clone(more)
				if one != "" {
					got = append(got, one)
				}
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d: %s is %v's, want %v", seed, name, got, want)
				}
			}
		}
		for id, names := range maps.All(model) {
			o.leave(id, names, nil)
		}
		if len(o.one) != 0 || len(o.more) != 0 {
			t.Fatalf("seed %d: left are %v and %v", seed, o.one, o.more)
		}
	}
}

// Two names that meet in one hash find each its own device; none finds what it is
// not a name of.
func TestNamesThatMeetAreToldApart(t *testing.T) {
	g, ctx := registry(t), t.Context()
	for i := range 3 {
		if _, err := g.Create(ctx, pump(fmt.Sprintf("pump-%d", i), i)); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{"pump-2", "pump-0", "pump-1"}
	for h := range g.index().fingerprints.one { // as if all hashes were one
		g.index().fingerprints.one[h], g.index().fingerprints.more[h] = all[0], all[1:]
	}
	for i := range 3 {
		if r, ok := g.ByFingerprint(fingerprint(i)); !ok || r.ID != fmt.Sprintf("pump-%d", i) {
			t.Errorf("certificate %d finds %+v", i, r)
		}
	}
	g.index().fingerprints.add("pump-1", []string{fingerprint(9)})
	if r, ok := g.ByFingerprint(fingerprint(9)); ok {
		t.Errorf("a certificate nobody has finds %+v", r)
	}
}

// In a store from before keys were each one device's, two may have the same. When
// one lets go of it the other is found by it.
func TestTwoDevicesOfOneKeyAreBothKnown(t *testing.T) {
	st := &memory{}
	for i := range 2 {
		r := pump(fmt.Sprintf("pump-%d", i), i)
		r.Certificates[0].Key = fingerprint(7)
		value, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = st.Put(table, r.ID, value)
	}
	g, err := Open(t.Context(), st, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Update(t.Context(), "pump-0", func(r *Record) error { r.Certificates = nil; return nil }); err != nil {
		t.Fatal(err)
	}
	if r, ok := g.ByKey(fingerprint(7)); !ok || r.ID != "pump-1" {
		t.Errorf("the key finds %+v", r)
	}
	if r, ok := g.ByKey(""); ok {
		t.Errorf("no key finds %+v", r)
	}
}
