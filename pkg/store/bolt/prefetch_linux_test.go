package bolt

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// cached returns how many pages of a file the system holds, of how many there are
// (mincore(2)).
func cached(t *testing.T, path string) (held, all int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(m) }()
	pages := make([]byte, (len(m)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, errno := syscall.Syscall(syscall.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Skip(errno)
	}
	for _, p := range pages {
		held += int(p & 1)
	}
	return held, len(pages)
}

// forget has the system drop what it holds of a file.
func forget(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	const dontNeed = 4 // POSIX_FADV_DONTNEED of posix_fadvise(2)
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); errno != 0 {
		t.Skip(errno)
	}
}

func TestPrefetchHasTheFileReadAhead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	const size = 8 << 20 // the file has more, which nothing was written to
	if err := s.Update(context.Background(), func(w store.Writer) error {
		return w.Put("a", "b", []byte(strings.Repeat("x", size)))
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	forget(t, path)
	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := size / os.Getpagesize()
	if held, _ := cached(t, path); held >= want {
		t.Skipf("this file system keeps %d pages whatever it is told", held)
	}
	s.Prefetch()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		held, _ := cached(t, path)
		if held >= want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d pages were read ahead", held, want)
		}
	}
}
