package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// holds fails the test unless dir holds just these files: name, mode and content.
func holds(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Join([]string{e.Name(), st.Mode().String(), string(data)}, " "))
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("the directory holds:\n%s\nwant:\n%s", g, w)
	}
}

func TestAFileIsReplacedWithItsMode(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	for _, c := range []struct {
		data string
		mode fs.FileMode
		want string
	}{
		{"one", 0o644, "key -rw-r--r-- one"},
		{"two", 0o600, "key -rw------- two"},
		{"", 0o640, "key -rw-r----- "},
	} {
		if err := Replace(path, []byte(c.data), c.mode); err != nil {
			t.Fatal(err)
		}
		holds(t, dir, c.want)
	}
}

func TestWhoReadsSeesTheFormerFileToItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	if err := Replace(path, []byte("former"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Replace(path, []byte("next"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != "former" {
		t.Errorf("who had it open read %q, %v", got, err)
	}
}

func TestNothingIsCreatedInAnothersPlace(t *testing.T) {
	for name, create := range map[string]func(path string, data []byte) error{
		"Create": func(path string, data []byte) error { return Create(path, data, 0o600) },
		"CreateWhole": func(path string, data []byte) error {
			return CreateWhole(path, 0o600, content(data))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "key")
			if err := create(path, []byte("first")); err != nil {
				t.Fatal(err)
			}
			if err := create(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
				t.Errorf("the second: %v, want fs.ErrExist", err)
			}
			holds(t, dir, "key -rw------- first")
		})
	}
}

func TestWhatFailsLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	broken := errors.New("no more to be had")
	err := CreateWhole(filepath.Join(dir, "backup"), 0o600, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half of"); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("%v, want what the writer said", err)
	}
	holds(t, dir)

	// A directory can not be replaced by a file.
	if err := os.MkdirAll(filepath.Join(dir, "taken", "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(filepath.Join(dir, "taken"), []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}

	nowhere := filepath.Join(dir, "nowhere", "file")
	for _, err := range []error{
		Replace(nowhere, nil, 0o600), Create(nowhere, nil, 0o600), CreateWhole(nowhere, 0o600, content(nil)), SyncDir(filepath.Dir(nowhere)),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("where no directory is: %v", err)
		}
	}
}
