package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
)

// pair is a key pair of age; scrypt takes a second and 256 MiB, keys take nothing.
var pair = sync.OnceValue(func() *age.X25519Identity {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		panic(err)
	}
	return id
})

func keys() (To, With) {
	return To{Recipients: []string{pair().Recipient().String()}}, With{Identities: []byte(pair().String() + "\n")}
}

var manifestOf = &Manifest{Format: Format, TrustDomain: "hospital.example", Taken: time.Unix(1795698285, 0).UTC(), Parts: []string{State}}

// archive writes an archive of files in order.
func archive(t testing.TB, files ...string) []byte {
	t.Helper()
	to, _ := keys()
	var out bytes.Buffer
	z, err := Seal(&out, to)
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(z, manifestOf)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if err := w.Bytes(name, []byte("this is "+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// sealed encrypts what is not an archive of ours.
func sealed(t testing.TB, plain []byte) []byte {
	t.Helper()
	to, _ := keys()
	var out bytes.Buffer
	z, err := Seal(&out, to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = z.Write(plain)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// restored extracts state and audit log below dir.
func restored(data []byte, dir string) (*Manifest, error) {
	_, with := keys()
	o, err := Open(bytes.NewReader(data), with)
	if err != nil {
		return nil, err
	}
	return Extract(o, Plan{Check: func(*Manifest) error { return nil },
		Parts: map[string]string{State: filepath.Join(dir, "state"), Audit: filepath.Join(dir, "audit")}})
}

func TestWhatIsWrittenIsRestored(t *testing.T) {
	dir := t.TempDir()
	m, err := restored(archive(t, "state/ca/root.crt", "state/a b/Größe.rego", "config/anteroom.yaml", "audit/log/.state/treeState"), dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.TrustDomain != "hospital.example" || !m.Taken.Equal(manifestOf.Taken) {
		t.Errorf("%+v", m)
	}
	for name, want := range map[string]string{
		"state/ca/root.crt": "this is state/ca/root.crt", "state/a b/Größe.rego": "this is state/a b/Größe.rego",
		"audit/log/.state/treeState": "this is audit/log/.state/treeState", "config/anteroom.yaml": "",
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if want == "" && err == nil || want != "" && (err != nil || string(got) != want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if st, err := os.Stat(filepath.Join(dir, name)); want != "" && (err != nil || st.Mode().Perm() != 0o600) {
			t.Errorf("%s: %v %v", name, st, err)
		}
	}
}

// Whoever has age, gzip and tar reads an archive without us.
func TestOtherProgramsReadIt(t *testing.T) {
	dec, err := age.Decrypt(bytes.NewReader(archive(t, "state/x")), pair())
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(dec)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "manifest.json state/x end.json" {
		t.Error(got)
	}
}

func TestAPassphraseOpensWhatItSealed(t *testing.T) {
	pass := []byte("correct horse battery")
	var out bytes.Buffer
	z, err := Seal(&out, To{Passphrase: pass, work: 10})
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(z, manifestOf)
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	o, err := Open(bytes.NewReader(out.Bytes()), With{Passphrase: pass})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Extract(o, Plan{Check: func(*Manifest) error { return nil }}); err != nil {
		t.Error(err)
	}
	if _, err := Open(bytes.NewReader(out.Bytes()), With{Passphrase: []byte("correct horse batterz")}); !errors.Is(err, ErrKey) {
		t.Errorf("another passphrase: %v", err)
	}
	_, with := keys()
	if _, err := Open(bytes.NewReader(out.Bytes()), with); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "to a passphrase") {
		t.Errorf("a key: %v", err)
	}
	if _, err := Open(bytes.NewReader(archive(t)), With{Passphrase: pass}); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "to public keys") {
		t.Errorf("a passphrase for keys: %v", err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(bytes.NewReader(archive(t)), With{Identities: []byte(other.String())}); !errors.Is(err, ErrKey) {
		t.Errorf("another key: %v", err)
	}
}

func TestAnArchiveThatAsksForMuchMemoryIsRefused(t *testing.T) {
	// As NewScryptRecipient writes it, with 2^30 in place of 2^18: it would take a TiB.
	head := "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 30\n" + strings.Repeat("A", 43) + "\n--- " + strings.Repeat("A", 43) + "\n"
	if _, err := Open(strings.NewReader(head), With{Passphrase: []byte("correct horse battery")}); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Error(err)
	}
}

// TestAnArchiveDoesNotFillTheDisk: a few kilobytes can hold a terabyte of nothing.
func TestAnArchiveDoesNotFillTheDisk(t *testing.T) {
	to, with := keys()
	var out bytes.Buffer
	z, err := Seal(&out, to)
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(z, manifestOf)
	if err != nil {
		t.Fatal(err)
	}
	const each = 1 << 20
	for _, name := range []string{"state/a", "state/b", "state/c"} {
		if err := w.Bytes(name, make([]byte, each)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	if out.Len() > each/10 {
		t.Fatalf("the archive has %d bytes", out.Len())
	}
	for room, fits := range map[int64]bool{3 * each: true, 3*each - 1: false, 0: false} {
		dir := t.TempDir()
		o, err := Open(bytes.NewReader(out.Bytes()), with)
		if err != nil {
			t.Fatal(err)
		}
		left := room + spareDisk + each
		_, err = Extract(o, Plan{Check: func(*Manifest) error { return nil }, Parts: map[string]string{State: filepath.Join(dir, "state")},
			room: func(string) (int64, error) { left -= each; return left, nil }})
		if fits != (err == nil) || err != nil && !strings.Contains(err.Error(), "make room") {
			t.Errorf("room for %d bytes: %v", room, err)
		}
		if _, e := os.Stat(filepath.Join(dir, "state")); fits != (e == nil) {
			t.Errorf("room for %d bytes: what was written: %v", room, e)
		}
	}
	// The disk that there is.
	if free, err := freeDisk(t.TempDir()); err != nil || free <= 0 {
		t.Errorf("%d bytes are free, %v", free, err)
	}
}

func TestWeakOrMuddledKeysAreRefused(t *testing.T) {
	pub := pair().Recipient().String()
	for what, to := range map[string]To{
		"none":           {},
		"short":          {Passphrase: []byte("elevenchars")},
		"no key":         {Recipients: []string{"age1nonsense"}},
		"two in one":     {Recipients: []string{pub + "\n" + pub}},
		"both":           {Recipients: []string{pub}, Passphrase: []byte("correct horse battery")},
		"a private one":  {Recipients: []string{pair().String()}},
		"one good, one ": {Recipients: []string{pub, ""}},
	} {
		if _, err := Seal(io.Discard, to); err == nil {
			t.Errorf("%s: sealed", what)
		} else if strings.Contains(err.Error(), pair().String()[:30]) && what == "a private one" {
			t.Errorf("%s: the error repeats it", what)
		}
	}
}

// Wherever it is cut off, nothing is restored and nothing stays.
func TestAnArchiveThatIsCutOffIsRefused(t *testing.T) {
	whole := archive(t, "state/ca/root.crt", "audit/records/1.jsonl")
	for n := 0; n < len(whole); n += cut(n) {
		refused(t, fmt.Sprintf("%d of %d bytes", n, len(whole)), whole[:n])
	}
	refused(t, "a byte less", whole[:len(whole)-1])
	refused(t, "a byte more", append(bytes.Clone(whole), 0))
}

// cut is how far the next cut is: the header is tried byte by byte in the fuzz
// tests of age itself.
func cut(n int) int { return 1 + n%7 }

func TestAnArchiveThatWasChangedIsRefused(t *testing.T) {
	whole := archive(t, "state/ca/root.crt", "audit/records/1.jsonl")
	for n := 0; n < len(whole); n += cut(n) {
		bad := bytes.Clone(whole)
		bad[n] ^= 0x04
		refused(t, fmt.Sprintf("byte %d", n), bad)
	}
}

func refused(t *testing.T, what string, data []byte) {
	t.Helper()
	dir := t.TempDir()
	if _, err := restored(data, dir); err == nil || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrKey) {
		t.Errorf("%s: %v", what, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%s: %v is left, %v", what, left, err)
	}
}

// made writes a tar archive as somebody would who has the public key.
func made(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		body := []byte("x")
		switch {
		case h.Name == manifestName:
			body = []byte(`{"format": 1, "trust_domain": "hospital.example"}`)
		case h.Name == endName:
			body = fmt.Appendf(nil, `{"entries": %d}`, len(entries)-1)
		case h.Typeflag != 0 && h.Typeflag != tar.TypeReg:
			body = nil
		}
		h.Size, h.Mode = int64(len(body)), 0o4777
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return sealed(t, out.Bytes())
}

func TestAForgedArchiveLeadsNowhere(t *testing.T) {
	first, last := tar.Header{Name: manifestName}, tar.Header{Name: endName}
	if _, err := restored(made(t, first, tar.Header{Name: "state/a"}, last), t.TempDir()); err != nil {
		t.Fatalf("the form that is tried is not even right: %v", err)
	}
	for _, c := range []struct {
		what    string
		entries []tar.Header
	}{
		{"a path up", []tar.Header{first, {Name: "state/../../evil"}, last}},
		{"a path up at the front", []tar.Header{first, {Name: "../evil"}, last}},
		{"an absolute path", []tar.Header{first, {Name: "/etc/evil"}, last}},
		{"a path that is spelt otherwise", []tar.Header{first, {Name: "state//a"}, last}},
		{"a path with a dot", []tar.Header{first, {Name: "state/./a"}, last}},
		{"a backslash", []tar.Header{first, {Name: `state/..\evil`}, last}},
		{"a line break", []tar.Header{first, {Name: "state/a\nb"}, last}},
		{"a part that there is not", []tar.Header{first, {Name: "home/evil"}, last}},
		{"no part", []tar.Header{first, {Name: "evil"}, last}},
		{"a part alone", []tar.Header{first, {Name: "state"}, last}},
		{"a symbolic link", []tar.Header{first, {Name: "state/a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, last}},
		{"a hard link", []tar.Header{first, {Name: "state/a", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}, last}},
		{"a device", []tar.Header{first, {Name: "state/a", Typeflag: tar.TypeChar}, last}},
		{"a directory", []tar.Header{first, {Name: "state/a", Typeflag: tar.TypeDir}, last}},
		{"twice the same", []tar.Header{first, {Name: "state/a"}, {Name: "state/a"}, last}},
		{"a file as a directory", []tar.Header{first, {Name: "state/a"}, {Name: "state/a/b"}, last}},
		{"two manifests", []tar.Header{first, first, last}},
		{"no manifest", []tar.Header{{Name: "state/a"}, last}},
		{"no end", []tar.Header{first, {Name: "state/a"}}},
		{"more after the end", []tar.Header{first, last, {Name: "state/a"}}},
		{"nothing", nil},
		{"a very long path", []tar.Header{first, {Name: "state/" + strings.Repeat("a/", 300) + "a"}, last}},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "in"), 0o700); err != nil {
			t.Fatal(err)
		}
		if m, err := restored(made(t, c.entries...), filepath.Join(dir, "in")); err == nil {
			t.Errorf("%s: restored %+v", c.what, m)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) > 0 {
			t.Errorf("%s: %v is left", c.what, left)
		}
		if _, err := os.Lstat(filepath.Join(dir, "evil")); err == nil {
			t.Errorf("%s: it led out", c.what)
		}
	}
	// Modes are ours too: a file is nobody else's, and runs as nobody.
	dir := t.TempDir()
	if _, err := restored(made(t, first, tar.Header{Name: "state/a"}, last), dir); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "state", "a")); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

func TestAnEndThatCountsOtherwiseIsRefused(t *testing.T) {
	var out bytes.Buffer
	w, err := NewWriter(&out, manifestOf)
	if err != nil {
		t.Fatal(err)
	}
	w.entries = 7
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, "seven entries", sealed(t, out.Bytes()))
}

func TestALaterFormatIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	var out bytes.Buffer
	m := *manifestOf
	m.Format = 2
	w, err := NewWriter(&out, &m)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := restored(sealed(t, out.Bytes()), t.TempDir()); err == nil || !strings.Contains(err.Error(), "later anteroom") {
		t.Error(err)
	}
}

func TestNothingThatIsThereIsTouched(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state", "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restored(archive(t, "state/x", "audit/y"), dir); err == nil {
		t.Error("restored into a directory that is there")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) != 1 {
		t.Errorf("%v is left", left)
	}
}

func TestAFileThatShrankFailsTheBackup(t *testing.T) {
	w, err := NewWriter(io.Discard, manifestOf)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Stream("state/x", 5, strings.NewReader("four")); err == nil || !strings.Contains(err.Error(), "5 were there") {
		t.Error(err)
	}
}

// Both ways take the same memory for 64 MiB as for one.
func TestMemoryDoesNotGrowWithTheArchive(t *testing.T) {
	to, with := keys()
	var most uint64
	run := func(size int64) uint64 {
		most = 0
		from, into := io.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			z, err := Seal(into, to)
			if err != nil {
				into.CloseWithError(err)
				return
			}
			w, err := NewWriter(z, manifestOf)
			if err == nil {
				err = w.Stream("state/x", size, &sampling{r: io.LimitReader(zeros{}, size), most: &most})
			}
			into.CloseWithError(errors.Join(err, w.Close(), z.Close()))
		})
		o, err := Open(from, with)
		if err == nil {
			_, err = Extract(o, Plan{Check: func(*Manifest) error { return nil }})
		}
		from.CloseWithError(err)
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		return most
	}
	small, large := run(1<<20), run(64<<20)
	if large > small+16<<20 {
		t.Errorf("%d bytes of heap for 1 MiB, %d for 64", small, large)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// sampling looks at the heap now and then.
type sampling struct {
	r    io.Reader
	n    int
	most *uint64
}

func (s *sampling) Read(b []byte) (int, error) {
	if s.n++; s.n%512 == 0 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		*s.most = max(*s.most, m.HeapAlloc)
	}
	return s.r.Read(b)
}

// FuzzExtract: whatever was encrypted to the gateway's key, nothing panics and
// nothing is written outside.
func FuzzExtract(f *testing.F) {
	var good bytes.Buffer
	w, err := NewWriter(&good, manifestOf)
	if err := errors.Join(err, w.Bytes("state/a", []byte("a")), w.Bytes("audit/log/b", make([]byte, 600)), w.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(bytes.Replace(good.Bytes(), []byte("state/a"), []byte("../../a"), 1))
	to, _ := keys()
	random := make([]byte, 2048)
	if _, err := rand.Read(random); err != nil {
		f.Fatal(err)
	}
	f.Add(random)
	f.Fuzz(func(t *testing.T, plain []byte) {
		var out bytes.Buffer
		z, err := Seal(&out, to)
		if err != nil {
			t.Fatal(err)
		}
		_, err = z.Write(plain)
		if err := errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		in := filepath.Join(dir, "in")
		if err := os.Mkdir(in, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := restored(out.Bytes(), in); err != nil {
			if left, _ := os.ReadDir(in); len(left) > 0 {
				t.Errorf("%v is left after %v", left, err)
			}
		}
		if beside, _ := os.ReadDir(dir); len(beside) != 1 {
			t.Errorf("it led out: %v", beside)
		}
	})
}
