package yield

import (
	"crypto/sha256"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/yield/yieldtest"
)

func TestWhoPausesIsBehindTheNetwork(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var pieces atomic.Int64
	var over atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer over.Store(true)
	wg.Go(func() {
		p := NewPause()
		defer p.Close()
		block := make([]byte, 64<<10)
		for !over.Load() {
			sha256.Sum256(block)
			pieces.Add(1)
			p.Take()
		}
	})
	// One while it is on its way and one while the answer is; with runtime.Gosched
	// it is as many as there are in 10 ms, twice.
	if half := yieldtest.Wait(t, pieces.Load); half > 6 {
		t.Errorf("a question and its answer took %d pieces", half)
	}
}

func TestAPauseWithoutAPipeLetsOthersRun(t *testing.T) {
	p := &Pause{}
	p.Take()
	p.Close()
}
