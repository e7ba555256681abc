package cli

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestACrowdHasASecondThreadOfOneProcessor(t *testing.T) {
	defer runtime.SetDefaultGOMAXPROCS()
	runtime.SetDefaultGOMAXPROCS()
	usual := runtime.GOMAXPROCS(0)
	// Where a step is to change nothing, any other number stays.
	const other = 5
	type step struct {
		waiting    int
		procs      int // set before
		want       int
		wantsUsual bool
	}
	for name, tt := range map[string]struct {
		env    string
		leaves bool // it ends while there is a crowd
		steps  []step
	}{
		"comes and goes": {"", true, []step{
			{waiting: crowd - 1, procs: 1, want: 1},
			{waiting: crowd, procs: 1, want: 2},
			{waiting: 20 * crowd, procs: other, want: other},
			{waiting: thinned, procs: other, want: other},
			{waiting: thinned - 1, procs: other, wantsUsual: true},
			{waiting: thinned - 1, procs: 1, want: 1},
			{waiting: crowd, procs: 1, want: 2},
			{waiting: crowd, procs: other, want: other},
		}},
		"where there are several": {"", false, []step{{waiting: crowd, procs: other, want: other}, {waiting: 0, procs: other, want: other}}},
		"where somebody chose":    {"1", false, []step{{waiting: crowd, procs: 1, want: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOMAXPROCS", tt.env)
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var waiting atomic.Int64
				go mindCrowd(ctx, func() int { return int(waiting.Load()) })
				for i, s := range tt.steps {
					synctest.Wait()
					runtime.GOMAXPROCS(s.procs)
					waiting.Store(int64(s.waiting))
					time.Sleep(lookEvery)
					synctest.Wait()
					if s.wantsUsual {
						s.want = usual
					}
					if got := runtime.GOMAXPROCS(0); got != s.want {
						t.Errorf("step %d, with %d waiting: %d threads, not %d", i, s.waiting, got, s.want)
					}
				}
				before := runtime.GOMAXPROCS(0)
				cancel()
				synctest.Wait()
				want := before
				if tt.leaves {
					want = usual
				}
				if got := runtime.GOMAXPROCS(0); got != want {
					t.Errorf("%d threads are left, not %d", got, want)
				}
			})
		})
	}
}
