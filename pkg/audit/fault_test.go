package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// A faulty disk does what the test says.
type faulty struct {
	osDisk
	mu         sync.Mutex
	write      error // fails a write after half of it
	spared     int   // so many writes succeed before
	sync       error
	openErr    error
	truncate   error
	left       uint64
	writes     int
	longest    int // bytes of a write
	truncated  int
	everything bool // write all of it, then fail
}

func (d *faulty) set(f func(d *faulty)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func (d *faulty) free() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.left, nil
}

func (d *faulty) open(segment string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.openErr != nil {
		return nil, d.openErr
	}
	f, err := d.osDisk.open(segment)
	return &faultyFile{f, d}, err
}

type faultyFile struct {
	file
	d *faulty
}

func (f *faultyFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.writes++
	f.d.longest = max(f.d.longest, len(b))
	if f.d.spared--; f.d.write != nil && f.d.spared < 0 {
		n := len(b) / 2
		if f.d.everything {
			n = len(b)
		}
		_, _ = f.file.WriteAt(b[:n], at)
		return n, f.d.write
	}
	return f.file.WriteAt(b, at)
}

func (f *faultyFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.sync != nil {
		return f.d.sync
	}
	return f.file.Sync()
}

func (f *faultyFile) Truncate(n int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.truncated++
	if f.d.truncate != nil {
		return f.d.truncate
	}
	return f.file.Truncate(n)
}

// eventually waits for what happens in other goroutines.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// Whatever the disk does, nothing that was accepted is lost or doubled, nothing
// is accepted while it lasts, and the log says so and recovers by itself.
func TestDiskFaults(t *testing.T) {
	eio, enospc := error(syscall.EIO), error(syscall.ENOSPC)
	for _, c := range []struct {
		name  string
		harm  func(d *faulty)
		is    error
		stuck bool
	}{
		{"full while writing", func(d *faulty) { d.write = enospc }, enospc, true},
		{"write fails after all of it", func(d *faulty) { d.write, d.everything = eio, true }, eio, true},
		{"sync fails", func(d *faulty) { d.sync = eio }, eio, true},
		{"write and truncate fail", func(d *faulty) { d.write, d.truncate = enospc, eio }, enospc, true},
		{"write fails and the file cannot be opened again", func(d *faulty) { d.write, d.openErr = eio, syscall.EMFILE }, nil, true},
		{"nearly full", func(d *faulty) { d.left = 1000 }, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			disk := &faulty{osDisk: osDisk{filepath.Join(dir, recordsName)}, left: 1 << 30}
			cfg := testConfig(dir)
			cfg.disk, cfg.retry = disk, time.Millisecond
			cfg.Audit.MinFree = 4096
			l := must(t, cfg)
			fill(t, l, 25)
			disk.set(c.harm)

			// One record is accepted before anybody knows.
			r := sample()
			r.Decision.ID = "accepted"
			if err := l.Append(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			err := l.Flush(t.Context())
			if c.stuck != (err != nil) || err != nil && !errors.Is(err, ErrUnavailable) {
				t.Errorf("flush: %v", err)
			}
			eventually(t, "the outage", func() bool { return !l.Status().Healthy })
			r.Decision.ID = "refused"
			err = l.Append(t.Context(), r)
			if !errors.Is(err, ErrUnavailable) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("append: %v", err)
			}
			if st := l.Status(); st.Error == "" || st.Unavailable == nil {
				t.Errorf("status: %+v", st)
			}

			disk.set(func(d *faulty) {
				d.write, d.sync, d.openErr, d.truncate, d.left, d.everything = nil, nil, nil, nil, 1<<30, false
			})
			eventually(t, "recovery", func() bool { return l.Status().Healthy })
			r.Decision.ID = "after"
			if err := l.Append(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			mustClose(t, l)
			rep, err := Verify(t.Context(), dir, VerifyOptions{})
			if err != nil || !rep.Closed {
				t.Fatalf("%v (%+v)", err, rep)
			}
			for id, want := range map[string]int{"d24": 1, "accepted": 1, "refused": 0, "after": 1} {
				if n := len(collect(t, dir, ReadOptions{Filter: Filter{Decision: id}})); n != want {
					t.Errorf("%d records of %q, want %d", n, id, want)
				}
			}
			if es := events(t, dir, eventRestored); len(es) != 1 {
				t.Errorf("%d records of the outage", len(es))
			}
		})
	}
}

// What is to be written is written in pieces, so that devices are served between
// them, and is lost or doubled as little as when it was one.
func TestABatchIsWrittenInPieces(t *testing.T) {
	dir := t.TempDir()
	disk := &faulty{osDisk: osDisk{filepath.Join(dir, recordsName)}, left: 1 << 30}
	cfg := testConfig(dir)
	cfg.disk, cfg.retry = disk, time.Millisecond
	cfg.Audit.FlushTime, cfg.Audit.RotateSize = config.Duration(time.Hour), 1<<30
	l := must(t, cfg)
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	disk.set(func(d *faulty) { d.write, d.spared, d.writes = syscall.ENOSPC, 2, 0 })
	const n = 200 // fewer than would wake the writer
	r := sample()
	for i := range n {
		r.Decision.ID = fmt.Sprintf("d%d", i)
		if err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("flush, with a third piece that is not taken: %v", err)
	}
	disk.set(func(d *faulty) { d.write = nil })
	eventually(t, "recovery", func() bool { return l.Flush(t.Context()) == nil })
	mustClose(t, l)
	disk.set(func(d *faulty) {
		if d.longest > piece || d.writes < 3 {
			t.Errorf("%d writes, of at most %d bytes", d.writes, d.longest)
		}
	})
	if rep, err := Verify(t.Context(), dir, VerifyOptions{}); err != nil || !rep.Closed {
		t.Fatalf("%v (%+v)", err, rep)
	}
	for i, id := range []string{"d0", "d100", "d199"} {
		if got := len(collect(t, dir, ReadOptions{Filter: Filter{Decision: id}})); got != 1 {
			t.Errorf("%d: %d records of %q", i, got, id)
		}
	}
}

// Nobody who waits for room is left waiting when the disk fails.
func TestOutageWakesWaiters(t *testing.T) {
	dir := t.TempDir()
	disk := &faulty{osDisk: osDisk{filepath.Join(dir, recordsName)}, left: 1 << 30}
	cfg := testConfig(dir)
	cfg.disk, cfg.retry, cfg.patience = disk, time.Hour, time.Millisecond
	cfg.Audit.FlushTime = config.Duration(time.Hour)
	l := must(t, cfg)
	disk.set(func(d *faulty) { d.write = syscall.ENOSPC })
	err := error(nil)
	for r := sample(); err == nil; { // the buffer's quarter wakes the writer, which fails
		err = l.Append(t.Context(), r)
	}
	if !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// Closing a log whose disk takes nothing ends, and says what is missing; the
// next run goes on from what is durable.
func TestCloseOnBrokenDisk(t *testing.T) {
	dir := t.TempDir()
	disk := &faulty{osDisk: osDisk{filepath.Join(dir, recordsName)}, left: 1 << 30}
	cfg := testConfig(dir)
	cfg.disk, cfg.retry, cfg.patience = disk, time.Millisecond, 50*time.Millisecond
	l := must(t, cfg)
	fill(t, l, 3)
	disk.set(func(d *faulty) { d.write = syscall.ENOSPC })
	if err := l.Append(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("close: %v", err)
	}
	l = must(t, testConfig(dir))
	mustClose(t, l)
	rep, err := Verify(t.Context(), dir, VerifyOptions{})
	if err != nil || len(rep.Gaps) != 1 {
		t.Errorf("%v, %+v", err, rep)
	}
}

// With the buffer full Append waits, as long as its context does.
func TestBackPressure(t *testing.T) {
	dir := t.TempDir()
	disk := &faulty{osDisk: osDisk{filepath.Join(dir, recordsName)}, left: 1 << 30}
	cfg := testConfig(dir)
	cfg.disk = disk
	cfg.Audit.BlockRecords = 1 << 20
	l := must(t, cfg)
	disk.mu.Lock() // the disk hangs
	r := sample()
	n := 0
	var err error
	for err == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err = l.Append(ctx, r); err == nil {
			n++
		}
		cancel()
	}
	disk.mu.Unlock()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a full buffer: %v", err)
	}
	if err := l.Append(t.Context(), r); err != nil { // waits for room
		t.Error(err)
	}
	mustClose(t, l)
	if have := len(events(t, dir, r.Event)); have != n+1 {
		t.Errorf("%d records, %d were accepted", have, n+1)
	}
}

// A real disk that is really full.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		if os.Getenv("ANTEROOM_REQUIRE_PEERS") != "" && os.Geteuid() == 0 && !errors.Is(err, syscall.EPERM) {
			t.Fatal(err)
		}
		t.Skipf("needs the right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, "unmounting", func() bool { return syscall.Unmount(dir, 0) == nil })
	})
	cfg := testConfig(dir)
	cfg.retry = 5 * time.Millisecond
	cfg.Audit.MinFree = 1
	cfg.Audit.BlockRecords = 100
	cfg.Audit.RotateSize = 1 << 30
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 500<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l := must(t, cfg)
	r := sample()
	accepted := 0
	var err error
	for {
		if err = l.Append(t.Context(), r); err != nil {
			break
		}
		accepted++
	}
	if !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	t.Logf("%d records accepted, then: %v", accepted, err)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	// What was accepted may be more than the disk has room for even now: a larger
	// one it is.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "recovery", func() bool { return l.Status().Healthy })
	mustClose(t, l)
	rep, err := Verify(t.Context(), dir, VerifyOptions{})
	if err != nil || !rep.Closed {
		t.Fatalf("%v (%+v)", err, rep)
	}
	if n := len(events(t, dir, r.Event)); n != accepted {
		t.Errorf("%d records, %d were accepted", n, accepted)
	}
	if len(events(t, dir, eventRestored)) == 0 {
		t.Error("no record of the outage")
	}
}
