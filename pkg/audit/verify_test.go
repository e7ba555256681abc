package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

// example makes a log of several runs, segments and more than 256 blocks, so
// that the transparency log has full tiles, and returns its directory.
func example(t testing.TB, records int) string {
	t.Helper()
	dir := t.TempDir()
	cfg := testConfig(dir)
	for range 2 {
		l := must(t, cfg)
		fill(t, l, records/2)
		mustClose(t, l)
	}
	return dir
}

func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestVerifyGood(t *testing.T) {
	dir := example(t, 2000)
	var last Progress
	rep, err := Verify(t.Context(), dir, VerifyOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if rep.First != 1 || rep.Last != rep.Records || rep.Records < 2000 || rep.Covered != rep.Last || !rep.Closed || rep.Segments < 10 || len(rep.Gaps) != 0 || rep.Checkpoint.Size < 257 {
		t.Errorf("report: %+v", rep)
	}
	if last.Records != rep.Records || last.Bytes != last.Total || last.Total == 0 {
		t.Errorf("progress at the end: %+v", last)
	}
	// Verification trusts the key it is given, not the one beside the log.
	_, other, err := note.GenerateKey(nil, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), dir, VerifyOptions{PublicKey: other}); !errors.Is(err, ErrEvidence) {
		t.Errorf("with another key: %v", err)
	}
}

// committed lists the files that the checkpoint commits to, and the checkpoint.
func committed(t testing.TB, dir string) []string {
	t.Helper()
	rep, err := Verify(context.Background(), dir, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if strings.HasPrefix(rel, recordsName) || strings.HasPrefix(rel, logName+"/tile") || rel == logName+"/checkpoint" || rel == publicName {
			out = append(out, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Of the partial files only those of the checkpoint's size are committed to;
	// others are left from smaller trees.
	return slices.DeleteFunc(out, func(p string) bool {
		dir, n := filepath.Split(p)
		if !strings.HasSuffix(dir, ".p/") {
			return false
		}
		level := 0
		if s := strings.Split(p, "/"); s[2] != "entries" {
			_, _ = fmt.Sscan(s[2], &level)
		}
		size := rep.Checkpoint.Size >> (8 * level)
		return n != fmt.Sprint(size%256)
	})
}

// Whatever single thing is done to a file of a closed log, verification finds
// it.
func TestVerifyFindsAnyMutation(t *testing.T) {
	dir := example(t, 1000)
	files := committed(t, dir)
	rng := rand.New(rand.NewPCG(1, 2))
	rounds := 600
	if testing.Short() {
		rounds = 100
	}
	kinds := map[string]int{}
	for range rounds {
		name := files[rng.IntN(len(files))]
		path := filepath.Join(dir, name)
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		now, what := mutate(rng, old, strings.HasPrefix(name, recordsName))
		if bytes.Equal(old, now) {
			continue
		}
		if now == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, now, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = Verify(t.Context(), dir, VerifyOptions{})
		// Trailing space behind the key in log.pub says the same key.
		if err == nil && !(name == publicName && bytes.Equal(bytes.TrimSpace(now), bytes.TrimSpace(old))) {
			t.Fatalf("%s: %s was not found", name, what)
		}
		kinds[what]++
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Verify(t.Context(), dir, VerifyOptions{}); err != nil {
		t.Fatalf("with everything put back: %v", err)
	}
	t.Log(kinds)
}

func mutate(rng *rand.Rand, old []byte, lines bool) (now []byte, what string) {
	now = bytes.Clone(old)
	at := rng.IntN(len(now))
	n := 5
	if lines {
		n = 10
	}
	ls := bytes.SplitAfter(bytes.TrimSuffix(now, []byte("\n")), []byte("\n"))
	i := rng.IntN(len(ls))
	switch rng.IntN(n) {
	case 0:
		now[at] ^= 1 << rng.IntN(8)
		return now, "a bit flipped"
	case 1:
		return now[:at], "cut off"
	case 2:
		return slices.Delete(now, at, min(len(now), at+1+rng.IntN(8))), "bytes removed"
	case 3:
		return slices.Insert(now, at, byte(rng.IntN(256))), "a byte inserted"
	case 4:
		return nil, "the file removed"
	case 5:
		return bytes.Join(slices.Delete(ls, i, i+1), nil), "a line removed"
	case 6:
		return bytes.Join(slices.Insert(ls, i, ls[i]), nil), "a line doubled"
	case 7:
		j := rng.IntN(len(ls))
		ls[i], ls[j] = ls[j], ls[i]
		return bytes.Join(ls, nil), "two lines swapped"
	case 8:
		return bytes.Join(ls[:i], nil), "lines cut off"
	default:
		return append(now, []byte(`{"seq":9999,"run":"0000000000000000","time":"2026-01-01T00:00:00.000000000Z","kind":"system","event":"x"}`+"\n")...), "a line added"
	}
}

// Evidence says where.
func TestEvidenceNamesThePlace(t *testing.T) {
	dir := example(t, 400)
	names, _, err := segments(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := segmentPath(dir, names[1])
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := segmentSeq(names[1])
	b = bytes.Replace(b, []byte(fmt.Sprintf(`{"seq":%d,`, first+2)), []byte(fmt.Sprintf(`{"seq":%d,`, first+3)), 1)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(t.Context(), dir, VerifyOptions{})
	var ev *Evidence
	if !errors.As(err, &ev) {
		t.Fatalf("want evidence, have %v", err)
	}
	if ev.File != filepath.Join(recordsName, names[1]+segmentEnding) || ev.Line != 3 || ev.Offset == 0 || ev.First != first || rep.Covered != first-1 {
		t.Errorf("evidence %+v, covered %d", ev, rep.Covered)
	}
}

// A rollback of the whole directory, or a log written anew with the same key,
// shows against a checkpoint that was kept.
func TestVerifyAgainstKeptCheckpoint(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	l := must(t, cfg)
	fill(t, l, 100)
	mustClose(t, l)
	early := copyDir(t, dir)
	read := func(dir string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, logName, "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	l = must(t, cfg)
	fill(t, l, 100)
	mustClose(t, l)

	if _, err := Verify(t.Context(), dir, VerifyOptions{Checkpoint: read(early)}); err != nil {
		t.Errorf("the log grew: %v", err)
	}
	if _, err := Verify(t.Context(), early, VerifyOptions{}); err != nil {
		t.Errorf("rolled back, and nothing kept: %v", err)
	}
	if _, err := Verify(t.Context(), early, VerifyOptions{Checkpoint: read(dir)}); !errors.Is(err, ErrEvidence) || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("rolled back: %v", err)
	}
	anew := t.TempDir()
	for _, n := range []string{keyName, publicName} {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(anew, n), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l = must(t, testConfig(anew))
	fill(t, l, 300)
	mustClose(t, l)
	if _, err := Verify(t.Context(), anew, VerifyOptions{}); err != nil {
		t.Errorf("written anew, and nothing kept: %v", err)
	}
	if _, err := Verify(t.Context(), anew, VerifyOptions{Checkpoint: read(dir)}); !errors.Is(err, ErrEvidence) || !strings.Contains(err.Error(), "rewritten") {
		t.Errorf("written anew: %v", err)
	}
}

// A directory is verified while it is written to.
func TestVerifyLive(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.Audit.BlockTime, cfg.patience = 1e6, time.Hour
	l := must(t, cfg)
	// So many a round and no more: a slow machine must not make the log longer than
	// it can verify.
	stop, done, more := make(chan struct{}), make(chan error), make(chan struct{}, 300)
	go func() {
		r := sample()
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-more:
				if err := l.Append(context.Background(), r); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		for range cap(more) {
			select {
			case more <- struct{}{}:
			default: // there is enough to do
			}
		}
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if rep, err := Verify(t.Context(), dir, VerifyOptions{}); err != nil {
			t.Fatalf("%v (%+v)", err, rep)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	rep, err := Verify(t.Context(), dir, VerifyOptions{})
	if err != nil || !rep.Closed {
		t.Fatalf("%v (%+v)", err, rep)
	}
}

// The tree is RFC 6962's, as another implementation has it.
func TestTreeIsRFC6962(t *testing.T) {
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r := f.NewEmptyRange(0)
	tr := newTree()
	if have := tr.root(); !bytes.Equal(have[:], rfc6962.DefaultHasher.EmptyRoot()) {
		t.Errorf("empty root %x", have)
	}
	for i := range 300 {
		leaf := []byte(fmt.Sprint("leaf ", i))
		h := tr.leafHash(leaf)
		if want := rfc6962.DefaultHasher.HashLeaf(leaf); !bytes.Equal(h[:], want) {
			t.Fatalf("leaf %d: %x, want %x", i, h, want)
		}
		tr.add(h)
		if err := r.Append(h[:], nil); err != nil {
			t.Fatal(err)
		}
		want, err := r.GetRootHash(nil)
		if err != nil {
			t.Fatal(err)
		}
		if have := tr.root(); !bytes.Equal(have[:], want) {
			t.Fatalf("root of %d: %x, want %x", i+1, have, want)
		}
	}
}
