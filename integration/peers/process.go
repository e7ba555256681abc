package peers

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// patience bounds every wait for a peer. It is long because machines are
	// slow, not because anything takes that long.
	patience = 60 * time.Second
	// endWithin is how long a peer may take to end before it is killed.
	endWithin = 10 * time.Second
	// between is the time between two looks at whether a peer is ready.
	between = 20 * time.Millisecond
)

// A Process is a peer that was started.
type Process struct {
	t     testing.TB
	cmd   *exec.Cmd
	out   buffer
	stdin io.Closer
	done  chan struct{} // closed when it has ended
	once  sync.Once
}

// Start starts a program in the folder dir, with env added to the environment,
// and stops it when the test is over. The program is killed should the test's
// own process die.
func Start(t testing.TB, dir string, env []string, argv ...string) *Process {
	t.Helper()
	p := &Process{t: t, done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread ends that started the
		// program, so this thread stays for as long as the program does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", argv[0], err)
	}
	t.Cleanup(p.Stop)
	return p
}

// PID returns the peer's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the peer has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Output returns what the peer wrote so far.
func (p *Process) Output() string { return p.out.String() }

// Stop asks the peer to end, kills it if it does not, and waits until it has. It
// may be called more than once.
func (p *Process) Stop() {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.stdin.Close()
		select {
		case <-p.done:
		case <-time.After(endWithin):
			_ = p.cmd.Process.Kill()
		}
	})
	<-p.done
}

// Kill ends the peer as a power cut would, and waits until it has ended.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Ready waits until ok is true, and fails the test if the peer ends before that
// or takes too long.
func (p *Process) Ready(ok func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(between)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-p.done:
			p.t.Fatalf("%s ended before it was ready: %v\n%s", p.cmd.Path, p.cmd.ProcessState, p.Output())
		case <-ctx.Done():
			p.t.Fatalf("%s was not ready in %v\n%s", p.cmd.Path, patience, p.Output())
		}
	}
}

// FreePort returns a port on loopback that was free a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// A buffer is a bytes.Buffer for a writer and readers at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
