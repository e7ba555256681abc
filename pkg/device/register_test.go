package device

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestManyAreRegisteredAtOnceOrNoneIs(t *testing.T) {
	st, ctx := &memory{}, context.Background()
	g, err := Open(ctx, st, Options{})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	g.Subscribe(func(old, r *Record) {
		if old != nil || r.Status != Pending {
			t.Errorf("told of %+v, %+v", old, r)
		}
		told++
	})
	var recs []*Record
	for n := range 100 {
		recs = append(recs, pump(fmt.Sprintf("pump-%d", n), n))
	}
	out, err := g.Register(ctx, recs)
	if err != nil || len(out) != 100 || told != 100 {
		t.Fatalf("%d devices, %d told, %v", len(out), told, err)
	}
	for n, r := range out {
		if r.Revision != uint64(n+1) || r.Status != Pending || len(r.Certificates) != 0 || r.CreatedAt.IsZero() {
			t.Errorf("%+v", r)
		}
	}
	fresh := func(id string) *Record { return &Record{ID: id, Class: "infusion-pump"} }
	for what, c := range map[string]struct {
		recs []*Record
		fail error
		want error
	}{
		"one is there already": {[]*Record{fresh("pump-x"), fresh("pump-7")}, nil, ErrExists},
		"one is there twice":   {[]*Record{fresh("pump-x"), fresh("pump-x")}, nil, ErrExists},
		"one is invalid":       {[]*Record{fresh("pump-x"), fresh("Pump X")}, nil, ErrInvalid},
		"a full disk":          {[]*Record{fresh("pump-x")}, errors.ErrUnsupported, errors.ErrUnsupported},
	} {
		st.fail = c.fail
		if _, err := g.Register(ctx, c.recs); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		st.fail = nil
		if _, ok := g.Get("pump-x"); ok || told != 100 {
			t.Errorf("%s: it is registered", what)
		}
	}
	again, err := Open(ctx, st, Options{})
	if err != nil || len(again.List(Filter{Status: Pending})) != 100 {
		t.Errorf("after a restart: %v", err)
	}
	if out, err := g.Register(ctx, nil); err != nil || len(out) != 0 {
		t.Errorf("nothing: %v, %v", out, err)
	}
}
