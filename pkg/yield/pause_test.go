package yield

import (
	"crypto/sha256"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// Time is counted in pieces of work, so that it does not matter how fast the machine is.
func TestWhoPausesIsBehindTheNetwork(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
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

	var pieces atomic.Int64
	var over atomic.Bool
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
	var b [1]byte
	var took []int64
	for range 51 {
		began := pieces.Load()
		if _, err := conn.Write(b[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			t.Fatal(err)
		}
		took = append(took, pieces.Load()-began)
	}
	slices.Sort(took)
	// One while it is on its way and one while the answer is; with runtime.Gosched
	// it is as many as there are in 10 ms, twice.
	if half := took[len(took)/2]; half > 6 {
		t.Errorf("a question and its answer took %d pieces, in the middle of %v", half, took)
	}
}

func TestAPauseWithoutAPipeLetsOthersRun(t *testing.T) {
	p := &Pause{}
	p.Take()
	p.Close()
}
