// Package yieldtest measures how long a connected peer waits beside work, in pieces of
// that work, so that it does not matter how fast the machine is.
package yieldtest

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// Wait returns how many pieces of work are done while a byte goes over the loopback and
// comes back, in the middle of some dozens of times. done counts the pieces.
func Wait(t testing.TB, done func() int64) int64 {
	t.Helper()
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
	var b [1]byte
	var took []int64
	for range 51 {
		began := done()
		if _, err := conn.Write(b[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			t.Fatal(err)
		}
		took = append(took, done()-began)
	}
	slices.Sort(took)
	t.Logf("pieces of work while a question was answered: %v", took)
	return took[len(took)/2]
}
