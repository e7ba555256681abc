package edge

import (
	"crypto/sha256"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/yield"
	"github.com/anteroom-iomt/anteroom/pkg/yield/yieldtest"
)

func TestAConnectedDeviceWaitsForFewTurnsOnly(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	turns := newTurns(1)
	if turns.lull = yield.NewLull(); turns.lull == nil {
		t.Fatal("no pipe to be had")
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer turns.close()
	wg.Go(turns.run)

	var passed atomic.Int64
	var over atomic.Bool
	defer over.Store(true)
	for i := range 100 {
		wg.Go(func() {
			block := make([]byte, 64<<10)
			for !over.Load() {
				if turns.begin(t.Context(), address(i)) != nil {
					return
				}
				sha256.Sum256(block)
				passed.Add(1)
				turns.end()
			}
		})
	}

	// Two of its own and two of its peer's; from hand to hand it is a hundred.
	if half := yieldtest.Wait(t, passed.Load); half > 12 {
		t.Errorf("a question and its answer took %d turns of others", half)
	}
}

func TestATurnIsPassedOnThoughThereIsNoLullAnyMore(t *testing.T) {
	turns := newTurns(1)
	turns.lull = yield.NewLull()
	done := make(chan struct{})
	go func() { turns.run(); close(done) }()
	turns.close()
	<-done
	for range 3 {
		if err := turns.begin(t.Context(), address(1)); err != nil {
			t.Fatal(err)
		}
		come := make(chan error, 1)
		go func() { come <- turns.begin(t.Context(), address(2)) }()
		eventually(t, "it waits", func() bool { return turns.waiting() == 1 })
		turns.end()
		if err := <-come; err != nil {
			t.Fatal(err)
		}
		turns.end()
	}
}
