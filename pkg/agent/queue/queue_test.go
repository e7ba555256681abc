package queue

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

var limits = Limits{Bytes: 1 << 20, Age: time.Hour, Message: 64 << 10}

// noon is when tests begin.
var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, path string, l Limits) *Queue {
	t.Helper()
	q, err := Open(path, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

func put1(q *Queue, text string, at time.Time) error {
	return q.Put([]byte(text), DigestOf([]byte(text)), true, at)
}

func put(t *testing.T, q *Queue, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := put1(q, text, noon); err != nil {
			t.Fatalf("put %.20q: %v", text, err)
		}
	}
}

// take takes n messages, or all if n is negative.
func take(t *testing.T, q *Queue, n int) (out []string) {
	t.Helper()
	for ; n != 0; n-- {
		it, err := q.First()
		if err != nil {
			t.Fatal(err)
		}
		if it == nil {
			return out
		}
		if err := q.Done(it.Seq); err != nil {
			t.Fatal(err)
		}
		out = append(out, string(it.Body))
	}
	return out
}

func TestMessagesComeInOrderOverRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	q := open(t, path, limits)
	put(t, q, "a", "b", "")
	if got := take(t, q, 1); fmt.Sprint(got) != "[a]" {
		t.Errorf("%q", got)
	}
	q.Close()
	q = open(t, path, limits)
	select {
	case <-q.Came():
	default:
		t.Error("nothing is said of what waits")
	}
	put(t, q, "c")
	if st := q.Stats(); st.Messages != 3 || !st.Oldest.Equal(noon) {
		t.Errorf("%+v", st)
	}
	if got := take(t, q, -1); strings.Join(got, ",") != "b,,c" {
		t.Errorf("%q", got)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Error("others can read it")
	}
}

// TestWhereverItIsCutOffWhatWasPutBeforeIsThere cuts the file at each of its bytes,
// as a crash would in the middle of writing the last message.
func TestWhereverItIsCutOffWhatWasPutBeforeIsThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "q")
	q := open(t, path, limits)
	put(t, q, "first", "second")
	whole := q.size
	put(t, q, "last one")
	q.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := whole; n < int64(len(data)); n++ {
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		q := open(t, path, limits)
		if q.Cut() != n-whole {
			t.Errorf("cut off at %d: %d bytes were cut", n, q.Cut())
		}
		put(t, q, "after")
		q.Close()
		q = open(t, path, limits)
		if got := take(t, q, -1); fmt.Sprint(got) != "[first second after]" {
			t.Fatalf("cut off at %d: %q", n, got)
		}
		q.Close()
	}
	for n := range int64(len(magic)) {
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		q := open(t, path, limits)
		put(t, q, "x")
		q.Close()
	}
}

// TestABrokenRecordIsKeptBeside: what can not be read is not thrown away, and not
// delivered either.
func TestABrokenRecordIsKeptBeside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	q := open(t, path, limits)
	put(t, q, "first")
	at := q.size
	put(t, q, "second", "third")
	q.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int64{0, 1, 5, 9, 17, 25, headLen} {
		broken := bytes.Clone(data)
		broken[at+i] ^= 0x40
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		q := open(t, path, limits)
		if got := take(t, q, -1); fmt.Sprint(got) != "[first]" {
			t.Errorf("byte %d: %q", i, got)
		}
		q.Close()
		if beside, err := os.ReadFile(path + ".cut"); err != nil || !bytes.Equal(beside, broken[at:]) {
			t.Errorf("byte %d: %q %v beside", i, beside, err)
		}
		if err := os.Remove(path + ".cut"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("something else that is no queue"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, limits); !errors.Is(err, errForeign) {
		t.Errorf("a foreign file: %v", err)
	}
}

func TestLimitsRefuseTheNextAndKeepTheOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	q := open(t, path, Limits{Bytes: 300, Age: time.Hour, Message: 100})
	put(t, q, strings.Repeat("a", 100), strings.Repeat("b", 100))
	if err := put1(q, "cc", noon); !errors.Is(err, ErrFull) {
		t.Errorf("more than it holds: %v", err)
	}
	take(t, q, 1)
	if err := put1(q, strings.Repeat("l", 101), noon); !errors.Is(err, ErrFull) {
		t.Errorf("a long message: %v", err)
	}
	if err := put1(q, "late", noon.Add(time.Hour+1)); !errors.Is(err, ErrOld) {
		t.Errorf("behind an old message: %v", err)
	}
	if got := take(t, q, -1); len(got) != 1 || got[0][0] != 'b' {
		t.Errorf("%q", got)
	}
	if err := put1(q, "late", noon.Add(time.Hour+1)); err != nil {
		t.Errorf("with nothing before it: %v", err)
	}
}

func TestASenderThatSendsAgainIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	q := open(t, path, limits)
	put(t, q, "a")
	again := func(when string, want error) {
		t.Helper()
		if err := put1(q, "a", noon.Add(time.Minute)); !errors.Is(err, want) {
			t.Errorf("%s: %v", when, err)
		}
	}
	again("while it waits", ErrSeen)
	take(t, q, -1)
	again("after it was taken", ErrSeen)
	q.Close()
	q = open(t, path, limits)
	again("after a restart", ErrSeen)
	// Until the file was written anew, and after it.
	for i := range 100 {
		put(t, q, fmt.Sprint(i, strings.Repeat("x", 32<<10)))
		take(t, q, -1)
	}
	if q.size > 2*rewriteFrom {
		t.Errorf("the file has %d bytes, and nothing waits", q.size)
	}
	again("after the file was written anew", ErrSeen)
	q.Close()
	q = open(t, path, limits)
	again("and after another restart", ErrSeen)
	if err := put1(q, "a", noon.Add(2*time.Hour)); err != nil {
		t.Errorf("much later: %v", err)
	}
}

func TestWhatWasBegunIsKnownAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	q := open(t, path, limits)
	put(t, q, "a", "b")
	if err := q.Begin(2); err == nil {
		t.Error("the second is begun before the first")
	}
	if err := q.Begin(1); err != nil {
		t.Fatal(err)
	}
	q.Close()
	q = open(t, path, limits)
	if it, err := q.First(); err != nil || !it.Begun || it.Seq != 1 {
		t.Errorf("%+v %v", it, err)
	}
	if err := q.rewrite(); err != nil {
		t.Fatal(err)
	}
	if it, err := q.First(); err != nil || !it.Begun {
		t.Errorf("written anew: %+v %v", it, err)
	}
	take(t, q, 1)
	if it, err := q.First(); err != nil || it.Begun || it.Seq != 2 {
		t.Errorf("the next: %+v %v", it, err)
	}
}

func TestASenderThatSaysItIsNewIsBelieved(t *testing.T) {
	q := open(t, filepath.Join(t.TempDir(), "q"), limits)
	for range 2 {
		if err := q.Put([]byte("on"), DigestOf([]byte("on")), false, noon); err != nil {
			t.Fatal(err)
		}
	}
	if got := take(t, q, -1); len(got) != 2 {
		t.Errorf("%q", got)
	}
}

// failing is a file that fails when it is told to.
type failing struct {
	file
	write, sync, truncate error
	short                 int
}

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	if f.write != nil {
		n, _ := f.file.WriteAt(p[:min(f.short, len(p))], off)
		return n, f.write
	}
	return f.file.WriteAt(p, off)
}

func (f *failing) Sync() error { return errors.Join(f.sync, f.file.Sync()) }

func (f *failing) Truncate(n int64) error {
	if f.truncate != nil {
		return f.truncate
	}
	return f.file.Truncate(n)
}

func TestAFullDiskRefusesAndLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	q := open(t, path, limits)
	put(t, q, "first")
	f := &failing{file: q.f, write: syscall.ENOSPC, short: 30}
	q.f = f
	if err := put1(q, "second", noon); !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	f.write = nil
	put(t, q, "third")
	q.Close()
	q = open(t, path, limits)
	if got := take(t, q, -1); fmt.Sprint(got) != "[first third]" || q.Cut() != 0 {
		t.Errorf("%q", got)
	}
}

func TestAfterASyncThatFailedNothingIsTaken(t *testing.T) {
	for what, breakIt := range map[string]func(*Queue, *failing) error{
		"put":  func(q *Queue, f *failing) error { f.sync = syscall.EIO; return put1(q, "x", noon) },
		"done": func(q *Queue, f *failing) error { f.sync = syscall.EIO; return q.Done(1) },
		"cut": func(q *Queue, f *failing) error {
			f.write, f.truncate = syscall.ENOSPC, syscall.EIO
			return put1(q, "x", noon)
		},
	} {
		path := filepath.Join(t.TempDir(), "q")
		q := open(t, path, limits)
		put(t, q, "first")
		f := &failing{file: q.f, short: 20}
		q.f = f
		if err := breakIt(q, f); err == nil {
			t.Errorf("%s: no error", what)
		}
		f.sync, f.write, f.truncate = nil, nil, nil
		if err := put1(q, "later", noon); err == nil {
			t.Errorf("%s: it goes on as if nothing had been", what)
		}
		q.Close()
	}
}

// TestItIsAsAListIs does at random what can be done, and compares it with a list in
// memory.
func TestItIsAsAListIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	q := open(t, path, Limits{Bytes: 8 << 20, Age: time.Hour, Message: 64 << 10})
	var want []string
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		switch n := r.IntN(20); {
		case n < 10:
			text := fmt.Sprint(i, strings.Repeat("y", r.IntN(5000)))
			put(t, q, text)
			want = append(want, text)
		case n < 19:
			if got := take(t, q, 1); len(want) > 0 && (len(got) != 1 || got[0] != want[0]) || len(want) == 0 && len(got) != 0 {
				t.Fatalf("step %d", i)
			}
			want = want[min(1, len(want)):]
		default:
			q.Close()
			q = open(t, path, Limits{Bytes: 8 << 20, Age: time.Hour, Message: 64 << 10})
		}
	}
	if got := take(t, q, -1); strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("%d messages, want %d", len(got), len(want))
	}
}

func FuzzRecord(f *testing.F) {
	rec := record{state: waits, seq: 7, at: noon, digest: DigestOf([]byte("body")), body: []byte("body")}
	f.Add(rec.append(nil))
	f.Add([]byte{taken, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := readRecord(bytes.NewReader(raw), 0, int64(len(raw)))
		if err != nil {
			return
		}
		if got := r.append(nil); !bytes.Equal(got, raw[:len(got)]) {
			t.Errorf("%x is read, and written as %x", raw, got)
		}
	})
}

// TestAFullQueueTakesNoMemory: a limit of 64 MiB is 700,000 messages of a line, and
// the box has memory for none of them.
func TestAFullQueueTakesNoMemory(t *testing.T) {
	const messages = 100_000
	path := filepath.Join(t.TempDir(), "q")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	_, _ = w.WriteString(magic)
	for i := range messages {
		_, _ = w.Write((&record{state: waits, seq: uint64(i + 1), at: time.Now(), body: []byte("line")}).append(nil))
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	q, err := Open(path, Limits{Bytes: 64 << 20, Age: time.Hour, Message: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if used := int64(heap()) - int64(before); used > 1<<20 {
		t.Errorf("%d messages take %d bytes of memory", messages, used)
	}
	if st := q.Stats(); st.Messages != messages || st.Bytes != messages*(headLen+4) {
		t.Errorf("%+v", st)
	}
	for i := range 3 {
		it, err := q.First()
		if err != nil || it.Seq != uint64(i+1) {
			t.Fatalf("%+v %v", it, err)
		}
		if err := q.Done(it.Seq); err != nil {
			t.Fatal(err)
		}
	}
	runtime.KeepAlive(q)
}

// TestAClockThatWasWrongDoesNotMakeMessagesOld: a box without a clock of its own
// stores in 1970, and is told the time while the gateway is away.
func TestAClockThatWasWrongDoesNotMakeMessagesOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	limits := Limits{Bytes: 1 << 20, Age: time.Hour, Message: 100}
	q, err := Open(path, limits)
	if err != nil {
		t.Fatal(err)
	}
	wrong, right := time.Unix(60, 0), time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for _, now := range []time.Time{wrong, wrong.Add(time.Minute), right, right.Add(time.Minute)} {
		if err := q.Put([]byte(now.String()), DigestOf([]byte(now.String())), true, now); err != nil {
			t.Errorf("at %s: %v", now, err)
		}
	}
	if err := q.Put([]byte("late"), Digest{}, false, right.Add(2*time.Hour)); !errors.Is(err, ErrOld) {
		t.Errorf("it waits for two hours of a good clock: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if q, err = Open(path, limits); err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := q.Put([]byte("again"), Digest{}, false, right.Add(3*time.Hour)); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// TestWhatWasCutOffBeforeStays when it happens again.
func TestWhatWasCutOffBeforeStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q")
	for range 2 {
		q, err := Open(path, Limits{Bytes: 1 << 20, Age: time.Hour, Message: 100})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.f.WriteAt([]byte("torn"), q.size); err != nil {
			t.Fatal(err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	q, err := Open(path, Limits{Bytes: 1 << 20, Age: time.Hour, Message: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if got, err := os.ReadFile(path + ".cut"); err != nil || string(got) != "torntorn" {
		t.Errorf("%q %v", got, err)
	}
}
