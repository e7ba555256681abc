package storetest

import (
	"net"
	"runtime"
	"testing"
	"time"
)

// LargeIsBounded has a hundred connections begin with a large message each and not
// go on, and holds the memory that they take to what the agent may have. One that
// sends something small, by small, is served meanwhile.
func LargeIsBounded(t *testing.T, dial func() net.Conn, begin []byte, small func()) {
	t.Helper()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for range 100 {
		conn := dial()
		go func() {
			_ = conn.SetWriteDeadline(time.Now().Add(Patience))
			_, _ = conn.Write(begin)
		}()
	}
	// As long as it takes to read what can be read, and it is not more afterwards.
	var used int64
	for range 20 {
		time.Sleep(50 * time.Millisecond)
		used = max(used, heap()-before)
	}
	small()
	if used > 8<<20 {
		t.Errorf("a hundred messages that have begun take %d bytes", used)
	}
}
