package policy

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// cpu reports what the rest of a benchmark costs in processor time, the
// collector's share with it, and not what it had to wait for a processor: on a
// machine that has other things to do, that is the figure to compare. It is
// called when all is prepared; what it returns, when all is done.
func cpu(b *testing.B) func() {
	b.Helper()
	used := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	runtime.GC() // what was made before is not collected at the cost of what follows
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}
