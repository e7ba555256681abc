package edge

import (
	"crypto/sha256"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/yield"
)

// Time is counted in turns, so that it does not matter how fast the machine is.
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

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	wg.Go(func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, conn)
	})
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var b [1]byte
	var took []int64
	for range 51 {
		began := passed.Load()
		if _, err := conn.Write(b[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			t.Fatal(err)
		}
		took = append(took, passed.Load()-began)
	}
	slices.Sort(took)
	// Two of its own and two of its peer's; from hand to hand it is a hundred.
	if half := took[len(took)/2]; half > 12 {
		t.Errorf("a question and its answer took %d turns of others, in the middle of %v", half, took)
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
