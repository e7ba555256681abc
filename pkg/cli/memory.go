package cli

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

const (
	// gcPercent is how much the heap may grow between collections, in percent of
	// what is live. The gateway's live heap is tens of MB and its garbage is short
	// requests: collecting at Go's default of 100 cost a tenth of the CPU of a
	// request.
	gcPercent = 400
	// leastGarbage is what the percentage comes to at least. The heap of a gateway with
	// few devices is so small that it would be collected every other second under
	// load, for a few dozen MB.
	leastGarbage = 128 << 20
	// mostPercent is what it may be for that.
	mostPercent = 1000
	// maxGarbage bounds what the percentage comes to when the live heap is large,
	// as with the registry of a million devices: five times that is more than a
	// machine has to spare.
	maxGarbage = 1 << 30
	// leastPercent is what is left of it at least: collecting without end helps
	// nobody.
	leastPercent = 50
	// limitShare is the part of a container's memory that Go may use: past it,
	// collecting often beats being killed. The rest is for what Go does not count.
	limitShare = 0.9

	// growPercent is what is left of it while devices connect. What stays of a
	// connection is a tenth of what setting it up takes: the longer the rest lies
	// around, the more memory the two share, which nothing brings together again. At
	// gcPercent three thousand devices that are then idle took half as much more. At
	// 20 they took a tenth less than at 50, and when 20,000 came back at once the last of
	// them was served 32 s later instead of 23, and those who were connected noticed.
	growPercent = 50
	// growing is how many goroutines more there are than at any of some looks a second
	// ago and before while devices connect, as opposed to coming and going, which a
	// few do at any time. growTime is how many looks are remembered, of which the
	// older half is those, and grown for how many more looks it then counts as that.
	// To see them from one look to the next a device has to come each few milliseconds,
	// which a machine that is busy does not manage: with 64 a look three thousand idle
	// devices took 32 kB each instead of 20.
	growing  = 64
	growTime = 8
	grown    = 4

	// lookEvery is how often the pace is set, and trimEvery after how many looks the
	// gateway looks whether it has nothing to do: each second.
	lookEvery = 250 * time.Millisecond
	trimEvery = 4
	// quiet is how many bytes may be allocated from one look to the next while
	// there is nothing to do: what keeps connections open takes none.
	quiet = 1 << 20
	// halvings is how often a stack is halved before memory is given back: from the
	// 32 kB that a handshake takes to the 4 kB of a goroutine that waits.
	halvings = 2
	// worthwhile is how many bytes must have been allocated since memory was last
	// given back for it to be done again, and worthPart which part of what is live at
	// least: all of that is looked through for it, which takes seconds with a million
	// devices, each time that nobody came for one.
	worthwhile = 16 << 20
	worthPart  = 8
)

// startMemory sets what the environment (GOGC, GOMEMLIMIT) leaves open, for the
// time until the gateway has started, and reports whether the pace of collecting
// is its to choose; the caller then sets it to gcPercent, to begin with. Nearly all that a start
// allocates stays, and collecting while it grows finds nothing. The memory limit
// holds all the same.
func startMemory() (paced bool) {
	if os.Getenv("GOMEMLIMIT") == "" {
		if limit := cgroupLimit("/proc/self/cgroup", "/sys/fs/cgroup"); limit < math.MaxInt64 {
			debug.SetMemoryLimit(int64(float64(limit) * limitShare))
		}
	}
	if os.Getenv("GOGC") != "" {
		return false
	}
	debug.SetGCPercent(-1)
	return true
}

// pace returns how much the heap may grow between collections, in percent of what
// is live, which is so many bytes.
func pace(live uint64) int {
	// In steps, so that it does not change with each collection.
	if live <= maxGarbage*100/gcPercent {
		return min(mostPercent, max(gcPercent, int(leastGarbage*100/max(live, 1))/100*100))
	}
	return max(leastPercent, int(maxGarbage*100/live)/10*10)
}

// cgroupLimit returns the least memory limit of this process's cgroup and those
// around it, or the largest number there is (Linux, Documentation/admin-guide/
// cgroup-v2.rst; memory.limit_in_bytes is version 1's).
func cgroupLimit(self, root string) int64 {
	least := int64(math.MaxInt64)
	b, err := os.ReadFile(self)
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(b)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		base, file := root, "memory.max"
		if part[1] == "memory" {
			base, file = filepath.Join(root, "memory"), "memory.limit_in_bytes"
		} else if part[0] != "0" {
			continue
		}
		for dir := filepath.Clean("/" + part[2]); ; dir = filepath.Dir(dir) {
			if text, err := os.ReadFile(filepath.Join(base, dir, file)); err == nil {
				// "max", and version 1's way to say it, a page less than MaxInt64, are none.
				if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 && n < math.MaxInt64-1<<20 {
					least = min(least, n)
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// A pacer sets the pace of collecting.
type pacer struct {
	goroutines [growTime]uint64 // at the last looks
	looks      int
	grows      int // for how many looks more devices count as connecting
}

// next returns the pace, given how many goroutines there are, how many bytes are
// live, and whether a crowd waits.
func (p *pacer) next(goroutines, live uint64, crowded bool) int {
	percent := pace(live)
	most := uint64(0)
	for i := range growTime / 2 {
		most = max(most, p.goroutines[(p.looks+i)%growTime])
	}
	if most > 0 && goroutines >= most+growing {
		p.grows = grown
	}
	p.goroutines[p.looks%growTime] = goroutines
	p.looks++
	if p.grows > 0 {
		p.grows--
		switch {
		case crowded:
			// Each of a crowd would help with collecting before its turn, and who is
			// connected would wait behind them all: a quarter of a second, five times
			// before the first thousand were served. It takes more memory then.
		case percent < gcPercent:
			return leastPercent // what connects is little beside what is there
		default:
			percent = growPercent
		}
	}
	return percent
}

// mindMemory keeps the process's memory in bounds until ctx ends. It gives memory
// back to the system when the gateway has nothing to do: after ten thousand
// devices have connected, the garbage of their handshakes would stay until there
// were five times as much of it. And if the pace of collecting is its to choose it
// has it follow the live heap, and whether devices connect, of which so many wait for
// their handshakes.
func mindMemory(ctx context.Context, paced bool, waiting func() int) {
	percent, p := gcPercent, pacer{}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last, trimmed uint64
	for looks := 1; ; looks++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if looks%trimEvery == 0 {
			now := counted("/gc/heap/allocs:bytes")
			if now-last < quiet && now-trimmed > worth(counted("/gc/heap/live:bytes")) {
				// Each collection halves the stacks that handshakes needed, once.
				for range halvings {
					runtime.GC()
				}
				debug.FreeOSMemory()
				trimmed = now
			}
			last = now
		}
		if next := p.next(counted("/sched/goroutines:goroutines"), counted("/gc/heap/live:bytes"), waiting() >= crowd); paced && next != percent {
			debug.SetGCPercent(next)
			percent = next
		}
	}
}

// worth returns how many bytes must have been allocated for memory to be given back,
// given how many are live.
func worth(live uint64) uint64 { return max(worthwhile, live/worthPart) }

// counted returns one of the runtime's own figures ([metrics.All]), or 0 if it has
// none such.
func counted(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}
