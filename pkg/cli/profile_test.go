package cli

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestAProfileIsWrittenWhenItIsStopped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cpu.pprof")
	stop, err := profileCPU(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := profileCPU(filepath.Join(t.TempDir(), "second.pprof")); err == nil {
		t.Error("two profiles are written at a time")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || len(b) == 0 {
		t.Errorf("%d bytes of profile, %v", len(b), err)
	}
}

func TestWithoutAPathThereIsNoProfile(t *testing.T) {
	stop, err := profileCPU("")
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := profileCPU(filepath.Join(t.TempDir(), "no", "such", "place")); err == nil {
		t.Error("a profile goes nowhere")
	}
}
