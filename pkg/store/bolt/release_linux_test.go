package bolt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// mapped returns how much of a file this process holds in memory, in kB
// (proc_pid_smaps(5)).
func mapped(t *testing.T, path string) (sum int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	within := false
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if !strings.HasSuffix(f[0], ":") {
			within = f[len(f)-1] == path
		}
		if within && f[0] == "Rss:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

func TestReleaseGivesBackTheFilesMemoryAndLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, value := context.Background(), strings.Repeat("x", 1000)
	const rows = 8_000
	put := func(from, to int) error {
		return s.Update(ctx, func(w store.Writer) error {
			for i := from; i < to; i++ {
				if err := w.Put("a", fmt.Sprintf("%06d", i), []byte(value+strconv.Itoa(i))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	read := func(want int) {
		t.Helper()
		n := 0
		if err := s.View(ctx, func(r store.Reader) error {
			return r.Each("a", "", func(k string, v []byte) error {
				if string(v) != value+strconv.Itoa(n) || k != fmt.Sprintf("%06d", n) {
					return fmt.Errorf("at %d there is %s", n, k)
				}
				n++
				return nil
			})
		}); err != nil || n != want {
			t.Errorf("%d rows are read, want %d: %v", n, want, err)
		}
	}
	if err := put(0, rows); err != nil {
		t.Fatal(err)
	}
	read(rows)
	before := mapped(t, path)
	if before < rows*800/1024 {
		t.Fatalf("%d kB were read", before)
	}
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	if after := mapped(t, path); after > before/10 {
		t.Errorf("%d kB are held, of %d before", after, before)
	}
	read(rows)
	var releasing sync.WaitGroup
	stop := make(chan struct{})
	releasing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.Release(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 20 {
		if err := put(rows+i, rows+i+1); err != nil {
			t.Error(err)
		}
		read(rows + i + 1)
	}
	close(stop)
	releasing.Wait()
}
