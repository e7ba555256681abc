package bolt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/storetest"
)

// writerEnv makes the test binary write to the store it names until it is killed.
const writerEnv = "ANTEROOM_TEST_STORE_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" {
		fmt.Fprintln(os.Stderr, writeFor(path))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// writeFor adds a number at a time to two tables, and says each when it was
// acknowledged.
func writeFor(path string) error {
	s, err := Open(path)
	if err != nil {
		return err
	}
	n := 0
	if err := s.View(context.Background(), func(r store.Reader) error {
		return r.Each("a", "", func(string, []byte) error { n++; return nil })
	}); err != nil {
		return err
	}
	fmt.Println("open")
	for ; ; n++ {
		key := fmt.Sprintf("%08d", n)
		if err := s.Update(context.Background(), func(w store.Writer) error {
			return errors.Join(w.Put("a", key, []byte(strings.Repeat(key, 100))), w.Put("b", key, []byte(key)))
		}); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

func TestConformance(t *testing.T) {
	storetest.Run(t, storetest.Kind{New: func(t *testing.T) func() store.Store {
		path := filepath.Join(t.TempDir(), "state.db")
		return func() store.Store {
			s, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}})
}

// writer starts a process that writes to the store, and returns it with the
// lines it says.
func writer(t *testing.T, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// Invariant 5: what was acknowledged survives kill -9, and what was cut off has
// not happened by half.
func TestNothingAcknowledgedIsLostWhenKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	last := -1
	for round := range 15 {
		cmd, said := writer(t, path)
		for begun := false; said.Scan(); {
			n := 0
			if _, err := fmt.Sscan(said.Text(), &n); err == nil {
				last = n
			}
			if !begun {
				begun = true
				// A different moment each round, in the middle of whatever it does.
				time.AfterFunc(time.Duration(round)*time.Millisecond+time.Duration(round*137)*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("the writer was not killed: %v", err)
		}
		s, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]int{}
		if err := s.View(context.Background(), func(r store.Reader) error {
			for _, table := range []string{"a", "b"} {
				if err := r.Each(table, "", func(k string, v []byte) error {
					if k != fmt.Sprintf("%08d", counts[table]) || !strings.HasPrefix(string(v), k) {
						return fmt.Errorf("key %s with %d bytes at place %d of %s", k, len(v), counts[table], table)
					}
					counts[table]++
					return nil
				}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if counts["a"] < last+1 || counts["a"] != counts["b"] {
			t.Fatalf("acknowledged up to %d, there are %v", last, counts)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if last < 5 {
		t.Fatalf("only %d updates were tried", last)
	}
}

func TestOneProcessOwnsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	cmd, said := writer(t, path)
	if !said.Scan() {
		t.Fatal("the writer said nothing")
	}
	_, err := Open(path)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("while another process has it: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for said.Scan() {
	}
	_ = cmd.Wait()
	s, err := Open(path)
	if err != nil {
		t.Fatalf("after it was killed: %v", err)
	}
	defer s.Close()
	if _, err := Open(path); !errors.Is(err, ErrLocked) {
		t.Errorf("twice in one process: %v", err)
	}
}

func TestAFileThatIsNoStoreIsRefusedAndKept(t *testing.T) {
	dir := t.TempDir()
	for what, data := range map[string]string{
		"text":     "not a store\n",
		"too long": strings.Repeat("not a store\n", 4096),
	} {
		path := filepath.Join(dir, what)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(path); err == nil {
			s.Close()
			t.Errorf("%s: opened", what)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v does not name it", what, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != data {
			t.Errorf("%s: it was changed", what)
		}
	}
	if _, err := Open(filepath.Join(dir, "nowhere", "state.db")); err == nil {
		t.Error("opened in a directory that is not there")
	}
}

func TestNobodyElseMayReadIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}
