package cli

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestTheMemoryLimitIsTheContainers(t *testing.T) {
	for name, tt := range map[string]struct {
		self  string
		files map[string]string
		want  int64
	}{
		"no cgroups":       {want: math.MaxInt64},
		"none":             {self: "0::/a/b\n", files: map[string]string{"a/b/memory.max": "max\n"}, want: math.MaxInt64},
		"its own":          {self: "0::/a/b\n", files: map[string]string{"a/b/memory.max": "1048576\n"}, want: 1 << 20},
		"one around it":    {self: "0::/a/b\n", files: map[string]string{"a/b/memory.max": "1048576", "a/memory.max": "4096", "memory.max": "max"}, want: 4096},
		"seen from inside": {self: "0::/\n", files: map[string]string{"memory.max": "8192\n"}, want: 8192},
		"version 1":        {self: "5:cpu:/x\n4:memory:/x\n0::/\n", files: map[string]string{"memory/x/memory.limit_in_bytes": "4096\n"}, want: 4096},
		"version 1, none":  {self: "4:memory:/\n", files: map[string]string{"memory/memory.limit_in_bytes": "9223372036854771712\n"}, want: math.MaxInt64},
		"above the root":   {self: "0::/../../x\n", files: map[string]string{"x/memory.max": "4096\n"}, want: 4096},
		"nonsense":         {self: "0::/a\nnonsense\n", files: map[string]string{"a/memory.max": "-1\n"}, want: math.MaxInt64},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			self := filepath.Join(dir, "self")
			if tt.self != "" {
				if err := os.WriteFile(self, []byte(tt.self), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for file, text := range tt.files {
				path := filepath.Join(dir, "fs", file)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := cgroupLimit(self, filepath.Join(dir, "fs")); got != tt.want {
				t.Errorf("limit %d, want %d", got, tt.want)
			}
		})
	}
}

func TestGarbageIsBoundedHoweverManyDevicesThereAre(t *testing.T) {
	for live := uint64(1 << 20); live < 1<<36; live += live / 7 {
		p := pace(live)
		garbage := live / 100 * uint64(p)
		switch {
		case p > mostPercent || p < leastPercent:
			t.Errorf("%d bytes live: %d percent", live, p)
		case p > gcPercent && garbage > leastGarbage:
			t.Errorf("%d bytes live: %d percent, which is %d bytes", live, p, garbage)
		case p < gcPercent && p > leastPercent && (garbage > maxGarbage || garbage < maxGarbage/2):
			t.Errorf("%d bytes live: %d percent, which is %d bytes", live, p, garbage)
		case live < 200<<20 && p < gcPercent, live > 4<<30 && p != leastPercent:
			t.Errorf("%d bytes live: %d percent", live, p)
		}
	}
	for _, name := range []string{"/gc/heap/allocs:bytes", "/gc/heap/live:bytes"} {
		if counted(name) == 0 {
			t.Errorf("the runtime does not count %s", name)
		}
	}
	if counted("/no/such:thing") != 0 {
		t.Error("counted what is not there")
	}
}

// Three thousand devices' garbage is given back, and a large registry is not looked
// through for as little.
func TestMemoryIsGivenBackWhereThatIsWorthIt(t *testing.T) {
	for live, want := range map[uint64]uint64{0: worthwhile, 60 << 20: worthwhile, 1 << 30: 128 << 20} {
		if got := worth(live); got != want {
			t.Errorf("%d bytes live: after %d", live, got)
		}
	}
}

// While devices connect there is less garbage, and afterwards as much as ever.
func TestGarbageWhileDevicesConnect(t *testing.T) {
	const live = 60 << 20
	var p pacer
	n := uint64(1000) // there from the start
	step := func(more int) int { n += uint64(more); return p.next(n, live, false) }
	for i := range 4 * growTime {
		// A crowd of fewer than that at once, and now and then one.
		more := i % 2
		if i == growTime {
			more = growing - growTime
		}
		if got := step(more); got != gcPercent {
			t.Fatalf("a few more, %d: %d", i, got)
		}
	}
	// So many in a second: in each look alone there are few.
	for i := range 3 * growTime {
		want := growPercent
		if i < growTime/2 {
			want = 0 // it takes a second to see
		}
		if got := step(growing / 4); got != want && want > 0 {
			t.Fatalf("while devices connect, %d: %d", i, got)
		}
	}
	looks := 0
	for ; step(0) == growPercent; looks++ {
		if looks > growTime+grown {
			t.Fatalf("%d looks later it still counts", looks)
		}
	}
	if looks < grown {
		t.Errorf("it counts for %d looks more", looks)
	}
	// Devices that come and go are no more at one time than at another.
	for i := range 4 * growTime {
		if got := p.next(n+uint64(i%3)*2*growing, live, false); i >= growTime+3 && got != gcPercent {
			t.Errorf("coming and going, %d: %d", i, got)
		}
	}
	// A crowd is served first and put in order later.
	if got := p.next(n+5*growing, live, true); got != gcPercent {
		t.Errorf("while a crowd waits: %d", got)
	}
	if got := p.next(n+5*growing, live, false); got != growPercent {
		t.Errorf("when the crowd was served: %d", got)
	}
	if got := p.next(n+5*growing, 100<<30, false); got != leastPercent {
		t.Errorf("with a very large heap: %d", got)
	}
}
