package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tree returns the process and all its descendants.
func tree(stats map[int]procStat, pid int) []int {
	children := make(map[int][]int)
	for id, s := range stats {
		children[s.parent] = append(children[s.parent], id)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// memory returns what the process and its descendants hold in memory, in bytes:
// their proportional set size, in which what several share counts once.
func (p *process) memory() (int64, error) {
	stats, err := readStats("/proc")
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, pid := range tree(stats, p.cmd.Process.Pid) {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
		if err != nil {
			return 0, fmt.Errorf("memory of %s: %w", p.name, err)
		}
		n, err := parsePSS(string(b))
		if err != nil {
			return 0, fmt.Errorf("memory of %s: %w", p.name, err)
		}
		sum += n
	}
	return sum, nil
}

// parsePSS reads the line "Pss:  123 kB" of proc_pid_smaps(5).
func parsePSS(text string) (int64, error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "Pss:" && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no Pss in %.100q", text)
}

const (
	// settling is how often the memory of a process at rest is looked at.
	settling = 500 * time.Millisecond
	// atRest is how long a process has nothing to do before it is looked at:
	// whatever gives memory back when it is idle has done so by then.
	atRest = 5 * time.Second
	// settlesWithin is how long it may still change.
	settlesWithin = 20 * time.Second
	// settled is how little it may differ between two looks, in parts of it.
	settled = 0.005
)

// restingMemory waits until the target has had nothing to do for a while and its
// memory has stopped changing, and returns it.
func (r *rig) restingMemory(t *running) (int64, error) {
	if !r.opt.quick {
		time.Sleep(atRest)
	}
	last, err := t.memory()
	for deadline := time.Now().Add(settlesWithin); err == nil && time.Now().Before(deadline); {
		time.Sleep(settling)
		var now int64
		now, err = t.memory()
		change := float64(now-last) / float64(last)
		last = now
		if change < settled && change > -settled {
			break
		}
	}
	return last, err
}

// A watcher sees how far a target's memory grows.
type watcher struct {
	stop, done chan struct{}
	most       int64
	err        error
}

// lookEvery is how often a watcher looks.
const lookEvery = 20 * time.Millisecond

// watchMemory begins to watch. The caller calls grown.
func (t *running) watchMemory() *watcher {
	w := &watcher{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for w.err == nil {
			var now int64
			now, w.err = t.memory()
			w.most = max(w.most, now)
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
		}
	}()
	return w
}

// top ends the watch and returns the most that was seen.
func (w *watcher) top() (int64, error) {
	close(w.stop)
	<-w.done
	return w.most, w.err
}
