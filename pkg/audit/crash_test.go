package audit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// childDir names the directory in which this test binary, run again, writes
// records until it is killed.
const childDir = "ANTEROOM_AUDIT_TEST_DIR"

// child writes and says, after each flush, how many of its records are durable.
func child(dir string) {
	cfg := testConfig(dir)
	cfg.Audit.BlockTime = config.Duration(5 * time.Millisecond)
	l, err := Open(context.Background(), cfg)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("open", l.Status().Run)
	r := sample()
	for i := 1; ; i++ {
		r.Decision.ID = l.run + "-" + strconv.Itoa(i)
		if err := l.Append(context.Background(), r); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		if i%13 == 0 {
			if err := l.Flush(context.Background()); err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
			fmt.Println("flushed", i)
		}
	}
}

// Fifty times a process is killed while it writes. Nothing it had flushed is
// lost, nothing is there twice, every kill is visible, and the log verifies
// each time the next process has begun.
func TestFlushedRecordsSurviveKill(t *testing.T) {
	rounds := 50
	if testing.Short() {
		rounds = 8
	}
	dir := t.TempDir()
	flushed := map[string]int{} // by run
	for range rounds {
		run, n := killed(t, dir)
		flushed[run] = n
	}
	l := must(t, testConfig(dir))
	mustClose(t, l)
	rep, err := Verify(t.Context(), dir, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Unsealed != 0 || rep.Waiting != 0 || !rep.Closed || rep.Covered != rep.Last {
		t.Errorf("after a clean end: %+v", rep)
	}
	if len(rep.Gaps) != rounds {
		t.Errorf("%d gaps are visible after %d kills", len(rep.Gaps), rounds)
	}
	have := map[string]int{}
	seq := uint64(0)
	for _, e := range collect(t, dir, ReadOptions{}) {
		if seq++; e.Seq != seq {
			t.Fatalf("record %d follows record %d", e.Seq, seq-1)
		}
		if e.Decision == nil {
			continue
		}
		run, n, _ := strings.Cut(e.Decision.ID, "-")
		if have[run]++; n != strconv.Itoa(have[run]) || e.Run != run {
			t.Fatalf("record %d of run %s: found %s where %d is due", e.Seq, e.Run, e.Decision.ID, have[run])
		}
	}
	total := 0
	for run, n := range flushed {
		if have[run] < n {
			t.Errorf("run %s flushed %d records and %d are there", run, n, have[run])
		}
		total += n
	}
	recovered := events(t, dir, eventRecovered)
	if len(recovered) != rounds {
		t.Errorf("%d records of recovery after %d kills", len(recovered), rounds)
	}
	t.Logf("%d kills, %d flushed records, %d in all, %d torn ends", rounds, total, rep.Records, torn(t, dir))
}

func torn(t *testing.T, dir string) int {
	fs, err := filepath.Glob(filepath.Join(dir, tornName, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(fs)
}

// killed runs a child, kills it at a moment of chance, and returns its run and
// how many records it knew to be durable.
func killed(t *testing.T, dir string) (run string, flushed int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // killed
	// The pipe is read to its end also after the kill: what was said counts.
	stop := 1 + rand.IntN(25)
	delay := time.Duration(rand.IntN(2000)) * time.Microsecond
	lines := 0
	in := bufio.NewScanner(out)
	for in.Scan() {
		word, arg, _ := strings.Cut(in.Text(), " ")
		switch word {
		case "open":
			run = arg
		case "flushed":
			if flushed, err = strconv.Atoi(arg); err != nil {
				t.Fatal(err)
			}
		default:
			_ = cmd.Process.Kill()
			t.Fatalf("the child said %q", in.Text())
		}
		if lines++; lines == stop {
			time.Sleep(delay) // any moment is as good as another
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := in.Err(); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if run == "" {
		t.Fatal("the child said nothing")
	}
	return run, flushed
}
