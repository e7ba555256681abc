package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// clockTicks is USER_HZ, the unit of times in /proc/PID/stat. The kernel
	// fixes it at 100 on every architecture Go runs on.
	clockTicks = 100
	// readyWithin is how long a server may take until it accepts connections.
	readyWithin = 3 * time.Minute
	// endWithin is how long a server may take to end before it is killed.
	endWithin = 10 * time.Second
	// logKept is how much of a server's output is kept to explain a failure.
	logKept = 4096
)

// A process is a server that was started, pinned to one CPU.
type process struct {
	name  string
	began time.Time
	cmd   *exec.Cmd
	out   *tail
	done  chan struct{} // closed when it has ended
	err   error         // how it ended; read after done
}

// startPinned starts argv on the given CPU in a process group of its own. The
// caller stops it.
func startPinned(cpu int, name, dir string, env []string, argv ...string) (*process, error) {
	taskset, err := find("taskset")
	if err != nil {
		return nil, err
	}
	p := &process{name: name, out: new(tail), done: make(chan struct{})}
	p.cmd = exec.Command(taskset, append([]string{"-c", strconv.Itoa(cpu)}, argv...)...)
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// ready waits until the process accepts TCP connections on addr.
func (p *process) ready(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended before it listened (%w): %s", p.name, p.exit(), p.out)
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s: %s", p.name, addr, p.out)
		}
	}
}

// exit returns how the process ended. It is called after done.
func (p *process) exit() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

// stop asks the process to end, kills its group if it does not, and waits.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(endWithin):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

// cpu returns the CPU time, user and system, that the process and all its
// descendants have used so far.
func (p *process) cpu() (time.Duration, error) {
	stats, err := readStats("/proc")
	if err != nil {
		return 0, err
	}
	return treeCPU(stats, p.cmd.Process.Pid)
}

// A procStat is what is needed of one /proc/PID/stat.
type procStat struct {
	parent int
	own    uint64 // ticks of its own threads
	reaped uint64 // ticks of children that it has waited for
}

// readStats reads every process's stat below dir. Processes that end meanwhile
// are left out.
func readStats(dir string) (map[int]procStat, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	stats := make(map[int]procStat)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "stat"))
		if err != nil {
			continue
		}
		s, err := parseStat(b)
		if err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		stats[pid] = s
	}
	return stats, nil
}

// parseStat reads the fields of proc_pid_stat(5) after the command's name,
// which is in parentheses and may hold anything.
func parseStat(b []byte) (procStat, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return procStat{}, errors.New("stat without a command name")
	}
	f := strings.Fields(string(b[end+1:]))
	const state = 3 // number of the first field after the name
	if len(f) < 17-state+1 {
		return procStat{}, errors.New("stat with too few fields")
	}
	var s procStat
	var err error
	if s.parent, err = strconv.Atoi(f[4-state]); err != nil {
		return procStat{}, err
	}
	for i, to := range []*uint64{14: &s.own, 15: &s.own, 16: &s.reaped, 17: &s.reaped} {
		if to == nil {
			continue
		}
		n, err := strconv.ParseUint(f[i-state], 10, 64)
		if err != nil {
			return procStat{}, err
		}
		*to += n
	}
	return s, nil
}

// treeCPU adds up the process pid and its descendants.
func treeCPU(stats map[int]procStat, pid int) (time.Duration, error) {
	if _, ok := stats[pid]; !ok {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	var ticks uint64
	for _, id := range tree(stats, pid) {
		ticks += stats[id].own + stats[id].reaped
	}
	return time.Duration(ticks) * (time.Second / clockTicks), nil
}

// A tail keeps the last bytes written to it. It is safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b); n > logKept {
		t.b = append(t.b[:0], t.b[n-logKept:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
