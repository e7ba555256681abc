package yield

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAFileIsSyncedInTheBackground(t *testing.T) {
	f := newFile(t)
	if f.aio == 0 {
		t.Skip("this kernel, or its filter of system calls, has no io_setup(2)")
	}
	for i := range 100 {
		if _, err := f.WriteAt([]byte("a record\n"), int64(9*i)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if f.aio == 0 {
		t.Error("the kernel has io_setup(2) and took no request: the form of the request is wrong")
	}
}

func TestWithoutABackgroundAFileIsSyncedAllTheSame(t *testing.T) {
	f := newFile(t)
	f.endWithout()
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeSyncedIsSaid(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f := NewFile(w)
	defer f.Close()
	if err := f.Sync(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("syncing a pipe: %v; fsync(2) says EINVAL", err)
	}
	closed := newFile(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := closed.Sync(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("syncing a closed file: %v", err)
	}
}

// TestASyncIsDoneWhenItsResultIsThere, and not when a signal came: an error of a system
// call is a number of results, too, and not none.
func TestASyncIsDoneWhenItsResultIsThere(t *testing.T) {
	f := newFile(t)
	for _, tt := range []struct {
		n    uintptr
		e    syscall.Errno
		res  int64
		done bool
		err  error
	}{
		{1, 0, 0, true, nil},
		{1, 0, -int64(syscall.EIO), true, syscall.EIO},
		{0, 0, 0, false, nil},
		{^uintptr(0), syscall.EINTR, 0, false, nil},
		{^uintptr(0), syscall.EINVAL, 0, true, syscall.EINVAL},
	} {
		if done, err := f.result(tt.n, tt.e, &ioEvent{res: tt.res}); done != tt.done || !errors.Is(err, tt.err) {
			t.Errorf("%+v: %v %v", tt, done, err)
		}
	}
}

func newFile(t *testing.T) *File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "records"))
	if err != nil {
		t.Fatal(err)
	}
	n := NewFile(f)
	t.Cleanup(func() { _ = n.Close() })
	return n
}
